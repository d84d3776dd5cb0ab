"""Models that know nothing of the library: analysed, cut to half, compared with masked ones.

The masked model is made here from the definition and not by the library's gates: every number that
belongs to a dead unit is set to zero in the original variables, and the original function runs.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign.cases import CASES, image, linen
from foreign.resnet_linen import Bottleneck, ResNet, ResNet50

from dynhp_jax.batch_size.probed import probed
from dynhp_jax.batch_size.variance import of_probe, per_example
from dynhp_jax.common.tree_paths import path_name
from dynhp_jax.gates.gated import gated
from dynhp_jax.structure.counts import fan_out
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.resized import resized


def fill(variables, seed=0):
    """Random float64 arrays of these shapes; other leaves as they are."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        name = path_name(path).split("/")
        if {"var", "scale"} & set(name):
            return rng.uniform(0.5, 1.5, leaf.shape)
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 10
        return rng.normal(size=leaf.shape) / np.sqrt(fan_in)

    return jax.tree_util.tree_map_with_path(draw, variables)


def half(groups, seed=1):
    rng = np.random.default_rng(seed)
    return {
        name: np.sort(rng.choice(groups[name].size, groups[name].size // 2, replace=False))
        for name in groups.prunable
    }


def masks(groups, keeps):
    return {name: np.isin(np.arange(groups[name].size), keep) * 1.0 for name, keep in keeps.items()}


def silenced(variables, groups, keeps):
    """The variables with every number of a dead unit set to zero."""

    def wipe(path, leaf):
        for axis in range(np.ndim(leaf)):
            alive = groups.positions(path_name(path), axis, keeps)
            dead = np.setdiff1d(np.arange(leaf.shape[axis]), alive)
            if dead.size:
                leaf = leaf * np.isin(np.arange(leaf.shape[axis]), alive).reshape(
                    [-1 if d == axis else 1 for d in range(leaf.ndim)]
                )
        return leaf

    return jax.tree_util.tree_map_with_path(wipe, variables)


# Small arrays: what takes time is compiling.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def forward(functions, variables, inputs):
    """Outputs of several functions of the same variables."""
    return jit(lambda v: [f(v, *inputs) for f in functions])(variables)


def backward(apply, variables, inputs, cotangent):
    """(outputs, gradients of every float leaf for this cotangent)."""
    leaves, tree = jax.tree.flatten(variables)
    floats = [k for k, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    @jit
    def compiled(values, cotangent):
        def of(values):
            full = list(leaves)
            for k, value in zip(floats, values, strict=True):
                full[k] = value
            return apply(jax.tree.unflatten(tree, full), *inputs)

        out, pull = jax.vjp(of, values)
        return out, pull(cotangent)[0]

    out, values = compiled([leaves[k] for k in floats], cotangent)
    grads = [np.zeros(leaf.shape) for leaf in leaves]
    for k, value in zip(floats, values, strict=True):
        grads[k] = np.asarray(value)
    return out, jax.tree.unflatten(tree, grads)


def agree(found, wanted, tolerance=1e-10):
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True
    ):
        np.testing.assert_allclose(a, b, tolerance, tolerance, err_msg=path_name(path))


@pytest.mark.parametrize("name", CASES)
def test_half_of_every_exact_group(name, x64):
    apply, shapes, inputs = CASES[name]()
    variables = fill(shapes)
    groups = find_groups(apply, shapes, *inputs)
    keeps = half(groups)
    assert len(keeps) >= 2
    assert not groups.unknown
    small = cut(variables, groups, keeps)
    assert sum(map(jnp.size, jax.tree.leaves(small))) < 0.8 * sum(
        map(jnp.size, jax.tree.leaves(variables))
    )

    shape = jax.eval_shape(apply, shapes, *inputs).shape
    cotangent = np.random.default_rng(2).normal(size=shape)
    dead, gates = silenced(variables, groups, keeps), masks(groups, keeps)
    wanted, wanted_grads = backward(apply, dead, inputs, cotangent)
    small_apply = resized(apply, shapes, groups, keeps)
    found, found_grads = backward(small_apply, small, inputs, cotangent)
    agree(found, wanted)
    agree(found_grads, cut(wanted_grads, groups, keeps))
    with_gates = gated(apply, groups)
    whole, masked = forward((apply, lambda v, *x: with_gates(v, gates, *x)), variables, inputs)
    agree(masked, wanted)
    assert np.abs(whole - wanted).max() > 1e-3  # something was cut


@pytest.mark.parametrize(
    "name", ["resnet_basic", "transformer", "unet", "lstm", "scanned", "nnx_cnn", "plain_rotary"]
)
def test_gates_per_example(name, x64):
    """Row i of a batch with gates of its own is example i with those gates for a batch of one."""
    apply, shapes, (x,) = CASES[name]()
    variables, x = fill(shapes), x[:2]
    groups = find_groups(apply, shapes, x)
    rng = np.random.default_rng(3)
    gates = {n: rng.uniform(size=(2, groups[n].size)).round(1) for n in groups.prunable}
    with_gates = gated(apply, groups)
    both, first, second = forward(
        [
            lambda v, x: with_gates(v, gates, x),
            lambda v, x: with_gates(v, {n: z[0] for n, z in gates.items()}, x[:1]),
            lambda v, x: with_gates(v, {n: z[1] for n, z in gates.items()}, x[1:]),
        ],
        variables,
        (x,),
    )
    agree(both, np.concatenate([first, second]))
    assert np.abs(both - apply(variables, x)).max() > 1e-3


def pinned(groups):
    return {(p.path, p.axis): p.reason for p in groups.pinned}


def test_resnet50_at_full_size():
    """Half of every group but the pixels is the ResNet-50 that is half as wide, to the shape."""

    def shapes(filters):
        module = ResNet50(num_classes=1000, num_filters=filters)
        return linen(module, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32), train=False)

    apply, variables, (x,) = shapes(64)
    small_module, half_as_wide, _ = shapes(32)
    groups = find_groups(apply, variables, x)
    # A stem, two inner widths for each of 16 blocks, four residual streams, and the pixels.
    assert len(groups) == len(groups.select(groups.prunable)) == 1 + 2 * 16 + 4 + 1
    assert groups["Bottleneck_0/Conv_2"].size == 256
    assert len(groups["Bottleneck_0/Conv_2"].members) == 1 + 3 + 2 + 4 * 4 + 3 + 2 - 3
    pins = pinned(groups)
    assert {at for at, why in pins.items() if why == "an output"} == {
        ("params/Dense_0/kernel", 1),
        ("params/Dense_0/bias", 0),
    }
    kernels = {p for p, shape in groups.shapes.items() if p.startswith("params") and len(shape) > 3}
    assert len(kernels) == 53
    spatial = {(p, d) for p in kernels for d in (0, 1)} | {("inputs/0", 1), ("inputs/0", 2)}
    assert {at for at, why in pins.items() if "spatial" in why} == spatial
    assert len(pins) == len(spatial) + 2

    arrays = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), variables)
    keeps = {n: np.arange(groups[n].size // 2) for n in groups.prunable if n != "input"}
    small = cut(arrays, groups, keeps)
    assert jax.tree.map(jnp.shape, small) == jax.tree.map(jnp.shape, half_as_wide)
    flops = [
        jax.jit(f).lower(v, x).cost_analysis()["flops"]
        for f, v in (
            (small_module, half_as_wide),
            (resized(apply, variables, groups, keeps), small),
        )
    ]
    assert flops[0] == flops[1]


def test_batch_statistics_in_training_mode(x64):
    """Groups are found on the evaluation function; the training one is resized with them."""
    module = ResNet((1, 1), Bottleneck, num_classes=3, num_filters=4, dtype=jnp.float64)
    apply, shapes, (x,) = linen(module, image(3), train=False)
    variables, groups = fill(shapes), find_groups(apply, shapes, image(3))

    def train(v, x):
        return module.apply(v, x, train=True, mutable=["batch_stats"])

    keeps = half(groups)
    out, stats = jax.jit(train)(silenced(variables, groups, keeps), x)
    small_train = jax.jit(resized(train, shapes, groups, keeps))
    small_out, small_stats = small_train(cut(variables, groups, keeps), x)
    agree(small_out, out)
    both = {"params": variables["params"], **stats}
    agree(small_stats["batch_stats"], cut(both, groups, keeps)["batch_stats"])


def test_transformer_says_what_stays_and_why():
    for tied in (False, True):
        apply, shapes, inputs = CASES["transformer"](logits_via_embedding=tied)
        groups = find_groups(apply, shapes, *inputs)
        outputs = {
            ("params/decoder/logitdense/kernel/value", 1): "an output",
            ("params/decoder/logitdense/bias/value", 0): "an output",
        }
        assert pinned(groups) == {
            ("params/decoder/Embed_0/embedding/value", 0): "rows chosen by computed indices",
            ("inputs/0", 1): "an output",
            **({} if tied else outputs),
        }
        block = "decoder/encoderdecoderblock_"
        sizes = {}
        for i in "01":
            attention = block + i + "/MultiHeadDotProductAttention_0/"
            sizes |= {attention + "query:1": 4, attention + "query:2": 3, attention + "value": 3}
            sizes[block + i + "/MLPBlock_0/Dense_0"] = 10
        assert {name: groups[name].size for name in groups.prunable} == sizes
        (stream,) = set(groups) - set(sizes)  # the residual stream, which LayerNorm reads
        assert stream == "decoder/Embed_0"
        norms = ("block_0/LayerNorm_0", "block_0/LayerNorm_1", "block_1/LayerNorm_0",
                 "block_1/LayerNorm_1", "_norm")  # fmt: skip
        assert groups[stream].reasons == tuple(
            f"reduced by 'reduce_sum' in TransformerLM/decoder/encoderdecoder{norm}"
            for norm in norms
        )
        table = " ".join(groups.describe().split())
        assert "in TransformerLM/decoder/encoderdecoderblock_{0,1}/LayerNorm_{0,1}, Tr" in table


def test_stacked_layers_stay_as_many_as_they_are():
    apply, shapes, inputs = CASES["scanned"]()
    pins = pinned(find_groups(apply, shapes, *inputs))
    assert {at for at, why in pins.items() if why == "the axis that a scan runs over"} == {
        (f"params/layers/{layer}/{leaf}", 0)
        for layer in ("inner", "outer")
        for leaf in ("kernel", "bias")
    }


@pytest.mark.parametrize("name", ["lstm", "lstm_by_gate"])
def test_every_weight_that_reads_a_recurrent_unit_counts(name, x64):
    """Kernels that are joined before they meet the data read units like any other."""
    apply, shapes, inputs = CASES[name]()
    groups = find_groups(apply, shapes, *inputs)
    (hidden,) = set(groups) - {"input"}
    counts = fan_out(groups, {hidden: np.array([1, 1, 0, 1, 0, 1.0])})
    assert counts["input"].tolist() == [4 * 4] * 4  # four gates, four units left
    assert counts[hidden].tolist() == [4 * 4 + 3, 4 * 4 + 3, 0, 4 * 4 + 3, 0, 4 * 4 + 3]


@pytest.mark.parametrize("name", ["nnx_mlp", "nnx_cnn"])
def test_nnx_modules_take_smaller_arrays(name, x64):
    """NNX reads sizes off its arrays: after a cut, merging is enough."""
    apply, state, inputs = CASES[name]()
    state = fill(state)
    groups = find_groups(apply, state, *inputs)
    keeps = half(groups)
    small = cut(state, groups, {n: k for n, k in keeps.items() if n != "input"})
    if "input" in keeps:
        keeps.pop("input")
    agree(*forward([apply, resized(apply, state, groups, keeps)], small, inputs))


def test_cutting_a_resized_model_again(x64):
    """Twice in a row is once with the composed keeps."""
    apply, shapes, inputs = CASES["unet"]()
    variables, groups = fill(shapes), find_groups(apply, shapes, *inputs)
    first = half(groups)
    small, small_groups = cut(variables, groups, first), groups.shrunk(first)
    small_apply = resized(apply, shapes, groups, first)
    again = half(small_groups)
    smallest = cut(small, small_groups, again)
    composed = first | {name: first[name][keep] for name, keep in again.items()}
    agree(smallest, cut(variables, groups, composed))
    twice = resized(small_apply, small, small_groups, again)
    once = resized(apply, shapes, groups, composed)
    agree(*forward([twice, once], smallest, inputs))


REFUSED = {
    "transformer_tied": "used more than once",
    "resnet_basic": "no closed form",  # scale / sqrt(var) is formed before it meets the data
    "lstm": "no closed form",
    "lstm_by_gate": "no closed form",  # the same kernel at every step: cross terms
    "gru": "no closed form",
}


@pytest.mark.parametrize("name", ["transformer", "unet", "scanned", "plain_attention", *REFUSED])
def test_gradient_variance(name, x64):
    """From the probe as from per-example gradients; where there is no closed form, no number."""
    apply, shapes, (x,) = CASES[name]()
    variables = fill(shapes)
    prefix = "params" if "params" in variables else ""
    target = np.random.default_rng(9).normal(size=jax.eval_shape(apply, variables, x).shape)

    def loss(values, x, target):
        return jnp.sum((values - target) ** 2) / len(x)

    def with_probe(v, probe):
        return loss(probed(apply, prefix)(v, probe, x), x, target)

    def by_example(v):
        params = v[prefix] if prefix else v
        rest = {name: v[name] for name in v if name != prefix} if prefix else {}

        def one(params, x, target):
            out = apply({**rest, prefix: params} if prefix else params, x[None])
            return loss(out, x[None], target[None])

        return per_example(one, params, x, target)

    if name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            jax.eval_shape(with_probe, variables, jnp.zeros(len(x)))
        return
    gradient, of_units = jit(jax.grad(with_probe, (0, 1)))(variables, jnp.zeros(len(x)))
    gradient = gradient[prefix] if prefix else gradient
    wanted, mean = jit(by_example)(variables)
    agree(of_probe(of_units, gradient), wanted)
    agree(gradient, mean)
