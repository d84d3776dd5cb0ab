"""Experts and codes: units that are chosen among are cut as if their logits were -inf.

The oracle is NumPy, token by token: it sorts the logits of those that are there.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dynhp_jax.gates.gated import gated
from dynhp_jax.pruning.criteria.evidence import Evidence
from dynhp_jax.pruning.prune_to import prune_to
from dynhp_jax.pruning.targets import Parameters
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.optimizer import cut_optimizer
from dynhp_jax.surgery.resized import resized

TOKENS, EXPERTS, K, WIDTH, ROOM = 11, 5, 2, 3, 3
KEEP = np.array([0, 2, 3])
RNG = np.random.default_rng(4)
PARAMS = {
    "router": RNG.normal(size=(WIDTH, EXPERTS)),
    "bias": RNG.normal(size=EXPERTS) / 4,
    "wide": RNG.normal(size=(EXPERTS, WIDTH, 7)),
    "narrow": RNG.normal(size=(EXPERTS, 7, 2)),
}
X = RNG.normal(size=(TOKENS, WIDTH))


def every_expert(p, x):  # [tokens, experts, 2]
    return jnp.einsum("teh,eho->teo", jnp.sin(jnp.einsum("ti,eih->teh", x, p["wide"])), p["narrow"])


def expert(p, x, e):
    return np.sin(x @ np.asarray(p["wide"])[e]) @ np.asarray(p["narrow"])[e]


def best(logits, k):
    return np.argsort(-logits, kind="stable")[:k]


def shares(logits):
    odds = np.exp(logits - logits.max())
    return odds / odds.sum()


# Routers, and by hand the weights of all experts for one token's logits


def softmax_of_the_chosen(p, x):
    logits, at = lax.top_k(x @ p["router"], K)
    weights = jax.nn.softmax(logits)[..., None] * jax.nn.one_hot(at, EXPERTS)
    return jnp.einsum("tke,teo->to", weights, every_expert(p, x))


def weights_of_the_chosen(logits):
    weights = np.zeros(EXPERTS)
    weights[best(logits, K)] = shares(logits[best(logits, K)])
    return weights


def chosen_of_the_softmax(p, x):
    weights, at = lax.top_k(jax.nn.softmax(x @ p["router"]), K)
    picked = jnp.take_along_axis(every_expert(p, x), at[..., None], axis=1)
    return (picked * weights[..., None]).sum(1)


def weights_among_all(logits):
    weights = np.zeros(EXPERTS)
    weights[best(logits, K)] = shares(logits)[best(logits, K)]
    return weights


def their_kernels(p, x):
    """The kernels of the chosen are gathered: no array has an axis of all experts."""
    logits, at = lax.top_k(x @ p["router"], K)
    hidden = jnp.sin(jnp.einsum("ti,tkih->tkh", x, p["wide"][at]))
    return jnp.einsum("tk,tkh,tkho->to", jax.nn.softmax(logits), hidden, p["narrow"][at])


def token_by_token(p, x):
    def one(token):
        logits, at = lax.top_k(token @ p["router"], K)
        each = [jnp.sin(token @ p["wide"][e]) @ p["narrow"][e] for e in at]
        return jax.nn.softmax(logits) @ jnp.stack(each)

    return lax.map(one, x)


def all_above_the_least(p, x):
    logits = x @ p["router"]
    least = lax.top_k(logits, K)[0][:, -1:]
    weights = jax.nn.softmax(jnp.where(logits < least, -jnp.inf, logits))
    return jnp.einsum("te,teo->to", weights, every_expert(p, x))


def one_after_the_other(p, x):
    """The second best is the best where the first is hidden."""
    logits = x @ p["router"]
    first = jax.nn.one_hot(jnp.argmax(logits, 1), EXPERTS)
    second = jax.nn.one_hot(jnp.argmax(jnp.where(first > 0, -jnp.inf, logits), 1), EXPERTS)
    weights = jax.nn.softmax(logits) * (first + second)
    return jnp.einsum("te,teo->to", weights, every_expert(p, x))


def with_room_for_few(p, x):
    """One expert for each token, and a token that comes too late has none."""
    odds = jax.nn.softmax(x @ p["router"])
    here = jnp.argmax(odds, 1)[:, None] == np.arange(EXPERTS)
    turn = (jnp.cumsum(here, 0) * here).sum(1) - 1
    sent = here[..., None] * jax.nn.one_hot(turn, ROOM)[:, None]  # [tokens, experts, room]
    inputs = jnp.einsum("tec,ti->eci", sent, x)
    hidden = jnp.sin(jnp.einsum("eci,eih->ech", inputs, p["wide"]))
    back = (sent * odds[..., None]).reshape(TOKENS, EXPERTS * ROOM)
    return back @ jnp.einsum("ech,eho->eco", hidden, p["narrow"]).reshape(EXPERTS * ROOM, 2)


ROUTERS = {
    softmax_of_the_chosen: weights_of_the_chosen,
    chosen_of_the_softmax: weights_among_all,
    their_kernels: weights_of_the_chosen,
    token_by_token: weights_of_the_chosen,
    all_above_the_least: weights_of_the_chosen,
    one_after_the_other: weights_among_all,
    with_room_for_few: None,
}


def by_hand(router, p, x, alive):
    out, queue = [], np.zeros(EXPERTS, int)
    for token in x:
        logits = np.where(alive, token @ np.asarray(p["router"]), -np.inf)
        if router is with_room_for_few:
            e = best(logits, 1)[0]
            weights = shares(logits) * (np.arange(EXPERTS) == e) * (queue[e] < ROOM)
            queue[e] += 1
        else:
            weights = ROUTERS[router](logits)
        out.append(sum(weights[e] * expert(p, token, e) for e in range(EXPERTS)))
    return np.array(out)


def experts_of(groups):
    (name,) = {g.name for g, _ in groups.on_axis("router", 1)}
    return name


@pytest.mark.parametrize("router", ROUTERS, ids=lambda router: router.__name__)
def test_experts_go_with_their_logits(x64, router):
    p, x = jax.tree.map(jnp.asarray, (PARAMS, X))
    whole = by_hand(router, p, x, np.ones(EXPERTS, bool))
    np.testing.assert_allclose(router(p, x), whole, rtol=1e-10)
    groups = find_groups(router, p, x)
    name = experts_of(groups)
    assert name in groups.prunable
    places = {(m.path, m.axis) for m in groups[name].members}
    assert places == {("router", 1), ("wide", 0), ("narrow", 0)}
    alive = np.isin(np.arange(EXPERTS), KEEP)
    expected = by_hand(router, p, x, alive)
    small = cut(p, groups, {name: KEEP})
    np.testing.assert_allclose(
        resized(router, p, groups, {name: KEEP})(small, x), expected, rtol=1e-10
    )
    masked = gated(router, groups)(p, {name: alive}, x)
    np.testing.assert_allclose(masked, expected, rtol=1e-10)


def test_masks_of_experts_and_cuts_agree_in_training(x64):
    """Gradients too, with hidden units and inputs that go at the same time, example by example."""
    router = softmax_of_the_chosen
    groups = find_groups(router, PARAMS, X)
    name = experts_of(groups)
    keeps = {name: KEEP, "wide": np.array([0, 1, 5]), "input": np.array([0, 2])}
    alive = {n: np.isin(np.arange(groups[n].size), k) for n, k in keeps.items()}
    gates = {n: np.broadcast_to(1.0 * a, (TOKENS, a.size)) for n, a in alive.items()}
    small, run = cut(PARAMS, groups, keeps), resized(router, PARAMS, groups, keeps)
    of_whole = jax.grad(lambda p: jnp.sum(jnp.cos(gated(router, groups)(p, gates, X))))(PARAMS)
    of_small = jax.grad(lambda p: jnp.sum(jnp.cos(run(p, X))))(small)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
        cut(of_whole, groups, keeps),
        of_small,
    )


def test_gates_between_zero_and_one_multiply_what_is_read(x64):
    groups = find_groups(softmax_of_the_chosen, PARAMS, X)
    z = np.array([0.5, 0.0, 2.0, 1.0, 0.25])
    scaled = {**PARAMS, "narrow": PARAMS["narrow"] * z[:, None, None]}
    expected = by_hand(softmax_of_the_chosen, scaled, X, z > 0)
    found = gated(softmax_of_the_chosen, groups)(PARAMS, {experts_of(groups): z}, X)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_a_gate_that_could_only_be_a_mask_is_refused():
    """Where kernels are gathered no product sums over experts: 0.5 would do what 1 does."""
    p, x = jax.tree.map(jnp.asarray, (PARAMS, X))
    groups = find_groups(their_kernels, p, x)
    with pytest.raises(ValueError, match="no matrix product .* its gate would do nothing"):
        gated(their_kernels, groups)(p, {experts_of(groups): np.ones(EXPERTS)}, x)


def test_gates_inside_a_function_with_its_own_derivative():
    @jax.custom_jvp
    def odds(logits):
        return jax.nn.softmax(logits)

    odds.defjvp(lambda p, t: (odds(*p), t[0]))

    def router(p, x):
        weights, at = lax.top_k(odds(x @ p["router"]), K)
        return jnp.einsum(
            "tk,tke,teo->to", weights, jax.nn.one_hot(at, EXPERTS), every_expert(p, x)
        )

    groups = find_groups(router, PARAMS, X)
    name, alive = experts_of(groups), np.isin(np.arange(EXPERTS), KEEP)

    def masked(p):
        return gated(router, groups)(p, {name: alive}, X)

    by_cut = resized(router, PARAMS, groups, {name: KEEP})(cut(PARAMS, groups, {name: KEEP}), X)
    np.testing.assert_allclose(masked(PARAMS), by_cut, rtol=1e-4)
    with pytest.raises(ValueError, match="chooses among units of group 'router'"):
        jax.grad(lambda p: masked(p).sum())(PARAMS)


def test_entries_of_a_codebook():
    """The nearest code stands for its input; one that is gone is never the nearest."""

    def apply(p, x):
        distance = jnp.square(x[:, None] - p["codes"]).sum(-1)
        return p["codes"][jnp.argmin(distance, 1)] @ p["out"]

    p = {"codes": jnp.asarray(RNG.normal(size=(6, 3))), "out": jnp.ones((3, 2))}
    groups = find_groups(apply, p, X)
    (name,) = [g.name for g, _ in groups.on_axis("codes", 0)]
    keep = np.array([1, 2, 5])
    assert groups[name].chosen == ("argmin",)
    found = resized(apply, p, groups, {name: keep})(cut(p, groups, {name: keep}), X)
    left = np.asarray(p["codes"])[keep]
    nearest = [left[np.square(x - left).sum(1).argmin()] for x in X]
    np.testing.assert_allclose(found, np.array(nearest) @ np.ones((3, 2)), rtol=1e-5)
    np.testing.assert_allclose(
        gated(apply, groups)(p, {name: np.isin(np.arange(6), keep)}, X), found, rtol=1e-5
    )


# What is not offered


def returned(p, x):
    return softmax_of_the_chosen(p, x), lax.top_k(x @ p["router"], K)[1]


def load_of_each(p, x):
    return softmax_of_the_chosen(p, x), jax.nn.softmax(x @ p["router"]).mean(0)


def counted_in_halves(p, x):
    return chosen_of_the_softmax(p, x) * (jnp.argmax(x @ p["router"], 1)[:, None] / 2)


def told_apart_by_a_number(p, x):
    return chosen_of_the_softmax(p, x) * (jnp.argmax(x @ p["router"], 1)[:, None] != 3)


def with_a_class_for_nothing(p, x):
    at = jax.nn.one_hot(jnp.argmax(x @ p["router"], 1), EXPERTS + 1)
    return jnp.einsum("te,teo->to", at[:, :EXPERTS], every_expert(p, x))


def by_arithmetic(p, x):
    at = jnp.argmax(x @ p["router"], 1)[:, None]
    hot = jnp.maximum(1 - jnp.abs(at - jnp.arange(EXPERTS)), 0)
    return jnp.einsum("te,teo->to", hot, every_expert(p, x))


def sorted_out(p, x):
    at = jnp.argsort(-(x @ p["router"]), axis=1)[:, :K]
    return jnp.einsum("tke,teo->to", jax.nn.one_hot(at, EXPERTS), every_expert(p, x))


def nearly_the_best(p, x):
    at = lax.approx_max_k(x @ p["router"], K)[1]
    return jnp.einsum("tke,teo->to", jax.nn.one_hot(at, EXPERTS), every_expert(p, x))


def carried_around(p, x):
    at = lax.fori_loop(0, 3, lambda _, at: jnp.argmax(x @ p["router"], 1), jnp.zeros(TOKENS, int))
    return jnp.einsum("te,teo->to", jax.nn.one_hot(at, EXPERTS), every_expert(p, x))


def in_a_branch(p, x):
    kernels = [lambda x, w=w: x @ w for w in p["wide"][:, :, 0]]
    at = jnp.argmax(x[0] @ p["router"])
    return chosen_of_the_softmax(p, x) + lax.switch(at, kernels, x)[:, None]


@pytest.mark.parametrize(
    "router",
    [returned, load_of_each, counted_in_halves, told_apart_by_a_number, with_a_class_for_nothing,
     by_arithmetic, sorted_out, nearly_the_best, carried_around, in_a_branch],
)  # fmt: skip
def test_experts_whose_numbers_are_used_stay_whole(router):
    p, x = jax.tree.map(jnp.asarray, (PARAMS, X))
    groups = find_groups(router, p, x)
    for path, axis in (("router", 1), ("wide", 0), ("narrow", 0)):
        assert not groups.on_axis(path, axis), path
    assert "input" in groups.prunable and "wide" in groups


def test_a_mean_over_experts_divides_by_all_of_them(x64):
    def router(p, x):
        odds = jax.nn.softmax(x @ p["router"])
        balance = (odds.mean(0) * jax.nn.one_hot(jnp.argmax(odds, 1), EXPERTS).mean(0)).mean()
        return softmax_of_the_chosen(p, x), balance

    groups = find_groups(router, PARAMS, X)
    name = experts_of(groups)
    assert groups[name].exact
    small = resized(router, PARAMS, groups, {name: KEEP})(cut(PARAMS, groups, {name: KEEP}), X)
    logits = (X @ PARAMS["router"])[:, KEEP]
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    chosen = np.eye(len(KEEP))[logits.argmax(1)]
    balance = (odds.mean(0) * chosen.mean(0)).sum() / EXPERTS
    np.testing.assert_allclose(small[1], balance, rtol=1e-10)
    masked = gated(router, groups)(PARAMS, {name: np.isin(np.arange(EXPERTS), KEEP)}, X)
    np.testing.assert_allclose(masked[1], balance, rtol=1e-10)


def test_as_many_stay_as_are_chosen():
    groups = find_groups(softmax_of_the_chosen, PARAMS, X)
    name, one = experts_of(groups), np.array([1])
    assert (groups[name].least, groups[name].chosen) == (K, ("top_k",))
    assert "exact, left out of 'top_k'; 2 stay" in groups.describe()
    said = "keep of group 'router' holds 1 units, of which 'top_k' choose 2; allowed: 2 to 5"
    for refused in (
        lambda: cut(PARAMS, groups, {name: one}),
        lambda: resized(softmax_of_the_chosen, PARAMS, groups, {name: one}),
        lambda: cut_optimizer(None, None, PARAMS, groups, {name: one}),
        lambda: groups.shrunk({name: np.arange(3)}).check_keeps({name: one}),
    ):
        with pytest.raises(ValueError, match=said[:60]):
            refused()

    def chooses_more(p, x):
        logits, at = lax.top_k(x @ p["router"], 4)
        return jnp.einsum("tk,tke,teo->to", logits, jax.nn.one_hot(at, EXPERTS), every_expert(p, x))

    small = cut(PARAMS, groups, {name: KEEP})
    with pytest.raises(ValueError, match="'top_k' chooses 4 of an axis of which 3 .* are left"):
        resized(chooses_more, PARAMS, groups, {name: KEEP})(small, X)
    scores = {name: np.arange(EXPERTS, 0.0, -1)}
    least = prune_to(scores, groups, Parameters(2 * (WIDTH + WIDTH * 7 + 7 * 2) + EXPERTS))
    assert least.keeps[name].tolist() == [0, 1]


def test_experts_are_scored_where_they_are_named():
    groups = find_groups(softmax_of_the_chosen, PARAMS, X)
    name = experts_of(groups)
    assert name in groups.prunable
    assert name not in Evidence(softmax_of_the_chosen, groups, PARAMS).scored
    named = Evidence(softmax_of_the_chosen, groups, PARAMS, names=(name,))
    assert named.scored == (name,)
