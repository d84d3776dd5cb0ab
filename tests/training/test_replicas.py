"""Runs side by side are the runs that they would have been alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kept import NEVER_CUT, Kept

from dynhp_jax import data
from dynhp_jax.common.errors import ConfigError
from dynhp_jax.training import config
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.run import loop
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step.objective import Examples
from dynhp_jax.training.step.state import empty_tally
from dynhp_jax.training.step.step import make_step
from dynhp_jax.training.sweep import resume_sweep, stacked
from dynhp_jax.training.sweep.team import Team

DIGITS = data.load("digits")
EPOCHS = 7


def make(**changes) -> Config:
    base = Config(
        epochs=EPOCHS,
        model=config.Model(hidden=(12, 7)),
        penalty=config.Penalty(lam=2.0),
        optimizer=config.Optimizer(learning_rate=5e-3),
        memory=config.Memory(sp_batch=64),
        batch=config.Batch(alpha=0.0, grid=2.0),
        # Single runs change their batch at once, as replicas do.
        compiling=config.Compiling(shrink=0.1, ahead=False),
    )
    return dataclasses.replace(base, **changes)


def alone(settings, programs):
    # Masked, never cut: one set of programs serves all members, and the reference is another way.
    whole = dataclasses.replace(settings, compiling=NEVER_CUT)
    trainer = Trainer(whole, DIGITS, programs)
    run, records = trainer.start(), []
    for _ in range(EPOCHS):
        run, record = loop.advance(trainer, run)
        records.append(record)
    return run, records


def together(settings, folder):
    """Trains; leaves a checkpoint of every epoch."""
    team = Team(settings, DIGITS, Programs())
    everyone, records = team.start(), [[] for _ in settings]
    for _ in range(EPOCHS):
        everyone, now = team.advance(everyone)
        for each, record in zip(records, now, strict=True):
            each.append(record)
        resume_sweep.save(everyone, folder / str(everyone.epoch))
    return team, everyone, records


def by_unit(state, keeps, sizes):
    """log_alpha of every unit of the whole network that is left, nan where it is not."""
    found = {}
    for name, values in state.gates.items():
        full = np.full(sizes[name], np.nan)
        full[keeps[name]] = np.where(np.asarray(state.masks[name]) > 0, values, np.nan)
        found[name] = full
    return found


def members(per_example=False):
    gates = config.Gates(per_example=per_example)
    return [
        make(seed=0, gates=gates),
        make(seed=5, gates=gates),
        make(seed=0, gates=gates, penalty=config.Penalty(lam=4.0)),
        make(seed=0, gates=gates, batch=config.Batch(alpha=0.6, grid=2.0)),
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder of checkpoints, their team, where it has come to, the members' records)."""
    folder = tmp_path_factory.mktemp("replicas")
    return folder, *together(members(), folder)


@pytest.mark.parametrize("per_example", [True, False])
def test_each_member_is_its_single_run(per_example, request, tmp_path):
    settings = members(per_example)
    if per_example:
        team, everyone, records = together(settings, tmp_path)
    else:
        _, team, everyone, records = request.getfixturevalue("trained")
    sizes = {name: group.size for name, group in team.whole.groups.items()}
    batches, shapes, programs = set(), set(), Kept()
    for k, each in enumerate(settings):
        run, expected = alone(each, programs)
        for mine, theirs in zip(records[k], expected, strict=True):
            for name in ("units", "parameters", "batch_size", "next_batch", "memory_kib", "steps"):
                assert mine[name] == theirs[name], (k, name)
            for name in ("train_loss", "cross_entropy", "penalty", "grad_variance"):
                np.testing.assert_allclose(mine[name], theirs[name], rtol=2e-3)
            np.testing.assert_allclose(mine["test_error"], theirs["test_error"], atol=0.6)
            batches.add((mine["epoch"], mine["batch_size"]))
            shapes.add(mine["materialised"])
        state = stacked.member_of(everyone.state, k)
        mine = by_unit(state, everyone.members[k].keeps, sizes)
        theirs = by_unit(run.state, run.keeps, sizes)
        for name in sizes:
            np.testing.assert_allclose(mine[name], theirs[name], atol=2e-3)
    assert len(batches) > EPOCHS, "all members had the same batches; test more"
    assert len(shapes) > 1, "nothing was cut; test more"


