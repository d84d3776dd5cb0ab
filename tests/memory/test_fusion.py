"""Which form of a program runs on a CPU, what is recorded of it, and who goes by the record."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from convolutions import convolution, convolved, shapes
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st
from small_runs import DIGITS, go_on, make, start

import dynhp_jax as dp
from dynhp_jax.memory import cpu_libraries, fusion, trial_process, trial_records, trials
from dynhp_jax.memory.compiled import compiled_bytes
from dynhp_jax.memory.fusion import Measured
from dynhp_jax.memory.registry import METERS
from dynhp_jax.memory.trial_records import Record, Records
from dynhp_jax.memory.trials import Trial
from dynhp_jax.training import config
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.files.workdir import Workdir
from dynhp_jax.training.run import checkpoint, resume

MIB = 2**20
needs_linux = pytest.mark.skipif(not trial_process.measures(), reason="reads /proc")
PLENTY, LITTLE = Trial(40 * MIB, 1.0), Trial(30 * MIB, 1.2)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path):
    """Neither by this process nor on disk."""
    monkeypatch.setattr(trial_records, "_in_process", dict)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def told(monkeypatch):
    """Trials come to what the test says, the fused form's first; `told.limits` were theirs."""

    class Told:
        limits: list

        def __call__(self, *figures):
            rest, self.limits = iter(figures), []

            def tried(compiled, again=None, limit_s=0.0):
                self.limits.append(limit_s)
                return next(rest)

            monkeypatch.setattr(trials, "tried", tried)

    return Told()


def fused(compiled) -> bool:
    return "__ynn_fusion" in compiled.as_text()


def compiled(records=None, measured=Measured.FORMS):
    records = Records() if records is None else records
    return fusion.compile(convolved(differentiated=True), records, measured)


# -- the rule --------------------------------------------------------------------------------------

figures = st.builds(Trial, st.integers(1, 2**40), st.floats(1e-6, 1e6))


@given(figures, figures)
def test_the_form_that_runs_is_the_smaller_one_or_the_other_is_much_slower(one, other):
    if fusion.fusion_stays(one, other):
        assert one.bytes <= other.bytes or other.seconds > 1.25 * one.seconds
    else:
        assert other.bytes < one.bytes and other.seconds <= 1.5 * one.seconds


@pytest.mark.parametrize(
    ("unfused", "stays"),
    [
        (LITTLE, False),
        (PLENTY, True),  # no fewer bytes
        (Trial(30 * MIB, 1.6), True),  # much slower
        (None, True),  # stopped
    ],
)
def test_the_executable_that_runs_is_the_one_that_is_counted(told, unfused, stays):
    told(PLENTY, unfused)
    found = compiled(records := Records())
    assert fused(found) is stays
    (record,) = map(Record.from_dict, records.to_dict().values())
    assert record == Record(stays, PLENTY, unfused)
    takes = (PLENTY if stays else LITTLE).bytes
    own = trials.own_bytes(found)
    assert cpu_libraries.library_bytes(found) == takes - own
    counted = compiled_bytes(found, ("x",) * 3)
    assert counted.total - counted.arguments["x"] == takes
    assert told.limits == [0.0, fusion.STOPPED * PLENTY.seconds]


def test_a_form_that_cannot_be_smaller_is_not_tried(told):
    own = trials.own_bytes(fusion._compiled(convolved(differentiated=True), fusion=False))
    told(Trial(own + fusion.LEAST, 1.0))  # a second trial would raise StopIteration
    found = compiled(records := Records())
    assert fused(found)
    (record,) = records.to_dict().values()
    assert record["fusion"] and record["unfused"] is None


def test_where_nothing_can_be_measured_the_fusion_stays_and_the_bound_counts(told):
    told(None)
    found = compiled(records := Records())
    limit = cpu_libraries.bound(found.as_text(), cpu_libraries.threads())
    assert fused(found) and cpu_libraries.library_bytes(found) == max(limit.packed, limit.whole)
    assert [each["fused"] for each in records.to_dict().values()] == [None]


@pytest.mark.parametrize("measured", [Measured.NOT, Measured.BYTES])
def test_without_a_budget_nothing_is_compiled_twice(told, monkeypatch, measured):
    told(PLENTY)
    options = []
    compile = fusion._compiled
    monkeypatch.setattr(
        fusion, "_compiled", lambda *given: options.append(given) or compile(*given)
    )
    assert fused(compiled(measured=measured)) and not options
    assert len(told.limits) == (measured is Measured.BYTES)


def test_programs_without_convolutions_are_compiled_once(told):
    told()
    product = jax.jit(lambda a, b: jax.nn.relu(a @ b)).lower(
        *(jax.ShapeDtypeStruct((500, 500), np.float32),) * 2
    )
    fusion.compile(product, records := Records(), Measured.FORMS)
    assert not records and not told.limits


