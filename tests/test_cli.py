"""The command lines from outside: outputs, resuming, kills, and every kind of bad input."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from dynhp_jax import checkpoint, compiling, data, runs
from experiments import commandline, evaluate, reports, train
from experiments.terminal import Interruptions
from experiments.workdir import Workdir

ROOT = Path(__file__).parents[1]
CLOCKS = {"seconds", "compile_seconds", "compilations"}
# Prunes, resizes and grows the batch within a few epochs.
QUICK = [
    "--config=configs/digits.py",
    "--config.epochs=6",
    "--config.model.hidden=(20, 8)",
    "--config.penalty.lam=4.0",
    "--config.optimizer.learning_rate=0.01",
    "--config.batch.alpha=0.3",
    "--config.compiling.shrink=0.3",
]


def command(*arguments, module="train"):
    return [sys.executable, "-m", f"experiments.{module}", *arguments]


def process(*arguments, module="train", **options):
    return subprocess.run(
        command(*arguments, module=module),
        cwd=ROOT, capture_output=True, text=True, timeout=300, **options,
    )  # fmt: skip


def here(capfd, main, *arguments):
    """Runs a main in this process: (exit code, stdout, stderr)."""
    capfd.readouterr()
    before = os.getcwd()
    os.chdir(ROOT)
    try:
        code = commandline.run(main, ["program", *arguments])
    finally:
        os.chdir(before)
    return code, *capfd.readouterr()


def fails(capfd, main, *arguments):
    """Runs a main in this process and returns the one line that it says on stderr."""
    code, _, said = here(capfd, main, *arguments)
    assert code == 2, said
    assert one_line(said), said
    return said


def one_line(said):
    return said.startswith("error: ") and said.endswith("\n") and said.count("\n") == 1


def timeless(workdir):
    return [{k: v for k, v in r.items() if k not in CLOCKS} for r in Workdir(workdir).records()]


def final_state(workdir):
    directory = Workdir(workdir)
    config = directory.config()
    trainer = runs.Trainer(config, data.load(config.data.name), compiling.Programs())
    return checkpoint.restore(directory.checkpoints, trainer.state_shapes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was never disturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    done = process(*QUICK, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return workdir, done.stdout


# -- what a run gives ------------------------------------------------------------------------------


def test_a_run_leaves_everything_in_its_workdir(finished):
    workdir, said = finished
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5, 6]
    for record in records:
        assert {
            "epoch", "train_loss", "penalty", "test_error", "units", "batch_size", "grad_variance",
            "model_kib", "memory_kib", "budget_kib", "seconds", "compile_seconds", "compilations",
        } <= set(record)  # fmt: skip
        assert record["model_kib"] == 4 * record["parameters"] / 1024
        assert record["memory_kib"] == record["model_kib"] + 256 * record["batch_size"] / 1024
    assert records[-1]["test_error"] < records[0]["test_error"] < 100
    assert sum(records[-1]["units"].values()) < sum(records[0]["units"].values())

    summary = json.loads((workdir / "summary.json").read_text())
    last = records[-1]
    for name in ("test_error", "model_kib", "units", "compilations"):
        assert summary[name] == last[name]
    assert summary["best_test_error"] == min(record["test_error"] for record in records)
    assert summary["training_memory"] == pytest.approx(
        sum(record["memory_kib"] for record in records) / 1e6, rel=1e-12
    )
    assert summary["seed"] == 0 and summary["versions"]["jax"]
    waited = math.fsum(record["compile_seconds"] for record in records)
    assert summary["compile_seconds"] >= waited * (1 - 1e-9) > 0  # and what is before epoch 1

    for name in ("units", "test_error", "batch_size", "memory"):
        with Image.open(workdir / "figures" / f"{name}.png") as image:
            pixels = np.asarray(image.convert("L"))
        assert pixels.shape[0] > 200 and pixels.std() > 5, name

    assert checkpoint.epochs(workdir / "checkpoints") == [4, 5, 6]
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["hidden"] == [20, 8] and config["method"] == "dynhp"

    for words in ("units of hidden_1", "1,558", "test error", "compilations", "whole", "(paper)"):
        assert words in said


def test_tensorboard_reads_the_same_numbers(finished):
    workdir, _ = finished
    (file,) = (workdir / "tensorboard").iterdir()
    curves, content = {}, file.read_bytes()
    while content:  # length, its checksum, the event, its checksum
        size = int.from_bytes(content[:8], "little")
        event = content[12 : 12 + size]
        assert int.from_bytes(content[12 + size : 16 + size], "little") == masked_crc32c(event)
        event, content = event_pb2.Event.FromString(event), content[16 + size :]
        for value in event.summary.value:
            curves.setdefault(value.tag, {})[event.step] = value.simple_value
    for record in Workdir(workdir).records():
        epoch = record["epoch"]
        assert curves["test_error"][epoch] == pytest.approx(record["test_error"])
        assert curves["units/hidden_1"][epoch] == record["units"]["hidden_1"]


def test_evaluate_loads_the_final_network_without_a_config(finished):
    workdir, _ = finished
    done = process(f"--workdir={workdir}", module="evaluate")
    assert done.returncode == 0, done.stderr
    last = Workdir(workdir).records()[-1]
    assert f"test error {last['test_error']:.2f} %" in done.stdout
    assert f"units of hidden_1: {last['units']['hidden_1']} of 20" in done.stdout
    rows = re.findall(r"^ +\d ((?: +[\d.]+){10})$", done.stdout, re.MULTILINE)
    confusion = np.array([[0 if n == "." else int(n) for n in row.split()] for row in rows])
    assert confusion.shape == (10, 10) and confusion.sum() == 360
    assert 100 * (360 - np.trace(confusion)) / 360 == pytest.approx(last["test_error"])
    np.testing.assert_array_equal(
        confusion.sum(1), np.bincount(data.load("digits").y_test, minlength=10)
    )


def test_a_run_of_two_devices_and_another_machine_is_evaluated_here(tmp_path, capfd):
    workdir = tmp_path / "run"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    done = process(
        *QUICK, "--config.epochs=2", "--config.devices=2", "--config.memory.meter=xla",
        "--config.memory.budget=250KiB", f"--workdir={workdir}",
        env=os.environ | {"XLA_FLAGS": flags},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "training memory (XLA)" in done.stdout
    config = json.loads((workdir / "config.json").read_text())
    for section, name in (("data", "dir"), ("data", "cache_dir"), ("compiling", "cache_dir")):
        config[section][name] = "/proc/self/nowhere"
    (workdir / "config.json").write_text(json.dumps(config))
    code, said, complaint = here(capfd, evaluate.main, f"--workdir={workdir}")
    assert code == 0, complaint
    assert f"test error {Workdir(workdir).records()[-1]['test_error']:.2f} %" in said


def test_directories_that_are_here_stay_in_what_is_evaluated(tmp_path):
    directories = {"dir": str(tmp_path), "cache_dir": str(tmp_path / "no")}
    values = {"data": directories, "compiling": {"cache_dir": "none"}}
    found = evaluate.here(train.configuration.from_dict(values))
    assert (found.data.dir, found.data.cache_dir) == (str(tmp_path), "")
    assert found.compiling.cache_dir == "none"


def test_the_dense_numbers_are_those_of_the_whole_network(finished):
    workdir, _ = finished
    summary = json.loads((workdir / "summary.json").read_text())
    parameters = 64 * 20 + 20 + 20 * 8 + 8 + 8 * 10 + 10
    assert summary["dense"]["parameters"] == parameters
    assert summary["dense"]["units"] == {"input": 64, "hidden_1": 20, "hidden_2": 8}
    assert f"{parameters:,}" in reports.table(summary)


# -- stopping and going on -------------------------------------------------------------------------


def test_killed_at_any_moment_a_run_ends_as_if_it_had_not_been(finished, tmp_path, capfd):
    workdir = tmp_path / "killed"
    arguments = [*QUICK, f"--workdir={workdir}"]
    metrics = workdir / "metrics.jsonl"
    # After a line was written, at once or a while later: in training, compiling, saving.
    for lines, delay in ((1, 0.0), (3, 0.05), (5, 0.2)):
        running = subprocess.Popen(
            command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while running.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and len(metrics.read_text().splitlines()) >= lines:
                break
            time.sleep(0.002)
        time.sleep(delay)
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert not (workdir / "summary.json").exists() or len(timeless(workdir)) == 6
    code, _, said = here(capfd, train.main, *arguments)
    assert code == 0, said
    undisturbed, _ = finished
    assert timeless(workdir) == timeless(undisturbed)
    mine, theirs = final_state(workdir), final_state(undisturbed)
    for a, b in zip(_leaves(mine.state), _leaves(theirs.state), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    for name in ("batch", "spec", "keeps", "memory_kib", "best"):
        assert mine.host[name] == theirs.host[name]


def _leaves(tree):
    import jax

    return jax.tree.leaves(tree)


def test_ctrl_c_saves_and_says_how_to_go_on(finished, tmp_path, capfd):
    workdir = tmp_path / "interrupted"
    arguments = [*QUICK, "--config.checkpoint.every=5", f"--workdir={workdir}"]
    running = subprocess.Popen(
        command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (workdir / "metrics.jsonl").exists():
        assert running.poll() is None
        time.sleep(0.002)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 130, said
    assert "Traceback" not in said
    saved = checkpoint.epochs(workdir / "checkpoints")
    assert len(saved) == 1 and saved[0] < 5
    assert f"epoch {saved[0]} of 6 is saved" in said and "same command" in said

    code, said, complaint = here(capfd, train.main, *arguments)
    assert code == 0, complaint
    assert f"going on after epoch {saved[0]}" in said
    assert timeless(workdir) == timeless(finished[0])


STOPPING = """
    import dataclasses
    import os
    import signal
    from pathlib import Path


    @dataclasses.dataclass(frozen=True)
    class Twice:
        workdir: str = ""

        def scores(self, evidence):
            if (Path(self.workdir) / "metrics.jsonl").exists():  # training has begun
                for _ in range(2):
                    os.kill(os.getpid(), signal.SIGINT)
            return {name: evidence.kernels(name)[0].sum(1) for name in evidence.scored}
