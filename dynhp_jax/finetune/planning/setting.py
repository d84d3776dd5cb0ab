"""How a step of fine-tuning saves bytes, beside training less, and the model that does so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from dynhp_jax.common.errors import UserError, shown
from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.bit_activations import bit_activations
from dynhp_jax.finetune.chunked import chunked_prefix
from dynhp_jax.finetune.compressed import Ranks, compressed
from dynhp_jax.finetune.segments import in_segments
from dynhp_jax.finetune.selected import selected


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a step does to take fewer bytes; all but `epsilon` leave its gradients exact.

    Attributes:
      bits: whether ReLU, max-pool and the like keep bits for the backward pass.
      remat: whether GELU, SiLU and the like keep what they read alone, and compute their derivative
        from it.
      chunk: what lies below the trained layers runs so many examples at a time; 0 for all at once.
      parts: equal parts of the mini-batch that are trained on one after the other.
      segments: of the step, of which the backward pass has what they read alone, and computes the
        rest anew; 1 for none.
      epsilon: the share of the energy of what is stored that is kept; 1 for all of it.
    """

    bits: bool = True
    remat: bool = False
    chunk: int = 0
    parts: int = 1
    segments: int = 1
    epsilon: float = 1.0

    def __str__(self) -> str:
        said = [name for name in ("bits", "remat") if getattr(self, name)]
        said += [f"chunk={self.chunk}"] if self.chunk else []
        said += [f"parts={self.parts}"] if self.parts > 1 else []
        said += [f"segments={self.segments}"] if self.segments > 1 else []
        said += [f"epsilon={self.epsilon:g}"] if self.epsilon < 1 else []
        return ", ".join(said) or "nothing saved"

    def smooth(self) -> str:
        """As `bit_activations` spells `remat`."""
        return "recompute" if self.remat else "exact"

    def transformed(
        self,
        apply: Callable,
        chosen: Collection[Path],
        trained: Collection[Path],
        ranks: Ranks,
        how: str,
    ) -> Callable:
        """The model.

        Args:
          apply: `apply(variables, *inputs) -> outputs`.
          chosen: kernels of which rows are trained.
          trained: these, and those that are trained whole.
          ranks: of what is stored; none are used without `epsilon`.
          how: it is decomposed.

        Returns:
          `f(variables, factors, rows, probes, *inputs) -> (outputs, factors)`.
        """
        if self.chunk:
            apply = chunked_prefix(apply, trained, self.chunk)
        if self.bits or self.remat:
            apply = bit_activations(apply, self.smooth())
        inner = selected(apply, dict.fromkeys(chosen))

        def whole(variables: Any, factors: Any, *given: Any) -> Any:
            return inner(variables, *given), factors

        found = compressed(inner, ranks, how) if self.epsilon < 1 else whole
        return in_segments(found, self.segments) if self.segments > 1 else found


def ladder(
    examples: int,
    bits: bool,
    remat: bool,
    chunks: Sequence[int] | None,
    parts: Sequence[int],
    segments: Sequence[int],
    epsilons: Sequence[float],
) -> Iterator[Setting]:
    """Settings, each with one saving more than the one before, the cheapest in time first.

    Args:
      examples: of the mini-batch.
      bits, remat: whether these are used.
      chunks: sizes, the largest first; None for an eighth of the mini-batch.
      parts, segments: numbers of them, the smallest first.
      epsilons: shares, the largest first.

    Raises:
      UserError: a size that cannot be.
    """
    chunks = (max(1, examples // 8),) if chunks is None else tuple(chunks)
    for chunk in chunks:
        if not isinstance(chunk, int) or chunk < 1:
            raise UserError(f"chunks has {shown(chunk)}; allowed: whole examples, at least 1")
    for count in parts:
        if not isinstance(count, int) or count < 2 or examples % count:
            raise UserError(
                f"parts has {shown(count)}; allowed: numbers from 2 on that divide the {examples}"
                " examples of the mini-batch"
            )
    for count in segments:
        if not isinstance(count, int) or count < 2:
            raise UserError(f"segments has {shown(count)}; allowed: whole numbers from 2 on")
    for epsilon in epsilons:
        if not isinstance(epsilon, (int, float)) or not 0 < epsilon < 1:
            raise UserError(f"epsilons has {shown(epsilon)}; allowed: shares between 0 and 1")
    setting = Setting(bits=bits, remat=remat)
    yield setting
    steps: list[Mapping[str, Any]] = [{"chunk": chunk} for chunk in chunks if chunk < examples]
    steps += [{"parts": count} for count in parts]
    steps += [{"segments": count} for count in segments]
    steps += [{"epsilon": float(epsilon)} for epsilon in epsilons]
    for step in steps:
        setting = dataclasses.replace(setting, **step)
        yield setting
