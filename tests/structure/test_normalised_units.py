"""Units under a normalisation: cut, masked where they are made, masked where they are read."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_eval
import pytest
from flax import linen as nn
from jax import lax

from dynhp_jax.common.errors import UserError
from dynhp_jax.gates.gated import gated
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.resized import resized

WIDTH, EPS = 8, 1e-6
KEEP = np.array([0, 2, 3, 7])
MASK = np.isin(np.arange(WIDTH), KEEP) * 1.0


def drawn(**shapes):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def scaled(mean_square):
    return lambda h: h * lax.rsqrt(mean_square(h) + EPS)


@jax.custom_jvp
def own(h):
    return scaled(lambda h: jnp.mean(h * h, -1, keepdims=True))(h)


own.defjvp(lambda p, t: (own(*p), 2 * t[0]))


def after_loops(h):
    def step(total, at):
        return total + lax.dynamic_slice_in_dim(h, at, 1, 1), None

    start = jnp.zeros((h.shape[0], 1, WIDTH))
    return scaled(lambda h: jnp.mean(h * h, -1, keepdims=True))(
        h + lax.scan(step, start, jnp.arange(h.shape[1]))[0]
    )


# Norms of f[batch, time, WIDTH]: ways to write that by the root of the mean of the squares, and
# others of which no sum sees units that are zero.
EXACT = {
    "mean": scaled(lambda h: jnp.mean(h**2, -1, keepdims=True)),
    "square": scaled(lambda h: jnp.square(h).mean(-1)[..., None]),
    "power": lambda h: h * (jnp.mean(jnp.abs(h) ** 2.0, -1, keepdims=True) + EPS) ** -0.5,
    "divided": scaled(lambda h: jnp.sum(h * h, -1, keepdims=True) / WIDTH),
    "by_the_shape": scaled(lambda h: jnp.sum(h * h, -1, keepdims=True) / np.prod(h.shape[2:])),
    "by_a_count": scaled(
        lambda h: jnp.sum(h * h, -1, keepdims=True) / jnp.ones_like(h).sum(-1, keepdims=True)
    ),
    "multiplied": scaled(lambda h: jnp.sum(h * h, -1, keepdims=True) * (1 / WIDTH)),
    "einsum": scaled(lambda h: jnp.einsum("...d,...d->...", h, h)[..., None] / WIDTH),
    "vecdot": scaled(lambda h: jnp.vecdot(h, h)[..., None] / WIDTH),
    "norm": lambda h: h / (jnp.linalg.norm(h, axis=-1, keepdims=True) / WIDTH**0.5 + EPS),
    "unit": lambda h: h * WIDTH**0.5 / jnp.linalg.norm(h, axis=-1, keepdims=True),
    "absolute": lambda h: h / (jnp.linalg.norm(h, 1, axis=-1, keepdims=True) + EPS),
    "spread": scaled(lambda h: (h**2).mean(-1, keepdims=True) - h.mean(-1, keepdims=True) ** 2),
    "half": lambda h: scaled(lambda h: jnp.mean(h * h, -1, keepdims=True))(h.astype("f4")),
    "token_in_place": lambda h: scaled(lambda h: jnp.mean(h * h, -1, keepdims=True))(
        h.at[:, 1].set(2 * h[:, 0])
    ),
    "jitted": jax.jit(scaled(lambda h: jnp.mean(h * h, -1, keepdims=True))),
    "checkpoint": jax.checkpoint(scaled(lambda h: jnp.mean(h * h, -1, keepdims=True))),
    "mapped": jax.vmap(jax.vmap(scaled(lambda h: jnp.mean(h * h)))),
    "own_derivative": own,
    "after_loops": after_loops,
    "branch": lambda h: lax.cond(
        h.shape[0] > jnp.argmax(jnp.zeros(3)), own, lambda h: jnp.sin(h) * 0.5, h
    ),
}


def standard(h):
    return (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + EPS)


def standard_by_squares(h):
    mean = h.mean(-1, keepdims=True)
    scale = jnp.ones(()) * lax.rsqrt((h * h).mean(-1, keepdims=True) - mean**2 + EPS)
    return (h - mean) * scale


NOT_EXACT = {
    "layer": standard,
    "layer_by_squares": standard_by_squares,
    "layer_by_einsum": lambda h: standard(h) / jnp.einsum("btd,btd->bt", h, h)[..., None],
    "centred": lambda h: h - h.mean(-1, keepdims=True),
    "deviation": lambda h: h / h.std(-1, keepdims=True),
    "softmax": jax.nn.softmax,
    "of_shifted": scaled(lambda h: jnp.mean((h + 1) ** 2, -1, keepdims=True)),
    "of_odds": scaled(lambda h: jnp.mean(jax.nn.sigmoid(h), -1, keepdims=True)),
    "largest": lambda h: h / (EPS + jnp.abs(h).max(-1, keepdims=True)),
    "groups": lambda h: standard(h.reshape(*h.shape[:-1], 1, WIDTH)).reshape(h.shape),
    "shifted_again": lambda h: scaled(lambda h: (h**2).mean(-1, keepdims=True))(h) + 1,
}


def decoder(norm, p, tokens, mask=1.0):
    """A block with a residual stream, between an embedding and a head."""
    h = (p["embedding"][tokens] + p["positions"]) * mask
    h = h + jax.nn.silu((norm(h) * (1 + p["before"])) @ p["up"]) @ p["down"] * mask
    return (norm(h) * p["after"]) @ p["head"]


PARAMS = drawn(
    embedding=(20, WIDTH), positions=(3, WIDTH), before=(WIDTH,), up=(WIDTH, 12), down=(12, WIDTH),
    after=(WIDTH,), head=(WIDTH, 20),
)  # fmt: skip
TOKENS = np.array([[1, 2, 3], [4, 5, 6]])
MEMBERS = {("embedding", 1), ("positions", 1), ("before", 0), ("up", 0), ("down", 1), ("after", 0),
           ("head", 0)}  # fmt: skip


def stream(groups):
    """The group of the residual stream."""
    (name,) = {g.name for g, _ in groups.on_axis("head", 0)}
    return name


def values_and_gradients(f, p):
    def loss(p):
        out = f(p)
        return jnp.sum(jnp.cos(jnp.arange(out.size)).reshape(out.shape) * out), out

    gradient, out = numpy_eval.compiled(jax.grad(loss, has_aux=True), p)(p)
    return out, gradient


def agree(one, other, rtol=1e-9):
    check = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=rtol / 100)
    jax.tree.map(check, one, other)


@pytest.mark.parametrize("name", EXACT)
def test_the_width_that_is_cut_is_the_width_that_is_zero_where_it_is_made(x64, name):
    norm = EXACT[name]
    apply = functools.partial(decoder, norm)
    groups = find_groups(apply, PARAMS, TOKENS)
    width = stream(groups)
    assert {(m.path, m.axis) for m in groups[width].members} == MEMBERS
    assert width in groups.prunable, groups[width].reasons
    keeps, mask = {width: KEEP}, {width: MASK}
    small = cut(PARAMS, groups, keeps)
    out, gradient = values_and_gradients(
        lambda p: resized(apply, PARAMS, groups, keeps)(p, TOKENS), small
    )
    of_made, gradient_of_made = values_and_gradients(lambda p: apply(p, TOKENS, MASK), PARAMS)
    tolerance = 1e-4 if name == "half" else 1e-9
    agree(out, of_made, tolerance)
    if name != "unit":  # of a root at zero
        agree(gradient, cut(gradient_of_made, groups, keeps), tolerance)
    masked = gated(apply, groups)
    if name in ("own_derivative", "branch"):
        agree(masked(PARAMS, mask, TOKENS), out)
        return
    of_read, gradient_of_read = values_and_gradients(lambda p: masked(p, mask, TOKENS), PARAMS)
    agree(of_read, out, tolerance)
    agree(cut(gradient_of_read, groups, keeps), gradient, tolerance)


@pytest.mark.parametrize("name", NOT_EXACT)
def test_what_looks_at_units_that_are_no_longer_zero_is_not_exact(x64, name):
    apply = functools.partial(decoder, NOT_EXACT[name])
    groups = find_groups(apply, PARAMS, TOKENS)
    width = stream(groups)
    assert not groups[width].exact
    assert all(reason.startswith("reduced by 'reduce_") for reason in groups[width].reasons)


class UNet(nn.Module):
    """GroupNorm on channels, and on them beside those of a skip connection."""

    width: int
    skip: int
    groups: int

    @nn.compact
    def __call__(self, x):
        conv = functools.partial(nn.Conv, kernel_size=(1, 1), param_dtype=float)
        norm = functools.partial(nn.GroupNorm, param_dtype=float)
        h, skip = conv(self.width, name="a")(x), conv(self.skip, name="b")(x)
        alone = conv(5)(nn.silu(norm(4)(h)))
        joined = conv(5)(nn.silu(norm(self.groups)(jnp.concatenate([h, skip], -1))))
        return alone + joined + conv(5)(h + conv(self.width)(nn.silu(norm(4)(h))))


@pytest.mark.parametrize("groups", [6, 4], ids=["along", "across"])
def test_every_second_channel_of_two_group_norms_can_go(x64, groups):
    x = np.random.default_rng(1).normal(size=(2, 3, 3, 3))
    net, half = UNet(16, 8, groups), UNet(8, 4, groups)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    rng = np.random.default_rng(2)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
    found = find_groups(net.apply, variables, x)
    (group,) = [
        g for g, m in found.on_axis("params/a/kernel", 3) if np.ptp(m.index % 4, axis=1).max() < 3
        and len({*(m.index % 2)[0]}) == 1
    ]  # fmt: skip
    assert not group.exact
    assert {"UNet/GroupNorm_0", "UNet/GroupNorm_1"} <= {r.split(" in ")[1] for r in group.reasons}
    keeps = {group.name: np.arange(0, group.size, 2)}
    small = cut(variables, found, keeps)
    assert small["params"]["a"]["kernel"].shape[3] == 8
    assert small["params"]["b"]["kernel"].shape[3] == 4
    out = resized(net.apply, variables, found, keeps)(small, x)
    np.testing.assert_allclose(out, half.apply(small, x), rtol=1e-9)


# What looks at all units in sums alone, and these are of what is zero with its unit.
OF_SUMS = {"layer_by_squares", "centred", "shifted_again"}


def over_all(h, alive, axes=-1, count=WIDTH, eps=EPS):
    """A LayerNorm in NumPy of units of which some are zero, and are counted."""
    mean = (h * alive).sum(axes, keepdims=True) / count
    spread = ((h * alive) ** 2).sum(axes, keepdims=True) / count - mean**2
    return (h * alive - mean) / np.sqrt(spread + eps) * alive


def test_width_under_a_layer_norm_over_all_units_is_the_width_that_is_masked(x64):
    apply = functools.partial(decoder, standard_by_squares)
    groups = find_groups(apply, PARAMS, TOKENS, statistics="whole")
    width = stream(groups)
    assert width in groups.prunable, groups[width].reasons
    keeps = {width: KEEP}
    out, gradient = values_and_gradients(
        lambda p: resized(apply, PARAMS, groups, keeps)(p, TOKENS), cut(PARAMS, groups, keeps)
    )
    of_read, gradient_of_read = values_and_gradients(
        lambda p: gated(apply, groups)(p, {width: MASK}, TOKENS), PARAMS
    )
    agree(of_read, out)
    agree(cut(gradient_of_read, groups, keeps), gradient)
    p = PARAMS
    h = (p["embedding"][TOKENS] + p["positions"]) * MASK
    a = (over_all(h, MASK) * (1 + p["before"])) @ p["up"]
    h = h + (a / (1 + np.exp(-a))) @ p["down"] * MASK
    agree(out, (over_all(h, MASK) * p["after"]) @ p["head"])


@pytest.mark.parametrize("name", sorted(NOT_EXACT.keys() - OF_SUMS))
def test_what_is_not_made_of_sums_of_the_units_is_not_exact_over_all_of_them_either(name):
    apply = functools.partial(decoder, NOT_EXACT[name])
    groups = find_groups(apply, PARAMS, TOKENS, statistics="whole")
    assert not groups[stream(groups)].exact


class Normed(nn.Module):
    """Flax's GroupNorm and LayerNorm."""

    @nn.compact
    def __call__(self, x):
        norms = {"param_dtype": float, "epsilon": EPS}
        h = nn.Conv(8, (1, 1), param_dtype=float, name="a")(x)
        h = nn.tanh(nn.GroupNorm(2, name="g", **norms)(h))
        h = nn.Conv(WIDTH, (1, 1), param_dtype=float, name="b")(h).mean((1, 2))
        return nn.Dense(3, param_dtype=float, name="c")(nn.LayerNorm(name="n", **norms)(h))


