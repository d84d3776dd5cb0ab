"""Methods whose budget is in bytes of the training step: as much as fits, or one line."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from command_lines import fails
from small_runs import DIGITS, copy

from dynhp_jax.common.errors import UserError
from dynhp_jax.finetune import methods
from dynhp_jax.pruning.options import ScoreOptions
from dynhp_jax.training import config
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.compiled.step_bytes import total
from dynhp_jax.training.config import Config
from dynhp_jax.training.run import loop, resume
from dynhp_jax.training.run.trainer import Trainer
from experiments import train

SETTINGS = Config(
    method="dense",
    epochs=2,
    data=config.Data(examples=128),
    model=config.Model(hidden=(40, 30)),
    batch=config.Batch(size=64),
    memory=config.Memory("xla", "none"),
)
FEW = dataclasses.replace(DIGITS, x_train=DIGITS.x_train[:128], y_train=DIGITS.y_train[:128])
PROGRAMS = Programs()


def trainer(budget):
    return Trainer(SETTINGS, FEW, PROGRAMS, extension=methods.TraDy(budget=budget))


def bytes_of(numbers):
    found = trainer(numbers)
    return total(found.steps.training_bytes(found.whole, 64))


def test_as_many_rows_are_trained_as_the_bytes_allow():
    least, most = bytes_of(31), bytes_of(10**6)
    budget = (least + most) // 2
    found = trainer(f"{budget}B")
    size = total(found.steps.training_bytes(found.whole, 64))
    assert 0.97 * budget < size <= budget
    assert found.whole.unbound.budget > 31  # in numbers now
    run = found.start()
    for _ in range(2):
        run, record = loop.advance(found, run)
        assert sum(record["allocated"]["training"].values()) <= budget
    assert record["extension_numbers"] <= found.whole.unbound.budget
    with pytest.raises(UserError) as refused:
        trainer(f"{least - 1024}B")
    said = str(refused.value)
    assert f"the least that works is {-(-least * 10 // 1024) / 10}KiB" in said and "\n" not in said
    assert trainer(f"{10 * most}B").whole.unbound.budget >= 3000  # everything


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trady(budget='4 stones')", "budget is '4 stones'; allowed: numbers of one example"),
        ("trady(budget='4MiB')", "config.memory.meter is 'paper'; allowed: 'xla', as the ext"),
    ],
)
def test_what_cannot_be_metered_is_said_before_training(text, said, capfd):
    flags = ["--config=configs/digits.py", "--config.method=dense", "--workdir=runs/none"]
    assert said in fails(capfd, train.main, *flags, f"--config.extension={text}")


def test_parts_of_what_lies_below_change_nothing_but_bytes():
    settings = dataclasses.replace(SETTINGS, memory=config.Memory("paper", "none"))
    found = []
    for chunk in (0, 16):
        method = methods.Static(budget=400, layers=("params/hidden_2/kernel",), chunk=chunk)
        each = Trainer(settings, FEW, Programs(), extension=method)
        run, _ = loop.advance(each, each.start())
        found.append(jax.device_get(run.state.variables))
    same = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(same, *found)


def test_counts_that_are_decided_in_the_run_have_no_budget_in_bytes():
    method = methods.TraDy(budget="1MiB", capacity="pooled")
    with pytest.raises(UserError, match="give numbers, or capacity='quota' and ranking=0"):
        Trainer(SETTINGS, FEW, PROGRAMS, extension=method)


@dataclasses.dataclass(frozen=True)
class Asking(methods.TraDy):
    """Asks for its numbers as one whose budget is in bytes does, of a table."""

    def within(self, apply, shapes, inputs, measure):
        whole = shapes["params"]["hidden_1"]["kernel"].shape == (64, 40)
        found = dataclasses.replace(self, budget=600 if whole else 900)
        assert measure(found) > measure(dataclasses.replace(self, budget=400 if whole else 600))
        return found


def test_what_pruning_frees_may_be_asked_for_and_a_run_that_goes_on_has_it(tmp_path):
    pruning = dataclasses.replace(
        SETTINGS,
        method="scores",
        epochs=4,
        scores=ScoreOptions("l2", fraction=0.4, start=1),
        compiling=config.Compiling(shrink=0.2, ahead=False),
    )
    before = Trainer(pruning, FEW, PROGRAMS, extension=Asking())
    run, records = before.start(), []
    while run.epoch < 3:  # units go before the second epoch, their arrays before the third
        run, record = loop.advance(before, run)
        records.append(record)
    resume.save(before, run, tmp_path)
    assert 560 < records[0]["extension_numbers"] <= 600
    assert 860 < records[-1]["extension_numbers"] <= 900
    again = Trainer(pruning, FEW, PROGRAMS, extension=Asking())
    other = resume.run_of(again, resume.newest(again, tmp_path))
    assert other.network.unbound == run.network.unbound == Asking(budget=900)
    ends = [loop.advance(of, each)[0] for of, each in ((before, run), (again, other))]
    jax.tree.map(np.testing.assert_array_equal, *(copy(each.state) for each in ends))


def test_a_mini_batch_that_grows_has_no_budget_of_a_step():
    growing = dataclasses.replace(SETTINGS, method="dynhp", batch=config.Batch())
    with pytest.raises(UserError, match="config.batch.rule is 'method'; allowed: 'fixed'"):
        Trainer(growing, FEW, PROGRAMS, extension=methods.TraDy(budget="1MiB"))
