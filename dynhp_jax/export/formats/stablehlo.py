"""StableHLO by `jax.export`: a compiler's portable form, with the arrays inside, any batch size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from dynhp_jax.export.formats.format import Format, Source, outputs_of


class StableHlo(Format):
    """What `jax.export.deserialize(file.read_bytes()).call(inputs)` runs, without this package."""

    name = "stablehlo"
    packages = ("flatbuffers",)

    def write(self, source: Source, folder: Path) -> list[Path]:
        from jax import export

        (batch,) = export.symbolic_shape("batch")
        inputs = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape), leaf.dtype),
            source.network.example,
        )
        made = export.export(jax.jit(source.network), platforms=("cpu", "cuda", "tpu"))(inputs)
        path = folder / f"{source.name}.stablehlo"
        path.write_bytes(made.serialize())
        return [path]

    def open(self, files: Sequence[Path], source: Source) -> Any:
        from jax import export

        call = jax.jit(export.deserialize(bytearray(files[0].read_bytes())).call)
        return lambda inputs: outputs_of(call(inputs))
