"""Gradient variance: the closed forms against per-example gradients and against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from criteria_models import random_like

from dynhp_jax.batch_size import variance
from dynhp_jax.gates.gated import gated
from dynhp_jax.models import registry
from dynhp_jax.models.lenet import LeNetSpec
from dynhp_jax.models.mlp import MLPSpec
from dynhp_jax.models.resnet import ResNetSpec
from dynhp_jax.models.vit import ViTSpec
from dynhp_jax.structure.find import find_groups

EXAMPLES = 5


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def both(apply, params, *inputs, loss=cross_entropy, labels=None):
    """||S||_1 and mean gradient by `probed` and by `per_example`."""
    labels = jnp.arange(EXAMPLES) % 3 if labels is None else labels

    def probe_loss(params, probe):
        return loss(variance.probed(apply, "")(params, probe, *inputs), labels)

    grad, probe_grad = jax.jit(jax.grad(probe_loss, (0, 1)))(params, jnp.zeros(EXAMPLES))

    def one(params, *example):
        *x, y = (e[None] for e in example)
        return loss(apply(params, *x), y)

    want, want_grad = jax.jit(lambda p: variance.per_example(one, p, *inputs, labels))(params)
    got = variance.of_probe(probe_grad, grad)
    for a, b in zip(jax.tree.leaves(grad), jax.tree.leaves(want_grad), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    return float(got), float(want)


def drawn(spec, dtype=np.float64):
    """Variables by NumPy: every shape that jax.random draws is compiled."""
    return random_like(spec.shapes(), np.random.default_rng(0), dtype)


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def test_dense_layers_against_numpy(x64):
    rng = np.random.default_rng(0)
    w1, b1, w2 = rng.normal(size=(6, 4)), rng.normal(size=4), rng.normal(size=(4, 3))
    x, y = rng.normal(size=(EXAMPLES, 6)), np.arange(EXAMPLES) % 3

    grads = []
    for xi, yi in zip(x, y, strict=True):  # backpropagation by hand, one example at a time
        pre = xi @ w1 + b1
        h = np.tanh(pre)
        p = np.exp(h @ w2 - (h @ w2).max())
        d2 = p / p.sum() - np.eye(3)[yi]
        d1 = (d2 @ w2.T) * (1 - h**2)
        grads.append(np.concatenate([np.outer(xi, d1).ravel(), d1, np.outer(h, d2).ravel()]))
    grads = np.stack(grads)
    want = np.abs((grads**2).mean(0) - grads.mean(0) ** 2).sum()

    params = {"w1": jnp.asarray(w1), "b1": jnp.asarray(b1), "w2": jnp.asarray(w2)}

    def apply(p, x):
        return jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"]

    got, by_vmap = both(apply, params, jnp.asarray(x))
    np.testing.assert_allclose(got, want, rtol=1e-12)
    np.testing.assert_allclose(by_vmap, want, rtol=1e-12)


ROWS = jnp.linspace(-0.5, 2.0, 6)
CASES = {
    "tokens, few features": (
        lambda p, x: jnp.einsum("btk,km->btm", x, p["w"]).sum(1),
        lambda: ({"w": random(40, 30)}, random(EXAMPLES, 3, 40)),
    ),
    "tokens, many places": (
        lambda p, x: jnp.tanh(x @ p["w"]).mean(1),
        lambda: ({"w": random(3, 4)}, random(EXAMPLES, 30, 3)),
    ),
    "batch and places merged": (
        lambda p, x: jnp.tanh(x.reshape(-1, 6) @ p["w"] + p["b"]).reshape(x.shape[0], -1)[:, :4],
        lambda: ({"w": random(6, 4), "b": random(4)}, random(EXAMPLES, 3, 6)),
    ),
    "leaf on the left": (
        lambda p, x: jnp.einsum("km,bk->bm", p["w"], jnp.sin(x)),
        lambda: ({"w": random(6, 4)}, random(EXAMPLES, 6)),
    ),
    "heads": (
        lambda p, x: jnp.einsum("btd,dhe->bthe", x, p["w"]).sum((1, 3)),
        lambda: ({"w": random(6, 4, 2)}, random(EXAMPLES, 3, 6)),
    ),
    "one matrix per head": (
        lambda p, x: jnp.einsum("bthd,hde->bte", x, p["w"]).sum(1),
        lambda: ({"w": random(3, 6, 4)}, random(EXAMPLES, 2, 3, 6)),
    ),
    "scalar": (
        lambda p, x: p["s"] * x,
        lambda: ({"s": random()}, random(EXAMPLES, 4)),
    ),
    "scale and bias over places": (
        lambda p, x: jnp.tanh(x * p["scale"] + p["bias"]).sum(1),
        lambda: ({"scale": random(4), "bias": random(3, 4)}, random(EXAMPLES, 3, 4)),
    ),
    "embedding": (
        lambda p, x: jnp.tanh(p["table"][x]).sum(1),
        lambda: (
            {"table": random(5, 4)},
            jnp.asarray(np.random.default_rng(1).integers(0, 5, (EXAMPLES, 7))),
        ),
    ),
    "rows scaled": (
        lambda p, x: x @ (p["w"] * ROWS[:, None]),
        lambda: ({"w": random(6, 4)}, random(EXAMPLES, 6)),
    ),
    "rows scaled, leaf on the left, tokens": (
        lambda p, x: jnp.einsum("km,btk->mbt", ROWS[:, None] * p["w"], jnp.sin(x)).sum(2).T,
        lambda: ({"w": random(6, 4)}, random(EXAMPLES, 3, 6)),
    ),
    "rows scaled, one matrix per head": (
        lambda p, x: jnp.einsum("bdth,hde->bte", x, p["w"] * ROWS.reshape(3, 2)[..., None]).sum(1),
        lambda: ({"w": random(3, 2, 4)}, random(EXAMPLES, 2, 5, 3)),
    ),
    "division by a parameter": (
        lambda p, x: x / (p["d"]),
        lambda: ({"d": 2 + random(4) ** 2}, random(EXAMPLES, 4)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_closed_forms(x64, name):
    apply, make = CASES[name]
    got, want = both(apply, *make())
    np.testing.assert_allclose(got, want, rtol=1e-9)
    assert want > 1e-3


@pytest.mark.parametrize(
    "stride, groups, padding, dilation",
    [(1, 1, "SAME", 1), (2, 1, "VALID", 1), (1, 2, "SAME", 1), (1, 4, "SAME", 2)],
)
def test_convolutions(x64, stride, groups, padding, dilation):
    params = {"k": random(3, 3, 4 // groups, 8), "b": random(8), "w": random(8, 3, seed=2)}

    def apply(p, x):
        y = jax.lax.conv_general_dilated(
            x,
            p["k"],
            (stride, stride),
            padding,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        return jnp.tanh(y + p["b"]).mean((1, 2)) @ p["w"]

    got, want = both(apply, params, random(EXAMPLES, 7, 6, 4))
    np.testing.assert_allclose(got, want, rtol=1e-9)
    # The shortcut that squares before it sums over places is far off: the test can tell.
    assert want > 0


SPECS = {
    "mlp": MLPSpec((20, 12, 8, 10)),
    "lenet": LeNetSpec(),
    "vit": ViTSpec.cifar(depth=1, width=0.25),
}


@pytest.mark.parametrize("name", SPECS)
def test_gated_models(x64, name):
    spec = SPECS[name]
    module = spec.module()
    variables = drawn(spec)
    x = random(EXAMPLES, *spec.input_shape)
    groups = find_groups(module.apply, variables, x)
    gates = {n: jnp.linspace(0.2, 1.0, groups[n].size) for n in groups.prunable}
    gated_apply = gated(module.apply, groups)

    def apply(params, x):
        return gated_apply({"params": params}, gates, x)

    got, want = both(apply, variables["params"], x)
    np.testing.assert_allclose(got, want, rtol=1e-9)


def test_per_example_gates(x64):
    spec = SPECS["mlp"]
    module, variables = spec.module(), drawn(spec)
    x = random(EXAMPLES, 20)
    groups = find_groups(module.apply, variables, x)
    gates = {
        n: jnp.asarray(np.random.default_rng(1).uniform(size=(EXAMPLES, groups[n].size)))
        for n in groups.prunable
    }

    def probe_loss(params, probe):
        def apply(variables, x):
            return gated(module.apply, groups)(variables, gates, x)

        logits = variance.probed(apply)({"params": params}, probe, x)
        return cross_entropy(logits, jnp.arange(EXAMPLES))

    found = jax.jit(jax.grad(probe_loss, (0, 1)))(variables["params"], jnp.zeros(EXAMPLES))
    grad, probe_grad = found

    def one(params, x, y, *z):
        row = {n: zi[None] for n, zi in zip(gates, z, strict=True)}
        return cross_entropy(gated(module.apply, groups)({"params": params}, row, x[None]), y[None])

    want, _ = jax.jit(
        lambda params: variance.per_example(one, params, x, jnp.arange(EXAMPLES), *gates.values())
    )(variables["params"])
    np.testing.assert_allclose(variance.of_probe(probe_grad, grad), want, rtol=1e-9)


def test_scanned_layers_are_counted_layer_by_layer(x64):
    params = {"w": random(3, 4, 4), "out": random(4, 3)}

    def apply(p, x):
        x, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"])
        return x @ p["out"]

    got, want = both(apply, params, random(EXAMPLES, 4))
    np.testing.assert_allclose(got, want, rtol=1e-9)


@pytest.mark.parametrize(
    "apply, why",
    [
        (lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"], "more than once"),
        (lambda p, x: x @ jnp.tanh(p["w"]), "no closed form"),
        (lambda p, x: (x - x.mean(0)) @ p["w"], "mixes the examples"),
        (lambda p, x: x @ (p["w"] * p["w"]), "no closed form"),
        (lambda p, x: x @ (p["w"] * jnp.arange(3.0)[None]), "'dot_general', which has no closed"),
        (lambda p, x: x + (p["w"] * jnp.arange(3.0)[None])[0], "has no closed form"),
    ],
)
def test_what_has_no_closed_form_is_refused(apply, why):
    params, x = {"w": jnp.ones((3, 3))}, jnp.ones((EXAMPLES, 3))
    with pytest.raises(ValueError, match=why):
        variance.probed(apply, "")(params, jnp.zeros(EXAMPLES), x)


@pytest.mark.parametrize(
    "mix",
    [
        lambda h: h + jnp.roll(h, 1, 0),
        lambda h: h + h[::-1],
        lambda h: h[jnp.array([2, 0, 1, *range(3, EXAMPLES)])],
        lambda h: h + h[:1],
        lambda h: h + jax.lax.dynamic_slice(h, (1, 0), (1, 3)),
        lambda h: h[jnp.argmax(h[:, 0])] + h,
        lambda h: jnp.sort(h, 0),
        lambda h: jnp.cumsum(h, 0),
        lambda h: jax.lax.cummax(h, 0),
        lambda h: jnp.concatenate([h[1:], h[:1]]),
        lambda h: h * jnp.prod(h, 0),
        lambda h: (h @ h.T) @ h,
        lambda h: jnp.abs(h[:, None] - h[None]).sum(1),
        lambda h: jax.lax.top_k(h.T, EXAMPLES)[0].T,
        lambda h: jax.lax.reduce_window(h, 0.0, jax.lax.add, (2, 1), (1, 1), "SAME"),
        lambda h: jax.lax.scan(lambda c, row: (c + row, c + row), jnp.zeros(3), h)[1],
        lambda h: jax.jit(lambda h: jax.lax.pad(h, 0.0, ((1, -1, 0), (0, 0, 0))))(h),
        lambda h: h.at[0].set(0.0),
        lambda h: jnp.fft.fft(h, axis=0).real,
    ],
)
@pytest.mark.parametrize("after", [True, False])
def test_what_mixes_examples_is_refused(mix, after):
    """Whether or not a parameter meets the data behind it."""

    def apply(p, x):
        return mix(x @ p["w"]) @ p["out"] if after else mix(x @ p["w"])

    params = {"w": jnp.ones((3, 3)), "out": jnp.ones((3, 2))}
    with pytest.raises(ValueError, match="examples of a batch .*variance='micro'"):
        variance.probed(apply, "")(params, jnp.zeros(EXAMPLES), jnp.ones((EXAMPLES, 3)))


def test_examples_that_are_joined_as_bytes_of_a_number_are_refused():
    """And those that are taken apart, each by itself, are not."""
    to, operands = (
        jax.lax.bitcast_convert_type,
        ({"w": jnp.ones(3)}, jnp.zeros(4), jnp.ones((4, 3))),
    )
    apart = variance.probed(lambda p, x: to(x, jnp.uint8)[..., 0] * p["w"], "")
    assert apart(*operands).shape == (4, 3)
    with pytest.raises(ValueError, match="'bitcast_convert_type' mixes the examples"):
        variance.probed(lambda p, x: to(x.T.astype("u1"), jnp.float32) * p["w"], "")(*operands)


@pytest.mark.parametrize(
    "keep",
    [
        lambda h: jnp.roll(h, 1, 1) + h[:, ::-1],
        lambda h: jnp.sort(h, 1) + jnp.cumsum(h, -1),
        lambda h: h[:, jnp.array([1, 0, 2])] * jnp.argmax(h, 1, keepdims=True),
        lambda h: jnp.take_along_axis(h, jnp.argsort(h, 1), 1),
        lambda h: jax.vmap(lambda row: row[jnp.argsort(row)])(h),
        lambda h: jax.lax.top_k(h, 3)[0] + jax.nn.softmax(h),
        lambda h: jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (1, 2), (1, 1), "SAME"),
        lambda h: jnp.concatenate(jnp.split(jnp.pad(h, ((0, 0), (1, 1))), [2], 1)[::-1], 1)[:, 1:4],
        lambda h: jax.lax.scan(lambda c, w: (jnp.tanh(c * w), c), h, jnp.arange(3.0))[0],
    ],
)
def test_what_keeps_examples_apart_is_counted(keep, x64):
    params = {"w": random(3, 3), "out": random(3, 2)}
    got, want = both(lambda p, x: keep(x @ p["w"]) @ p["out"], params, random(EXAMPLES, 3))
    np.testing.assert_allclose(got, want, rtol=1e-9)


def test_batch_normalisation_in_training_is_refused():
    spec = ResNetSpec.cifar(depth=8, width=0.25)
    module, variables = spec.module(), drawn(spec, np.float32)

    def apply(variables, x):
        return module.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    with pytest.raises(ValueError, match="micro"):
        variance.probed(apply)(variables, jnp.zeros(2), np.ones((2, *spec.input_shape), np.float32))


def test_micro_batches_estimate_the_variance_of_one_example(x64):
    size, k = 8, 4000
    rng = np.random.default_rng(0)
    scale = np.array([1.0, 2.0, 0.5])
    means = (rng.normal(size=(k, size, 3)) * scale).mean(1)
    got = variance.of_micro_batches({"w": jnp.asarray(means)}, size)
    np.testing.assert_allclose(got, (scale**2).sum(), rtol=0.1)
    with pytest.raises(ValueError, match="at least 2"):
        variance.of_micro_batches({"w": jnp.ones((1, 3))}, size)


def test_every_shipped_model_is_registered():
    assert set(SPECS) <= set(registry.SPECS)