"""


@pytest.mark.parametrize(
    ("every", "kept", "words"),
    [
        (20, [], "nothing is saved yet (config.checkpoint.every is 20), so that the same command"),
        (2, [2], "epoch 2 of 5 is the last one that is saved in"),
    ],
)
def test_ctrl_c_twice_says_what_is_lost(every, kept, words, tmp_path, capfd, monkeypatch):
    """Both while the units are scored that go before epoch 4; not all epochs are saved by then."""
    (tmp_path / "stopping.py").write_text(textwrap.dedent(STOPPING))
    monkeypatch.syspath_prepend(tmp_path)
    workdir = tmp_path / "run"
    code, _, said = here(
        capfd, train.main, *QUICK, "--config.epochs=5", "--config.method=scores",
        f"--config.scores.criterion=stopping:Twice(workdir='{workdir}')", "--config.scores.start=3",
        f"--config.checkpoint.every={every}", f"--workdir={workdir}",
    )  # fmt: skip
    assert code == 130 and "Traceback" not in said
    assert len(Workdir(workdir).records()) == 3
    assert checkpoint.epochs(workdir / "checkpoints") == kept
    assert said.splitlines()[-1].startswith(f"interrupted: stopped at once; {words}")


def test_ctrl_c_does_not_stop_what_is_being_saved(capfd):
    with Interruptions() as interruptions:
        with interruptions.saving():
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
        assert interruptions.wanted and "being saved" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_damaged_checkpoint_is_passed_over_and_none_left_is_an_error(finished, tmp_path, capfd):
    workdir = _copy(finished[0], tmp_path)
    for epoch in (6, 5):
        _damage(workdir / "checkpoints" / f"{epoch:06d}")
    code, said, warnings = here(capfd, train.main, *QUICK, f"--workdir={workdir}")
    assert code == 0, warnings
    warnings = warnings.splitlines()
    assert len(warnings) == 2 and all("damaged" in line for line in warnings)
    assert "going on after epoch 4" in said
    assert timeless(workdir) == timeless(finished[0])

    for epoch in (4, 5, 6):
        _damage(workdir / "checkpoints" / f"{epoch:06d}")
    code, _, said = here(capfd, train.main, *QUICK, f"--workdir={workdir}")
    assert code == 2
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert re.match(r"error: none of the 3 checkpoints in .* is whole", last)


def test_a_finished_run_is_not_trained_again_but_can_be_lengthened(finished, tmp_path, capfd):
    workdir = _copy(finished[0], tmp_path)
    before = (workdir / "checkpoints" / "000006" / "manifest.json").read_text()
    code, _, said = here(capfd, train.main, *QUICK, f"--workdir={workdir}")
    assert code == 0, said
    assert timeless(workdir) == timeless(finished[0])
    assert (workdir / "checkpoints" / "000006" / "manifest.json").read_text() == before

    code, _, said = here(capfd, train.main, *QUICK, "--config.epochs=7", f"--workdir={workdir}")
    assert code == 0, said
    assert timeless(workdir)[:6] == timeless(finished[0]) and len(timeless(workdir)) == 7
    assert json.loads((workdir / "config.json").read_text())["epochs"] == 7


def _copy(workdir, tmp_path):
    import shutil

    return Path(shutil.copytree(workdir, tmp_path / "copy"))


def _damage(path):
    files = [p for p in (path / "state").rglob("*") if p.is_file() and p.stat().st_size > 8]
    largest = max(files, key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [("return missing", "NameError: name 'missing'"), ("return int('x')", "ValueError: invalid")],
)
def test_a_config_file_that_fails_is_named_in_one_line(body, said, tmp_path, capfd):
    file = tmp_path / "failing.py"
    file.write_text(f"def get_config():\n    {body}\n")
    message = fails(capfd, train.main, f"--config={file}", f"--workdir={tmp_path / 'run'}")
    assert "failing.py" in message and said in message and "Traceback" not in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.pruning.gamma=1.5"], ["config.pruning.gamma", "1.5", "from 0 to 1"]),
        (["--config.pruning.gamma=-1"], ["config.pruning.gamma", "-1", "from 0 to 1"]),
        (["--config.penalty.lam=-0.1"], ["config.penalty.lam", "-0.1", "0 or more"]),
        (["--config.batch.alpha=2"], ["config.batch.alpha", "2", "from 0 to 1"]),
        (["--config.prunning.gamma=0.5"], ["config.prunning.gamma", "pruning.gamma"]),
        (["--config.gama=0.5"], ["config.gama", "pruning.gamma"]),
        (["--config.data.name=minst"], ["config.data.name", "'minst'", "mnist", "digits"]),
        (["--config.epochs=many"], ["config.epochs", "'many'", "whole number"]),
        (["--config.gates.per_example=perhaps"], ["config.gates.per_example", "True or False"]),
        (["--config.model.hidden=(300, 0)"], ["config.model.hidden", "(300, 0)", "widths"]),
        (["--config.memory.budget=plenty"], ["config.memory.budget", "'plenty'", "MiB"]),
        (["--config.memory.budget=10KiB"], ["config.memory.budget", "at least 67.6KiB"]),
        (["--config.batch.size=2000"], ["config.batch.size", "2000", "1437"]),
        (["--config.batch.size=900"], ["config.batch.size is 900", "at most", "memory.budget"]),
        (["--config.batch=3"], ["config.batch", "a section", "batch.size"]),
        (["--config.seed=4294967296"], ["config.seed", "4294967295"]),
        (["--config.pruning.groups=('hidden_7',)"], ["config.pruning.groups", "hidden_1"]),
        (["--config=configs/nothing.py"], ["configs/nothing.py", "configs/digits.py"]),
        (["--wokdir=runs/x"], ["wokdir", "workdir"]),
        (["runs/digits"], ["'runs/digits'", "--workdir"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, words, tmp_path, capfd):
    workdir = tmp_path / "run"
    said = fails(
        capfd, train.main, "--config=configs/digits.py", *arguments, f"--workdir={workdir}"
    )
    for word in words:
        assert word in said
    assert not workdir.exists()


def test_the_smallest_budget_that_is_named_does_work(tmp_path, capfd):
    base = ["--config=configs/digits.py", f"--workdir={tmp_path / 'run'}"]
    said = fails(capfd, train.main, *base, "--config.memory.budget=10KiB")
    least = re.search(r"at least ([\d.]+KiB)", said)[1]
    config = train.configuration.from_dict(
        {"model": {"hidden": (128, 64)}, "memory": {"budget": least}}
    )
    trainer = runs.Trainer(config, data.load("digits"), compiling.Programs())
    assert trainer.room(trainer.whole_parameters) == 1


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("0", ["'0'", "bytes above 0", "4MiB"]),
        ("-1MiB", ["'-1MiB'", "bytes above 0"]),
        ("1.5 parsecs", ["'1.5 parsecs'", "the unit 'parsecs' is none of", "MiB"]),
        ("10KiB", ["'10KiB'", "at least", "KiB", "mini-batch of 1"]),
    ],
)
def test_a_bad_budget_by_xlas_meter_is_one_line(budget, words, tmp_path, capfd):
    workdir = tmp_path / "run"
    said = fails(
        capfd, train.main, *QUICK, "--config.memory.meter=xla",
        f"--config.memory.budget={budget}", f"--workdir={workdir}",
    )  # fmt: skip
    for word in ["config.memory.budget", *words]:
        assert word in said
    assert not workdir.exists()


def test_a_run_inside_xlas_bytes_resumes_as_if_never_stopped(tmp_path, capfd):
    asked = [*QUICK, "--config.memory.meter=xla", "--config.memory.budget=250KiB"]
    once, twice = tmp_path / "once", tmp_path / "twice"
    for workdir, epochs in ((once, 4), (twice, 2)):
        flags = [*asked, f"--config.epochs={epochs}", f"--workdir={workdir}"]
        code, _, said = here(capfd, train.main, *flags)
        assert code == 0, said
    done = process(*asked, "--config.epochs=4", f"--workdir={twice}")
    assert done.returncode == 0, done.stderr
    records = Workdir(once).records()
    assert len(records) == 4
    assert all(record["allocated_kib"] <= record["budget_kib"] == 250 for record in records)
    assert records[-1]["memory_kib"] == records[-1]["allocated_kib"]
    assert timeless(once) == timeless(twice)


def test_a_reader_that_has_seen_enough_is_no_error(finished):
    workdir, _ = finished
    evaluation = " ".join(command(f"--workdir={workdir}", module="evaluate"))
    done = subprocess.run(
        ["bash", "-c", f"{evaluation} | head -1; echo ${{PIPESTATUS[0]}}"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] in ("0", "141")


def test_without_a_config_there_is_a_hint(capfd):
    assert "configs/digits.py" in fails(capfd, train.main)


def test_evaluate_needs_a_run(capfd, tmp_path):
    assert "--workdir is missing" in fails(capfd, evaluate.main)
    assert "holds no run" in fails(capfd, evaluate.main, f"--workdir={tmp_path}")
    assert "unknown" in fails(capfd, evaluate.main, "--nothing=1").lower()


def test_a_workdir_of_another_config_is_refused_by_what_differs(finished, capfd):
    workdir, _ = finished
    before = (workdir / "config.json").read_bytes()
    said = fails(
        capfd, train.main, *QUICK, "--config.seed=5", "--config.pruning.gamma=0.25",
        "--config.epochs=5", f"--workdir={workdir}",
    )  # fmt: skip
    assert "config.seed (there 0, here 5)" in said
    assert "config.pruning.gamma (there 0.5, here 0.25)" in said
    assert "config.epochs (there 6, here only 5)" in said
    assert "config.penalty" not in said
    assert (workdir / "config.json").read_bytes() == before


def test_two_runs_in_one_workdir_are_refused(tmp_path, capfd):
    values, _ = commandline.parse(
        ["train", "--config=configs/digits.py", "--config.epochs=1"], with_config=True
    )
    config = train.configuration.from_config_dict(values)
    with Workdir(tmp_path).claim(config):
        said = fails(
            capfd, train.main, "--config=configs/digits.py", "--config.epochs=1",
            f"--workdir={tmp_path}",
        )  # fmt: skip
    assert "another run" in said


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="a place that nobody can write")
def test_a_read_only_disk_is_one_line(capfd):
    said = fails(capfd, train.main, "--config=configs/digits.py", "--workdir=/proc/self/runs")
    assert "/proc/self/runs" in said


@pytest.mark.parametrize("kib", [1, 3])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(kib, finished, tmp_path, capfd):
    """Files cannot grow beyond a size, so that writes fail half-way as on a full disk.

    The cache is full of what `finished` compiled, so that nothing has to be written there.
    """
    workdir = tmp_path / "run"
    arguments = command(*QUICK, "--config.epochs=2", f"--workdir={workdir}")
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f "$0"; exec "$@"', str(kib), *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert one_line(done.stderr), done.stderr
    assert f"File too large: {workdir}/" in done.stderr and "--workdir" in done.stderr
    left = [path for path in workdir.rglob("*") if "unfinished" in path.name]
    assert left == []
    for line in (
        (workdir / "metrics.jsonl").read_text().splitlines()
        if (workdir / "metrics.jsonl").exists()
        else []
    ):
        json.loads(line)
    # With room again, the same command goes through.
    code, _, said = here(capfd, train.main, *QUICK, "--config.epochs=2", f"--workdir={workdir}")
    assert code == 0, said


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    finished, tmp_path, capfd
):
    workdir = _copy(finished[0], tmp_path)
    config = json.loads((workdir / "config.json").read_text())
    config["optimizer"]["learning_rate"] = 1e30  # as if it had been so from the start
    (workdir / "config.json").write_text(json.dumps(config))
    said = fails(
        capfd, train.main, *QUICK, "--config.optimizer.learning_rate=1e30", "--config.epochs=9",
        f"--workdir={workdir}",
    )  # fmt: skip
    assert "epoch 7" in said and "NaN" in said and "epoch 6 is kept" in said
    assert checkpoint.epochs(workdir / "checkpoints")[-1] == 6
    assert final_state(workdir).epoch == 6
    assert len(Workdir(workdir).records()) == 6
