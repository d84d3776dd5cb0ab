"""Units that go by a criterion within a run: what goes when, and that nothing else changes."""

import dataclasses
import re
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynhp_jax.common.errors import ConfigError, UserError
from dynhp_jax.pruning.criteria import parse, registry
from dynhp_jax.pruning.options import ScoreOptions
from dynhp_jax.pruning.targets import Units
from dynhp_jax.structure.find import find_groups
from dynhp_jax.training import build
from dynhp_jax.training import config as configuration
from dynhp_jax.training.compiled.budget import Exceeded
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.compiled.scorer import Scorer
from dynhp_jax.training.config import Config
from dynhp_jax.training.run import loop, prune_by_criterion, resume
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.sweep.team import Team

FIELDS = {
    "epochs": 4,
    "data": configuration.Data(examples=300, validation=0.2),
    "model": configuration.Model(hidden=(24, 12)),
    "memory": configuration.Memory(sp_batch=50),
    "compiling": configuration.Compiling(shrink=0.999),  # masked to the end: one set of programs
}


def of(method="scores", **scores):
    return Config(method=method, scores=ScoreOptions(**scores), **FIELDS)


@pytest.fixture(scope="module")
def dataset():
    return build.dataset_of(of())


@pytest.fixture(scope="module")
def programs():
    return Programs()


def trained(config, dataset, programs, epochs=None):
    trainer = Trainer(config, dataset, programs)
    run, records = trainer.start(), []
    for _ in range(epochs or config.epochs):
        run, record = loop.advance(trainer, run)
        records.append(record)
    return trainer, run, records


def test_until_units_go_it_is_dense_training(dataset, programs):
    _, _, dense = trained(of("dense"), dataset, Programs(), 3)
    _, _, ours = trained(of(criterion="l1", start=3), dataset, programs, 3)
    for name in ("train_loss", "test_cross_entropy"):
        found, expected = ([record[name] for record in each] for each in (ours, dense))
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_goes_are_the_lowest_of_the_criterion_until_the_target_is_met(dataset, programs):
    config = of(criterion="l1(members='made', scale='none')", of="units", fraction=0.4, scale="max")
    trainer = Trainer(config, dataset, programs)
    run = trainer.start()
    params = jax.device_get(run.state.variables["params"])
    strengths = {
        "input": np.abs(params["hidden_1"]["kernel"]).sum(1),
        "hidden_1": np.abs(params["hidden_1"]["kernel"]).sum(0),
        "hidden_2": np.abs(params["hidden_2"]["kernel"]).sum(0),
    }
    strengths = {name: each / each.max() for name, each in strengths.items()}
    lowest = np.sort(np.concatenate(list(strengths.values())))[100 - 60]  # 60 of 100 stay
    masks = prune_by_criterion.prune(trainer, run).state.masks
    for name, each in strengths.items():
        np.testing.assert_array_equal(np.asarray(masks[name]), each >= lowest)
    assert sum(float(mask.sum()) for mask in masks.values()) == 60


def test_a_masked_run_trains_as_the_cut_one(dataset, programs):
    """Fine-tuned under masks, and on arrays that were cut: the same network."""
    asked = {"criterion": "taylor", "fraction": 0.7, "start": 1}
    never, at_once = (
        dataclasses.replace(of(**asked), compiling=configuration.Compiling(**shapes))
        for shapes in ({"shrink": 0.999}, {"shrink": 0.1, "ahead": False})
    )
    trainer, _, records = trained(never, dataset, programs)
    assert records[0]["parameters"] == trainer.whole_parameters
    assert records[1]["parameters"] <= 0.3 * trainer.whole_parameters
    assert records[-1]["materialised"] == trainer.whole_parameters
    _, _, cut = trained(at_once, dataset, Programs())
    assert cut[-1]["materialised"] == records[-1]["parameters"] == cut[-1]["parameters"]
    for ours, theirs in zip(records, cut, strict=True):
        assert ours["units"] == theirs["units"]
        assert ours["test_cross_entropy"] == pytest.approx(theirs["test_cross_entropy"], rel=1e-4)


