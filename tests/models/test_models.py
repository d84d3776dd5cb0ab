"""Models against NumPy float64 oracles written from the papers, and their specs against shapes."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_models import ORACLES

from dynhp_jax.common.errors import UserError
from dynhp_jax.models import registry, spec
from dynhp_jax.models.lenet import LeNetSpec
from dynhp_jax.models.mlp import MLPSpec
from dynhp_jax.models.mobilenet import MobileNetSpec
from dynhp_jax.models.resnet import ResNetSpec
from dynhp_jax.models.vgg import VGGSpec
from dynhp_jax.models.vit import ViTSpec
from dynhp_jax.models.wide_resnet import WideResNetSpec

# Small, with widths that differ; where the architecture must not look at widths, some are equal.
SMALL = {
    "mlp": MLPSpec((7, 5, 4, 3)),
    "lenet": LeNetSpec((3, 4), (6,), 5, (20, 16, 2)),
    "vgg": VGGSpec(((3, 4), (5, 2)), (6,), 3, (9, 8, 2)),
    "resnet": ResNetSpec((3, 4, 4), ((5, 2), (6, 3), (4,)), 3, (8, 6, 2)),
    "wide_resnet": WideResNetSpec(4, (4, 5, 5), ((3,), (6, 2), (4,)), 3, (8, 6, 2)),
    "mobilenet": MobileNetSpec(4, (4, 4, 5), ((6, 4), (3,)), 7, (1, 1, 2), 3, (8, 6, 2)),
    "vit": ViTSpec(6, (2, 3), (4, 2), (3, 5), (7, 4), 0.4, 2, 3, (6, 4, 2)),
}
READ = {"images": (32, 32, 3), "numbers": (32, 32, 3), "tokens": (32,)}
STANDARD = [
    registry.build(name, READ[spec.reads], 10, tokens=spec.reads == "tokens")
    for name, spec in registry.SPECS.items()
]


def parameters(spec: spec.Spec) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(spec.shapes()["params"]))


def random_variables(spec: spec.Spec, seed: int = 0) -> dict:
    """Float64 values of unit size; variances and scales away from zero."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        positive = path[-1].key in ("var", "scale")
        size = 1 / math.sqrt(max(1, math.prod(leaf.shape[:-1])))
        return rng.uniform(0.5, 1.5, leaf.shape) if positive else size * rng.normal(size=leaf.shape)

    return jax.tree_util.tree_map_with_path(draw, spec.shapes())


def inputs(spec: spec.Spec, batch: int = 4) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(batch, *spec.input_shape))


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        (MLPSpec(), 266_610),  # the paper's 1041.4 KiB
        (LeNetSpec(), 431_080),  # Caffe's LeNet, as everywhere in the pruning literature
        (ResNetSpec.cifar(20), 272_474),  # 1512.03385, table 6: 0.27 M (option A: 269,722)
        (ResNetSpec.cifar(56), 855_770),  # table 6: 0.85 M
        (WideResNetSpec.cifar(16, 4), 2_748_890),  # 1605.07146: 2.7 M
        (WideResNetSpec.cifar(28, 10), 36_479_194),  # 1605.07146, table 4: 36.5 M
        (VGGSpec.vgg16(), 14_724_042),  # "14.7 M"; without the 4,224 biases that BN makes idle
        (MobileNetSpec.cifar(), 2_223_872 + 1280 * 10 + 10),  # torchvision's features, 10 classes
    ],
)
def test_parameters_as_published(spec, count):
    assert parameters(spec) == count


def test_parameters_in_closed_form():
    channels = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    pairs = list(zip(channels, channels[1:], strict=False))
    assert parameters(VGGSpec.vgg11()) == sum(9 * i * o + 2 * o for i, o in pairs) + 512 * 10 + 10
    embed, hidden, depth = 128, 512, 6
    attention = 4 * (embed * embed + embed)
    dense = embed * hidden + hidden + hidden * embed + embed
    outside = 4 * 4 * 3 * embed + embed + 64 * embed + 2 * embed + embed * 10 + 10
    assert parameters(ViTSpec.cifar()) == depth * (attention + dense + 4 * embed) + outside


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("train", [False, True])
def test_forward_equals_numpy(name, train):
    spec = SMALL[name]
    variables, x = random_variables(spec), inputs(spec)
    wanted, statistics = ORACLES[name](spec, variables, x, train)
    with jax.enable_x64(True):
        args = jax.tree.map(jnp.asarray, (variables, x))
        apply = functools.partial(spec.module().apply, train=train, mutable=["batch_stats"])
        got, updated = jax.jit(apply)(*args)
    assert got.dtype == jnp.float64
    assert np.std(wanted) > 1e-3  # not a comparison of zeros
    np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-12)
    if train and "batch_stats" in variables:
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10), updated, statistics)
    else:
        kept = {k: v for k, v in variables.items() if k == "batch_stats"}
        jax.tree.map(np.testing.assert_array_equal, dict(updated), kept)


