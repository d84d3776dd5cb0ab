"""The formats by name. A new one: its file, and its line here."""

from dynhp_jax.common.errors import UserError
from dynhp_jax.export.formats.arrays import Npz, Safetensors
from dynhp_jax.export.formats.c_float import CFloat
from dynhp_jax.export.formats.c_int8 import CInt8
from dynhp_jax.export.formats.format import Format
from dynhp_jax.export.formats.onnx import Onnx
from dynhp_jax.export.formats.stablehlo import StableHlo
from dynhp_jax.export.formats.tflite import TfLite

FORMATS: dict[str, Format] = {
    each.name: each
    for each in (Npz(), Safetensors(), StableHlo(), Onnx(), TfLite(), CFloat(), CInt8())
}


def named(names: str) -> list[Format]:
    """The formats of a comma-separated list.

    Raises:
      UserError: a name is none, or nothing is named.
    """
    wanted = list(dict.fromkeys(filter(None, names.split(","))))
    for name in wanted or [names]:
        if name not in FORMATS:
            raise UserError(f"there is no format {name!r}; allowed: {', '.join(FORMATS)}")
    return [FORMATS[name] for name in wanted]
