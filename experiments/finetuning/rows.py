"""The rows of the comparison: a method of fine-tuning each, and what fits it to a budget.

A name is what `--rows=` and the result files use. What a row is trained by is the text of an
extension, in which `{knob}` stands for the number that is chosen so that the step takes as many
bytes as the budget allows, and `{layers}` for the layers that are kept.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dynhp_jax.common.errors import UserError, shown

NUMBERS, KERNELS = "numbers of one example", "kernels"  # what a knob counts


@dataclasses.dataclass(frozen=True)
class Row:
    """A method of the comparison.

    Attributes:
      name: as flags and files have it.
      extension: text of `config.extension`, with {knob} and {layers}.
      knob: what is fitted to the budget, NUMBERS or KERNELS; '' for a method that takes the bytes
        that it takes.
      sized_as: the row whose knob it has, since its step has the same shapes; '' for its own.
      ranked: how layers are kept, as `finetune.rank_layers` has it; '' for all.
      tracks: of which tracks it is a row.
      about: in words.
      changes: fields of the config beside the extension, by dotted names; {rate} in a text stands
        for the learning rate.
    """

    name: str
    extension: str
    knob: str = ""
    sized_as: str = ""
    ranked: str = ""
    tracks: str = "AB"
    about: str = ""
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def fitted(self) -> bool:
        """Whether there is one for each budget."""
        return bool(self.knob)

    def text(self, knob: int = 0, layers: Sequence[str] = ()) -> str:
        """Of its extension."""
        return self.extension.format(knob=knob, layers=tuple(layers))


_KEPT, _ALL = "(budget={knob}, layers={layers})", "(budget={knob})"
# In order of worth: what is run first says most.
ROWS = {
    row.name: row
    for row in (
        Row("full", "full()", about="all parameters"),
        Row("head", "head()", about="the classifier alone"),
        Row("trady", f"trady{_KEPT}", NUMBERS, ranked="rgn",
            about="rows of the kept layers, drawn anew in each epoch (TraDy)"),
        Row("last-k", "last_k(k={knob})", KERNELS, about="the last k layers"),
        Row("static", f"static{_KEPT}", NUMBERS, "trady", "rgn",
            about="rows of the kept layers, drawn once (S-TopK random, PaCA)"),
        Row("medyate", f"medyate{_KEPT}", NUMBERS, ranked="lara",
            about="rows drawn by the norms of their gradients (MeDyate)"),
        Row("su", "sparse_update(network='mbv2-w0.35', policy='49kb')", tracks="B",
            about="the published policy (Sparse Update, 49 KB)"),
        Row("lora-4", "lora(rank=4)", about="changes of rank 4 (LoRA)"),
        Row("bias", "bias_only()", about="biases (BitFit)"),
        Row("random", f"random{_ALL}", NUMBERS,
            about="rows of all layers, drawn anew in each epoch (D-Full random)"),
        Row("full-bits", "full(bits=True)", about="all parameters, ReLU keeps bits"),
        Row("full-remat", "full(remat=4)", about="all parameters, four segments computed anew"),
        Row("full-parts", "full()", about="all parameters, in four micro-batches",
            changes={"batch.variance": "micro", "batch.micro_batches": 4}),
        Row("galore-4", "full()", about="all parameters, Adam in 4 directions of each (GaLore)",
            changes={"optimizer.name": "experiments.finetuning.galore:make(rate={rate}, rank=4)"}),
        Row("cyclic", f"cyclic{_KEPT}", NUMBERS, "trady", "rgn",
            about="blocks of rows of the kept layers in turn (after BAdam, LISA)"),
        Row("last-4", "last_k(k=4)", about="the last 4 layers"),
        Row("asi-4", "asi(k=4)", about="the last 4 layers, of inputs in subspaces (ASI)"),
        Row("hosvd-4", "hosvd(k=4)", about="the last 4 layers, of decomposed inputs (HOSVD, 0.8)"),
        Row("compact-4", "compact(k=4)",
            about="the last 4 layers, of inputs projected at random (CompAct)"),
        Row("trady-pooled", "trady(budget={knob}, layers={layers}, capacity='pooled')", NUMBERS,
            "trady", "rgn", about="TraDy with the papers' draw from all kept layers together"),
        Row("trady-asi", "trady(budget={knob}, layers={layers}, compress='asi')", NUMBERS, "trady",
            "rgn", about="TraDy's rows, of inputs in subspaces"),
        Row("trady-chunks", "trady(budget={knob}, layers={layers}, chunk=4)", NUMBERS,
            ranked="rgn", tracks="B", about="TraDy, below its layers in fours"),
        Row("velocity", "velocity(budget={knob})", NUMBERS,
            about="output channels that still change (budgeted velocity)"),
        Row("largest", f"largest{_KEPT}", NUMBERS, "trady", "rgn",
            about="rows of the kept layers with the largest weights, for good"),
        Row("lora-1", "lora(rank=1)", about="changes of rank 1"),
        Row("lora-16", "lora(rank=16)", about="changes of rank 16"),
    )
}  # fmt: skip


def of_track(track: str, names: str) -> list[Row]:
    """The rows that a flag names, with commas between them; all of the track for ''.

    Raises:
      UserError: there is no such row on this track.
    """
    known = [name for name, row in ROWS.items() if track in row.tracks]
    found = names.split(",") if names else known
    for name in found:
        if name not in known:
            raise UserError(f"--rows: there is no row {shown(name)}; allowed: {', '.join(known)}")
    return [ROWS[name] for name in dict.fromkeys(found)]