@pytest.mark.parametrize("spec", STANDARD, ids=lambda spec: spec.model)
def test_standard_sizes_take_real_shapes(spec):
    x = jax.ShapeDtypeStruct((5, *spec.input_shape), spec.example.dtype)
    positions = {"fcn": (32, 32), "decoder": (32,)}.get(spec.model, ())
    for train in (False, True):
        apply = functools.partial(spec.module().apply, train=train, mutable=["batch_stats"])
        logits, updated = jax.eval_shape(apply, spec.shapes(), x)
        assert (logits.shape, logits.dtype) == ((5, *positions, 10), jnp.float32)
        kept = {k: v for k, v in spec.shapes().items() if k == "batch_stats"}
        assert jax.tree.map(jnp.shape, dict(updated)) == jax.tree.map(jnp.shape, kept)
    assert spec.resized(spec.shapes()["params"]) == spec
    spec.check(spec.shapes())


@pytest.mark.parametrize("name", SMALL)
def test_init_draws_what_the_spec_says(name):
    spec = SMALL[name]
    variables = spec.init(jax.random.key(0))
    spec.check(variables)
    assert spec.resized(variables["params"]) == spec
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    again = spec.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, variables, again)
    logits = jax.jit(spec.module().apply)(variables, jnp.asarray(inputs(spec), jnp.float32))
    assert np.ptp(logits, axis=0).min() > 0  # every output depends on the input


def test_he_initialisation():
    params = MLPSpec().init(jax.random.key(3))["params"]
    weights = np.asarray(params["hidden_1"]["kernel"]) / math.sqrt(2 / 784)
    assert abs(weights.std() - 1) < 4 / math.sqrt(2 * weights.size)
    assert np.abs(weights).max() > 3  # a normal, not one cut at two deviations
    assert not np.any(params["hidden_1"]["bias"])


# --- the spec ---------------------------------------------------------------------------------


def refit(spec: spec.Spec, data: st.DataObject) -> spec.Spec:
    """`spec` with other widths, input channels included, drawn one by one."""

    def draw(value):
        return tuple(map(draw, value)) if isinstance(value, tuple) else data.draw(st.integers(1, 5))

    fixed = ("num_classes", "scale", "patch", "strides", "input_shape")
    names = [f.name for f in dataclasses.fields(spec) if f.name not in fixed]
    widths = {name: draw(getattr(spec, name)) for name in names}
    if isinstance(spec, MLPSpec):
        widths["widths"] = (*widths["widths"][:-1], spec.num_classes)
    else:
        widths["input_shape"] = (*spec.input_shape[:2], draw(1))
    return dataclasses.replace(spec, **widths)


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_any_widths_rebuild(name, data):
    before = SMALL[name]
    spec = refit(before, data)
    assert before.resized(spec.shapes()["params"]) == spec
    x = jax.ShapeDtypeStruct((2, *spec.input_shape), jnp.float32)
    assert jax.eval_shape(spec.module().apply, spec.shapes(), x).shape == (2, before.num_classes)
    rebuilt = registry.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert rebuilt == spec
    assert hash(rebuilt) == hash(spec)


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_tree_that_does_not_fit_is_refused(name, data):
    """One axis of one leaf longer than its group: refused, naming a leaf that does not fit."""
    spec = SMALL[name]
    leaves, treedef = jax.tree_util.tree_flatten_with_path(spec.shapes()["params"])
    which = data.draw(st.integers(0, len(leaves) - 1))
    path, leaf = leaves[which]
    axis = data.draw(st.integers(0, leaf.ndim - 1))
    path = "/".join(["params", *(key.key for key in path)])
    first = {"mlp": "hidden_1", "lenet": "conv_1", "vgg": "conv_1", "vit": "patches"}
    if path == f"params/{first.get(name, 'stem')}/kernel" and axis == leaf.ndim - 2:
        return  # inputs have no other leaf: a longer axis is another network, not a broken one
    shape = list(leaf.shape)
    shape[axis] += 1
    shapes = [leaf for _, leaf in leaves]
    shapes[which] = jax.ShapeDtypeStruct(tuple(shape), leaf.dtype)
    with pytest.raises(ValueError, match=r"params/[\w/]+ has shape \[.*\]; .* make it") as error:
        spec.resized(treedef.unflatten(shapes))
    with pytest.raises(ValueError, match=f"{path} has shape .*{shape[axis]}"):
        spec.check({**spec.shapes(), "params": treedef.unflatten(shapes)})
    assert "\n" not in str(error.value)


