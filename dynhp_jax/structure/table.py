"""The groups of a model as a table that a person can read."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable
from typing import Any

import numpy as np

from dynhp_jax.structure.group import Group, Member

WIDTH = 100
_LEGEND = (
    "kernel[3] is axis 3 of leaf 'kernel'; unit u is position u of the axis unless it says "
    "otherwise. Costs are those of one unit; FLOPs are for a forward pass of the example inputs."
)
_COLLECTIONS = ("params", "batch_stats")  # their names are left out
_ROLES = {"out": "made by", "in": "read by", "with": "along with", "data": "given by"}


def table(groups: Any) -> str:
    """A line per group, its members by role, then the axes that stay whole and why.

    Leaves that hold units in the same way are one entry: `block{1,2}/bn/{bias,scale}[0]`.
    """
    wide = max([len(name) for name in groups] + [10])
    lines = textwrap.wrap(_LEGEND, WIDTH)
    lines += ["", f"{'group':<{wide}} {'units':>6} {'numbers':>9} {'bytes':>11} {'FLOPs':>14}  cut"]
    for group in groups.values():
        costs = (
            f"{group.name:<{wide}} {group.size:>6,} {group.parameters:>9,.0f} "
            f"{group.bytes:>11,.0f} {group.flops:>14,.0f}  "
        )
        lines += [*_lines(costs, _verdict(group)), *_members(group)]
    reasons: dict[str, dict[tuple[str, int], list[int]]] = {}
    for p in groups.pinned:
        axes = reasons.setdefault(p.reason, {})
        axes.setdefault((p.path, groups.shapes[p.path][p.axis] - p.positions), []).append(p.axis)
    if reasons:
        lines.append("stays whole:")
    for reason, leaves in reasons.items():
        entries = [
            (path, f"[{', '.join(map(str, axes))}]" + (" in part" if rest else ""))
            for (path, rest), axes in leaves.items()
        ]
        lines += _wrapped(f"{reason}:", _joined(entries))
    for name, count in groups.unknown.items():
        lines.append(
            f"no rule for primitive '{name}' ({count} equations): what reaches it stays whole"
        )
    return "\n".join(lines)


def _verdict(group: Group) -> str:
    if group.exact and group.chosen:
        choice = " and ".join(f"'{how}'" for how in group.chosen)
        return f"exact, left out of {choice}" + (f"; {group.least} stay" if group.least > 1 else "")
    if group.exact and group.blocks > 1:
        return f"exact, as many of each {group.size // group.blocks}"
    if group.exact:
        return "exact"
    modules: dict[str, list[tuple[str, str]]] = {}  # what is done to the units -> in which of them
    for reason in group.reasons:
        done, _, module = reason.partition(" in ")
        modules.setdefault(done, []).extend([(module, "")] if module else [])
    reasons = (
        " in ".join([done.replace(" ", "\0"), *filter(None, [", ".join(_joined(places))])])
        for done, places in modules.items()
    )
    return "not\0exact:\0" + "; ".join(reasons)


def _members(group: Group) -> list[str]:
    lines = []
    for role, title in _ROLES.items():
        entries = [(m.path, _axis(m)) for m in group.members if m.role == role]
        if entries:
            lines += _wrapped(f"{title:<10}", _joined(entries))
    return lines


def _axis(member: Member) -> str:
    where = index_map(member.index)
    return f"[{member.axis}]" if where == "at u" else f"[{member.axis}: {where}]"


def _wrapped(title: str, entries: Iterable[str]) -> list[str]:
    return _lines(f"    {title} ", ", ".join(entry.replace(" ", "\0") for entry in entries))


def _lines(start: str, text: str) -> list[str]:
    lines = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=start,
        subsequent_indent=" " * 15,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\0", " ") for line in lines]


def _joined(entries: list[tuple[str, str]]) -> list[str]:
    """`path` + `axis` of leaves; those that differ in one part of the path become one."""
    found = []
    for path, axis in entries:
        parts = tuple(path.split("/"))
        found.append((parts[1:] if parts[0] in _COLLECTIONS and parts[1:] else parts, axis))
    depth = max((len(parts) for parts, _ in found), default=0)
    for level in range(depth):  # the leaf first, then its modules from the inside
        merged: dict[tuple, list[str]] = {}
        for parts, axis in found:
            at = len(parts) - 1 - level
            key = (parts[: max(at, 0)], parts[at + 1 :] if at >= 0 else parts, at >= 0, axis)
            merged.setdefault(key, []).append(parts[at] if at >= 0 else "")
        found = [
            ((*before, _braces(names), *after) if inside else after, axis)
            for (before, after, inside, axis), names in merged.items()
        ]
    return ["/".join(parts) + axis for parts, axis in found]


def _braces(names: list[str]) -> str:
    names = list(dict.fromkeys(names))
    if len(names) == 1:
        return names[0]
    start = os.path.commonprefix(names)
    if "{" in start:
        start = ""
    return start + "{" + ",".join(name.removeprefix(start) for name in names) + "}"


def index_map(index: np.ndarray) -> str:
    """An index map [units, k] in words: where unit u sits on the axis.

    >>> index_map(np.array([[0], [1]])), index_map(np.array([[4, 5], [6, 7]]))
    ('at u', '2 places from 4+2*u')
    """
    units, k = index.shape
    start = int(index[0, 0])
    steps = np.unique(np.diff(index[:, 0])) if units > 1 else np.array([k])
    inner = np.unique(np.diff(index, axis=1)) if k > 1 else np.array([1])
    if len(steps) > 1 or len(inner) > 1:
        return f"{k} scattered places per unit"
    at = "u" if steps[0] == 1 else f"{steps[0]}*u"
    if start:
        at = f"{start}+{at}"
    if k == 1:
        return f"at {at}"
    if inner[0] == 1:
        return f"{k} places from {at}"
    return f"{k} places from {at}, {inner[0]} apart"
