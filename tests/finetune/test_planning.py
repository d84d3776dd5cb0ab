"""The planner: what it plans fits, is exact, and what does not fit is refused with what would."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dynhp_jax import finetune
from dynhp_jax.common.errors import UserError

RNG = np.random.default_rng(0)
SIZES = {"a": (20, 60), "b": (60, 40), "c": (40, 5)}
PARAMS = {name: np.float32(RNG.normal(size=size) / 6) for name, size in SIZES.items()}
X, LABELS = np.float32(RNG.normal(size=(64, 20))), np.arange(64) % 5


def apply(params, x):
    x = jax.nn.relu(x @ params["a"])
    return jax.nn.gelu(x @ params["b"]) @ params["c"]


def loss(outputs, labels):
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()


def planned(budget, **options):
    return finetune.plan(apply, PARAMS, X, LABELS, loss=loss, budget=budget, **options)


def one_step(plan):
    rows = plan.draw(jax.random.key(0))
    state = plan.start(PARAMS, rows)
    copy = jax.tree.map(jnp.array, PARAMS)
    return rows, plan.step(copy, state, rows, (X,), LABELS)


@pytest.fixture(scope="module")
def least():
    """The smallest budget that works, as the refusal of a smaller one names it."""
    with pytest.raises(UserError, match="1 row of 'b'") as refused:
        planned("1KiB")
    said = str(refused.value)
    assert "the least that works is" in said and "% of the norm" in said and "\n" not in said
    return said.split("works is ")[1].split(",")[0]


def test_the_least_that_a_refusal_names_works(least):
    plan = planned(least)
    assert plan.total <= plan.budget
    assert sum(quota.rows for quota in plan.quotas.values()) >= 1


def test_a_planned_step_fits_and_is_the_step_of_sgd_on_its_rows(least):
    everything = planned("1MiB")
    assert everything.norm == 1.0 and len(everything.looks) == 1
    low = float(least.removesuffix("KiB"))
    budget = low + 0.3 * (everything.total / 1024 - low)
    plan = planned(f"{budget:.0f}KiB", tx=optax.sgd(0.1))
    assert plan.total == sum(plan.bytes.values()) <= plan.budget < everything.total
    assert 0 < plan.norm <= 1 and len(plan.looks) <= 16
    rows, (new, _, value) = one_step(plan)
    wanted, gradient = jax.value_and_grad(lambda p: loss(apply(p, X), LABELS))(PARAMS)
    assert value == pytest.approx(float(wanted), rel=1e-6)
    trained = {path: np.asarray(each.index) for path, each in rows.items()} | {"c": slice(None)}
    for path, leaf in PARAMS.items():
        expected = np.array(leaf)
        if path in trained:
            expected[trained[path]] -= 0.1 * np.asarray(gradient[path])[trained[path]]
        np.testing.assert_allclose(new[path], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layers": ["bb"]}, "there is no kernel 'bb'; the nearest are 'b'"),
        ({"head": "d"}, "nothing lies below the head 'd'"),
        ({"layers": ["c"]}, "nothing is left to select beside the head 'c'"),
        ({"budget": "4 stones"}, "budget is '4 stones'; allowed: bytes above 0"),
        ({"chunks": (0,)}, "chunks has 0; allowed: whole examples, at least 1"),
        ({"parts": (3,)}, "parts has 3; allowed: numbers from 2 on that divide the 64 examples"),
        ({"epsilons": (1.5,)}, "epsilons has 1.5; allowed: shares between 0 and 1"),
        ({"how": "pca"}, "how is 'pca'; allowed: 'svd', 'hosvd', 'asi', 'fixed'"),
        ({"norms": {"a": np.ones(20)}}, "the norms of 'b' have shape"),
        ({"spare": -1}, "spare is -1; allowed: shares, 0 or more"),
        ({"worth": -1}, "worth is -1; allowed: shares, 0 or more"),
    ],
)
def test_what_cannot_be_planned_is_said_before_anything_is_compiled(options, said):
    with pytest.raises(UserError) as refused:
        planned(**{"budget": "1MiB"} | options)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_model_with_nothing_to_select():
    with pytest.raises(UserError, match="the model has nothing to select"):
        finetune.plan(
            lambda params, x: x * params["scale"], {"scale": np.ones(5)}, X[:, :5], LABELS,
            loss=loss, budget="1MiB",
        )  # fmt: skip
