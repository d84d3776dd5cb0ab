"""Draws from ranked layers, and from all rows together: what is decided in the run, and resumed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from adapting import ADAPT, KERNELS, check_resumed, chosen, kernels, start
from command_lines import fails
from small_runs import copy

from dynhp_jax.finetune import drawing, methods
from dynhp_jax.finetune.ranking import rank_layers
from dynhp_jax.training import config
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.run import extensions, loop
from experiments import train

PROGRAMS = Programs()
PLAIN = dataclasses.replace(ADAPT, optimizer=config.Optimizer(name="sgd", learning_rate=0.1))


def costs_of(trainer):
    return trainer.whole.extension.costs


def real(run):
    """Row numbers without padding."""
    sizes = {path: each.layout.count for path, each in run.state.own["rows"].items()}
    return {path: index[index < sizes[path]] for path, index in chosen(run).items()}


def test_pooled_draws_are_those_of_all_layers_together():
    """Counts rounded up to 4; a program for each capacities, kept; momenta of rows that stay."""
    settings = dataclasses.replace(
        ADAPT,
        optimizer=config.Optimizer(name="momentum", learning_rate=0.01),
        compiling=config.Compiling(ahead=False),
    )
    trainer, run = start(methods.Random(budget=300, capacity="pooled"), settings, Programs())
    rooms, compilations = set(), []
    for epoch in (1, 2, 3):
        before, _ = kernels(run)
        key = jax.random.fold_in(extensions.stream(0, "extension"), epoch)
        own = copy(extensions.begin_epoch(trainer, run).state.own)
        foreseen = run.network.extension.foreseen(own, key, epoch)  # of a uniform draw
        assert foreseen == run.network.extension.decided(own)
        run, record = loop.advance(trainer, run)
        expected = drawing.draw_pooled(key, costs_of(trainer), KERNELS, 300)
        found = real(run)
        for path in KERNELS:
            np.testing.assert_array_equal(found[path], expected.get(path, []))
            others = np.setdiff1d(np.arange(len(before[path])), found[path])
            after = kernels(run)[0][path]
            np.testing.assert_array_equal(after[others], before[path][others])
            assert (after[found[path]] != before[path][found[path]]).any(1).mean() > 0.5
        room = tuple(len(index) for index in chosen(run).values())
        assert room == tuple(-(-len(each) // 4) * 4 for each in found.values())
        assert 280 < record["extension_numbers"] <= 300
        rooms.add(room)
        compilations.append(record["compilations"])
    # Evaluation does not read rows: of other capacities a step alone is compiled.
    assert compilations[-1] - compilations[0] == len(rooms) - 1


def test_room_for_all_draws_is_one_program():
    """Two epochs begin, in the same shapes; nothing is trained."""
    trainer, run = start(methods.Random(budget=300, capacity="pooled-fixed"), programs=PROGRAMS)
    costs, rooms = costs_of(trainer), []
    for epoch in (0, 1):
        run = extensions.begin_epoch(trainer, dataclasses.replace(run, epoch=epoch))
        used = sum(costs[path].row * len(index) for path, index in real(run).items())
        assert 280 < used <= 300
        rooms.append({path: len(index) for path, index in chosen(run).items()})
    assert rooms[0] == rooms[1]
    assert sum(costs[path].row * room for path, room in rooms[0].items()) > 360


def test_layers_are_ranked_within_the_run_and_kept_in_the_checkpoint(tmp_path):
    """By norms of a copy that is trained whole, against the same by hand; pooled, too."""
    share = 0.9
    made = methods.MeDyate(budget=200, ranking=2, share=share, capacity="pooled")
    run, records = check_resumed(made, tmp_path, PLAIN)
    trainer, first = start(made, PLAIN, PROGRAMS)
    begun = copy(first.state.variables["params"])
    norms, costs = by_hand(trainer, first, 2), costs_of(trainer)
    layers = rank_layers(norms, costs, made.rule, 200, share)
    assert 0 < len(layers) < 2
    rows = real(run)
    assert {path for path, index in rows.items() if index.size} == set(layers)
    assert [record["extension_layers"] for record in records] == [1.0, 1.0]
    assert all(180 < record["extension_numbers"] <= 200 for record in records)
    (other,) = set(KERNELS) - set(layers)
    layer = other.split("/")[1]
    found = copy(run.state.variables["params"])[layer]["kernel"]
    np.testing.assert_array_equal(found, begun[layer]["kernel"])


def by_hand(trainer, run, epochs):
    """The sum over epochs of the norms of mean gradients, by row, with the model written out."""
    seen, batch = trainer.judged_on, run.batch_in_use
    key = jax.random.fold_in(extensions.stream(0, "extension"), 1)
    params = jax.tree.map(jnp.asarray, copy(run.state.variables["params"]))

    def loss(params, x, y):
        for layer in ("hidden_1", "hidden_2"):
            x = jax.nn.relu(x @ params[layer]["kernel"] + params[layer]["bias"])
        logits = x @ params["output"]["kernel"] + params["output"]["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    gradient = jax.jit(jax.grad(loss))
    norms = dict.fromkeys(KERNELS, 0.0)
    for epoch in range(epochs):
        order = jax.random.permutation(jax.random.fold_in(key, epoch), len(seen))
        found = []
        for k in range(len(seen) // batch):
            rows = np.asarray(order[k * batch : (k + 1) * batch])
            found.append(gradient(params, seen.inputs[rows], seen.targets[rows]))
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, found[-1])
        mean = jax.tree.map(lambda *each: np.mean(each, 0), *found)
        for path in KERNELS:
            layer = path.split("/")[1]
            norms[path] = norms[path] + np.linalg.norm(mean[layer]["kernel"], axis=1)
    return norms


@pytest.mark.parametrize(
    "text, said",
    [
        ("trady(budget=400, capacity='pool')", "capacity is 'pool'; allowed: 'quota', 'pooled',"),
        ("trady(budget=400, ranking=-1)", "ranking is -1; allowed: whole epochs, 0 or more"),
        ("trady(budget=400, share=2)", "share is 2; allowed: from 0 (the paper's) to 1"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_training(text, said, capfd):
    flags = ["--config=configs/digits.py", "--config.method=dense", "--workdir=runs/none"]
    assert said in fails(capfd, train.main, *flags, f"--config.extension={text}")
