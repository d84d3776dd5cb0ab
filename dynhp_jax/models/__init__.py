"""Models shipped: Flax Linen modules, each rebuilt from a frozen spec of its widths."""

from collections.abc import Mapping

from dynhp_jax.errors import UserError
from dynhp_jax.models.mlp import MLPSpec
from dynhp_jax.models.spec import Spec

SPECS: dict[str, type[Spec]] = {spec.model: spec for spec in (MLPSpec,)}


def from_dict(values: Mapping) -> Spec:
    """The spec that `Spec.to_dict` wrote, of whichever model its 'model' entry names.

    >>> from_dict({"model": "mlp", "widths": [64, 32, 10]})
    MLPSpec(widths=(64, 32, 10))
    """
    name = values.get("model")
    if name not in SPECS:
        raise UserError(f"the spec names the model {name!r}; allowed: {', '.join(SPECS)}")
    return SPECS[name].from_dict(values)
