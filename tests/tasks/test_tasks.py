"""Losses and metrics against NumPy in float64, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dynhp_jax.common.errors import UserError
from dynhp_jax.tasks import losses, metrics
from dynhp_jax.tasks.metrics import METRICS, Metric
from dynhp_jax.tasks.task import task_of

RNG = np.random.default_rng(0)
LOGITS, CLASSES = RNG.normal(size=(6, 5)), RNG.integers(0, 5, 6)
TOKENS, IDS = RNG.normal(size=(4, 7, 5)), RNG.integers(-1, 5, (4, 7))
NUMBERS, WANTED = RNG.normal(size=(8, 3)), RNG.normal(size=(8, 3))


def log_softmax(x):
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def taken(logits, labels):
    return -np.take_along_axis(log_softmax(logits), labels[..., None], -1)[..., 0]


def f32(array):
    return jnp.asarray(array, jnp.float32)


def test_the_cross_entropy_is_that_of_numpy_at_every_position():
    one = losses.cross_entropy(f32(LOGITS), jnp.asarray(CLASSES))
    np.testing.assert_allclose(one, taken(LOGITS, CLASSES), rtol=1e-5)
    whole = np.abs(IDS)
    several = losses.cross_entropy(f32(TOKENS), jnp.asarray(whole))
    np.testing.assert_allclose(several, taken(TOKENS, whole).mean(1), rtol=1e-5)


def test_masked_positions_count_for_nothing_and_have_no_gradient():
    counts = IDS >= 0
    expected = np.where(counts, taken(TOKENS, np.maximum(IDS, 0)), 0).sum(1) / counts.sum(1)
    found = losses.masked_cross_entropy(f32(TOKENS), jnp.asarray(IDS))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    gradient = jax.grad(lambda x: losses.masked_cross_entropy(x, jnp.asarray(IDS)).sum())
    np.testing.assert_array_equal(np.asarray(gradient(f32(TOKENS)))[~counts], 0)
    assert losses.masked_cross_entropy(f32(TOKENS), jnp.full((4, 7), -1)).tolist() == [0] * 4


def test_several_labels_and_numbers_are_those_of_numpy():
    true = RNG.integers(0, 2, (8, 3))
    share = 1 / (1 + np.exp(-NUMBERS))
    expected = -(true * np.log(share) + (1 - true) * np.log(1 - share)).mean(1)
    found = losses.sigmoid_cross_entropy(f32(NUMBERS), f32(true))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    squared = losses.mean_squared_error(f32(NUMBERS), f32(WANTED))
    np.testing.assert_allclose(squared, ((NUMBERS - WANTED) ** 2).mean(1), rtol=1e-5)
    absolute = losses.mean_absolute_error(f32(NUMBERS), f32(WANTED))
    np.testing.assert_allclose(absolute, np.abs(NUMBERS - WANTED).mean(1), rtol=1e-5)


def test_one_output_goes_with_targets_without_an_axis():
    one = losses.mean_squared_error(f32(NUMBERS[:, :1]), f32(WANTED[:, 0]))
    np.testing.assert_allclose(one, (NUMBERS[:, 0] - WANTED[:, 0]) ** 2, rtol=1e-5)


@pytest.mark.parametrize(
    "loss, outputs, targets, words",
    [
        ("cross_entropy", (4, 3), np.zeros(4), r"the labels are float32\[4\]; .* int\[4\]"),
        ("cross_entropy", (4,), np.zeros(4, int), r"the outputs are float32\[4\]"),
        ("cross_entropy", (4, 1), np.zeros(4, int), "two classes or more"),
        ("masked_cross_entropy", (4, 2, 3), np.zeros(4, int), r"int\[4, 2\]"),
        ("mean_squared_error", (4, 2), np.zeros(4), "arrays of one shape"),
        ("sigmoid_cross_entropy", (4, 1), np.zeros(4), "arrays of one shape"),
    ],
)
def test_shapes_that_do_not_fit_are_named(loss, outputs, targets, words):
    targets = jnp.asarray(targets, jnp.int32 if targets.dtype == int else jnp.float32)
    with pytest.raises(UserError, match=words):
        losses.LOSSES[loss](jnp.zeros(outputs), targets)


def result(metric, outputs, targets, parts=2):
    """A metric over a split that is seen in parts, each with a row that counts for nothing."""
    total = None
    for rows in np.array_split(np.arange(len(targets)), parts):
        padded, inside = np.append(rows, 0), np.append(np.ones(len(rows), bool), False)
        sums = jax.jit(metric.sums)(outputs[padded], targets[padded], jnp.asarray(inside))
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    return metric.result(jax.device_get(total), len(targets))


def test_metrics_of_a_split_do_not_depend_on_its_parts():
    logits, classes = f32(LOGITS), jnp.asarray(CLASSES)
    share = 100 * (LOGITS.argmax(1) != CLASSES).mean()
    assert result(METRICS["error"], logits, classes) == share
    assert result(METRICS["accuracy"], logits, classes) == pytest.approx(100 - share)
    numbers, wanted = f32(NUMBERS[:, 0]), f32(WANTED[:, 0])
    apart = NUMBERS[:, 0] - WANTED[:, 0]
    root = result(METRICS["root_squared_error"], numbers, wanted)
    assert root == pytest.approx(np.sqrt((apart**2).mean()), rel=1e-5)
    spread = ((WANTED[:, 0] - WANTED[:, 0].mean()) ** 2).sum()
    assert result(METRICS["r2"], numbers, wanted) == pytest.approx(
        1 - (apart**2).sum() / spread, rel=1e-4
    )
    assert result(METRICS["absolute_error"], numbers, wanted) == pytest.approx(
        np.abs(apart).mean(), rel=1e-5
    )


def test_the_error_of_tokens_is_the_mean_share_of_those_that_count():
    counts = IDS >= 0
    missed = (TOKENS.argmax(-1) != IDS) & counts
    expected = 100 * (missed.sum(1) / counts.sum(1)).mean()
    found = result(METRICS["error"], f32(TOKENS), jnp.asarray(IDS))
    assert found == pytest.approx(expected, rel=1e-5)


@settings(deadline=None)
@given(arrays.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 3)), st.integers(0, 9))
def test_errors_are_counted_exactly(labels, seed):
    logits = np.random.default_rng(seed).normal(size=(len(labels), 4))
    wrong = int((logits.astype(np.float32).argmax(1) != labels).sum())
    sums = metrics.ERROR.sums(f32(logits), jnp.asarray(labels), None)
    assert metrics.ERROR.result(np.asarray(sums), len(labels)) == 100 * wrong / len(labels)


def test_a_task_takes_what_is_usual_with_a_loss():
    assert task_of("cross_entropy").best == "error"
    assert list(task_of("mean_squared_error").metrics) == ["root_squared_error", "r2"]
    assert task_of(losses.mean_squared_error).called == "mean_squared_error"
    own = task_of(lambda outputs, targets: outputs[:, 0], None)
    assert own.called == own.best == "lambda" and not own.metrics
    assert task_of("cross_entropy", {"top": lambda outputs, targets: outputs[:, 0]}).best == "top"


def test_what_is_best_says_which_way():
    task = task_of("mean_squared_error", {"r2": "r2", "mine": Metric(losses.mean_absolute_error)})
    assert task.higher and task.cost({"r2": 0.75}) == -0.75
    other = task_of("mean_squared_error", {"r2": "r2"}, best="mean_squared_error")
    assert not other.higher and other.cost({"mean_squared_error": 2.0}) == 2.0


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("entropy",), "there is no loss 'entropy'; allowed: cross_entropy, "),
        ((5,), r"the loss is 5; allowed: a function \(outputs, targets\)"),
        (("cross_entropy", {"a": 5}), "metric 'a' is 5; allowed: a function"),
        (("cross_entropy", {"a": "recall"}), "metric 'a' is 'recall'; .* error, accuracy"),
        (("cross_entropy", None, "f1"), "what is best is 'f1'; allowed: one of error"),
    ],
)
def test_what_is_no_task_is_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        task_of(*arguments)