@pytest.mark.parametrize("schedule", ["cubic", "each_epoch"])
def test_little_by_little_a_criterion_scores_what_is_left(dataset, programs, schedule):
    config = of(criterion="fisher", fraction=0.8, schedule=schedule, start=1, end=3)
    trainer, run, records = trained(config, dataset, programs)
    left = [record["parameters"] for record in records]
    whole = trainer.whole_parameters
    assert left[0] == whole and left[1] >= left[2] > left[3]
    assert left[3] <= 0.2 * whole
    if schedule == "each_epoch":  # the same share each time
        for k in (1, 2, 3):
            assert left[k] <= round(whole * 0.2 ** (k / 3)) < 1.3 * left[k]
    else:
        assert left[1] == whole and left[2] <= round(whole * (0.2 + 0.8 / 8))
    # A second look at the same epoch takes nothing more, and scores nothing.
    again = dataclasses.replace(run, epoch=3)
    assert prune_by_criterion.prune(trainer, again) is again


def test_evidence_of_a_pruned_run_is_that_of_the_network_that_is_left(dataset, programs):
    trainer, run, _ = trained(of(criterion="random", fraction=0.5), dataset, programs, 1)
    found = prune_by_criterion.scored(trainer, run)
    network, seen = found.network, found.evidence
    assert found.copied and found.state is run.state
    living = prune_by_criterion.survivors(run)
    assert {name: group.size for name, group in network.groups.items()} == {
        name: keep.size for name, keep in living.items()
    }
    count = min(512, len(dataset.y_validation))
    assert seen.inputs[0].shape == (count, living["input"].size)
    np.testing.assert_array_equal(seen.labels, dataset.y_validation[:count])
    x = dataset.x_validation[:count].reshape(count, -1).astype(np.float64)
    params = jax.tree.map(np.float64, jax.device_get(run.state.variables["params"]))
    for layer, group in (("hidden_1", "input"), ("hidden_2", "hidden_1"), ("output", "hidden_2")):
        dead = np.setdiff1d(np.arange(x.shape[1]), living[group])
        x[:, dead] = 0
        x = x @ params[layer]["kernel"] + params[layer]["bias"]
        x = np.maximum(x, 0) if layer != "output" else x
    np.testing.assert_allclose(network.evaluate(seen.variables, *seen.inputs), x, atol=1e-4)


def goes_on_as(trainer, checkpoints, records, run):
    """Resumed from its newest checkpoint a run has these records and ends like `run`."""
    found = resume.run_of(trainer, resume.newest(trainer, checkpoints))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found.earlier))
    for record in records:
        found, now = loop.advance(trainer, found)
        assert now["test_cross_entropy"] == record["test_cross_entropy"]
        assert now["units"] == record["units"]
    jax.tree.map(np.testing.assert_array_equal, found.state, run.state)
    jax.tree.map(np.testing.assert_array_equal, found.earlier, run.earlier)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(dataset, programs, tmp_path):
    config = of(criterion="random", fraction=0.6, schedule="each_epoch", start=1, end=3)
    config = dataclasses.replace(config, compiling=configuration.Compiling())  # it is cut, too
    trainer, run, records = trained(config, dataset, programs)
    _, half, _ = trained(config, dataset, programs, 2)
    resume.save(trainer, half, tmp_path)
    goes_on_as(Trainer(config, dataset, programs), tmp_path, records[2:], run)


OWN = """
    import dataclasses

    import jax.numpy as jnp


    @dataclasses.dataclass(frozen=True)
    class LargestWeight:
        which: str = "made"

        def scores(self, evidence):
            kernels = {name: evidence.kernels(name, self.which) for name in evidence.scored}
            return {name: jnp.abs(each[0]).max(axis=1) for name, each in kernels.items()}
"""


