"""The groups of a model as a table that a person can read."""

from __future__ import annotations

import numpy as np

from dynhp_jax.groups import Group, Groups, Member


def table(groups: Groups) -> str:
    """One line per group, one per member, then the axes that stay whole and why."""
    lines = [
        f"{'group':<28} {'units':>6} {'params/unit':>12} {'bytes/unit':>11} {'FLOPs/unit':>12}  cut"
    ]
    for group in groups.values():
        lines.append(
            f"{group.name:<28} {group.size:>6} {group.parameters:>12,.0f} {group.bytes:>11,.0f} "
            f"{group.flops:>12,.0f}  {_verdict(group)}"
        )
        lines.extend(f"    {_member(m)}" for m in group.members)
    if groups.pinned:
        lines.append("stays whole:")
        lines.extend(
            f"    {p.path} axis {p.axis} ({p.positions}): {p.reason}" for p in groups.pinned
        )
    for name, count in groups.unknown.items():
        lines.append(
            f"no rule for primitive '{name}' ({count} equations): what reaches it stays whole"
        )
    return "\n".join(lines)


def _verdict(group: Group) -> str:
    return "exact" if group.exact else "not exact: " + "; ".join(group.reasons)


def _member(member: Member) -> str:
    return f"{member.path} axis {member.axis} [{member.role}] {index_map(member.index)}"


def index_map(index: np.ndarray) -> str:
    """An index map [units, k] in words: where unit u sits on the axis."""
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
