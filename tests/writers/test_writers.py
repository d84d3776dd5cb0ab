"""What takes the records of a run: from its first epoch on, each epoch once, whatever happens."""

import json
import sys

import jax
import numpy as np
import pytest
from command_lines import QUICK, fails
from event_files import curves

import dynhp_jax as dp
from dynhp_jax.common.errors import ConfigError, UserError
from dynhp_jax.common.own_code import OwnCodeError
from dynhp_jax.tasks.task import Task
from dynhp_jax.training import config
from dynhp_jax.training.files.workdir import Workdir
from dynhp_jax.writers import Compiling, JsonLines, Screen, Started, TensorBoard, screen
from dynhp_jax.writers.writer import Writers
from experiments import train

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 6)).astype("f")
Y = (X[:, 0] > 0).astype("i4")
PARAMS = {"in": RNG.normal(size=(6, 8)).astype("f"), "out": RNG.normal(size=(8, 2)).astype("f")}


def apply(params, x):
    return jax.nn.relu(x @ params["in"]) @ params["out"]


def fit(epochs=3, callbacks=(), workdir=None, **changes):
    settings = config.Config(
        method="hp", epochs=epochs, memory=config.Memory(sp_batch=50), **changes
    )
    return dp.fit(
        apply, PARAMS, train=(X[:150], Y[:150]), test=(X[150:], Y[150:]), config=settings,
        workdir=workdir, callbacks=callbacks,
    )  # fmt: skip


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


class Noted:
    """A writer that notes what it is told."""

    def __init__(self, fails_in=0):
        self.said, self.fails_in = [], fails_in

    def begin(self, started):
        self.said.append(("begin", started.done, started.epochs))

    def __call__(self, record):
        if record["epoch"] == self.fails_in:
            raise RuntimeError("the network is down")
        self.said.append(record["epoch"])

    def close(self):
        self.said.append("close")


def test_every_kind_of_writer_gets_every_epoch(tmp_path):
    noted, seen = Noted(), []
    result = fit(
        callbacks=[JsonLines(tmp_path / "log.jsonl"), TensorBoard(tmp_path / "events"), noted,
                   seen.append],
    )  # fmt: skip
    assert lines(tmp_path / "log.jsonl") == json.loads(json.dumps(result.records))
    assert seen == result.records
    assert noted.said == [("begin", 0, 3), 1, 2, 3, "close"]
    shown = curves(tmp_path / "events")["test_error"]
    assert [step for step, _ in shown] == [1, 2, 3]
    for (_, value), record in zip(shown, result.records, strict=True):
        assert value == pytest.approx(record["test_error"])


def test_a_writer_that_raises_ends_the_run_which_goes_on_and_writes_no_epoch_twice(tmp_path):
    """Of the epochs after the checkpoint every writer is told again, and keeps the later ones."""
    every = config.Checkpoint(every=2)

    def writers(fails_in):
        later = Noted(fails_in)
        kept = [JsonLines(tmp_path / "log.jsonl"), TensorBoard(tmp_path / "events")]
        return later, [*kept, later]

    noted, callbacks = writers(fails_in=3)
    with pytest.raises(RuntimeError, match="the network is down"):
        fit(4, callbacks, tmp_path / "run", checkpoint=every)
    assert noted.said == [("begin", 0, 4), 1, 2, "close"]
    assert [record["epoch"] for record in lines(tmp_path / "log.jsonl")] == [1, 2, 3]
    noted, callbacks = writers(fails_in=0)
    result = fit(4, callbacks, tmp_path / "run", checkpoint=every)
    assert noted.said == [("begin", 2, 4), 3, 4, "close"]
    assert [record["epoch"] for record in result.records] == [1, 2, 3, 4]
    assert lines(tmp_path / "log.jsonl") == Workdir(tmp_path / "run").records()
    shown = {
        name: [step for step, _ in points] for name, points in curves(tmp_path / "events").items()
    }
    assert shown["test_error"] == [1, 2, 3, 4]
    assert all(steps == sorted(set(steps)) for steps in shown.values())
    # A writer that was not there before, and one whose file was lost, have the earlier ones, too.
    (tmp_path / "log.jsonl").unlink()
    fit(5, [JsonLines(tmp_path / "log.jsonl")], tmp_path / "run", checkpoint=every)
    assert [record["epoch"] for record in lines(tmp_path / "log.jsonl")] == [1, 2, 3, 4, 5]


def test_all_are_closed_also_where_one_cannot_be():
    class Stuck:
        def __call__(self, record): ...

        def close(self):
            raise OSError("stuck")

    noted = Noted()
    with pytest.raises(OSError, match="stuck"), Writers([noted, Stuck(), noted]):
        pass
    assert noted.said == ["close", "close"]
    with pytest.raises(UserError, match="a writer is a str, which cannot be called; allowed: "):
        Writers(["tensorboard"])


