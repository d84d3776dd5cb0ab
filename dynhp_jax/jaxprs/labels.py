"""Which positions of which axes live and die together: a union-find over atoms.

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

from collections.abc import Iterable, Sequence

import numpy as np

Digit = np.ndarray  # int64[size], atoms
Axis = tuple[Digit, ...]
Axes = tuple[Axis, ...]


def axis_size(axis: Axis) -> int:
    """Number of positions of an axis: the product of its digits' sizes."""
    size = 1
    for digit in axis:
        size *= digit.size
    return size


class Labels:
    """The atoms of one analysis and what is known about them."""

    def __init__(self) -> None:
        self._parent = np.empty(0, np.int64)
        self._parts = np.empty(
            (0, 2), np.int64
        )  # the two atoms that a split atom stands for, or -1
        self._birth = np.empty(0, np.int64)  # which call of `fresh` made the atom
        self._count = 0
        self._births = 0
        self._pins: list[tuple[np.ndarray, str]] = []
        self._flags: list[tuple[np.ndarray, str]] = []

    # -- making atoms -----------------------------------------------------------------------------

    def fresh(self, size: int) -> Digit:
        """A digit of `size` new, independent atoms."""
        first, self._count = self._count, self._count + size
        if self._count > self._parent.size:
            room = max(1024, 2 * self._count)
            self._parent = np.concatenate([self._parent, np.arange(self._parent.size, room)])
            self._parts = np.concatenate(
                [self._parts, np.full((room - len(self._parts), 2), -1, np.int64)]
            )
            self._birth = np.concatenate(
                [self._birth, np.full(room - self._birth.size, -1, np.int64)]
            )
        self._birth[first : self._count] = self._births
        self._births += 1
        return np.arange(first, self._count)

    def fresh_axes(self, shape: Sequence[int]) -> Axes:
        """Independent one-digit axes for an array of this shape."""
        return tuple((self.fresh(n),) for n in shape)

    # -- union-find -------------------------------------------------------------------------------

    def find(self, atoms: np.ndarray) -> np.ndarray:
        """The representative of each atom's class."""
        root = self._parent[atoms]
        while True:
            above = self._parent[root]
            if np.array_equal(above, root):
                break
            root = above
        self._parent[atoms] = root
        return root

    def union(self, a: Digit, b: Digit) -> None:
        """Position by position, `a` and `b` survive together."""
        todo = [(a, b)]
        while todo:
            a, b = todo.pop()
            while True:
                ra, rb = self.find(a), self.find(b)
                low, high = np.minimum(ra, rb), np.maximum(ra, rb)
                differ = low != high
                if not differ.any():
                    break
                # One round joins pairs that share no atom, so that no parts are lost on the way.
                low, high = low[differ], high[differ]
                free = ~np.isin(low, high)
                low, high = low[free], high[free]
                high, first = np.unique(high, return_index=True)
                low, first = np.unique(low[first], return_index=True)
                high = high[first]
                pl, ph = self._parts[low], self._parts[high]
                both = (pl[:, 0] >= 0) & (ph[:, 0] >= 0)
                if both.any():
                    todo.append((pl[both, 0], ph[both, 0]))
                    todo.append((pl[both, 1], ph[both, 1]))
                moved = (pl[:, 0] < 0) & (ph[:, 0] >= 0)
                self._parts[low[moved]] = ph[moved]
                self._parent[high] = low

    # -- digits -----------------------------------------------------------------------------------

    def expand(self, digit: Digit) -> Axis:
        """The digit, or the finer digits that it has been split into, if they form a grid."""
        roots = self.find(digit)
        parts = self._parts[roots]
        if digit.size == 0 or (parts[:, 0] < 0).any():
            return (digit,)
        slow, fast = self.find(parts[:, 0]), self.find(parts[:, 1])
        changes = np.flatnonzero(slow != slow[0])
        period = int(changes[0]) if changes.size else digit.size
        if digit.size % period:
            return (digit,)
        slow, fast = slow.reshape(-1, period), fast.reshape(-1, period)
        if (slow != slow[:, :1]).any() or (fast != fast[:1]).any():
            return (digit,)
        return self.expand(slow[:, 0]) + self.expand(fast[0])

    def resolve(self, axis: Axis) -> Axis:
        """The axis with every digit expanded."""
        return tuple(part for digit in axis for part in self.expand(digit))

    def split(self, digit: Digit, slow: int, fast: int) -> tuple[Digit, Digit] | None:
        """Refines a digit of size `slow * fast`; None if its atoms are no grid of that shape."""
        grid = self.find(digit).reshape(slow, fast)
        parts = self._parts[grid]
        if (parts[..., 0] < 0).all():
            if np.unique(grid).size == grid.size:
                outer, inner = self.fresh(slow), self.fresh(fast)
                self._parts[grid, 0] = outer[:, None]
                self._parts[grid, 1] = inner[None, :]
                return outer, inner
            if (grid == grid[:, :1]).all():  # every position repeated `fast` times
                return grid[:, 0], self._constant(fast)
            if (grid == grid[:1]).all():  # the whole digit tiled `slow` times
                return self._constant(slow), grid[0]
        return None

    def _constant(self, size: int) -> Digit:
        digit = self.fresh(size)
        self.pin(digit, "repeated copies of one axis")
        return digit

    def unify(self, a: Axis, b: Axis, reason: str) -> Axis:
        """Position by position, two axes of one size survive together; returns the common axis.

        Where their digits have no common refinement both are pinned, with `reason`.
        """
        if a is b:
            return a
        left, right, out = list(self.resolve(a)), list(self.resolve(b)), []
        while left and right:
            p, q = left[0], right[0]
            if p.size == q.size:
                self.union(left.pop(0), right.pop(0))
                out.append(p)
            elif p.size == 1:
                self.pin(left.pop(0), reason)
            elif q.size == 1:
                self.pin(right.pop(0), reason)
            else:
                longer, size = (left, q.size) if p.size > q.size else (right, p.size)
                pair = None
                if longer[0].size % size == 0:
                    pair = self.split(longer[0], size, longer[0].size // size)
                if pair is None:
                    self.pin_axis(a, reason)
                    self.pin_axis(b, reason)
                    return a
                longer[:1] = pair
        for rest in left + right:  # digits of size one that the other side does not have
            self.pin(rest, reason)
        return tuple(out)

    # -- verdicts ---------------------------------------------------------------------------------

    def pin(self, atoms: np.ndarray, reason: str) -> None:
        """These atoms must survive."""
        if atoms.size:
            self._pins.append((np.array(atoms), reason))

    def pin_axis(self, axis: Axis, reason: str) -> None:
        for digit in axis:
            self.pin(digit, reason)

    def flag_axis(self, axis: Axis, reason: str) -> None:
        """Cutting these atoms changes the function of the others (not exact)."""
        for digit in axis:
            self._flags.append((np.array(digit), reason))

    def pinned(self) -> dict[int, str]:
        """atom -> why it must survive, for every representative that is pinned."""
        return self._verdicts(self._pins)

    def flagged(self) -> dict[int, list[str]]:
        """atom -> why cutting it is not exact."""
        found: dict[int, list[str]] = {}
        for atoms, reason in self._flags:
            for atom in self._leaves(atoms):
                reasons = found.setdefault(int(atom), [])
                if reason not in reasons:
                    reasons.append(reason)
        return found

    def _verdicts(self, marks: Iterable[tuple[np.ndarray, str]]) -> dict[int, str]:
        found: dict[int, str] = {}
        for atoms, reason in marks:
            for atom in self._leaves(atoms):
                found.setdefault(int(atom), reason)
        return found

    def _leaves(self, atoms: np.ndarray) -> np.ndarray:
        return np.unique(self.pairs(atoms)[1])

    def pairs(self, digit: Digit) -> tuple[np.ndarray, np.ndarray]:
        """(index, atom) for every atom that entry `index` of the digit depends on."""
        index, atoms = np.arange(digit.size), self.find(digit)
        done_index, done_atoms = [], []
        while index.size:
            parts = self._parts[atoms]
            whole = parts[:, 0] < 0
            done_index.append(index[whole])
            done_atoms.append(atoms[whole])
            index = np.repeat(index[~whole], 2)
            atoms = self.find(parts[~whole].reshape(-1))
        if not done_index:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return np.concatenate(done_index), np.concatenate(done_atoms)

    def axis_pairs(self, axis: Axis) -> tuple[np.ndarray, np.ndarray]:
        """(position, atom) for every atom that a position of the axis depends on."""
        size = axis_size(axis)
        positions = np.arange(size)
        all_positions, all_atoms = [], []
        inner = size
        for digit in axis:
            inner //= digit.size
            entry = (positions // inner) % digit.size
            index, atoms = self.pairs(digit)
            order = np.argsort(index, kind="stable")
            index, atoms = index[order], atoms[order]
            start = np.searchsorted(index, np.arange(digit.size + 1))
            count = np.diff(start)[entry]
            all_positions.append(np.repeat(positions, count))
            offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
            all_atoms.append(atoms[np.repeat(start[entry], count) + offset])
        if not all_positions:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return np.concatenate(all_positions), np.concatenate(all_atoms)

    def families(self) -> np.ndarray:
        """For each atom, an integer shared by all atoms whose axes of birth have been joined."""
        parent = np.arange(self._births)

        def root(i: int) -> int:
            while parent[i] != i:
                parent[i] = parent[parent[i]]
                i = parent[i]
            return i

        atoms = np.arange(self._count)
        joined = np.stack([self._birth[atoms], self._birth[self.find(atoms)]], axis=1)
        for a, b in np.unique(joined, axis=0):
            parent[root(a)] = root(b)
        of_birth = np.array([root(i) for i in range(self._births)], np.int64)
        return of_birth[self._birth[: self._count]]

    def alive(self, axis: Axis, dead: np.ndarray) -> np.ndarray:
        """bool[axis size]: which positions survive when the atoms in `dead` (bool[atoms]) go."""
        mask = np.ones(axis_size(axis), bool)
        positions, atoms = self.axis_pairs(axis)
        mask[positions[dead[atoms]]] = False
        return mask

    def dead_mask(self, atoms: np.ndarray) -> np.ndarray:
        """bool[atoms]: True for the classes of these atoms."""
        mask = np.zeros(self._count, bool)
        mask[self.find(atoms)] = True
        return mask
