"""What the text of an optimized XLA program says about its instructions.

XLA prints a program as computations, one instruction a line: name, shape, operation, operands,
attributes. Only what the meters ask for is read; a line of another form is passed over.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4,
    "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
_HEAD = re.compile(r"(?:ENTRY )?%?([\w.\-]+) .*\{$")
_LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (\([^)]*\)|\S+) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: unique in the program.
      shape: of the result, as printed: 'f32[8,10]{1,0}'.
      operation: 'dot', 'fusion', ...
      rest: operands and attributes, as printed.
      root: whether it is the computation's result.
    """

    name: str
    shape: str
    operation: str
    rest: str
    root: bool

    @property
    def sizes(self) -> tuple[int, ...]:
        """The axes of the result; () for a scalar and for a tuple."""
        found = _ARRAY.match(self.shape)
        return tuple(map(int, filter(None, found[2].split(",")))) if found else ()

    @property
    def bytes(self) -> int:
        """Bytes of the result's numbers."""
        arrays = _ARRAY.findall(self.shape)
        return sum(
            BYTES.get(kind, 4) * math.prod(map(int, filter(None, sizes.split(","))))
            for kind, sizes in arrays
        )

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of the operands, in order."""
        listed = re.sub(r"/\*.*?\*/", "", self.rest.split(")", 1)[0])
        if "%" in listed:
            return tuple(re.findall(r"%([\w.\-]+)", listed))
        return tuple(name.strip() for name in listed.split(",") if name.strip())

    def attribute(self, name: str) -> str:
        """The text behind `name=`, up to a comma outside of braces; '' if there is none."""
        found = re.search(rf"\b{name}=(\{{[^}}]*\}}|[^,\s]+)", self.rest)
        return found[1].lstrip("%") if found else ""


Computation = Mapping[str, Instruction]


def computations(text: str) -> dict[str, Computation]:
    """The computations of a program by name; of each, its instructions by name and in order.

    >>> program = '''
    ... ENTRY %main (x: f32[2,3]) -> f32[2] {
    ...   %x = f32[2,3]{1,0} parameter(0)
    ...   ROOT %sum = f32[2]{0} reduce(%x, %zero), dimensions={1}, to_apply=%add
    ... }
    ... '''
    >>> result = computations(program)["main"]["sum"]
    >>> result.operation, result.operands, result.bytes, result.attribute("to_apply")
    ('reduce', ('x', 'zero'), 8, 'add')

    Args:
      text: from `jax.stages.Compiled.as_text()`.
    """
    found: dict[str, dict[str, Instruction]] = {}
    inside: dict[str, Instruction] | None = None
    for line in text.splitlines():
        if line.startswith("}"):
            inside = None
        elif inside is None:
            if head := _HEAD.match(line):
                inside = found.setdefault(head[1], {})
        elif match := _LINE.match(line):
            root, name, shape, operation, rest = match.groups()
            inside[name] = Instruction(name, shape, operation, rest, bool(root))
    return found