def test_a_file_of_records_that_somebody_changes_ends_the_run(tmp_path):
    file = tmp_path / "log.jsonl"
    writer = JsonLines(file)
    writer({"epoch": 1})
    file.write_text("")
    with pytest.raises(UserError, match="was removed or changed while the run went on"):
        writer({"epoch": 2})
    with pytest.raises(UserError, match="test_error of epoch 2 is NaN or infinite"):
        writer({"epoch": 2, "test_error": float("nan")})


def test_a_config_names_writers(own_module, tmp_path, capfd):
    name = own_module("""
        import pathlib

        class Log:
            def __init__(self, file, bad=0):
                self.file, self.bad = pathlib.Path(file), bad

            def begin(self, started):
                self.file.write_text(f"{started.done} ")

            def __call__(self, record):
                if record["epoch"] == self.bad:
                    raise ConnectionError("no answer")
                self.file.write_text(self.file.read_text() + f"{record['epoch']} ")
    """)
    file = tmp_path / "own.txt"

    def with_own(more=""):
        writer = f"{name}:Log(file={str(file)!r}{more})"
        return fit(workdir=tmp_path / "run", records=config.Records(("tensorboard", writer)))

    with pytest.raises(OwnCodeError, match=f"^writer .*{name}:Log.* fails: ConnectionError: no an"):
        with_own(", bad=2")
    assert file.read_text() == "0 1 "
    with_own()  # another writer is no other run
    assert file.read_text() == "1 2 3 "
    shown = curves(tmp_path / "run" / "tensorboard")["test_error"]
    assert [step for step, _ in shown] == [1, 2, 3]


def test_a_program_says_in_a_line_which_writer_failed(own_module, tmp_path, capfd):
    name = own_module("def log(record): raise ConnectionError('no answer')")
    said = fails(
        capfd, train.main, *QUICK, "--config.epochs=1", f"--workdir={tmp_path / 'run'}",
        f"--config.records.writers={name}:log",
    )  # fmt: skip
    assert f"writer '{name}:log' fails: ConnectionError: no answer (" in said
    assert "; there is no checkpoint yet" in said


def test_what_is_no_writer_is_refused_before_work_starts(own_module, monkeypatch, tmp_path):
    def refused(*names, workdir=tmp_path / "run"):
        with pytest.raises(UserError) as error:
            fit(workdir=workdir, records=config.Records(names))
        assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
        return str(error.value)

    with pytest.raises(ConfigError, match="^config.records.writers is .*tensorboard, or module:"):
        config.Records(("wandb",))
    assert "a run without a workdir" in refused("tensorboard", workdir=None)
    assert "cannot be called with a record" in refused(f"{own_module('log = 3')}:log")
    assert "there is no module 'not_there'" in refused("not_there:log")
    recorded = config.from_dict({"records": {"writers": ["mine:log"]}})
    with pytest.raises(UserError, match="was read from a file, .* --config.records.writers"):
        dp.fit(apply, PARAMS, train=(X, Y), test=(X, Y), config=recorded)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # as if it were not installed
    assert "pip install 'dynhp_jax[tensorboard]'" in refused("tensorboard")


# -- the screen ------------------------------------------------------------------------------------

RECORD = {"units": {"hidden": 5}, "batch_size": 16, "memory_kib": 1.0, "model_kib": 1.0,
          "seconds": 1.0, "compile_seconds": 0.0, "test_error": 2.5}  # fmt: skip
FIRST, SECOND = (Compiling(name, k, 2, False) for k, name in enumerate(("order", "epoch"), 1))


def test_a_log_file_has_few_lines(capsys, monkeypatch):
    clock = iter([100.0, 101.0, 102.0, 200.0])
    monkeypatch.setattr(screen.time, "monotonic", lambda: next(clock))
    shown = Screen()
    shown.compiling(FIRST)
    shown.compiling(None)
    shown.compiling(SECOND)  # a second later
    shown.begin(Started([], 3, Task()))
    shown({"epoch": 1} | RECORD)
    shown.compiling(SECOND)
    shown.close()
    said = capsys.readouterr()
    out = said.out.splitlines()
    assert out == ["compiling 1 of 2: order", out[1], "compiling 2 of 2: epoch"]
    assert out[1].startswith("epoch 1/3: test error 2.50 %, units 5, batch 16, ")
    assert said.err == ""


def test_a_terminal_has_one_line_that_is_written_over(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown = Screen()
    for program in (FIRST, None, SECOND, None):
        shown.compiling(program)
    shown.begin(Started([{"epoch": 4} | RECORD], 9, Task()))
    shown({"epoch": 5} | RECORD)
    shown.compiling(Compiling("epoch", 1, 3, True))
    shown.close()
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1  # after the bar
    _, *before, bar = said.err.split("\r\x1b[K")
    assert before == [str(FIRST), "", str(SECOND)]
    assert "5/9" in bar and "error 2.50 %" in bar and "compiling 1 of 3: epoch" in bar


def test_nothing_is_on_the_screen_unless_a_screen_is_asked_for(capfd):
    fit(1)
    assert capfd.readouterr() == ("", "")
    fit(1, [Screen()])
    said, _ = capfd.readouterr()
    assert "compiling 1 of 4: initial state\n" in said and "epoch 1/1: test error" in said
