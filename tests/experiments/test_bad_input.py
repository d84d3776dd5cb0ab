"""Every kind of bad input is one line that says what to do."""

import json
import os
import re
import subprocess

import pytest
from command_lines import (
    QUICK,
    ROOT,
    command,
    copy_of,
    fails,
    final_state,
    here,
    one_line,
    process,
    rewrite_host,
    timeless,
)
from patience import PATIENCE

from dynhp_jax import data
from dynhp_jax.training.compiled import programs
from dynhp_jax.training.files.workdir import Workdir
from dynhp_jax.training.run import checkpoint
from dynhp_jax.training.run.trainer import Trainer
from experiments import commandline, evaluate, train


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
    trainer = Trainer(config, data.load("digits"), programs.Programs())
    assert trainer.meter.room(trainer.whole_parameters) == 1


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
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE,
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
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE,
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
    workdir = copy_of(finished[0], tmp_path)

    def faster(host):  # as if it had been so from the start
        host["runs"]["alone"]["config"]["optimizer"]["learning_rate"] = 1e30
        return host

    (workdir / "config.json").unlink()  # is written again, from the checkpoint
    rewrite_host(workdir / "checkpoints" / "000006", faster)
    code, _, said = here(
        capfd, train.main, *QUICK, "--config.optimizer.learning_rate=1e30", "--config.epochs=9",
        f"--workdir={workdir}",
    )  # fmt: skip
    assert code == 2 and one_line(said.splitlines(keepends=True)[-1])
    assert "epoch 7" in said and "NaN" in said and "epoch 6 is kept" in said
    assert checkpoint.epochs(workdir / "checkpoints")[-1] == 6
    assert final_state(workdir).epoch == 6
    assert len(Workdir(workdir).records()) == 6
