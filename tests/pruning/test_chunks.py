"""Scores that are taken chunk by chunk: the same, for every criterion and for one of one's own."""

import dataclasses

import criteria_models as models
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dynhp_jax as dp
from dynhp_jax.common.errors import UserError
from dynhp_jax.pruning.criteria import chunks, registry

OPTIONS = {
    "taylor by example": registry.get_criterion("taylor", absolute="example"),
    "nonzero": registry.get_criterion("mean_activation", statistic="nonzero"),
    "velocity as coded": registry.get_criterion("velocity", rule="code"),
    "relevance of labels": registry.get_criterion("relevance", rule="epsilon", start="labels"),
}
EVERY = {name: registry.get_criterion(name) for name in registry.CRITERIA} | OPTIONS
SUMMED = {name: each for name, each in EVERY.items() if isinstance(each, chunks.Summed)}


@dataclasses.dataclass(frozen=True)
class LargestLogit(chunks.Summed):
    """A user's own: the mean of the largest logit, for every unit."""

    def sums(self, evidence):
        logits = evidence.apply(evidence.variables, *evidence.inputs)
        return {"largest": jnp.max(logits, axis=1).sum()}

    def of_sums(self, evidence, sums, examples):
        sizes = {name: evidence.groups[name].size for name in evidence.scored}
        return {name: jnp.full(size, sums["largest"] / examples) for name, size in sizes.items()}


def test_all_criteria_that_look_at_examples_can_take_them_in_chunks():
    alone = {"activation", "l1", "l2", "batch_norm", "geometric_median", "random"}
    assert SUMMED.keys() == EVERY.keys() - alone


@pytest.mark.parametrize("model", models.SPECS)
def test_chunks_add_up_to_the_whole_in_float64(model):
    """Many criteria in one program, so that little is compiled; all of them on the perceptron."""
    few = ("taylor by example", "gradient_norm", "mean_activation", "velocity", "flexrel")
    asked = SUMMED if model == "mlp" else {name: SUMMED[name] for name in few}
    with jax.enable_x64(True):
        evidence = models.evidence(model, wide=True)
        sums = jax.jit(
            lambda evidence: {name: each.sums(evidence) for name, each in asked.items()},
            compiler_options={"xla_backend_optimization_level": 0},
        )
        whole, parts = sums(evidence), map(sums, chunks.parts(evidence, 1))
        total = jax.tree.map(lambda *each: sum(each), *parts)
        for name, each in asked.items():
            found, expected = (
                each.of_sums(evidence.without_examples, added[name], evidence.examples)
                for added in (total, whole)
            )
            assert found.keys() == expected.keys() == set(evidence.scored)
            for group, score in found.items():
                np.testing.assert_allclose(score, expected[group], rtol=1e-8, atol=1e-12)


def test_a_remainder_counts_and_the_host_keeps_what_is_not_its_turn():
    evidence = models.evidence("mlp")
    there = evidence.with_examples(*jax.tree.map(np.asarray, (evidence.inputs, evidence.labels)))
    seen = []

    def execute(piece, *arguments):
        seen.append((piece.name, arguments[-1].examples))
        return piece.function(*arguments)

    found = dp.score(LargestLogit(), there, chunk=3, execute=execute)
    assert seen == [(chunks.ADD.name, 3), (chunks.ADD.name, 3), (chunks.ADD.name, 1),
                    (chunks.FINISH.name, 0)]  # fmt: skip
    logits = evidence.apply(evidence.variables, *evidence.inputs)
    for score in found.values():
        np.testing.assert_allclose(score, np.asarray(logits).max(1).mean(), rtol=1e-5)
    assert found.keys() == dp.score("l1", evidence, chunk=3).keys()  # it needs no example


def test_chunks_that_cannot_be_are_refused():
    evidence = models.evidence("mlp")
    with pytest.raises(UserError, match="the chunk is 0 examples; allowed: 1 or more"):
        dp.score("taylor", evidence, chunk=0)
    also = dataclasses.replace(evidence, inputs=(*evidence.inputs, jnp.ones(3)))
    with pytest.raises(UserError, match="first axes of .*; allowed .* give no chunk"):
        dp.score("taylor", also, chunk=2)
    wrong = dataclasses.replace(evidence, labels=evidence.labels.at[4].set(9))
    with pytest.raises(UserError, match="the loss of example 4 is nan, its label 9"):
        dp.score(registry.get_criterion("taylor"), wrong, chunk=2)


def test_chunks_are_equal_where_the_number_of_examples_allows():
    for examples in range(1, 60):
        for room in range(1, 70):
            size = chunks.even(examples, room)
            assert 1 <= size <= min(room, examples)
            assert -(-examples // size) <= 2 * -(-examples // room) + 1
    assert chunks.even(512, 300) == 256 and chunks.even(90, 40) == 30