def test_resumed_replicas_are_the_uninterrupted_ones(trained):
    folder, team, _, records = trained
    another = Team(members(), DIGITS, Programs())
    begun = resume_sweep.replicas_of(another, resume_sweep.newest(another.lead, folder / "5"))
    assert begun.network.model != team.whole.model, "nothing was cut before; test more"
    resumed, same = another.advance(begun)
    clocks = {"seconds", "compile_seconds", "compilations"}
    for every, other in zip(records, same, strict=True):
        one = every[5]
        for name in one.keys() - clocks:
            assert one[name] == other[name], name
    after = resume_sweep.newest(another.lead, folder / "6")
    assert resume_sweep.host_part(resumed) == after.host
    for a, b in zip(jax.tree.leaves(after.state), jax.tree.leaves(resumed.state), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_common_keeps_hold_every_survivor_in_equal_numbers():
    team = Team([make(), make(seed=1)], DIGITS, Programs())
    rng = np.random.default_rng(0)
    masks = [
        {name: (rng.random(g.size) < p).astype(np.float32) for name, g in team.whole.groups.items()}
        for p in (0.3, 0.7)
    ]
    one, other = stacked.common_keeps(team.whole, masks)
    for name in team.whole.groups:
        assert one[name].size == other[name].size
        for keeps, mask in ((one, masks[0]), (other, masks[1])):
            assert set(np.flatnonzero(mask[name])) <= set(keeps[name])
            assert (np.diff(keeps[name]) > 0).all()
    union = np.flatnonzero(masks[0]["input"] + masks[1]["input"])
    np.testing.assert_array_equal(one["input"], union)
    np.testing.assert_array_equal(other["input"], union)
    assert one["hidden_1"].size == max(int(mask["hidden_1"].sum()) for mask in masks)


def test_padded_examples_weigh_nothing():
    """Whatever lies behind a short mini-batch, the update is the same."""
    team = Team(members()[:2], DIGITS, Programs())
    everyone = team.start()
    step = jax.jit(make_step(team.lead.steps.setup(everyone.network)))
    given = stacked.member_of(everyone.given, 0)
    split, rows = everyone.splits["train"], jnp.arange(24)

    def update(one, tally, rows, count):
        batch = Examples(split.inputs, split.targets, rows, count)
        return step(one, tally, batch, given)

    one = stacked.member_of(everyone.state, 0)
    tally = empty_tally(one, everyone.network.sums)
    for first in range(100, 1000, 10):  # moments and means that are no longer zero
        one, _ = update(one, tally, first + rows[:10], None)
    exact = update(one, tally, rows[:10], None)
    for behind in (rows[10:], jnp.full(14, 700)):
        padded = update(one, tally, jnp.concatenate([rows[:10], behind]), jnp.int32(10))
        for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(padded), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "other, field",
    [
        (make(batch=config.Batch(size=32)), "batch.size"),
        (make(model=config.Model(hidden=(12, 8))), "model.hidden"),
        (make(method="hp"), "method"),
    ],
)
def test_members_that_need_other_programs_are_refused(other, field):
    with pytest.raises(ConfigError, match=f"config.{field} is .* for all members"):
        Team([make(), other], DIGITS, Programs())


def test_what_is_not_done_side_by_side_is_refused():
    xla = make(memory=config.Memory(meter="xla"))
    with pytest.raises(ConfigError, match="memory.meter.*'paper' in a sweep"):
        Team([xla], DIGITS, Programs())
    mixing = make(model=config.Model(name="resnet", width=0.25, depth=8))
    with pytest.raises(ConfigError, match="batch.rule.*'fixed' in a sweep"):
        Team([mixing], DIGITS, Programs())
