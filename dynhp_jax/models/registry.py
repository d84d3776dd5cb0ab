"""The models by name, and their standard sizes."""

import inspect
from collections.abc import Callable, Mapping

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.literals import check_options
from dynhp_jax.models.decoder import DecoderSpec
from dynhp_jax.models.fcn import FCNSpec
from dynhp_jax.models.folded import MCUNet, MobileNetV2
from dynhp_jax.models.lenet import LeNetSpec
from dynhp_jax.models.mlp import MLPSpec
from dynhp_jax.models.mobilenet import MobileNetSpec
from dynhp_jax.models.resnet import FoldedResNetSpec, ResNetSpec
from dynhp_jax.models.spec import Spec
from dynhp_jax.models.vgg import VGGSpec
from dynhp_jax.models.vit import ViTSpec
from dynhp_jax.models.wide_resnet import WideResNetSpec

# Constructors of the standard sizes. A new model: its file, and its line here.
STANDARD: dict[type[Spec], Callable[..., Spec]] = {
    MLPSpec: MLPSpec.classifier,
    LeNetSpec: LeNetSpec.lenet5,
    VGGSpec: VGGSpec.cifar,
    ResNetSpec: ResNetSpec.cifar,
    FoldedResNetSpec: FoldedResNetSpec.cifar,
    WideResNetSpec: WideResNetSpec.cifar,
    MobileNetSpec: MobileNetSpec.cifar,
    MobileNetV2: MobileNetV2.named,
    MCUNet: MCUNet.named,
    ViTSpec: ViTSpec.cifar,
    FCNSpec: FCNSpec.pixels,
    DecoderSpec: DecoderSpec.characters,
}

SPECS: dict[str, type[Spec]] = {spec.model: spec for spec in STANDARD}


def build(
    name: str, input_shape: tuple[int, ...], num_classes: int, tokens: bool = False, **options
) -> Spec:
    """The standard network of a name, for the examples at hand.

    Args:
      name: a key of SPECS.
      input_shape: shape of one example without the batch axis. The MLP takes flat examples: its
        spec has the product of these sizes as input features.
      num_classes: outputs, for every example or every position of one.
      tokens: whether inputs are whole numbers.
      **options: `width` (multiplier), `depth`, `hidden`, as the model's own constructor takes them;
        an option that is None counts as not given.

    Raises:
      UserError: an unknown name, an option that the model does not have, or sizes it cannot take.

    >>> build("mlp", (28, 28, 1), 10, hidden=(300, 100), depth=None)
    MLPSpec(widths=(784, 300, 100, 10))
    """
    construct = STANDARD[_spec_of(name)]
    given = {option: value for option, value in options.items() if value is not None}
    known = [p for p in inspect.signature(construct).parameters if p not in _SHAPES]
    check_options(f"model {name!r}", given, known)
    _check_examples(name, SPECS[name].reads, tuple(input_shape), tokens)
    return construct(input_shape=tuple(input_shape), num_classes=num_classes, **given)


def from_dict(values: Mapping) -> Spec:
    """The spec that `Spec.to_dict` wrote, of whichever model its 'model' entry names.

    >>> from_dict({"model": "mlp", "widths": [64, 32, 10]})
    MLPSpec(widths=(64, 32, 10))
    """
    return _spec_of(values.get("model")).from_dict(values)


_SHAPES = ("input_shape", "num_classes")


def _check_examples(name: str, reads: str, shape: tuple[int, ...], tokens: bool) -> None:
    """Raises UserError unless a model takes such examples."""
    fits = {"images": len(shape) == 3, "numbers": True, "tokens": len(shape) == 1}[reads]
    if fits and tokens == (reads == "tokens"):
        return
    allowed = {
        "images": "images [height, width, channels], or use the model 'mlp'",
        "numbers": "real numbers; for tokens use the model 'decoder'",
        "tokens": "tokens [length], whole numbers",
    }
    kind = "whole" if tokens else "real"
    raise UserError(
        f"model {name!r} was given examples of {kind} numbers of shape {shape}; allowed:"
        f" {allowed[reads]}"
    )


def _spec_of(name: object) -> type[Spec]:
    if not isinstance(name, str) or name not in SPECS:
        raise UserError(f"there is no model {name!r}; allowed: {', '.join(SPECS)}")
    return SPECS[name]
