"""Kinds of units: what a network is given is neither scored nor taken unless it is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dynhp_jax as dp
from dynhp_jax.common.errors import UserError
from dynhp_jax.pruning.criteria import evidence
from dynhp_jax.pruning.prune_to import prune_to
from dynhp_jax.pruning.targets import Parameters
from dynhp_jax.structure.find import find_groups
from dynhp_jax.structure.group import HIDDEN, INPUT, VOCABULARY
from dynhp_jax.surgery.cut import cut


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def perceptron(p, x):
    return jax.nn.relu(x @ p["a"]) @ p["b"]


def words(p, tokens):
    """Two tables look up the same one-hot words."""
    hot = jax.nn.one_hot(tokens, 12)
    return jax.nn.relu((hot @ p["a"]) * (hot @ p["c"])) @ p["b"]


def waves(p, x):
    """Fixed features of the inputs, 12 of them."""
    angles = x[..., :1] * jnp.arange(1.0, 13.0)
    return jax.nn.relu(jnp.sin(angles) @ p["a"]) @ p["b"]


def latents(p, x):
    """What is read first are variables: the network computes these units."""
    keys = p["latents"] @ p["keys"]  # [latents, 5]
    return jax.nn.softmax(x @ p["a"] @ keys.T) @ (p["latents"] @ p["b"])


X, TOKENS = normal(0, 4, 12), jnp.asarray([[1, 2], [3, 4], [5, 11]])
BODY = {"a": normal(1, 12, 5), "b": normal(2, 5, 3)}
LATENTS = {
    "latents": normal(4, 7, 6), "keys": normal(5, 6, 5), "a": normal(6, 12, 5),
    "b": normal(7, 6, 3),
}  # fmt: skip
# Apply function, parameters, inputs, and the kind of the units on some axes.
MODELS = {
    "perceptron": (perceptron, BODY, X, {("a", 0): INPUT, ("a", 1): HIDDEN, ("b", 0): HIDDEN}),
    "words": (words, BODY | {"c": normal(3, 12, 5)}, TOKENS,
              {("a", 0): VOCABULARY, ("c", 0): VOCABULARY, ("a", 1): HIDDEN}),
    "waves": (waves, BODY, X, {("a", 0): VOCABULARY, ("a", 1): HIDDEN}),
    "latents": (latents, LATENTS, X,
                {("a", 0): INPUT, ("latents", 1): HIDDEN, ("keys", 1): HIDDEN}),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_kinds_of_units(name):
    apply, params, x, expected = MODELS[name]
    groups = find_groups(apply, params, x)
    for (path, axis), kind in expected.items():
        assert [group.kind for group, _ in groups.on_axis(path, axis)] == [kind], (path, axis)


@pytest.mark.parametrize("criterion", ["l1", "l2", "geometric_median", "random", "taylor"])
@pytest.mark.parametrize("name", ["perceptron", "words", "waves"])
def test_without_names_only_units_that_the_network_computes_go(name, criterion):
    apply, params, x, _ = MODELS[name]
    groups = find_groups(apply, params, x)

    def loss(outputs, labels):
        return jnp.sum(outputs.reshape(len(labels), -1) ** 2, -1)

    labels, key = jnp.zeros(len(x), int), jax.random.key(0)
    seen = evidence.Evidence(apply, groups, params, (x,), labels, loss, key=key)
    scores = dp.score(criterion, seen)
    assert [groups[name].kind for name in scores] == [HIDDEN]
    small = cut(params, groups, prune_to(scores, groups, Parameters(40)).keeps)
    assert small["a"].shape[0] == 12 and small["a"].shape[1] < 5
    with pytest.raises(UserError, match="cannot be reached by taking units from"):
        prune_to(scores, groups, Parameters(5))


def test_a_group_that_is_named_is_scored_whatever_its_kind():
    groups = find_groups(perceptron, BODY, X)
    seen = evidence.Evidence(perceptron, groups, BODY, names=("input", "a"))
    scores = dp.score("l1", seen)
    assert list(scores) == ["input", "a"]
    assert prune_to(scores, groups, Parameters(20)).keeps["input"].size < 12


def test_kinds_survive_a_cut_and_a_subtree():
    def apply(variables, x):
        return perceptron(variables["params"], x)

    groups = find_groups(apply, {"params": BODY}, X)
    keeps = {"input": np.arange(3), "a": np.arange(2)}
    for each in (groups, groups.at("params"), groups.shrunk(keeps), groups.select(["input", "a"])):
        assert each.computed == ("a",) and each["input"].kind == INPUT
