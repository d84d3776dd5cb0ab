"""Every place where a kernel meets data: which products read it, and what else uses it.

A kernel is a leaf of the variables that a matrix product or a convolution takes as it is, or only
moved: transposed, reshaped, of another type, one step of a loop at a time. Its rows are the
positions that the product sums over, or the groups of a grouped convolution.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable
from typing import Any

from jax.extend import core as jex

from dynhp_jax.common.errors import UserError, shown
from dynhp_jax.common.tree_paths import InputPath, Path
from dynhp_jax.finetune import digits
from dynhp_jax.finetune.digits import Layout
from dynhp_jax.finetune.product import KernelProduct, convolution, matrix_product
from dynhp_jax.finetune.row_layout import RowLayout
from dynhp_jax.jaxprs.constants import CALLS, OWN_DERIVATIVE, scan_counts
from dynhp_jax.jaxprs.rules.contractions import CONTRACTIONS
from dynhp_jax.jaxprs.rules.elementwise import IDENTITIES
from dynhp_jax.jaxprs.trace import Traced
from dynhp_jax.jaxprs.values import MOVES, Analysis, Value

# An equation and the values of its operands: calls of one function share their equations.
Place = tuple[int, ...]


def place(eqn: Any, values: list[Value]) -> Place:
    """What tells an equation on these operands from all others."""
    return (id(eqn), *(id(v) for a, v in zip(eqn.invars, values, strict=True) if not _literal(a)))


@dataclasses.dataclass(frozen=True)
class _Held:
    """A leaf as it is held in a variable.

    Attributes:
      path: of the leaf.
      layout: of the variable.
      steps: how many steps of a loop the leaf is stacked for; then the layout is of one of them.
    """

    path: Path
    layout: Layout
    steps: int = 0


@dataclasses.dataclass(frozen=True)
class Read:
    """A product that reads a kernel.

    Attributes:
      path: of the kernel.
      product: its axes, and the gradient of chosen rows.
      layout: the rows of the kernel.
      held: the digits of the kernel (of a step's, in a loop) on the axes that the product takes.
      loop: primitives of the loops that the product is in, from the outside.
      often: how often it runs in a forward pass, where that is known.
      eqn, values: the equation and its operands.
    """

    path: Path
    product: KernelProduct
    layout: RowLayout
    held: Layout
    loop: tuple[str, ...]
    often: int
    eqn: Any
    values: list[Value]


class KernelReads:
    """The reads of all kernels of a traced function.

    Attributes:
      reads: path -> the products that read it, in the order of execution.
      others: path -> in words, what else uses the leaf or why a product cannot be used.
      by_place: the reads by their equation and operands.
      stacked: by the id of a loop's body: (place among its operands, path) of the leaves that it
        takes step by step.
    """

    def __init__(self, traced: Traced):
        self.reads: dict[Path, list[Read]] = {}
        self.others: dict[Path, list[str]] = {}
        self.by_place: dict[Place, Read] = {}
        self.stacked: dict[int, dict[int, Path]] = {}
        self._leaves = {p: s for p, s in traced.shapes.items() if not isinstance(p, InputPath)}
        self._loop: tuple[str, ...] = ()
        self._often = 1
        held: list[_Held | None] = [
            None if isinstance(path, InputPath) else _Held(path, digits.of_leaf(shape))
            for path, shape in traced.shapes.items()
        ]
        for each in self._walk(traced.analysis, held):
            self._other(each, "is one of the function's results")

    def usable(self) -> dict[Path, list[Read]]:
        """The kernels of which rows can be chosen."""
        return {path: reads for path, reads in self.reads.items() if not self.problem(path)}

    def problem(self, path: Path) -> str | None:
        """In words, why rows of a leaf cannot be chosen; None if they can."""
        if path in self.others:
            return self.others[path][0]
        reads = self.reads.get(path, [])
        if not reads:
            return "is read by no convolution or matrix product with data"
        if any(read.layout != reads[0].layout for read in reads):
            return "is read along different axes (tied weights?), so that it has no rows"
        return None

    def check(self, paths: Iterable[Path]) -> None:
        """Raises UserError for the first of these leaves whose rows cannot be chosen."""
        for path in paths:
            if path not in self._leaves:
                raise unknown_kernel(path, self.usable() or self._leaves, self._all())
            why = self.problem(path)
            if why:
                raise UserError(f"no rows of {path!r} can be chosen: it {why}; {self._all()}")

    def check_any(self) -> None:
        """Raises UserError for a function without kernels."""
        if self.usable():
            return
        reasons = (f"{path!r} {self.problem(path)}" for path in self._leaves)
        why = next(reasons, "it has no variables")
        raise UserError(
            "the model has nothing to select: no kernel is read as it is by a convolution or a"
            f" matrix product with data ({why})"
        )

    def check_prefix(self, prefix: str) -> None:
        """Raises UserError for a subtree of the variables without kernels."""
        there = ", ".join(sorted({repr(path.split("/")[0]) for path in self.usable()}))
        raise UserError(
            f"no kernel below prefix {shown(prefix)} can be selected; there are kernels below"
            f" {there}; pass one of these, or prefix='' for all"
        )

    def _all(self) -> str:
        names = [repr(path) for path in self.usable()]
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        return f"allowed: {', '.join(names[:4])}{more}" if names else "no kernel can be selected"

    # -- walking ----------------------------------------------------------------------------------

    def _other(self, held: _Held | None, why: str) -> None:
        if held is not None:
            self.others.setdefault(held.path, []).append(why)

    def _walk(self, analysis: Analysis, given: list[_Held | None]) -> list[_Held | None]:
        """The leaves that the results hold, where the inputs hold what is given."""
        jaxpr = analysis.jaxpr
        held = {v: each for v, each in zip(jaxpr.invars, given, strict=True) if each is not None}

        def of(atom: Any) -> _Held | None:
            return None if _literal(atom) else held.get(atom)

        for index, eqn in enumerate(jaxpr.eqns):
            operands = [of(atom) for atom in eqn.invars]
            if any(operands):
                results = self._equation(analysis, index, eqn, operands)
                pairs = zip(eqn.outvars, results, strict=True)
                held.update({var: each for var, each in pairs if each is not None})
        return [of(atom) for atom in jaxpr.outvars]

    def _equation(
        self, analysis: Analysis, index: int, eqn: Any, operands: list[_Held | None]
    ) -> list[_Held | None]:
        name, nothing = eqn.primitive.name, [None] * len(eqn.outvars)
        if index in analysis.inner:
            return self._bodies(analysis.inner[index], eqn, operands)
        if name in IDENTITIES and len(operands) == len(eqn.outvars):
            return operands
        if name in MOVES and operands[0] is not None:
            layout = digits.moved(eqn, operands[0].layout)
            if layout is not None:
                return [dataclasses.replace(operands[0], layout=layout)]
        if name in CONTRACTIONS:
            self._product(eqn, analysis.operands[index], operands)
            return nothing
        if name != "stop_gradient":
            for each in operands:
                self._other(each, f"is used by '{name}'")
        return nothing

    def _product(self, eqn: Any, values: list[Value], operands: list[_Held | None]) -> None:
        sides = [side for side in (0, 1) if operands[side] is not None]
        for side in sides:
            held, data = operands[side], values[1 - side]
            if len(sides) > 1 or data.sources:
                self._other(held, "meets other weights before it meets data")
                continue
            make = convolution if eqn.primitive.name == "conv_general_dilated" else matrix_product
            shape = self._leaves[held.path][bool(held.steps) :]
            made = make(eqn, side, held.layout, shape)
            if isinstance(made, str):
                self._other(held, made)
                continue
            product, layout = made
            layout = dataclasses.replace(layout, steps=held.steps)
            read = Read(
                held.path, product, layout, held.layout, self._loop, self._often, eqn, values
            )
            self.reads.setdefault(held.path, []).append(read)
            self.by_place[place(eqn, values)] = read

    def _bodies(
        self, bodies: list[Analysis], eqn: Any, operands: list[_Held | None]
    ) -> list[_Held | None]:
        name, nothing = eqn.primitive.name, [None] * len(eqn.outvars)
        if name in OWN_DERIVATIVE:
            for each in operands:
                self._other(each, "is used inside a function with a derivative of its own")
            return nothing
        if name in CALLS:
            again = name in ("remat", "remat2", "checkpoint")
            return (
                self._inside(eqn, bodies[0], operands) if again else self._walk(bodies[0], operands)
            )
        if name == "cond":
            self._other(operands[0], "decides between branches")
            found = [self._inside(eqn, body, operands[1:]) for body in bodies]
            same = [each[0] if len(set(each)) == 1 else None for each in zip(*found, strict=True)]
            for each, one in zip(zip(*found, strict=True), same, strict=True):
                if one is None:
                    for other in each:
                        self._other(other, "is one of several results of a branch")
            return same
        if name == "scan":
            return self._scan(bodies[0], eqn, operands)
        if name == "while":
            tests, shared = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
            for each in (*operands[:tests], *operands[tests + shared :]):
                self._other(each, "is carried by a loop")
            carried = [None] * (len(operands) - tests - shared)
            inside = self._inside(eqn, bodies[1], [*operands[tests : tests + shared], *carried])
            for each in inside:
                self._other(each, "is carried by a loop")
            return nothing
        for each in operands:
            self._other(each, f"is used by '{name}'")
        return nothing

    def _scan(self, body: Analysis, eqn: Any, operands: list[_Held | None]) -> list[_Held | None]:
        consts, carry = scan_counts(eqn.params)
        length = eqn.params["length"]
        for each in operands[consts : consts + carry]:
            self._other(each, "is carried by a loop")
        given: list[_Held | None] = [*operands[:consts], *[None] * carry]
        for k, each in enumerate(operands[consts + carry :], start=consts + carry):
            step = self._step(each, length)
            given.append(step)
            if step is not None:
                self.stacked.setdefault(id(body), {})[k] = step.path
        for each in self._inside(eqn, body, given, length):
            self._other(each, "is returned by a loop")
        return [None] * len(eqn.outvars)

    def _step(self, held: _Held | None, length: int) -> _Held | None:
        """What a step of a loop takes of a leaf that is stacked for it."""
        if held is None:
            return None
        size = math.prod(self._leaves[held.path][1:])
        first = held.layout[0]
        whole = ((digits.Digit(length, size),) if length > 1 else ()) == first
        if held.steps or not whole:
            self._other(held, "is read in slices by a loop, along another axis than its first")
            return None
        if any(d.stride >= size for axis in held.layout[1:] for d in axis):
            self._other(held, "is read in slices by a loop, along another axis than its first")
            return None
        return _Held(held.path, held.layout[1:], length)

    def _inside(
        self, eqn: Any, body: Analysis, operands: list[_Held | None], often: int = 1
    ) -> list[_Held | None]:
        before = self._loop, self._often
        self._loop, self._often = (*self._loop, eqn.primitive.name), self._often * often
        found = self._walk(body, operands)
        self._loop, self._often = before
        return found


def _literal(atom: Any) -> bool:
    return isinstance(atom, jex.Literal)


def unknown_kernel(path: Path, known: Iterable[Path], hint: str) -> UserError:
    """Says which kernels have the nearest names; without any, the hint."""
    near = difflib.get_close_matches(str(path), list(known), 3, 0.4)
    said = f"the nearest are {', '.join(map(repr, near))}" if near else hint
    return UserError(f"there is no kernel {shown(path)}; {said}")
