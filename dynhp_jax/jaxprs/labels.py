"""Which positions of which axes live and die together.

Every axis of every array in a jaxpr is described by *digits*: a tuple of integer arrays whose
sizes multiply to the axis size, the first digit the slowest (row-major). Entry `i` of a digit is an
*atom*; a position of the axis survives a cut if and only if all the atoms that it names survive.
A plain axis has one digit; the axis of a flattened `[height, width, channels]` has three.

Three things happen to atoms. `union` says that positions survive together (an addition of two
arrays). `split` refines a digit into two (a reshape of `heads * size` into `[heads, size]`): each
old atom then stands for a pair of new ones, wherever it occurs. `pin` says that atoms must survive.
All three are sound in any order: a union too many only couples more than was needed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from dynhp_jax.jaxprs.atoms import Atoms, Digit

Axis = tuple[Digit, ...]
Axes = tuple[Axis, ...]

_DEPTH = 16  # factors that one digit may have been split into


def axis_size(axis: Axis) -> int:
    """Number of positions of an axis: the product of its digits' sizes."""
    size = 1
    for digit in axis:
        size *= digit.size
    return size


class Labels(Atoms):
    """The atoms of one analysis, the digits that they form, and what is known about them.

    >>> labels = Labels()
    >>> (heads_and_size,) = axis = (labels.fresh(6),)
    >>> heads, size = labels.split(heads_and_size, 2, 3)
    >>> labels.alive(axis, labels.dead_mask(size[:1])).tolist()
    [False, True, True, False, True, True]
    """

    def __init__(self) -> None:
        super().__init__()
        self._pins: list[tuple[np.ndarray, str]] = []
        self._flags: list[tuple[np.ndarray, object, bool]] = []
        self._choices: list[tuple[Axis, str, int]] = []
        self._settled: set[int] = set()  # atoms of digits of size one that are pinned

    def fresh_axes(self, shape: Sequence[int]) -> Axes:
        """Independent one-digit axes for an array of this shape."""
        return tuple((self.fresh(n),) for n in shape)

    # -- digits -----------------------------------------------------------------------------------

    def resolve(self, axis: Axis) -> Axis:
        """The axis with every digit replaced by the finer ones that it has been split into."""
        return tuple(part for digit in axis for part in self._expand(digit, _DEPTH) or (digit,))

    def _expand(self, digit: Digit, depth: int) -> Axis | None:
        """The finest digits; None if there is no end to them."""
        parts = self.parts(digit)
        if digit.size == 0 or (parts[:, 0] < 0).any():
            return (digit,)
        if depth == 0:  # an atom has been joined with one of its own parts
            return None
        slow, fast = self.find(parts[:, 0]), self.find(parts[:, 1])
        changes = np.flatnonzero(slow != slow[0])
        period = int(changes[0]) if changes.size else digit.size
        if digit.size % period:
            return (digit,)
        slow, fast = slow.reshape(-1, period), fast.reshape(-1, period)
        if (slow != slow[:, :1]).any() or (fast != fast[:1]).any():
            return (digit,)
        outer = self._expand(slow[:, 0], depth - 1)
        inner = None if outer is None else self._expand(fast[0], depth - 1)
        return None if inner is None else outer + inner

    def flatten(self, axis: Axis) -> Digit:
        """The axis as one digit."""

        def product(slow: Digit, fast: Digit) -> Digit:
            return self.compose(np.repeat(slow, fast.size), np.tile(fast, slow.size))

        return functools.reduce(product, axis) if axis else self.fresh(1)

    def split(self, digit: Digit, slow: int, fast: int) -> tuple[Digit, Digit] | None:
        """Refines a digit of size `slow * fast`; None if its atoms are no grid of that shape."""
        grid = self.find(digit).reshape(slow, fast)
        parts = self.parts(grid)
        if (parts[..., 0] < 0).all():
            if np.unique(grid).size == grid.size:
                outer, inner = self.fresh(slow), self.fresh(fast)
                self.refine(grid, *np.broadcast_arrays(outer[:, None], inner))
                return outer, inner
            if (grid == grid[:, :1]).all():  # every position repeated `fast` times
                return grid[:, 0], self._constant(fast)
            if (grid == grid[:1]).all():  # the whole digit tiled `slow` times
                return self._constant(slow), grid[0]
        elif (parts[..., 0] >= 0).all():
            # Rows of one size that were concatenated; copies that were taken of an axis.
            one, two = self.find(parts[..., 0]), self.find(parts[..., 1])
            for x, y in ((one, two), (two, one)):
                if (x == x[:, :1]).all() and _one_each(x[:, 0], y):
                    self.union(np.broadcast_to(y[0], y.shape).ravel(), y.ravel())
                    return x[:, 0], y[0]
                if (x == x[:1]).all():
                    self.union(np.broadcast_to(y[:, :1], y.shape).ravel(), y.ravel())
                    return y[:, 0], x[0]
        return self._split_rows(grid)

    def _split_rows(self, grid: np.ndarray) -> tuple[Digit, Digit] | None:
        """The same for rows that have been refined beside rows that have not, or in another way.

        Such is an axis that was normalised in groups and then joined with another one. A refined
        row is a stretch within one position of its slow digit.
        """
        parts = self.parts(grid)
        bare = parts[..., 0] < 0
        plain = bare.all(1)
        if (bare.any(1) & ~plain).any() or np.unique(grid[plain]).size < grid[plain].size:
            return None
        slow, fast = np.empty(len(grid), np.int64), None
        if not plain.all():
            one, two = self.find(parts[~plain, :, 0]), self.find(parts[~plain, :, 1])
            if (one != one[:, :1]).any():
                return None
            stretches, which = np.unique(two, axis=0, return_inverse=True)
            slow[~plain], fast = one[:, 0], stretches[0]
            if len(stretches) > 1:
                pair = self._split_rows(stretches)
                if pair is None:
                    return None
                slow[~plain], fast = self.compose(one[:, 0], pair[0][which.ravel()]), pair[1]
        if fast is not None:  # a row that is that digit itself has no other part
            same = plain & (grid == self.find(fast)).all(1)
            slow[same] = self._constant(int(same.sum()))
            plain &= ~same
        if plain.any():
            fast = self.fresh(grid.shape[1]) if fast is None else fast
            if np.isin(self.leaves(grid[plain]), self.leaves(fast)).any():
                return None  # it would be a part of itself
            slow[plain] = self.fresh(int(plain.sum()))
            self.refine(grid[plain], *np.broadcast_arrays(slow[plain][:, None], fast))
        return slow, fast

    def end(self, digit: Digit, size: int) -> tuple[Axis, Digit] | None:
        """(rest, end) of a digit, with the largest end that can be one of an axis of this size."""
        for length in range(math.gcd(digit.size, size), 1, -1):
            if digit.size % length or size % length:
                continue
            if digit.size == length:
                return (), digit
            pair = self.split(digit, digit.size // length, length)
            if pair is not None:
                return pair[:1], pair[1]
        return None

    def _constant(self, size: int) -> Digit:
        digit = self.fresh(size)
        self.pin(digit, "repeated copies of one axis")
        return digit

    def unify(self, a: Axis, b: Axis, reason: str) -> Axis:
        """Position by position, two axes of one size survive together; returns the common axis.

        Where their digits have no common refinement both are pinned, with `reason`, but for an end
        that they have in common: channels within the groups of two GroupNorms, say.
        """
        if a is b:
            return a
        left, right, out = self._whole(a), self._whole(b), []
        while left and right:
            p, q = left[0], right[0]
            alone = [[d.size for d in side[1:2]] == [1] for side in (left, right)]
            if p.size == q.size and (alone[0] == alone[1] or p.size == 1):
                self.union(left.pop(0), right.pop(0))
                out.append(p)
                continue
            if p.size == q.size:  # one side has a digit of size one here: so has the other
                longer, size = (right if alone[0] else left), p.size
            else:
                longer, size = (left, q.size) if p.size > q.size else (right, p.size)
            pair = None
            if size and longer[0].size % size == 0:
                pair = self.split(longer[0], size, longer[0].size // size)
            if pair is None:
                return (*out, *self._unify_ends(left, right, reason))
            longer[:1] = pair
        for extra in left + right:  # digits of size one
            self.pin(extra, reason)
        return tuple(out)

    def _unify_ends(self, left: list[Digit], right: list[Digit], reason: str) -> Axis:
        """Digits that divide differently: their common end survives together, the rest must."""
        size, end = axis_size(tuple(left)), ()
        found = self.end(left[-1], right[-1].size)
        other = found and self.end(right[-1], found[1].size)
        if other and other[1].size == found[1].size:
            end = found[1:]
            self.union(found[1], other[1])
            left[-1:], right[-1:] = found[0], other[0]
        self.pin_axis((*left, *right), reason)
        rest = self.fresh(size // axis_size(end))
        self.pin(rest, reason)
        return (rest, *end)

    def _whole(self, axis: Axis) -> list[Digit]:
        """The digits of an axis without those of size one that survive anyway."""
        digits = list(self.resolve(axis))
        return [d for d in digits if len(digits) == 1 or not self.settled(d)]

    # -- verdicts ---------------------------------------------------------------------------------

    def pin(self, atoms: np.ndarray, reason: str) -> None:
        """These atoms must survive."""
        if atoms.size:
            self.bind(atoms)
            self._pins.append((np.array(atoms), reason))
            if atoms.size == 1:
                self._settled.add(int(self.find(atoms)[0]))

    def settled(self, digit: Digit) -> bool:
        """Whether a digit has one entry, which is known to survive."""
        return digit.size == 1 and int(self.find(digit)[0]) in self._settled

    def pin_axis(self, axis: Axis, reason: str) -> None:
        for digit in axis:
            self.pin(digit, reason)

    def bind_axis(self, axis: Axis) -> None:
        """The positions of this axis are not mere repetitions."""
        for digit in axis:
            self.bind(digit)

    def is_free(self, axis: Axis) -> bool:
        """Whether the positions of an axis are repetitions alone, that no unit needs."""
        return axis_size(axis) > 1 and all(map(self.are_free, axis))

    def flag_axis(self, axis: Axis, reason: object, left_out: bool = False) -> None:
        """Cutting these atoms changes the function of the others (not exact); `str(reason)` why.

        With `left_out` that is not so if they are units that are chosen among (`choose_axis`).
        """
        for digit in axis:
            self._flags.append((np.array(digit), reason, left_out))

    def choose_axis(self, axis: Axis, how: str, least: int) -> None:
        """Some positions of this axis, `least` of them, are chosen by their values."""
        self._choices.append((axis, how, least))

    def chosen(self) -> dict[int, dict[str, int]]:
        """atom -> how it is chosen among others -> how many of these there have to be."""
        found: dict[int, dict[str, int]] = {}
        for axis, how, least in self._choices:
            _, atoms = self.axis_pairs(axis)
            for atom, held in zip(*np.unique(atoms, return_counts=True), strict=True):
                of_atom = found.setdefault(int(atom), {})
                of_atom[how] = max(of_atom.get(how, 1), -(-least // int(held)))
        return found

    def pinned(self) -> dict[int, str]:
        """atom -> why it must survive, for every representative that is pinned."""
        if not self._pins:
            return {}
        owner = np.repeat(np.arange(len(self._pins)), [atoms.size for atoms, _ in self._pins])
        index, leaves = self.pairs(np.concatenate([atoms for atoms, _ in self._pins]))
        order = np.argsort(index, kind="stable")  # the first reason counts
        leaves, first = np.unique(leaves[order], return_index=True)
        reasons = owner[index[order][first]]
        return {a: self._pins[k][1] for a, k in zip(leaves.tolist(), reasons, strict=True)}

    def flagged(self) -> dict[int, list[object]]:
        """atom -> why cutting it is not exact, each to be read as a text."""
        found: dict[int, dict[object, None]] = {}
        chosen = self.chosen()
        for atoms, reason, left_out in self._flags:
            for atom in self.leaves(atoms).tolist():
                if not (left_out and atom in chosen):
                    found.setdefault(atom, {})[reason] = None
        return {atom: list(reasons) for atom, reasons in found.items()}

    def axis_pairs(self, axis: Axis) -> tuple[np.ndarray, np.ndarray]:
        """(position, atom) for every atom that a position of the axis depends on."""
        positions, atoms = _spread(axis, [self.pairs(digit) for digit in axis], 1)
        return np.divmod(np.unique(positions * self._count + atoms), max(self._count, 1))

    def occurrences(self, axis: Axis) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(position, atom, times): the pairs of an axis, and how often the atom enters there.

        In the outer product of an axis with itself both factors of a position are units of that
        axis; on the diagonal they are one unit, twice.
        """
        positions, atoms, times = _spread(axis, [self.powers(digit) for digit in axis], 2)
        keys, where = np.unique(positions * self._count + atoms, return_inverse=True)
        total = np.bincount(where, times, keys.size).astype(np.int64)
        return *np.divmod(keys, max(self._count, 1)), total

    def alive(self, axis: Axis, dead: np.ndarray) -> np.ndarray:
        """bool[axis size]: the positions that survive, given what does not (`dead_mask`)."""
        mask = np.ones(1, bool)
        for digit in axis:
            mask = (mask[:, None] & ~dead[digit]).reshape(-1)
        return mask


def _one_each(keys: np.ndarray, rows: np.ndarray) -> bool:
    """Whether equal keys have equal rows."""
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    return bool((rows == rows[first[which.ravel()]]).all())


def _spread(axis: Axis, of_digits: Sequence[tuple], facts: int) -> list[np.ndarray]:
    """What is known of the entries of each digit (index, *facts), by positions of the axis."""
    positions = np.arange(axis_size(axis))
    inner = positions.size
    found = [[np.empty(0, np.int64)] for _ in range(1 + facts)]
    for digit, (index, *known) in zip(axis, of_digits, strict=True):
        inner //= max(digit.size, 1)
        order = np.argsort(index, kind="stable")
        start = np.searchsorted(index[order], np.arange(digit.size + 1))
        entry = positions // inner % digit.size
        count = np.diff(start)[entry]
        nth = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        found[0].append(np.repeat(positions, count))
        for into, fact in zip(found[1:], known, strict=True):
            into.append(fact[order][np.repeat(start[entry], count) + nth])
    return [np.concatenate(arrays) for arrays in found]
