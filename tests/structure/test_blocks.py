"""Query heads that share keys and values: each pair may lose heads of its own choice.

The oracle is NumPy, head by head.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dynhp_jax as dp
from dynhp_jax.gates.activity import keep_active
from dynhp_jax.gates.gated import gated
from dynhp_jax.pruning.criteria import evidence
from dynhp_jax.pruning.prune_to import prune_to
from dynhp_jax.pruning.targets import Flops, Parameters
from dynhp_jax.structure.counts import parameter_count
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.keeps import compose
from dynhp_jax.surgery.optimizer import cut_optimizer
from dynhp_jax.surgery.resized import resized

BATCH, TIME, WIDTH, SIZE, PAIRS, EACH = 2, 4, 6, 3, 2, 3
HEADS = PAIRS * EACH
SHAPES = {
    "query": (WIDTH, HEADS * SIZE), "key": (WIDTH, PAIRS * SIZE), "value": (WIDTH, PAIRS * SIZE),
    "out": (HEADS * SIZE, WIDTH), "up": (WIDTH, 8), "down": (8, 5),
}  # fmt: skip
RNG = np.random.default_rng(7)
PARAMS = {name: RNG.normal(size=shape) / 2 for name, shape in SHAPES.items()}
X = RNG.normal(size=(BATCH, TIME, WIDTH))
CHOICES = ([0, 2, 4, 5], [1, 3, 5], [2, 3])  # heads; the first with as many of both is not


def projected(p, x, name, heads):
    return (x @ p[name]).reshape(BATCH, TIME, heads, SIZE)


def in_groups(q, k, v):
    q = q.reshape(BATCH, TIME, PAIRS, EACH, SIZE)
    weights = jax.nn.softmax(jnp.einsum("btgrd,bsgd->bgrts", q, k))
    return jnp.einsum("bgrts,bsgd->btgrd", weights, v)


def repeated(q, k, v):
    k, v = (jnp.repeat(array, EACH, axis=2) for array in (k, v))
    weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k))
    return jnp.einsum("bhts,bshd->bthd", weights, v)


def by_jax(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, scale=1.0)


def with_one(attention):
    def apply(p, x):
        pairs = (projected(p, x, name, PAIRS) for name in ("key", "value"))
        mixed = attention(projected(p, x, "query", HEADS), *pairs)
        x = x + mixed.reshape(BATCH, TIME, -1) @ p["out"]
        return jnp.tanh(x @ p["up"]) @ p["down"]

    return apply


MODELS = {f.__name__: with_one(f) for f in (in_groups, repeated, by_jax)}


def by_hand(p, x, heads):
    p = {name: np.asarray(kernel, np.float64) for name, kernel in p.items()}
    total = np.array(x)
    for head in heads:
        mine, shared = (slice(at * SIZE, (at + 1) * SIZE) for at in (head, head // EACH))
        logits = x @ p["query"][:, mine] @ np.swapaxes(x @ p["key"][:, shared], 1, 2)
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        weights = odds / odds.sum(-1, keepdims=True)
        total = total + weights @ (x @ p["value"][:, shared]) @ p["out"][mine]
    return np.tanh(total @ p["up"]) @ p["down"]


def heads_of(groups):
    (name,) = [g.name for g, _ in groups.on_axis("query", 1) if g.size == HEADS]
    return name


@pytest.fixture(scope="module")
def found():
    return {name: find_groups(apply, PARAMS, X) for name, apply in MODELS.items()}


@pytest.mark.parametrize("model", MODELS)
def test_heads_go_one_by_one(x64, found, model):
    apply, groups = MODELS[model], found[model]
    name = heads_of(groups)
    assert name in groups.prunable and groups[name].blocks == PAIRS
    assert "exact, as many of each 3" in groups.describe()
    near = 1e-4 if model == "by_jax" else 1e-10  # its softmax is in float32
    np.testing.assert_allclose(apply(PARAMS, X), by_hand(PARAMS, X, range(HEADS)), rtol=near)
    for heads in ([0, 2, 4, 5], [2, 3]):
        keeps = {name: np.array(heads)}
        small = cut(PARAMS, groups, keeps)
        columns = np.concatenate([np.arange(h * SIZE, (h + 1) * SIZE) for h in heads])
        np.testing.assert_array_equal(small["query"], PARAMS["query"][:, columns])
        np.testing.assert_array_equal(small["out"], PARAMS["out"][columns])
        expected = by_hand(PARAMS, X, heads)
        out = resized(apply, PARAMS, groups, keeps)(small, X)
        np.testing.assert_allclose(out, expected, rtol=near)
        masks = {name: np.isin(np.arange(HEADS), heads) * np.ones((BATCH, 1))}
        np.testing.assert_allclose(gated(apply, groups)(PARAMS, masks, X), expected, rtol=near)


def test_heads_and_pairs_that_go_together_and_again(x64, found):
    """A pair takes its heads along; what is left is cut, gated and counted as one cut."""
    apply, groups = MODELS["in_groups"], found["in_groups"]
    name, pair = heads_of(groups), groups[heads_of(groups)].block_group
    first, then = {name: np.array([0, 2, 3, 4])}, {name: np.array([1, 2])}
    once = compose(groups, first, then)
    assert once[name].tolist() == [2, 3]
    smaller = groups.shrunk(first)
    assert (smaller[name].size, smaller[name].blocks) == (4, 2)
    twice = cut(cut(PARAMS, groups, first), smaller, then)
    chex.assert_trees_all_equal(twice, cut(PARAMS, groups, once))
    half = resized(apply, PARAMS, groups, first)
    out = resized(half, cut(PARAMS, groups, first), smaller, then)(twice, X)
    np.testing.assert_allclose(out, by_hand(PARAMS, X, [2, 3]), rtol=1e-10)
    z = np.array([0.5, 2.0, 1.5, 0.25])
    scaled = {**PARAMS, "out": PARAMS["out"].copy()}
    for head, gate in zip(first[name], z, strict=True):
        scaled["out"][head * SIZE : (head + 1) * SIZE] *= gate
    out = gated(half, smaller)(cut(PARAMS, groups, first), {name: z}, X)
    np.testing.assert_allclose(out, by_hand(scaled, X, first[name]), rtol=1e-10)
    # The second pair alone: three heads, of which any may go afterwards.
    keeps = {pair: np.array([1]), name: np.array([0, 1, 3, 5])}
    small, left = cut(PARAMS, groups, keeps), groups.shrunk(keeps)
    out = resized(apply, PARAMS, groups, keeps)(small, X)
    np.testing.assert_allclose(out, by_hand(PARAMS, X, [3, 5]), rtol=1e-10)
    assert (left[name].size, left[name].blocks) == (2, 1)
    assert groups.check_keeps(keeps)[name].tolist() == [3, 5]
    last = compose(groups, keeps, {name: np.array([1])})
    assert last[name].tolist() == [5]
    out = resized(apply, PARAMS, groups, last)(cut(PARAMS, groups, last), X)
    np.testing.assert_allclose(out, by_hand(PARAMS, X, [5]), rtol=1e-10)


def test_gradients_and_moments_of_the_heads_that_stay(x64, found):
    apply, groups = MODELS["in_groups"], found["in_groups"]
    name, tx = heads_of(groups), optax.adam(0.1)
    keeps = {name: np.array([1, 2, 3, 5])}
    mask = {name: np.isin(np.arange(HEADS), keeps[name]) * 1.0}

    def step(run, p, state):
        gradient = jax.grad(lambda p: jnp.sum(jnp.cos(run(p, X))))(p)
        updates, state = tx.update(gradient, state)
        return optax.apply_updates(p, updates), state

    def masked(p, x):
        return gated(apply, groups)(p, mask, x)

    p, state = PARAMS, tx.init(PARAMS)
    small = cut(p, groups, keeps)
    of_small = cut_optimizer(tx, state, p, groups, keeps)
    run = resized(apply, PARAMS, groups, keeps)
    for _ in range(2):
        p, state = step(masked, p, state)
        small, of_small = step(run, small, of_small)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12),
        (cut(p, groups, keeps), cut_optimizer(tx, state, p, groups, keeps)),
        (small, of_small),
    )


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ([0, 1, 3], "holds 2 of the units 0 to 2 and 1 of 3 to 5; keep equally many, 1 to 3,"),
        ([3, 4], "holds 0 of the units 0 to 2 and 0 of 0 to 2; keep equally many"),
        ([], "is empty"),
    ],
)
def test_unequal_numbers_are_refused(found, keep, said):
    groups = found["in_groups"]
    with pytest.raises(ValueError, match=said):
        cut(PARAMS, groups, {heads_of(groups): np.array(keep, int)})


def test_scores_take_the_worst_head_of_each_pair(found):
    groups = found["in_groups"]
    name = heads_of(groups)
    scores = {name: np.array([3.0, 1, 2, 4, 6, 5])}
    per_head = 2 * WIDTH * SIZE
    whole = sum(np.prod(shape) for shape in SHAPES.values())
    for gone, kept in ((1, [0, 2, 4, 5]), (2, [0, 2, 4, 5]), (3, [0, 4]), (4, [0, 4])):
        pruned = prune_to(scores, groups, Parameters(int(whole - gone * per_head)))
        assert pruned.keeps[name].tolist() == kept
        masks = {name: np.isin(np.arange(HEADS), kept).astype(float)}
        assert (
            pruned.reached
            == parameter_count(groups, masks, "")
            == whole - per_head * (HEADS - len(kept))
        )
    by_share = prune_to(scores, groups, Parameters(int(whole - per_head)), scope="group")
    assert by_share.keeps[name].tolist() == [0, 2, 4, 5]
    at_least = prune_to(scores, groups, Parameters(int(whole - 1)), minimum=3)
    assert at_least.widths == {name: 4}
    # A pair that goes takes its heads along, and the rest is counted without them.
    pair = groups[name].block_group
    both = {**scores, pair: np.array([0.1, 9.0])}
    pruned = prune_to(both, groups, Parameters(int(whole - 3 * per_head)), scale="none")
    assert pruned.keeps[pair].tolist() == [1]
    assert set(pruned.keeps[name].tolist()) <= {3, 4, 5}


def test_criteria_score_each_head(found):
    """Taylor by gates: |z dL/dz|, of the heads where both axes are contracted."""
    apply, groups = MODELS["in_groups"], found["in_groups"]
    name = heads_of(groups)
    p, x = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (PARAMS, X))

    def loss(outputs, labels):
        return jnp.sum(outputs**2, (1, 2))

    seen = evidence.Evidence(apply, groups, p, (x,), jnp.zeros(BATCH, int), loss, names=(name,))
    l2 = dp.score("l2", seen)[name]
    assert l2.shape == (HEADS,) and np.unique(l2).size == HEADS

    def of_gates(z):
        return loss(gated(apply, groups)(p, {name: z}, x), None).mean()

    expected = np.abs(jax.grad(of_gates)(jnp.ones(HEADS)))
    np.testing.assert_allclose(dp.score("taylor", seen)[name], expected, rtol=1e-4)


def test_gates_leave_equally_many_in_each_pair(found):
    groups = found["in_groups"]
    name = heads_of(groups)
    rates = {name: np.array([0.9, 0.1, 0.8, 0.2, 0.3, 0.25])}
    masks = keep_active(rates, {name: np.ones(HEADS)}, 0.5, groups)
    assert np.flatnonzero(masks[name]).tolist() == [0, 2, 4, 5]
    again = keep_active({name: np.array([0.2, 0, 0.1, 0, 0.3, 0.4])}, masks, 0.5, groups)
    assert np.flatnonzero(again[name]).tolist() == [0, 5]
    least = {name: dataclasses.replace(groups[name], blocks=1, least=3)}
    masks = keep_active(rates, {name: np.ones(HEADS)}, 0.95, least)
    assert np.flatnonzero(masks[name]).tolist() == [0, 2, 4]


def test_work_of_a_head(found):
    """Logits and mixing, with blocks and places on axes of their own, and the two projections."""
    apply, groups = MODELS["in_groups"], found["in_groups"]
    name = heads_of(groups)
    expected = 2 * BATCH * TIME * (2 * TIME * SIZE + 2 * WIDTH * SIZE)
    assert groups[name].flops == pytest.approx(expected)
    assert groups.shrunk({name: np.array([1, 5])})[name].flops == pytest.approx(expected)
    target = Flops(1, apply, PARAMS, (X,))
    lost = target.measure(groups, {}) - target.measure(groups, {name: np.array([1, 5])})
    assert lost == pytest.approx(4 * expected)


# Where the same places of several pairs are joined, they go together


def shared_bias(p, x):
    """Each place has a bias that both pairs add."""
    q = projected(p, x, "query", HEADS).reshape(BATCH, TIME, PAIRS, EACH, SIZE)
    q = (q + p["bias"]).reshape(BATCH, TIME, HEADS, SIZE)
    return repeated(q, *(projected(p, x, name, PAIRS) for name in ("key", "value")))


def slopes(p, x):
    """Logits that fall with distance, as fast as the place says."""
    q = projected(p, x, "query", HEADS).reshape(BATCH, TIME, PAIRS, EACH, SIZE)
    k, v = (projected(p, x, name, PAIRS) for name in ("key", "value"))
    far = jnp.abs(jnp.arange(TIME)[:, None] - jnp.arange(TIME))
    logits = jnp.einsum("btgrd,bsgd->bgrts", q, k) - jnp.arange(EACH)[:, None, None] * far
    return jnp.einsum("bgrts,bsgd->btgrd", jax.nn.softmax(logits), v)


def places_apart(p, x):
    """The other order: places, then pairs; and out has them in that order."""
    q = projected(p, x, "query", HEADS).reshape(BATCH, TIME, EACH, PAIRS, SIZE)
    k, v = (projected(p, x, name, PAIRS) for name in ("key", "value"))
    weights = jax.nn.softmax(jnp.einsum("btrgd,bsgd->brgts", q, k))
    return jnp.einsum("brgts,bsgd->btrgd", weights, v)


@pytest.mark.parametrize("attention", [shared_bias, slopes, places_apart])
def test_places_that_are_joined_go_together(x64, attention):
    def apply(p, x):
        return attention(p, x).reshape(BATCH, TIME, -1) @ p["out"]

    p = {**PARAMS, "bias": RNG.normal(size=(EACH, 1))}
    groups = find_groups(apply, p, X)
    sizes = {g.size for g, _ in groups.on_axis("query", 1) if g.name in groups.prunable}
    assert HEADS not in sizes
    for name in groups.prunable:
        assert groups[name].blocks == 1
        keeps = {name: np.arange(1, groups[name].size)}
        masks = {name: np.isin(np.arange(groups[name].size), keeps[name]) * 1.0}
        np.testing.assert_allclose(
            resized(apply, p, groups, keeps)(cut(p, groups, keeps), X),
            gated(apply, groups)(p, masks, X),
            rtol=1e-9,
        )


def test_another_function_that_joins_places_is_refused(found):
    groups = found["in_groups"]
    name = heads_of(groups)
    keeps = {name: np.array([1, 5])}
    p = {**PARAMS, "bias": np.zeros((EACH, 1))}

    def other(p, x):
        mixed = shared_bias({**p, "bias": np.arange(3.0)[:, None]}, x).reshape(BATCH, TIME, -1)
        return jnp.tanh((x + mixed @ p["out"]) @ p["up"]) @ p["down"]

    del p["bias"]
    with pytest.raises(ValueError, match="joins units of group .* the same place of several"):
        resized(other, p, groups, keeps)(cut(p, groups, keeps), X)