def test_a_criterion_of_ones_own_prunes_in_training(dataset, programs, tmp_path, monkeypatch):
    (tmp_path / "own_criterion.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(tmp_path)
    config = of(criterion="own_criterion:LargestWeight(which='read')", fraction=0.5, start=1)
    trainer, run, records = trained(config, dataset, programs, 2)
    assert trainer.criterion == sys.modules["own_criterion"].LargestWeight("read")
    assert records[1]["parameters"] <= 0.5 * trainer.whole_parameters
    kernel = np.asarray(trainer.start().state.variables["params"]["hidden_2"]["kernel"])
    assert kernel.shape == (24, 12)  # what 'read' reads of hidden_1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("l7", r"there is no criterion 'l7'; allowed: .*'?taylor"),
        ("l1(member='made')", r"'l1' has no option 'member'"),
        ("l1(members='x')", r"criterion.members is 'x'; allowed"),
        ("flexrel(magnitude='l1')", r"criterion.magnitude is 'l1'; allowed: a L1, in Python"),
        ("l1(members='made', members='read')", r"are not option=value"),
        ("l1('made')", r"are not option=value"),
        ("l1(members=made)", r"are not option=value"),
        ("l1(", r"names no criterion"),
        ("nowhere_at_all:C", r"there is no module 'nowhere_at_all'"),
        ("dynhp_jax.nowhere:C", r"there is no module 'dynhp_jax.nowhere'"),
        (
            "dynhp_jax.pruning.criteria.l1:L7",
            r"the module 'dynhp_jax.pruning.criteria.l1' has no 'L7'",
        ),
        ("dynhp_jax.pruning.criteria.l1:L1(a=1)", r"cannot be made: .*'a'"),
        ("fractions:Fraction", r"has no method scores"),
    ],
)
def test_texts_that_name_no_criterion(text, said):
    with pytest.raises(UserError, match=said) as caught:
        parse.parse(text)
    assert "\n" not in str(caught.value)


def test_names_and_options_come_through():
    assert parse.parse("taylor") == registry.get_criterion("taylor")
    assert parse.parse(" flexrel(delta=0.25, weights='table') ") == registry.get_criterion(
        "flexrel", delta=0.25, weights="table"
    )


def test_schedules_that_do_not_end_within_the_run_are_refused(dataset):
    with pytest.raises(ConfigError, match="config.scores.start is 4; allowed: less than the 4"):
        of(criterion="l1", start=4)
    with pytest.raises(ConfigError, match="config.scores.end is 10"):
        of(criterion="l1", schedule="cubic")
    with pytest.raises(ConfigError, match="config.scores.end is 2; allowed: more than"):
        of(criterion="l1", schedule="each_epoch", start=2, end=2)
    with pytest.raises(ConfigError, match="config.scores.fraction is 1.0"):
        ScoreOptions(fraction=1.0)
    assert of(start=9).scores.start == 9  # without a criterion nothing goes
    with pytest.raises(ConfigError, match="config.method is 'scores'"):
        Team([of(criterion="l1")], dataset, Programs())


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"criterion": "velocity", "start": 1},
            "config.scores.start is 1; allowed: 2 or more: 'vel",
        ),
        ({"criterion": "batch_norm"}, "config.scores.criterion is 'batch_norm'; allowed: one that"),
        ({"criterion": "activation"}, "config.scores.criterion is 'activation'; allowed: one that"),
    ],
)
def test_a_criterion_that_cannot_score_a_run_is_refused_before_it(asked, said, dataset, programs):
    trainer = Trainer(of(**asked), dataset, programs)
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        trainer.start()
    assert "\n" not in str(caught.value)


def test_all_other_criteria_can_score_a_run(dataset, programs):
    for name in registry.CRITERIA.keys() - {"activation", "batch_norm"}:
        Trainer(of(criterion=name, start=2), dataset, programs).start()


@pytest.mark.parametrize("cuts", [False, True])
def test_velocity_looks_at_the_networks_of_earlier_epochs(cuts, dataset, programs, tmp_path):
    """Also where arrays are cut and the run is resumed in between, bit for bit."""
    config = of(criterion="velocity", fraction=0.6, schedule="each_epoch", start=2, end=3)
    config = dataclasses.replace(config, epochs=6, gates=configuration.Gates(inputs=False))
    if cuts:
        _, _, masked = trained(config, dataset, programs)
        at_once = configuration.Compiling(shrink=0.1, ahead=False)
        config = dataclasses.replace(config, compiling=at_once)
    trainer = Trainer(config, dataset, programs)
    run, records, seen = trainer.start(), [], []
    for epoch in range(6):
        seen.insert(0, jax.tree.map(np.array, run.state.variables))
        if not cuts:  # arrays of one size: what the run keeps is what was there
            jax.tree.map(np.testing.assert_array_equal, run.earlier, tuple(seen[1:3]))
        if epoch == 3:
            resume.save(trainer, run, tmp_path)
        run, record = loop.advance(trainer, run)
        records.append(record)
    units = [sum(record["units"].values()) for record in records]
    assert units[1] == 36 > units[2] > units[3] == units[5]
    if cuts:
        assert records[3]["materialised"] < records[2]["materialised"] == trainer.whole_parameters
        assert [record["units"] for record in records] == [record["units"] for record in masked]
    goes_on_as(Trainer(config, dataset, programs), tmp_path, records[3:], run)


