"""Constants that are the same along an axis: found without the array, and right by it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dynhp_jax.gates.gated import gated
from dynhp_jax.jaxprs.repeated import Repeated
from dynhp_jax.jaxprs.trace import trace
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.resized import resized

B, H, T = 2, 3, 5
FAR = np.abs(np.arange(T)[:, None] - np.arange(T)) / 7


def far():
    at = jnp.arange(1.0 * T)
    return jnp.abs(at[:, None] - at)


def looped():
    rows = jnp.broadcast_to(jnp.sin(far()), (4, H, T, T))
    return lax.scan(lambda total, row: (total + row, 2 * row), jnp.zeros((H, T, T)), rows)[1]


# name -> (the constant, axes along which it is found to be the same)
CONSTANTS = {
    "heads beside positions": (lambda: jnp.broadcast_to(jnp.sin(far()), (B, H, T, T)), {0, 1}),
    "chosen by a mask": (lambda: jnp.where(jnp.tril(jnp.ones((H, T, T))), 0.0, -jnp.inf), {0}),
    "a mask over all": (lambda: jnp.tril(jnp.ones((B, H, T, T), bool)), {0, 1}),
    "one row for all": (lambda: jnp.zeros((B, H, T, T)) + far()[0], {0, 1, 2}),
    "a slope of each head": (lambda: jnp.sqrt(jnp.arange(1.0, H))[:, None, None] * far(), set()),
    "heads in blocks": (
        lambda: jnp.broadcast_to(far(), (B, 6, T, T)).reshape(B, 2, 3, T, T),
        {0, 1, 2},
    ),
    "heads beside the batch": (
        lambda: jnp.broadcast_to(far(), (B, H, T, T)).reshape(B * H, T, T),
        {0},
    ),
    "heads in what differs": (
        lambda: jnp.broadcast_to(far(), (H, T, T)).reshape(H * T, T),
        set(),
    ),
    "turned": (lambda: jnp.broadcast_to(jnp.exp(far()), (H, T, T)).transpose(1, 0, 2), {1}),
    "summed": (lambda: jnp.broadcast_to(jnp.exp(far()), (H, T, T)).sum(1), {0}),
    "running": (lambda: jnp.cumsum(jnp.ones((H, T)) / 3, 1), {0}),
    "sorted": (lambda: jnp.sort(jnp.broadcast_to(jnp.cos(far()), (H, T, T)), -1), {0}),
    "places in order": (lambda: jnp.argsort(jnp.zeros((H, T)) / 3, 1), {0}),
    "joined along it": (lambda: jnp.concatenate([jnp.ones((1, T)), jnp.zeros((2, T))]) / 3, {1}),
    "joined beside it": (lambda: jnp.concatenate([jnp.ones((H, 1)), jnp.zeros((H, 2))], 1), {0}),
    "padded": (lambda: jnp.pad(jnp.ones((H, T)) / 3, ((0, 0), (1, 0))), {0}),
    "a part": (lambda: jnp.broadcast_to(jnp.cos(far()), (H, T, T))[1:, ::2, ::-1], {0}),
    "closed over": (lambda: jnp.asarray(np.broadcast_to(FAR, (H, T, T))) * 2, {0}),
    "in a call": (lambda: jax.jit(lambda m: 1 - m)(jnp.tile(far(), (2, 1, 1))), {0}),
    "in a branch": (lambda: lax.cond(True, jnp.sin, jnp.cos, jnp.ones((H, T)) / 3), set()),
    "of a loop": (looped, set()),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_what_is_the_same_along_an_axis(name):
    make, expected = CONSTANTS[name]
    traced = trace(lambda p: make(), {}, ())
    (found,) = traced.analysis.jaxpr.outvars
    dims = Repeated(traced.analysis).dims(traced.analysis, found)
    assert {d for d in dims if make().shape[d] > 1} == expected
    array = np.asarray(make())
    for d in dims:
        np.testing.assert_array_equal(array, np.broadcast_to(array.take([0], d), array.shape))


def test_loops_and_branches_know_the_constants_that_they_share():
    def steps(p):
        mask = jnp.broadcast_to(jnp.sin(far()), (H, T, T))

        def step(state, row):
            return state + mask, mask * row

        stepped = lax.scan(step, jnp.zeros((H, T, T)), jnp.ones((4, T)) * p)
        while_ = lax.while_loop(lambda a: a.sum() < p, lambda a: a * mask, mask)
        return stepped, while_, lax.cond(p > 0, lambda m: m * p, jnp.cos, mask)

    analysis = trace(steps, 1.0, ()).analysis
    repeated = Repeated(analysis)
    seen = set()
    for index, bodies in analysis.inner.items():
        for body in bodies:
            shared = {repeated.dims(body, v) for v in body.jaxpr.invars if v.aval.ndim == 3}
            if frozenset({0}) in shared:
                seen.add(analysis.jaxpr.eqns[index].primitive.name)
    assert seen == {"scan", "while", "cond"}


# Masks over [batch, heads, time, time] that are too large to be held: heads go one by one

HEADS, PAIRS, SIZE, LONG = 6, 2, 4, 300


def by_jax(masked):
    def attention(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, **masked(q.shape[1]))

    return attention


def by_hand(masked):
    def attention(q, k, v):
        k, v = (jnp.repeat(array, HEADS // PAIRS, axis=2) for array in (k, v))
        logits = jnp.einsum("bthd,bshd->bhts", q, k)
        return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(masked(logits)), v)

    return attention


def before(logits):
    seen = jnp.broadcast_to(jnp.tril(jnp.ones(logits.shape[2:], bool)), logits.shape)
    return jnp.where(seen, logits, -1e9)


def near(logits):
    at = jnp.arange(logits.shape[-1])
    return jnp.where((jnp.abs(at[:, None] - at) < 7)[None, None], logits, -1e9)


def added(logits):
    return logits + jnp.where(jnp.tril(jnp.ones(logits.shape)), 0.0, -1e9)


def closed_over(logits):
    return logits + jnp.asarray(
        np.broadcast_to(np.triu(np.full(logits.shape[2:], -1e9), 1), logits.shape)
    )


def sloped(logits):
    """As far as the place of a head in its pair says."""
    at = jnp.arange(logits.shape[-1])
    slopes = jnp.tile(2.0 ** -jnp.arange(HEADS // PAIRS), PAIRS)
    return logits - slopes[:, None, None] * jnp.abs(at[:, None] - at)


ATTENTION = {
    "causal": by_jax(lambda time: {"is_causal": True}),
    "local": by_jax(lambda time: {"local_window_size": (3, 0)}),
    "given": by_jax(lambda time: {"mask": jnp.tril(jnp.ones((1, HEADS, time, time), bool))}),
    "again": jax.checkpoint(by_hand(before)),
    **{f.__name__: by_hand(f) for f in (before, near, added, closed_over)},
}
SHAPES = {
    "q": (8, HEADS, SIZE),
    "k": (8, PAIRS, SIZE),
    "v": (8, PAIRS, SIZE),
    "o": (HEADS, SIZE, 5),
}


def model(attention):
    def apply(p, x):
        q, k, v = (jnp.einsum("bti,ihd->bthd", x, p[name]) for name in "qkv")
        return jnp.einsum("bthd,hdo->bto", attention(q, k, v), p["o"])

    return apply


@pytest.mark.parametrize("name", ["causal", "again", "near", "added"])
def test_heads_of_other_places_are_cut_as_masked(x64, name):
    """A head that is gone adds nothing to the outputs: its rows of the last kernel are zero."""
    apply, rng, keep = model(ATTENTION[name]), np.random.default_rng(3), np.array([0, 2, 3, 4])
    p = {leaf: rng.normal(size=shape) / 2 for leaf, shape in SHAPES.items()}
    x, gone = rng.normal(size=(2, 6, 8)), np.setdiff1d(np.arange(HEADS), keep)
    groups = find_groups(apply, p, x)
    keeps = {heads_on(groups).name: keep}
    masks = {heads_on(groups).name: np.isin(np.arange(HEADS), keep) * 1.0}
    without = {**p, "o": np.where(np.isin(np.arange(HEADS), gone)[:, None, None], 0, p["o"])}
    small = resized(apply, p, groups, keeps)(cut(p, groups, keeps), x)
    for out in (small, gated(apply, groups)(p, masks, x)):
        np.testing.assert_allclose(out, apply(without, x), rtol=1e-9, atol=1e-12)


def heads_on(groups):
    return next(g for g, _ in groups.on_axis("o", 0) if g.size > PAIRS)


def heads_of(attention, time):
    p = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in SHAPES.items()}
    groups = find_groups(model(attention), p, jax.ShapeDtypeStruct((2, time, 8), jnp.float32))
    return heads_on(groups)


@pytest.mark.parametrize("name", ATTENTION)
def test_heads_go_one_by_one_behind_large_masks(name):
    for time in (20, LONG):
        heads = heads_of(ATTENTION[name], time)
        assert (heads.size, heads.blocks, heads.exact) == (HEADS, PAIRS, True)


def test_heads_of_which_each_has_a_slope_go_as_the_slopes_do():
    for time in (20, LONG):
        heads = heads_of(by_hand(sloped), time)
        assert (heads.size, heads.blocks) == (HEADS // PAIRS, 1)
