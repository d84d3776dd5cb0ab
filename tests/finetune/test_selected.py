"""Chosen input channels: their gradient is the slice of the whole one, and nothing else changes."""

import collections
import functools
import json
import math
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import selection
from architectures import Case, Seeded, random_case
from foreign import cases

from dynhp_jax.batch_size.probed import probed
from dynhp_jax.common.errors import UserError
from dynhp_jax.finetune import (
    apply_rows,
    by_row,
    channel_costs,
    draw,
    move,
    pad_rows,
    quotas,
    selected,
    take_rows,
    zero_probes,
)
from dynhp_jax.gates.gated import gated
from dynhp_jax.models import registry
from dynhp_jax.structure.find import find_groups

NOTES = Path(__file__).resolve().parents[2] / "results" / "properties" / "selected_rows.json"
CHOICES = 3  # of rows, for each architecture: values of one program
TOLERANCE = 1e-12


def run(seeds):
    """Checks the architectures of some seeds; what was found, as it is noted."""
    start, worst, failures = time.time(), 0.0, []
    kinds, counts = collections.Counter(), collections.Counter()
    for seed in seeds:
        draws = Seeded(seed)
        case = random_case(draws)
        try:
            found = selection.check(case, draws, CHOICES)
        except Exception as problem:  # noted; the long run goes on
            found = {"error": math.nan, "kernels": [], "refused": 0, "choices": repr(problem)}
        if not found["error"] < TOLERANCE:
            failures.append({"seed": seed, "blocks": case.blocks, **found})
            continue
        kinds.update(found["kernels"])
        counts.update(cases=found["choices"], architectures=1, refused=found["refused"])
        worst = max(worst, found["error"])
    seconds = round(time.time() - start, 1)
    return {**counts, "error": worst, "failures": failures, "kinds": kinds, "seconds": seconds}


def test_rows_of_random_architectures(x64):
    """At least 200 choices: gradients are slices, and those of all else stay the same."""
    found = run(range(70))
    assert not found["failures"]
    assert found["cases"] >= 200
    assert {"dense", "convolution", "depthwise", "grouped", "dense in steps"} <= set(found["kinds"])
    assert found["refused"] > 70  # tied, low rank, looked up


@pytest.mark.slow
def test_rows_in_the_long_run(x64):
    """`DYNHP_PROPERTY_CASES=3000 python -m pytest tests/finetune/test_selected.py -m slow`."""
    wanted = int(os.environ.get("DYNHP_PROPERTY_CASES", "0"))
    if not wanted:
        pytest.skip("set DYNHP_PROPERTY_CASES to the number of cases")
    done = json.loads(NOTES.read_text()) if NOTES.exists() else {"cases": 0, "seeds": 0}
    while done["cases"] < wanted:
        first = done["seeds"]
        more = run(range(first, first + 25))
        jax.clear_caches()
        for name in ("cases", "architectures", "refused", "failures", "seconds"):
            more[name] = done.get(name, type(more[name])()) + more[name]
        more["kinds"] = dict(collections.Counter(done.get("kinds", {})) + more["kinds"])
        more["error"] = max(done.get("error", 0.0), more["error"])
        command = f"DYNHP_PROPERTY_CASES={wanted} python -m pytest {TESTS} -m slow"
        done = {**more, "seeds": first + 25, "tolerance": TOLERANCE, "command": command,
                "jax": jax.__version__, "choices of each architecture": CHOICES}  # fmt: skip
        NOTES.parent.mkdir(parents=True, exist_ok=True)
        NOTES.write_text(json.dumps(done, indent=1, sort_keys=True) + "\n")
    assert not done["failures"]


TESTS = "tests/finetune/test_selected.py"
FOREIGN = ("transformer", "convnext", "scanned", "gru", "nnx_cnn", "plain_glu", "plain_rotary")


def arrays(shapes):
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: rng.uniform(0.1, 0.5, leaf.shape), shapes)