def test_trees_of_another_architecture_are_refused():
    spec = SMALL["resnet"]
    params = spec.shapes()["params"]
    without = {k: v for k, v in params.items() if k != "stem_bn"}
    with pytest.raises(ValueError, match="params/stem_bn/bias is missing"):
        spec.resized(without)
    with pytest.raises(ValueError, match="params/stage1_block1/conv2/kernel is missing"):
        spec.resized(SMALL["vgg"].shapes()["params"])
    with pytest.raises(ValueError, match="params/extra/kernel is no leaf"):
        spec.resized({**params, "extra": {"kernel": params["stem"]["kernel"]}})
    with pytest.raises(ValueError, match=r"pass variables\['params'\]"):
        spec.resized(spec.shapes())
    flat = {**params, "stem": {"kernel": jax.ShapeDtypeStruct((7,), jnp.float32)}}
    with pytest.raises(ValueError, match=r"params/stem/kernel has shape \[7\]: too few axes"):
        spec.resized(flat)
    empty = {**params, "stem": {"kernel": jax.ShapeDtypeStruct((3, 3, 0, 3), jnp.float32)}}
    with pytest.raises(ValueError, match=r"params/stem/kernel .* keep at least one unit"):
        spec.resized(empty)
    with pytest.raises(ValueError, match="batch_stats/stage1_block1/bn1/mean is missing"):
        spec.check({"params": params})


def test_equal_specs_compile_once():
    traced = []

    @functools.partial(jax.jit, static_argnums=0)
    def apply(spec, variables, x):
        traced.append(spec)
        return spec.module().apply(variables, x)

    spec = MLPSpec((7, 5, 3))
    variables, x = spec.init(jax.random.key(0)), jnp.ones((2, 7))
    apply(spec, variables, x)
    apply(spec.resized(variables["params"]), variables, x)
    apply(MLPSpec.from_dict(spec.to_dict()), variables, x)
    assert traced == [spec]


