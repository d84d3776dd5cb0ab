"""What every shipped model has: a frozen spec of static widths from which its module is rebuilt.

Structured pruning makes arrays smaller; a Linen module holds its widths as fields and refuses
arrays of other sizes. So the widths live in a `Spec`: `spec.resized(params)` reads the new ones
from the arrays, and `.module()` gives the smaller module. A spec is hashable, so that it can be a
static argument of a jitted function: an equal spec hits the same compiled program.
"""

import abc
import dataclasses
import difflib
import functools
import math
import typing
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from dynhp_jax.common.errors import UserError


@dataclasses.dataclass(frozen=True)
class Spec(abc.ABC):
    """Static sizes of one model. Subclasses add fields of int, float, and (nested) tuples of them.

    A field may be called `input_shape` or `num_classes` and so stand for that property.
    Lists are taken as tuples. Every whole number is a size, so at least 1, and every float is
    positive; anything else is a UserError that names the field.
    """

    model: typing.ClassVar[str]  # the key in models.SPECS
    reads: typing.ClassVar[str] = "images"  # or "numbers" of any shape, or "tokens"
    head: typing.ClassVar[str] = "output"  # the layer of the outputs, in 'params'

    def __post_init__(self):
        for field in dataclasses.fields(self):
            where = f"{type(self).__name__}.{field.name}"
            value = _checked(field.type, getattr(self, field.name), where)
            object.__setattr__(self, field.name, value)

    @property
    @abc.abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, without the batch axis."""

    @property
    @abc.abstractmethod
    def num_classes(self) -> int:
        """Number of outputs per example."""

    @abc.abstractmethod
    def module(self) -> nn.Module:
        """The module of these widths; called as `module.apply(variables, x, train=False)`."""

    @abc.abstractmethod
    def _read(self, shapes: "LeafShapes") -> typing.Self:
        """This spec with every width replaced by the one that the leaves have."""

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        """Shape and type of one example, without the batch axis."""
        return jax.ShapeDtypeStruct(self.input_shape, jnp.float32)

    def evaluate(self, variables: Mapping, inputs: jax.Array) -> jax.Array:
        """Logits [batch, classes], with stored batch statistics."""
        return self.module().apply(variables, inputs, train=False)

    def train(self, variables: Mapping, inputs: jax.Array, key: tuple = ()) -> tuple:
        """Logits [batch, classes] and the collections that training updates: {} for most models.

        Args:
          variables: {'params': ...} and the other collections.
          inputs: f32[batch, ...].
          key: (), as nothing is drawn.
        """
        changing, module = [name for name in variables if name != "params"], self.module()
        if not changing:
            return module.apply(variables, inputs, train=True), {}
        logits, updates = module.apply(variables, inputs, train=True, mutable=changing)
        return logits, dict(updates)

    draws = False  # whether `train` needs a key

    def init(self, key: jax.Array) -> dict:
        """Draws the variables: {'params': ...} and, with BatchNorm, 'batch_stats'."""
        example = jax.ShapeDtypeStruct((1, *self.input_shape), self.example.dtype)
        return self.module().lazy_init(key, example)

    def shapes(self) -> dict:
        """What `init` returns, as a tree of jax.ShapeDtypeStruct; nothing is allocated."""
        return jax.tree.map(lambda leaf: leaf, _shapes(self))  # a copy: the cache keeps its own

    def resized(self, params: Mapping) -> typing.Self:
        """The spec of a tree of params of this architecture but, after surgery, other widths.

        Args:
          params: what `variables['params']` holds; arrays or jax.ShapeDtypeStruct.

        Returns:
          A spec of the same class whose `shapes()['params']` are the shapes of `params`.

        Raises:
          ValueError: a leaf is missing, is one too many, or disagrees with the others; it is named.
        """
        found = LeafShapes(params)
        spec = self._read(found)
        _compare(_leaf_shapes(_shapes(spec)["params"], "params"), found.by_path)
        return spec

    def cut(self, params: Mapping, keeps: Mapping) -> typing.Self:
        """`resized(params)`: which units were kept does not matter to a module of these sizes."""
        return self.resized(params)

    def rebuilt(self, values: Mapping, keeps: Mapping) -> typing.Self:
        """`from_dict(values)`: the spec that a checkpoint holds."""
        return self.from_dict(values)

    given = None  # the variables that it came with: `init` draws them

    def check(self, variables: Mapping) -> None:
        """Raises a ValueError that names the leaf unless `variables` has this spec's shapes.

        Collections that the model does not have (gates, masks) are not looked at.
        """
        for name, tree in _shapes(self).items():
            _compare(_leaf_shapes(tree, name), _leaf_shapes(variables.get(name, {}), name))

    def to_dict(self) -> dict:
        """The fields and the model's name, as JSON holds them: `from_dict` takes it back."""
        fields = {f.name: _as_lists(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return {"model": self.model, **fields}

    @classmethod
    def from_dict(cls, values: Mapping) -> typing.Self:
        """Rebuilds a spec from `to_dict`'s output, also after a trip through JSON.

        Raises:
          UserError: another model's name, an unknown field (the nearest one is named), a field
            that is missing, or a value that is not a size.
        """
        values = dict(values)
        model = values.pop("model", cls.model)
        if model != cls.model:
            raise UserError(f"{cls.__name__} is the spec of model {cls.model!r}, not of {model!r}")
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for name in values:
            if name not in fields:
                near = difflib.get_close_matches(str(name), fields, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                allowed = ", ".join(fields)
                raise UserError(f"{cls.__name__} has no field {name!r}; fields: {allowed}{hint}")
        for name, field in fields.items():
            if name not in values and field.default is dataclasses.MISSING:
                raise UserError(f"{cls.__name__} needs the field {name!r}; it is missing")
        return cls(**values)


class LeafShapes:
    """Shapes of a params tree by leaf path, with errors that name the leaf.

    Args:
      params: nested mappings whose leaves have a `.shape`.
    """

    def __init__(self, params: Mapping):
        if isinstance(params, Mapping) and "params" in params:
            raise ValueError("found all variables where params belong: pass variables['params']")
        self.by_path = _leaf_shapes(params, "params")

    def width(self, leaf: str, axis: int = -1) -> int:
        """Length of one axis of the leaf at `leaf`, a path below params ('hidden_1/kernel')."""
        path = f"params/{leaf}"
        if path not in self.by_path:
            raise ValueError(f"{path} is missing: these are not the params of this architecture")
        shape = self.by_path[path]
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"{path} has shape {list(shape)}: too few axes")
        if shape[axis] < 1:
            raise ValueError(f"{path} has shape {list(shape)}: keep at least one unit")
        return shape[axis]

    def image(self, before: tuple[int, int, int], leaf: str) -> tuple[int, int, int]:
        """`before` = [height, width, channels] with the channels that the kernel `leaf` reads."""
        height, width, _ = before
        return height, width, self.width(leaf, axis=-2)


@functools.lru_cache(maxsize=64)
def _shapes(spec: Spec) -> dict:
    example = jnp.zeros((1, *spec.input_shape), spec.example.dtype)
    return jax.eval_shape(spec.module().init, jax.random.key(0), example)


def _leaf_shapes(tree: Mapping, prefix: str) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        "/".join([prefix, *(str(getattr(k, "key", k)) for k in path)]): tuple(leaf.shape)
        for path, leaf in leaves
    }


def _compare(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> None:
    for path, shape in expected.items():
        if path not in found:
            raise ValueError(f"{path} is missing; expected a leaf of shape {list(shape)}")
        if found[path] != shape:
            raise ValueError(
                f"{path} has shape {list(found[path])}; the other widths make it {list(shape)}:"
                " cut every leaf of a group with the same keep"
            )
    for path in found:
        if path not in expected:
            raise ValueError(f"{path} is no leaf of this architecture; leave it out")


def _checked(hint: typing.Any, value: typing.Any, where: str) -> typing.Any:
    """`value` as the type `hint` (int, float, tuple[...]) says, or a UserError that names it."""
    if typing.get_origin(hint) is tuple:
        args = typing.get_args(hint)
        if not isinstance(value, list | tuple):
            raise UserError(f"{where} is {value!r}; allowed: a list of sizes")
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise UserError(f"{where} is {value!r}; allowed: {len(args)} sizes")
        hints = args[:1] * len(value) if args[-1] is Ellipsis else args
        pairs = enumerate(zip(hints, value, strict=True))
        return tuple(_checked(h, v, f"{where}[{i}]") for i, (h, v) in pairs)
    if hint is float:
        if isinstance(value, bool | str) or not (math.isfinite(value) and value > 0):
            raise UserError(f"{where} is {value!r}; allowed: numbers above 0")
        return float(value)
    # bool is an int to Python; numpy integers are welcome, floats are not rounded.
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise UserError(f"{where} is {value!r}; allowed: whole numbers from 1")
    return int(value)


def _as_lists(value: typing.Any) -> typing.Any:
    return [_as_lists(v) for v in value] if isinstance(value, tuple) else value