def test_a_budget_is_what_forms_are_compared_for():
    for meter, budget, wanted in (
        ("paper", "sp", Measured.NOT),
        ("xla", "none", Measured.BYTES),
        ("xla", "sp", Measured.FORMS),
        ("xla", "1MiB", Measured.FORMS),
    ):
        assert METERS[meter].measured(budget) is wanted


# -- records ---------------------------------------------------------------------------------------


def test_what_is_on_disk_is_used_and_a_damaged_file_is_made_anew(told, tmp_path, monkeypatch):
    known = {}
    monkeypatch.setattr(trial_records, "_in_process", lambda: known)
    told(PLENTY, LITTLE)
    assert not fused(compiled())
    (path,) = (tmp_path / "cache" / "trials").iterdir()
    known.clear()  # as in another process
    assert not fused(compiled())
    for damage in ('{"fusion": ', "[]", '{"fusion": 1, "fused": null, "unfused": null}'):
        known.clear()
        path.write_text(damage)
        told(PLENTY, PLENTY)
        assert fused(compiled())
        assert Record.from_dict(json.loads(path.read_text())).fusion


def test_a_run_goes_on_by_its_checkpoint_where_the_cache_is_another_s(told, tmp_path):
    """Bytes and form are those of the checkpoint, whatever the machine finds."""
    told(PLENTY, LITTLE)
    first = Programs()
    first.get("f", (), convolution, *shapes(), measured=Measured.FORMS)
    trainer, run = start(make())
    trainer.programs.records = first.records
    run, _ = go_on(trainer, run, 1)
    workdir = Workdir(tmp_path / "run")
    workdir.path.mkdir()
    resume.save(trainer, run, workdir.checkpoints)

    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "another"))
    trial_records._in_process().clear()
    told()  # nothing is tried
    programs = Programs(known=workdir.trials)
    assert programs.records.to_dict() == first.records.to_dict()
    for measured in (Measured.FORMS, Measured.NOT):  # as an evaluation of the run by its end
        again = programs.get("f", measured, convolution, *shapes(), measured=measured)
        assert not fused(again)
    again = programs.get("f", Measured.FORMS, convolution, *shapes())
    assert cpu_libraries.library_bytes(again) == LITTLE.bytes - trials.own_bytes(again)


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(nn.relu(nn.Conv(4, (3, 3))(x)), (4, 4), (4, 4))
        return nn.Dense(10)(x.reshape(len(x), -1))


def test_a_model_of_ones_own_goes_on_by_what_was_tried_before(tmp_path, monkeypatch):
    """Without a cache: the trials are in the run's own checkpoints."""
    asked = config.Config(
        method="dense",
        epochs=1,
        memory=config.Memory("xla", "64MB", sp_batch=32),
        compiling=config.Compiling(cache_dir="none"),
    )
    images, labels = DIGITS.x_train[:320], DIGITS.y_train[:320]
    data = {"train": (images, labels), "test": (images, labels), "workdir": tmp_path / "run"}
    tried, really = [], trials.tried

    def counted(compiled, *rest, **further):
        tried.append(compiled)
        return really(compiled, *rest, **further)

    monkeypatch.setattr(trials, "tried", counted)
    dp.fit(Tiny(), **data, config=asked)
    assert tried or not trial_process.measures()
    trial_records._in_process().clear()  # as in another process
    tried.clear()
    result = dp.fit(Tiny(), **data, config=dataclasses.replace(asked, epochs=2))
    assert not tried and len(result.records) == 2


@pytest.mark.parametrize("found", [None, [], {"a": {"fusion": 3}}, {"a": None}])
def test_records_that_are_none_are_told_of_only_when_the_checkpoint_is_read(found, tmp_path):
    workdir = Workdir(tmp_path / "run")
    workdir.path.mkdir()
    assert workdir.trials == {}
    checkpoint.save(workdir.checkpoints, 1, {"x": np.zeros(3)}, {"trials": found})
    assert workdir.trials == {}
    checkpoint.save(workdir.checkpoints, 2, {"x": np.zeros(3)}, {})
    assert workdir.trials == {}


# -- really ----------------------------------------------------------------------------------------


@needs_linux
def test_the_gradient_of_convolutions_takes_less_without_the_fusion():
    found = compiled(records := Records())
    (record,) = map(Record.from_dict, records.to_dict().values())
    assert record.unfused.bytes < record.fused.bytes
    assert fused(found) is record.fusion is fusion.fusion_stays(record.fused, record.unfused)
    assert record.fused.seconds > 0 and record.unfused.seconds > 0


@needs_linux
def test_a_program_that_runs_beyond_its_limit_is_stopped_and_the_next_one_tried():
    def long(x):
        return jax.lax.fori_loop(0, 10**9, lambda _, y: jax.numpy.sin(y), x)

    shape = jax.ShapeDtypeStruct((1000,), np.float32)
    assert trials.tried(jax.jit(long).lower(shape).compile(), limit_s=0.2) is None
    assert trials.tried(convolved().compile(), limit_s=60.0).bytes > MIB