def test_units_are_those_of_all_groups():
    params = {"a": jnp.ones((4, 6)), "b": jnp.ones((6, 2))}
    groups = find_groups(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, jnp.ones((8, 4)))
    assert Units(1).measure(groups, {}) == 10
    assert Units(1).measure(groups, {"a": np.array([0, 3])}) == 6


@dataclasses.dataclass(frozen=True)
class AtOnce:
    """A user's own that looks at all examples at once."""

    def scores(self, evidence):
        return registry.get_criterion("taylor").scores(evidence)


def within(limit):
    """A run that is scored three times, its arrays cut in between."""
    config = of(criterion="taylor", fraction=0.6, schedule="each_epoch", start=1, end=3)
    return dataclasses.replace(
        config,
        memory=configuration.Memory("xla", f"{limit}"),
        compiling=configuration.Compiling(shrink=0.4, ahead=False),
        batch=configuration.Batch(size=8),
    )


@pytest.fixture(scope="module")
def limit(dataset, programs):
    """Bytes that leave room for some of the examples, not for all."""
    free = Trainer(within("none"), dataset, programs).budget
    return round(1.25 * free.step_bytes(free.whole, 8))


def test_inside_a_budget_examples_are_scored_in_chunks(dataset, programs, limit, tmp_path):
    """Nothing takes more, and a resumed run is the uninterrupted one, bit for bit."""
    config = within(limit)
    trainer, run, records = trained(config, dataset, programs)
    assert 1 <= run.score_chunk < len(dataset.y_validation)
    kinds = [set(record["allocated"]) for record in records]
    every = {"order", "training", "test", "validation"}
    assert kinds[0] == every | {"initial_state"}
    assert all(kind - {"surgery"} == every | {"scoring"} for kind in kinds[1:])
    assert any("surgery" in kind for kind in kinds)
    for record in records:
        sums = [sum(parts.values()) for parts in record["allocated"].values()]
        assert record["allocated_kib"] == max(sums) / 1024 <= limit / 1024
    _, half, _ = trained(config, dataset, programs, 2)
    resume.save(trainer, half, tmp_path)
    goes_on_as(Trainer(config, dataset, Programs()), tmp_path, records[2:], run)
    # Without a budget the same units go, scored on all examples at once.
    _, whole, free = trained(within("none"), dataset, programs, 2)
    assert free[1]["units"] == records[1]["units"] and whole.score_chunk > run.score_chunk


def test_a_criterion_for_which_a_budget_has_no_room_is_refused_before_the_run(
    dataset, programs, limit
):
    trainer = Trainer(within(limit), dataset, programs)
    least = trainer.scorer.check(trainer.whole, 60, False)
    whole = Scorer(AtOnce(), trainer.budget, "own:AtOnce")
    said = (
        rf"config.memory.budget is '{limit}'; allowed: at least (\d+.\d)KiB, which scoring by "
        r"'own:AtOnce' takes of all 60 examples at once; or config.scores.examples=(\d+)$"
    )
    with pytest.raises(ConfigError, match=said) as caught:
        whole.check(trainer.whole, 60, False)
    enough, fewer = re.search(said, str(caught.value)).groups()
    assert whole.check(trainer.whole, int(fewer), False) == int(fewer) >= least // 2
    more = Trainer(within(f"{enough}KiB"), dataset, programs)
    assert Scorer(AtOnce(), more.budget).check(more.whole, 60, False) == 60
    run = dataclasses.replace(trainer.start(), epoch=1)
    trainer.budget.bytes = 1000
    with pytest.raises(ConfigError, match="at least .*KiB, which scoring by 'taylor' takes of one"):
        trainer.scorer.check(trainer.whole, 60, True)
    with pytest.raises(Exceeded, match="scoring .*takes"):
        prune_by_criterion.prune(trainer, run)