@pytest.mark.parametrize("name", FOREIGN)
def test_models_of_others(x64, name):
    apply, variables, inputs = cases.CASES[name]()
    case = Case(apply, arrays(variables), inputs, [name])
    assert len(selection.check(case, Seeded(0))["kernels"]) >= 3


def test_a_vision_transformer(x64):
    net = registry.build("vit", (8, 8, 3), 5, depth=2, width=0.25).module()
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
    variables = jax.eval_shape(net.init, jax.random.key(0), x)
    case = Case(lambda v, x: net.apply(v, x), arrays(variables), (x,), ["vit"])
    assert len(selection.check(case, Seeded(0))["kernels"]) >= 12


def convolution(x, w, **options):
    options = {"window_strides": (1, 1), "padding": "SAME"} | options
    return jax.lax.conv_general_dilated(x, w, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


FORMS = {  # shape of the kernel, options
    "strided": ((3, 3, 8, 6), {"window_strides": (2, 2)}),
    "dilated": ((3, 3, 8, 6), {"rhs_dilation": (2, 2)}),
    "transposed": ((3, 3, 8, 6), {"lhs_dilation": (2, 2), "padding": ((2, 1), (1, 2))}),
    "depthwise": ((3, 3, 1, 8), {"feature_group_count": 8}),
    "depthwise, twice": ((3, 3, 1, 16), {"feature_group_count": 8}),
    "grouped": ((3, 3, 4, 6), {"feature_group_count": 2}),
}


@pytest.mark.parametrize("form", FORMS)
def test_gradients_in_float32_are_slices(form, optimised):
    shape, options = FORMS[form]
    rng = np.random.default_rng(1)
    params = {"w": jnp.asarray(rng.normal(size=shape), "f4")}
    x = jnp.asarray(rng.normal(size=(4, 9, 7, 8)), "f4")

    def apply(p, x):
        return convolution(jnp.sin(x), p["w"], **options)

    costs = channel_costs(apply, params, x, prefix="")
    rows = pad_rows({"w": [0, costs["w"].channels - 1]}, costs, {"w": 3})
    function = selected(apply, rows)
    weights = jnp.asarray(rng.normal(size=apply(params, x).shape), "f4")
    whole, of_x = jax.jit(jax.grad(lambda p, x: jnp.sum(weights * apply(p, x)), (0, 1)))(params, x)

    def of_rows(probes, x, params):  # as a constant the kernel would be folded into other programs
        return jnp.sum(weights * function(params, rows, probes, x))

    some, of_x_too = jax.jit(jax.grad(of_rows, (0, 1)))(zero_probes(params, rows), x, params)
    np.testing.assert_array_equal(of_x, of_x_too)
    wanted = take_rows(whole, rows)["w"]
    error = np.abs(some["w"] - wanted).max() / np.abs(whole["w"]).max()
    assert error <= 1e-6
    if form == "strided":  # others sum up in another order when there are fewer channels
        assert error == 0
    assert not jnp.take(some["w"], 2, axis=costs["w"].layout.at).any()


def network():
    """Two layers; params, a mini-batch, costs."""

    def apply(params, x):
        return jax.nn.relu(x @ params["in"]) @ params["out"]

    rng = np.random.default_rng(0)
    params = {
        "in": rng.normal(size=(6, 5)).astype("f4"),
        "out": rng.normal(size=(5, 3)).astype("f4"),
    }
    x = rng.normal(size=(8, 6)).astype("f4")
    return apply, params, x, channel_costs(apply, params, x, prefix="")


def test_a_new_choice_compiles_nothing():
    apply, params, x, costs = network()
    some = quotas(costs, ["in", "out"], 30)
    function, traces = selected(apply, some), []

    @functools.partial(jax.jit, donate_argnums=0)
    def step(params, rows, x):
        traces.append(1)
        probes = zero_probes(params, rows)
        gradients = jax.grad(lambda probes: jnp.sum(function(params, rows, probes, x) ** 2))(probes)
        return apply_rows(params, rows, jax.tree.map(lambda g: -1e-3 * g, gradients))

    for epoch in range(20):
        rows = draw(jax.random.key(epoch), some)
        before = {name: np.array(leaf) for name, leaf in params.items()}
        params = step(jax.tree.map(jnp.asarray, params), rows, x)
        for path, each in rows.items():
            changed = np.flatnonzero((before[path] != params[path]).any(1))
            assert set(changed) <= set(np.asarray(each.index).tolist())
        assert sum(rows[path].capacity * costs[path].row for path in rows) <= 30
    assert len(traces) == step._cache_size() == 1


def test_errors_say_what_there_is():
    apply, params, x, costs = network()
    rows = pad_rows({"in": [1]}, costs, None)
    probes = zero_probes(params, rows)
    tied = {"w": params["in"]}
    call = functools.partial(selected, apply)
    for problem, why in (
        (
            lambda: call({"inn": 1})(params, rows, probes, x),
            "no kernel 'inn'; the nearest are 'in'",
        ),
        (lambda: call({})(params, {}, {}, x), "no kernel is chosen"),
        (lambda: call({"in": 1})(params, {}, probes, x), "no rows of kernel 'in'"),
        (
            lambda: call({"in": 1})(params, rows, {"in": np.zeros((2, 5))}, x),
            r"give zeros of \(1, 5",
        ),
        (
            lambda: selected(lambda p, x: x @ p["w"] @ p["w"].T, {"w": 1})(tied, rows, probes, x),
            "no rows of 'w' can be chosen: it is read along different axes",
        ),
        (
            lambda: selected(lambda p, x: x + p["w"][0].sum(), {})(tied, {}, {}, x),
            "nothing to select",
        ),
        (lambda: pad_rows({"in": [6]}, costs, None), "distinct numbers from 0 to 5"),
        (lambda: pad_rows({"in": [1, 1]}, costs, None), "distinct numbers"),
        (lambda: pad_rows({"in": [1, 2]}, costs, {"in": 1}), "with room for 1"),
    ):
        with pytest.raises(UserError, match=why) as error:
            problem()
        assert "\n" not in str(error.value)


def test_gates_and_norms_of_examples_of_the_chosen_rows(x64):
    """In any order one trace: gates multiply what is read, norms are those of the rows."""
    apply, params, x, costs = network()
    params, x = jax.tree.map(lambda leaf: leaf.astype("f8"), (params, x))
    groups = find_groups(apply, params, x)
    gates = {"in": np.linspace(0.5, 1.5, 5), "input": np.linspace(1.0, 2.0, 6)}
    rows = pad_rows({"in": [0, 4], "out": [3, 1, 2]}, costs, {"in": 3, "out": 3})
    probes, probe = zero_probes(params, rows), jnp.zeros(8)

    def loss(out):
        return jnp.mean(jnp.sum(jnp.sin(out), 1))

    forms = [
        lambda p, q, g: probed(selected(gated(apply, groups), rows), "")(params, p, rows, q, g, x),
        lambda p, q, g: gated(selected(probed(apply, ""), rows), groups)(params, g, rows, q, p, x),
        lambda p, q, g: selected(gated(probed(apply, ""), groups), rows)(params, rows, q, g, p, x),
    ]

    def alone(params, gates, x):
        gated_params = {
            "in": params["in"] * gates["input"][:, None],
            "out": params["out"] * gates["in"][:, None],
        }
        return apply(gated_params, x)

    def of_one(params, x):
        return jnp.sum(jnp.sin(alone(params, gates, x[None])[0]))

    each = jax.vmap(jax.grad(of_one), (None, 0))(params, x)
    whole = jax.grad(lambda p, g: loss(alone(p, g, x)), (0, 1))(params, gates)
    norms = sum(jnp.sum(each[name][:, list(n)] ** 2, (1, 2)) for name, n in
                (("in", (0, 4)), ("out", (1, 2, 3))))  # fmt: skip
    for form in forms:
        of_examples, of_rows, of_gates = jax.grad(
            lambda p, q, g, form=form: loss(form(p, q, g)), (0, 1, 2)
        )(probe, probes, gates)
        np.testing.assert_allclose(of_examples, norms / 64, rtol=1e-12)
        for name in gates:
            np.testing.assert_allclose(of_gates[name], whole[1][name], rtol=1e-10)
        wanted = take_rows(whole[0], rows)
        for name in probes:
            np.testing.assert_allclose(of_rows[name], wanted[name], rtol=1e-12)


def optimizers(rows):
    return {
        "momentum": optax.sgd(0.1, momentum=0.9),
        "adam": optax.adam(0.1),
        "adam by row": optax.chain(by_row(optax.scale_by_adam(), rows), optax.scale(-0.1)),
        "lion": optax.lion(0.1),
    }


@pytest.mark.parametrize("name", ["momentum", "adam", "adam by row", "lion"])
def test_rows_that_stay_keep_their_state(name):
    """The update of such a row is that of an optimizer that kept the state of all rows."""
    apply, params, x, costs = network()
    choices = [{"in": [0, 2, 5]}, {"in": [5, 1, 2]}, {"in": [3, 4, 5]}]
    rows = [pad_rows(each, costs, {"in": 4}) for each in choices]
    rng = np.random.default_rng(5)
    gradients = [rng.normal(size=(6, 5)).astype("f4") for _ in range(6)]
    probes = zero_probes(params, rows[0])
    tx = optimizers(rows[0])[name]
    state = tx.init(probes)
    every = optax.adam(0.1) if name == "adam by row" else tx
    # One optimizer for each row, which starts where the row is first chosen and keeps its state.
    own, before = {}, rows[0]
    for k, gradient in enumerate(gradients):
        now, chosen = rows[k // 2], choices[k // 2]["in"]
        if k % 2 == 0 and k:
            state = jax.jit(lambda s, a, b: move(tx, s, probes, a, b, restart=False))(
                state, before, now
            )
            own = {row: own[row] for row in chosen if row in own}  # who leaves starts anew
        before = now
        updates, state = tx.update(take_rows({"in": gradient}, now), state, probes)
        index = np.asarray(now["in"].index).tolist()
        for row in chosen:
            if row not in own:
                own[row] = every.init(jnp.zeros(5)), k
            update, changed = every.update(jnp.asarray(gradient[row]), own[row][0], jnp.zeros(5))
            own[row] = changed, own[row][1]
            # Of plain Adam only rows that were there from the start have its count.
            if name != "adam" or own[row][1] == 0:
                np.testing.assert_array_equal(updates["in"][index.index(row)], update)


def test_adam_starts_anew_unless_told_otherwise():
    _, params, _, costs = network()
    old, new = (pad_rows({"in": each}, costs, None) for each in ([0, 1], [1, 2]))
    probes = zero_probes(params, old)
    tx = optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(lambda n: 0.1 / (1 + n)))
    _, state = tx.update({"in": jnp.ones((2, 5))}, tx.init(probes))
    adam, schedule = move(tx, state, probes, old, new)
    assert (adam.count, schedule.count) == (0, 1)
    assert not adam.mu["in"].any()
    adam, _ = move(tx, state, probes, old, new, restart=False)
    assert adam.count == 1
    assert (adam.mu["in"] != 0).any(1).tolist() == [True, False]


def test_states_that_do_not_have_the_rows_shape():
    _, params, _, costs = network()
    rows = pad_rows({"in": [0, 1]}, costs, None)
    tx = optax.adafactor(0.1, min_dim_size_to_factor=1)
    probes = zero_probes(params, rows)
    with pytest.raises(ValueError, match="cannot be moved"):
        move(tx, tx.init(probes), probes, rows, rows)