def test_dead_head_dimensions_leave_attention_as_it_was():
    """The scale is a field: dimensions, then a head, that are zero can be cut in float64."""
    spec = SMALL["vit"]
    variables, x = random_variables(spec), inputs(spec)
    block = variables["params"]["block1"]  # 2 heads, qk 4, v 3
    for name, at in (("query", (..., [1, 3])), ("key", (..., [1, 3])), ("value", (..., [0]))):
        for leaf in block[name].values():
            leaf[at] = 0
    block["merge"]["kernel"][0] = 0
    cut = jax.tree.map(np.copy, variables)
    small = cut["params"]["block1"]
    for name, dims in (("query", [0, 2]), ("key", [0, 2]), ("value", [1, 2])):
        small[name] = {k: v[..., 1:, :][..., dims] for k, v in small[name].items()}
    small["merge"]["kernel"] = small["merge"]["kernel"][1:, [1, 2]]
    smaller = spec.resized(cut["params"])
    assert (smaller.heads, smaller.qk_dims, smaller.v_dims) == ((1, 3), (2, 2), (2, 5))
    with jax.enable_x64(True):
        whole = spec.module().apply(variables, jnp.asarray(x))
        np.testing.assert_allclose(smaller.module().apply(cut, jnp.asarray(x)), whole, rtol=1e-12)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (lambda: MLPSpec((7, 0, 3)), r"MLPSpec.widths\[1\] is 0; allowed: whole numbers from 1"),
        (lambda: MLPSpec((7, -2, 3)), r"MLPSpec.widths\[1\] is -2"),
        (lambda: MLPSpec((7, 2.0, 3)), r"MLPSpec.widths\[1\] is 2.0"),
        (lambda: MLPSpec((7, True, 3)), r"MLPSpec.widths\[1\] is True"),
        (lambda: MLPSpec(7), "MLPSpec.widths is 7; allowed: a list"),
        (lambda: MLPSpec((7,)), "at least inputs, outputs"),
        (lambda: LeNetSpec(input_shape=(15, 28, 1)), "sides of at least 16"),
        (lambda: LeNetSpec(input_shape=(28, 28)), "LeNetSpec.input_shape .* allowed: 3 sizes"),
        (lambda: VGGSpec.vgg11(input_shape=(28, 28, 1)), "sides of at least 32 for 5 poolings"),
        (lambda: VGGSpec(stages=((3,), ())), "no empty stage"),
        (lambda: VGGSpec.cifar(13), "the depth of VGG is 13; allowed: 11 or 16"),
        (lambda: ResNetSpec.cifar(21), "the depth of ResNet is 21"),
        (lambda: ResNetSpec(streams=(3, 4)), "2 streams"),
        (lambda: ResNetSpec.cifar(width=0), "width multiplier is 0; allowed: numbers above 0"),
        (lambda: MobileNetSpec.cifar(width=-1.0), "width multiplier is -1.0"),
        (lambda: MobileNetSpec(1, (1, 2), ((1,),), 1, (1,)), "2 streams, 1 strides"),
        (lambda: WideResNetSpec.cifar(20), "the depth of WideResNet is 20"),
        (lambda: dataclasses.replace(ViTSpec.cifar(), heads=(4,)), "1/6/6/6 entries"),
        (lambda: dataclasses.replace(ViTSpec.cifar(), scale=0.0), "ViTSpec.scale is 0.0"),
        (lambda: dataclasses.replace(ViTSpec.cifar(), patch=5), "divisors of the sides 32, 32"),
        (lambda: MLPSpec.from_dict({"width": [3, 2]}), "'width'; .* did you mean 'widths'"),
        (lambda: MLPSpec.from_dict({"model": "vgg"}), "spec of model 'mlp', not of 'vgg'"),
        (lambda: ViTSpec.from_dict({"embed": 3}), "ViTSpec needs the field 'heads'"),
        (lambda: registry.from_dict({"widths": [3, 2]}), "no model None; allowed: mlp, lenet"),
        (lambda: registry.build("mpl", (28, 28, 1), 10), "no model 'mpl'"),
        (lambda: registry.build("mobilenet", (32, 32, 3), 10, depth=20), "no option 'depth'"),
        (lambda: registry.build("vgg", (784,), 10), r"shape \(784,\); allowed: images"),
    ],
)
def test_errors_say_what_is_allowed(construct, message):
    with pytest.raises(UserError, match=message) as error:
        construct()
    assert "\n" not in str(error.value)


def test_inputs_of_another_shape_are_refused():
    for small in SMALL.values():
        x = jax.ShapeDtypeStruct((2, *small.input_shape, 1), jnp.float32)
        with pytest.raises(ValueError, match=r"takes inputs \[batch, .*\]; found shape \[2, "):
            jax.eval_shape(small.module().apply, small.shapes(), x)


def test_build_passes_sizes_and_options():
    assert registry.build("mlp", (28, 28, 1), 10, hidden=[300, 100]) == MLPSpec()
    assert registry.build("lenet", (28, 28, 1), 10, width=None) == LeNetSpec()
    assert registry.build("resnet", (28, 28, 1), 7, depth=56, width=0.5) == ResNetSpec(
        (8, 16, 32), ((8,) * 9, (16,) * 9, (32,) * 9), 7, (28, 28, 1)
    )
    assert registry.build("wide_resnet", (32, 32, 3), 10, depth=28, width=10).streams[-1] == 640
    quarter = registry.build("mobilenet", (32, 32, 3), 10, width=0.25)
    assert (quarter.stem_width, quarter.streams[:3], quarter.head_width) == (8, (8, 8, 8), 1280)
