"""Which units stay: as indices (`UnitKeeps`) or as ones and zeros (`UnitMasks`).

Wherever keeps are taken, a plain dictionary {group: sorted indices} will do, and wherever masks are
taken {group: ones and zeros}. These two are such dictionaries that also know what they are: masks
are not taken for keeps, and keeps of the whole network are not taken for keeps of what a cut has
left of it, whose units have other numbers.

>>> whole = UnitKeeps({"hidden": np.array([1, 4, 5])}, {"hidden": 8})
>>> local = UnitKeeps({"hidden": np.array([0, 2])}, {"hidden": 3})  # of the three that are left
>>> whole.then(local)["hidden"].tolist(), whole.then(local).within(whole)["hidden"].tolist()
([1, 5], [0, 2])
>>> whole.masks()["hidden"].astype(int).tolist()
[0, 1, 0, 0, 1, 1, 0, 0]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

Keeps = Mapping[str, np.ndarray]  # that are taken: `UnitKeeps`, or a plain dictionary


class UnitKeeps(dict[str, np.ndarray]):
    """{group: sorted indices of the units that stay}, and among how many units they count.

    Args:
      keeps: the indices.
      sizes: {group: units}, or the `Groups` of the network whose units are counted.

    Attributes:
      sizes: {group: units}, of the groups that are in the keeps.
    """

    def __init__(self, keeps: Keeps, sizes: Mapping[str, Any]):
        super().__init__(keeps)
        self.sizes = {name: int(getattr(sizes[name], "size", sizes[name])) for name in keeps}

    def check_sizes(self, sizes: Mapping[str, int]) -> None:
        """Raises ValueError where these count among other numbers of units."""
        for name, size in self.sizes.items():
            if name in sizes and sizes[name] != size:
                raise ValueError(
                    f"keeps of group {name!r} count among {size} units, here are {sizes[name]};"
                    " pass keeps of these (keeps.within(held) of what earlier cuts left)"
                )

    def then(self, local: UnitKeeps) -> UnitKeeps:
        """The units that are left after another cut, counted as these are.

        Args:
          local: keeps of the other cut, counted in what these leave.
        """
        local.check_sizes(self.widths)
        kept = {name: np.asarray(keep)[local[name]] if name in local else keep
                for name, keep in self.items()}  # fmt: skip
        return UnitKeeps(kept, self.sizes)

    def within(self, held: UnitKeeps) -> UnitKeeps:
        """The same units, counted in arrays that hold no others than `held`; undoes `then`."""
        held.check_sizes(self.sizes)
        local = {name: np.searchsorted(held[name], keep) for name, keep in self.items()}
        return UnitKeeps(local, held.widths)

    @property
    def widths(self) -> dict[str, int]:
        """How many units of every group stay."""
        return {name: len(keep) for name, keep in self.items()}

    def masks(self) -> UnitMasks:
        """The same as masks."""
        masks = UnitMasks()
        for name, keep in self.items():
            masks[name] = np.zeros(self.sizes[name], np.float32)
            masks[name][keep] = 1.0
        return masks

    def __reduce__(self):
        return UnitKeeps, (dict(self), self.sizes)


class UnitMasks(dict[str, Any]):
    """{group: [units], one for a unit that stays and zero for one that does not}."""

    def keeps(self) -> UnitKeeps:
        """The same as keeps, counted among these units."""
        living = {name: np.flatnonzero(mask) for name, mask in self.items()}
        return UnitKeeps(living, {name: len(mask) for name, mask in self.items()})


def check_no_masks(keeps: Any) -> None:
    """Raises ValueError for masks where keeps are to be."""
    if isinstance(keeps, UnitMasks):
        raise ValueError("found masks, keeps are taken here; pass masks.keeps()")


def check_no_keeps(given: Any, what: str) -> None:
    """Raises ValueError for keeps where something else is to be: `what`, such as 'gates'."""
    if isinstance(given, UnitKeeps):
        raise ValueError(f"found keeps, {what} are taken here; keeps.masks() has a number per unit")


def check_masks(masks: Mapping[str, Any]) -> None:
    """Raises ValueError for keeps where masks are to be: NumPy's integers beyond 1 are indices."""
    check_no_keeps(masks, "masks")
    for name, mask in masks.items():
        integers = isinstance(mask, np.ndarray) and np.issubdtype(mask.dtype, np.integer)
        if integers and ((mask < 0) | (mask > 1)).any():
            raise ValueError(
                f"the mask of group {name!r} holds {int(mask.max())}, as indices of units do; pass"
                " ones and zeros, such as np.isin(np.arange(units), keep)"
            )


def _flatten(keeps: UnitKeeps) -> tuple[Any, Any]:
    names = tuple(sorted(keeps))
    leaves = [(jax.tree_util.DictKey(name), keeps[name]) for name in names]
    return leaves, (names, tuple(keeps.sizes[name] for name in names))


def _unflatten(known: Any, leaves: Any) -> UnitKeeps:
    names, sizes = known
    return UnitKeeps(dict(zip(names, leaves, strict=True)), dict(zip(names, sizes, strict=True)))


def _flatten_masks(masks: UnitMasks) -> tuple[Any, Any]:
    names = tuple(sorted(masks))
    return [(jax.tree_util.DictKey(name), masks[name]) for name in names], names


jax.tree_util.register_pytree_with_keys(UnitKeeps, _flatten, _unflatten)
jax.tree_util.register_pytree_with_keys(
    UnitMasks, _flatten_masks, lambda names, leaves: UnitMasks(zip(names, leaves, strict=True))
)