def test_channels_under_flax_group_and_layer_norms_over_all_of_them_are_cut_exactly(x64):
    x, net = np.random.default_rng(1).normal(size=(2, 3, 3, 3)), Normed()
    shapes, rng = jax.eval_shape(net.init, jax.random.key(0), x), np.random.default_rng(2)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
    groups = find_groups(net.apply, variables, x, statistics="whole")
    (places,) = (g for g, _ in groups.on_axis("params/a/kernel", 3) if g.size == 4)
    ((width, _),) = groups.on_axis("params/b/kernel", 3)
    assert {places.name, width.name} <= set(groups.prunable), (places.reasons, width.reasons)
    keeps = {places.name: np.array([0, 1, 3]), width.name: KEEP}
    small = cut(variables, groups, keeps)
    out = resized(net.apply, variables, groups, keeps)(small, x)
    gates = {places.name: np.array([1.0, 1, 0, 1]), width.name: MASK}
    agree(gated(net.apply, groups)(variables, gates, x), out)
    p, alive = variables["params"], np.tile([1.0, 1, 0, 1], 2)
    h = ((x @ p["a"]["kernel"][0, 0] + p["a"]["bias"]) * alive).reshape(2, 9, 2, 4)
    h = over_all(h, alive.reshape(2, 4), (1, 3), 36).reshape(2, 3, 3, 8)
    h = np.tanh(h * p["g"]["scale"] + p["g"]["bias"]) * alive
    h = (h @ p["b"]["kernel"][0, 0] + p["b"]["bias"]).mean((1, 2))
    h = (over_all(h, MASK) * p["n"]["scale"] + p["n"]["bias"]) * MASK
    agree(out, h @ p["c"]["kernel"] + p["c"]["bias"])


def test_other_statistics_are_refused():
    with pytest.raises(UserError, match="statistics is 'all'; allowed: 'left', 'whole'"):
        find_groups(lambda p, x: x @ p, np.ones((2, 3)), np.ones((4, 2)), statistics="all")
