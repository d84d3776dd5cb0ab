"""The paper's memory metric to the digit, budgets as people write them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynhp_jax.common.byte_sizes import parse_bytes
from dynhp_jax.common.errors import ArgumentError
from dynhp_jax.memory.compiled import compiled_bytes
from dynhp_jax.memory.paper import PaperMeter, example_bytes, training_memory

MLP = 266_610  # weights and biases of 784-300-100-10
METER = PaperMeter(example_bytes((784,)))


def test_the_papers_tables_to_the_digit():
    assert METER.model_kib(MLP) == 1041.4453125
    assert f"{METER.model_kib(MLP):.1f}" == "1041.4"
    mnist = training_memory([METER.memory_kib(MLP, 512)] * 2000)
    fashion = training_memory([METER.memory_kib(MLP, 128)] * 2000)
    assert f"{mnist:.3f}" == "5.219"
    assert f"{fashion:.3f}" == "2.867"
    # Twice the mean per epoch in thousands of KiB: the number's other reading.
    assert mnist == pytest.approx(2 * METER.memory_kib(MLP, 512) / 1000)


def test_budget_of_the_best_soft_pruning_run():
    assert f"{METER.memory_kib(MLP, 512):.1f}" == "2609.4"
    assert f"{METER.memory_kib(MLP, 128):.1f}" == "1433.4"
    budget = METER.memory_bytes(MLP, 512)
    assert METER.room(budget, MLP) == 512
    # The printed 2609.4 KiB is rounded down and loses an example.
    assert METER.room(parse_bytes("2609.4KiB"), MLP) == 511


def test_metric_equals_the_oracle_on_pruned_arrays():
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=s) for s in ((784, 30), (30, 10))]
    weights[0][rng.random(784) < 0.4] = 0
    biases = [rng.normal(size=30), rng.normal(size=10)]
    parameters = sum(np.count_nonzero(w) for w in weights) + 40
    expected = oracles.memory_kib(weights, biases, 100, 784)
    assert METER.memory_kib(parameters, 100) == expected


@given(st.integers(0, 10**8), st.integers(1, 10**8), st.integers(0, 10**10))
def test_room_is_the_largest_batch_that_fits(parameters, size, budget):
    meter = PaperMeter(size)
    room = meter.room(budget, parameters)
    assert room >= 0
    assert room == 0 or meter.memory_bytes(parameters, room) <= budget
    assert meter.memory_bytes(parameters, room + 1) > budget


def test_smallest_budget_is_the_one_that_the_error_names():
    least = METER.smallest_budget(MLP)
    assert least == 4 * MLP + 3136
    assert METER.budget_bytes(str(least), MLP) == least
    assert METER.room(least, MLP) == 1 and METER.room(least - 1, MLP) == 0
    with pytest.raises(ArgumentError) as error:
        METER.budget_bytes(f"{least - 1} B", MLP)
    message = str(error.value)
    assert message.startswith(f"budget is '{least - 1} B'; allowed: at least 1044.6KiB")
    assert "\n" not in message
    METER.budget_bytes("1044.6KiB", MLP)  # what the message proposes does work


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4MiB", 4 * 2**20),
        ("1.5 MB", 1_500_000),
        ("2609.4KiB", 2_672_025),
        ("3000000", 3_000_000),
        (3_000_000, 3_000_000),
        ("1GiB", 2**30),
        ("2gb", 2 * 10**9),
        (" 12 kib ", 12 * 1024),
        ("0.5KiB", 512),
        ("7B", 7),
    ],
)
def test_budgets_as_people_write_them(text, size):
    assert parse_bytes(text) == size


@given(st.integers(1, 10**15))
def test_plain_numbers_are_bytes(size):
    assert parse_bytes(str(size)) == parse_bytes(f"{size}B") == size
    assert parse_bytes(f"{size}KiB") == size * 1024


@pytest.mark.parametrize(
    "text",
    ["", "lots", "-4MiB", "0", "0.0 GiB", "0.3B", "4 MiBytes", "4 XB", "1e6", "inf", "nan", "4,5MB",
     "٣MB", "MiB", "1.MB", "4 Mi B", None, "4MiB\n5"],
)  # fmt: skip
def test_nonsense_budgets_get_one_line(text):
    with pytest.raises(ArgumentError) as error:
        parse_bytes(text)
    assert error.value.name == "text"
    assert "\n" not in str(error.value)
    assert "'4MiB'" in str(error.value)


def test_unknown_unit_lists_the_known_ones():
    with pytest.raises(ArgumentError, match="'XB' is none of B, KB, MB, GB, KiB, MiB, GiB"):
        parse_bytes("4 XB")


def test_sizes_of_examples():
    assert example_bytes((784,)) == 3136
    assert example_bytes((32, 32, 3)) == 4 * math.prod((32, 32, 3))
    with pytest.raises(ValueError, match="example_bytes is 0"):
        PaperMeter(0)


# XLA's buffer assignment


def compiled_adam_step(batch, donate):
    """An Adam step of a 20-30-5 perceptron with gates; its last argument is not used."""
    params = {
        "a": {"kernel": jnp.zeros((20, 30)), "bias": jnp.zeros(30)},
        "b": {"kernel": jnp.zeros((30, 5)), "bias": jnp.zeros(5)},
    }
    tx = optax.adam(1e-3)
    state = {"params": params, "gates": jnp.zeros(30), "moments": tx.init(params)}

    def step(state, x, y, unused):
        def loss(params, gates):
            hidden = jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"]) * gates
            return jnp.mean((hidden @ params["b"]["kernel"] + params["b"]["bias"] - y) ** 2)

        gradient, by_gate = jax.grad(loss, argnums=(0, 1))(state["params"], state["gates"])
        updates, moments = tx.update(gradient, state["moments"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "gates": state["gates"] - by_gate, "moments": moments}

    compiled = jax.jit(step, donate_argnums=(0,) if donate else ())
    shapes = [jax.ShapeDtypeStruct((batch, n), jnp.float32) for n in (20, 5, 1000)]
    return compiled.lower(state, *shapes).compile()


LABELS = (
    {"params": "params", "gates": "gates", "moments": "optimizer"},
    "batch",
    "batch",
    "nothing",
)
NUMBERS = 20 * 30 + 30 + 30 * 5 + 5


@pytest.mark.parametrize("donate", [True, False])
def test_bytes_of_a_compiled_adam_step_by_what_they_hold(donate):
    compiled = compiled_adam_step(batch=64, donate=donate)
    found = compiled_bytes(compiled, LABELS)
    assert found.arguments == {
        "params": 4 * NUMBERS,
        "gates": 4 * 30,
        "optimizer": 2 * 4 * NUMBERS + 4,  # two moments and the count
        "batch": 4 * 64 * 25,
        "nothing": 0,
    }
    analysis = compiled.memory_analysis()
    assert found.total == (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )
    state = 3 * 4 * NUMBERS + 4 + 4 * 30
    # Donated state is updated in place; otherwise it exists twice (and XLA keeps a table of them).
    assert found.outputs < 200 if donate else state <= found.outputs < state + 200
    assert 0 <= found.padding < 200
    assert found.temporaries > 0


def test_a_larger_batch_costs_its_examples_and_their_activations():
    small, large = (
        compiled_bytes(compiled_adam_step(batch, donate=True), LABELS) for batch in (64, 128)
    )
    assert large.arguments["batch"] == 2 * small.arguments["batch"]
    assert large.arguments["optimizer"] == small.arguments["optimizer"]
    assert large.temporaries - small.temporaries >= 64 * 30 * 4  # the hidden layer at least


def test_labels_that_do_not_fit_are_refused():
    compiled = compiled_adam_step(batch=64, donate=True)
    with pytest.raises(ValueError, match="labels do not fit the 4 arguments"):
        compiled_bytes(compiled, ("state", "batch"))
    by_name = jax.jit(lambda x: x + 1).lower(x=jnp.ones(3)).compile()
    with pytest.raises(ValueError, match="pass x by position"):
        compiled_bytes(by_name, ())
