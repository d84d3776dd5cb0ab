"""A union-find over atoms, in which an atom may stand for a pair of others.

An atom is something that survives a cut or does not. `union` says that two survive together;
`compose` makes one that survives if and only if both of its parts do. `bind` says that an atom is a
unit's, or may be: the others stand for repetitions, which every reader may cut as it likes.
"""

from __future__ import annotations

import numpy as np

Digit = np.ndarray  # int64[size], atoms


class Atoms:
    """Classes of atoms that survive together; counted up from zero."""

    def __init__(self) -> None:
        self._parent = np.empty(0, np.int64)
        self._parts = np.empty((0, 2), np.int64)  # the two parts of a class, or -1
        self._birth = np.empty(0, np.int64)  # which call of `fresh` made the atom
        self._bound = np.empty(0, bool)  # of a class; so are the parts of a bound one
        self._count = 0
        self._births = 0
        self.version = 0  # grows with everything that becomes known

    def __len__(self) -> int:
        return self._count

    def fresh(self, size: int) -> Digit:
        """`size` new, independent atoms."""
        first, self._count = self._count, self._count + size
        if self._count > self._parent.size:
            room = max(1024, 2 * self._count)
            more = room - self._parent.size
            self._parent = np.concatenate([self._parent, np.arange(self._parent.size, room)])
            self._parts = np.concatenate([self._parts, np.full((more, 2), -1, np.int64)])
            self._birth = np.concatenate([self._birth, np.full(more, -1, np.int64)])
            self._bound = np.concatenate([self._bound, np.zeros(more, bool)])
        self._birth[first : self._count] = self._births
        self._births += 1
        self.version += 1
        return np.arange(first, self._count)

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

    def parts(self, atoms: np.ndarray) -> np.ndarray:
        """int[..., 2]: the two parts of each atom's class, -1 where it has none."""
        return self._parts[self.find(atoms)]

    def compose(self, slow: np.ndarray, fast: np.ndarray) -> Digit:
        """New atoms, each of which survives if and only if its slow and its fast part do."""
        whole = self.fresh(slow.size)
        self._parts[whole] = np.stack([slow, fast], axis=1)
        return whole

    def refine(self, atoms: np.ndarray, slow: np.ndarray, fast: np.ndarray) -> None:
        """Atoms of distinct classes without parts from now on stand for these pairs."""
        roots = self.find(atoms)
        self._parts[roots] = np.stack([slow, fast], axis=-1)
        self.version += 1
        self._bind_parts(roots[self._bound[roots]])

    def bind(self, atoms: np.ndarray) -> None:
        """These atoms, and their parts, are from now on no mere repetitions."""
        atoms = atoms[~self._bound[atoms]]  # what is said of an atom holds for its class
        if atoms.size:
            roots = self.find(atoms)
            self._bound[atoms] = self._bound[roots] = True
            self._bind_parts(roots)

    def _bind_parts(self, roots: np.ndarray) -> None:
        parts = self._parts[roots]
        parts = parts[parts >= 0]
        if parts.size:
            self.bind(parts)

    def are_free(self, atoms: np.ndarray) -> bool:
        """Whether all of these atoms stand for repetitions alone."""
        if self._bound[atoms].any():
            return False
        roots = self.find(atoms)
        return not (self._bound[roots].any() or (self._parts[roots, 0] >= 0).any())

    def union(self, a: np.ndarray, b: np.ndarray) -> None:
        """Entry by entry, `a` and `b` survive together."""
        self.version += 1
        todo = [(a, b)]
        while todo:
            a, b = todo.pop()
            while True:
                ra, rb = self.find(a), self.find(b)
                differ = ra != rb
                if not differ.any():
                    break
                low = np.minimum(ra, rb)[differ]
                high = np.maximum(ra, rb)[differ]
                # A round hangs each root below the lowest one that it meets; others wait.
                order = np.lexsort((low, high))
                high, first = np.unique(high[order], return_index=True)
                low = low[order][first]
                self._parent[high] = low
                whole = high[self._parts[high, 0] >= 0]
                if whole.size:  # of equal atoms the parts are equal
                    root = self.find(whole)
                    bare, first = np.unique(root[self._parts[root, 0] < 0], return_index=True)
                    donors = whole[self._parts[root, 0] < 0][first]
                    self._parts[bare] = self._parts[donors]
                    todo.append((self._parts[whole].ravel(), self._parts[root].ravel()))
                mixed = self._bound[high] != self._bound[low]
                if mixed.any():
                    self._bound[low[mixed]] = True
                    self._bind_parts(low[mixed])

    def pairs(self, digit: Digit) -> tuple[np.ndarray, np.ndarray]:
        """(index, atom) for every atom without parts that entry `index` depends on."""
        index, atoms = np.arange(digit.size), self.find(digit)
        indices, leaves = [], []
        seen = np.empty(0, np.int64)
        while index.size:
            parts = self._parts[atoms]
            leaf = parts[:, 0] < 0
            indices.append(index[leaf])
            leaves.append(atoms[leaf])
            # An atom can be joined with one of its own parts; what was met is not opened again.
            index, atoms = np.repeat(index[~leaf], 2), self.find(parts[~leaf].reshape(-1))
            keys = np.unique(index * self._count + atoms)
            keys = keys[~np.isin(keys, seen)]
            seen = np.concatenate([seen, keys])
            index, atoms = np.divmod(keys, max(self._count, 1))
        if not indices:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return np.concatenate(indices), np.concatenate(leaves)

    def powers(self, digit: Digit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(index, atom, times): the `pairs`, and how often each enters: (i, (i, j)) has i twice."""
        index, atoms, times = np.arange(digit.size), self.find(digit), np.ones(digit.size, int)
        found: tuple[list, list, list] = ([], [], [])
        opened = np.empty(0, np.int64)
        while index.size:
            keys, where = np.unique(index * self._count + atoms, return_inverse=True)
            times = np.bincount(where, times).astype(np.int64)
            index, atoms = np.divmod(keys, self._count)
            parts = self._parts[atoms]
            leaf = parts[:, 0] < 0
            for into, array in zip(found, (index, atoms, times), strict=True):
                into.append(array[leaf])
            # As in `pairs`: an atom can be joined with one of its own parts.
            opens = ~leaf & ~np.isin(keys, opened)
            opened = np.concatenate([opened, keys[opens]])
            index, times = np.repeat(index[opens], 2), np.repeat(times[opens], 2)
            atoms = self.find(parts[opens].reshape(-1))
        index, atoms, times = (np.concatenate([*a, np.empty(0, np.int64)]) for a in found)
        return index, atoms, times

    def leaves(self, atoms: np.ndarray) -> np.ndarray:
        """The distinct atoms without parts that these depend on."""
        return np.unique(self.pairs(np.unique(self.find(atoms)))[1])

    def dead_mask(self, atoms: np.ndarray) -> np.ndarray:
        """bool[all atoms]: what does not survive when `atoms` (without parts) do not."""
        roots = self.find(np.arange(self._count))
        dead = np.zeros(self._count, bool)
        dead[self.find(atoms)] = True
        whole = np.unique(roots[self._parts[roots, 0] >= 0])
        parts = self.find(self._parts[whole])
        while True:
            dies = dead[parts].any(1)
            if not (dies & ~dead[whole]).any():
                return dead[roots]
            dead[whole] |= dies

    def families(self) -> np.ndarray:
        """int[all atoms]: equal for atoms that were born together, or joined with such atoms."""
        born = self._birth[: self._count]
        keys = np.unique(born * self._births + born[self.find(np.arange(self._count))])
        births = Atoms()
        births.fresh(self._births)
        births.union(*np.divmod(keys, max(self._births, 1)))
        return births.find(born)
