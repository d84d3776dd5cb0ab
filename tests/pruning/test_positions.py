"""Criteria on outputs with positions: a language model's tokens, a dense prediction's pixels.

A network that treats every position by itself sees a sentence as so many examples, so that its
scores follow from those of the same network on single positions, which other files hold against
NumPy.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dynhp_jax as dp
from dynhp_jax.common.errors import UserError
from dynhp_jax.pruning.criteria import registry
from dynhp_jax.pruning.criteria.evidence import Evidence, strict_cross_entropy
from dynhp_jax.structure.find import find_groups

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(3)
PARAMS = {
    "embedding": RNG.normal(size=(11, 5)),
    "up": RNG.normal(size=(5, 7)),
    "down": RNG.normal(size=(7, 11)),
}
SHAPES = {"sentences": (4, 6), "images": (2, 3, 5)}
CRITERIA = {
    "taylor": registry.get_criterion("taylor"),
    "relevance": registry.get_criterion("relevance"),
    "relevance of labels": registry.get_criterion("relevance", start="labels", rule="epsilon"),
    "flexrel": registry.get_criterion("flexrel", delta=0.25),
}


def apply(p, tokens):  # [...] -> [..., 11]
    return jax.nn.relu(p["embedding"][tokens] @ p["up"]) @ p["down"]


def scores(criterion, tokens, labels):
    groups = find_groups(apply, PARAMS, tokens).select(["up"])
    return dp.score(criterion, Evidence(apply, groups, PARAMS, (tokens,), labels))["up"]


def drawn(shape):
    return (jnp.asarray(RNG.integers(0, 11, shape)) for _ in range(2))


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_position_counts_as_an_example(criterion, shape):
    tokens, labels = drawn(shape)
    found = scores(criterion, tokens, labels)
    single = scores(criterion, tokens.reshape(-1), labels.reshape(-1))
    np.testing.assert_allclose(found, single, rtol=1e-5)
    assert np.ptp(found) > 0


def test_the_cross_entropy_is_the_mean_over_an_examples_positions():
    tokens, labels = drawn((4, 6))
    logits = np.asarray(apply(PARAMS, tokens))
    shifted = logits - logits.max(-1, keepdims=True)
    each = np.log(np.exp(shifted).sum(-1))
    each -= np.take_along_axis(shifted, np.asarray(labels)[..., None], -1)[..., 0]
    np.testing.assert_allclose(
        strict_cross_entropy(jnp.asarray(logits), labels), each.mean(1), rtol=1e-6
    )


@pytest.mark.parametrize("wrong", [-1, 11])
def test_one_label_of_no_class_leaves_its_example_without_a_loss(wrong):
    tokens, labels = drawn((4, 6))
    losses = strict_cross_entropy(apply(PARAMS, tokens), labels.at[2, 3].set(wrong))
    assert np.isnan(losses).tolist() == [False, False, True, False]


def test_labels_of_other_positions_are_refused():
    tokens, labels = drawn((4, 6))
    with pytest.raises(UserError, match=r"labels are int64\[4,5\].* allows int\[4, 6\]"):
        scores(CRITERIA["taylor"], tokens, labels[:, 1:])
    with pytest.raises(UserError, match=r"labels int64\[4\] of outputs that are float64\[4,6,11\]"):
        scores(CRITERIA["relevance of labels"], tokens, labels[:, 0])
