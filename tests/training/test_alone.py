"""Members of a sweep take new mini-batches in the epochs in which their single runs do."""

import json

import jax
import pytest
from kept import Kept
from small_runs import DIGITS, go_on, make, start

from dynhp_jax.training import config
from dynhp_jax.training.run.checkpoint import Checkpoint
from dynhp_jax.training.sweep import resume_sweep
from dynhp_jax.training.sweep.team import Team

EPOCHS, MIDDLE = 11, 5
NUMBERS = ("batch_size", "steps", "wanted_batch", "next_batch", "parameters")


def members():
    """Of 100 epochs, in which a plan waits for two; units go and the mini-batch grows early on.

    The first one's mini-batch could grow while smaller arrays wait, and alone does not.
    """
    slow, fast = (config.Batch(alpha=alpha, grid=1.5) for alpha in (0.5, 0.2))
    base = {"epochs": 100, "compiling": config.Compiling(shrink=0.2)}
    return [
        make(seed=5, batch=slow, **base),
        make(batch=fast, penalty=config.Penalty(lam=4.0), **base),
    ]


def advance(team, everyone, epochs):
    """Where they come to, and for each epoch what was saved of it and the members' numbers."""
    history = []
    for _ in range(epochs):
        everyone, records = team.advance(everyone)
        numbers = [[record[name] for name in NUMBERS] for record in records]
        history.append((json.dumps(resume_sweep.host_part(everyone)), numbers))
    return everyone, history


@pytest.fixture(scope="module")
def team():
    return Team(members(), DIGITS, Kept())


@pytest.fixture(scope="module")
def together(team):
    """(the arrays in the middle, the history of all epochs)."""
    everyone, history = advance(team, team.start(), MIDDLE)
    kept = jax.tree.map(jax.numpy.array, everyone.state)
    return kept, history + advance(team, everyone, EPOCHS - MIDDLE)[1]


def test_a_mini_batch_grows_in_the_same_epoch_as_alone(together):
    _, history = together
    for k, settings in enumerate(members()):
        _, records = go_on(*start(settings), EPOCHS)
        for record, (_, numbers) in zip(records, history, strict=True):
            assert numbers[k] == [record[name] for name in NUMBERS], (k, record["epoch"])
        assert len({record["batch_size"] for record in records}) > 1, "no batch grew; test more"
        assert len({record["materialised"] for record in records}) > 1, "nothing was cut; test more"


def test_a_plan_that_is_pending_is_resumed(together, team):
    state, history = together
    host = json.loads(history[MIDDLE - 1][0])
    assert all(each["alone"]["plan"]["due"] > MIDDLE + 1 for each in host["members"]), (
        "no plan; test more"
    )
    again = Team(members(), DIGITS, team.programs)
    begun = resume_sweep.replicas_of(again, Checkpoint(MIDDLE, state, host))
    _, resumed = advance(again, begun, EPOCHS - MIDDLE)
    assert resumed == history[MIDDLE:]
