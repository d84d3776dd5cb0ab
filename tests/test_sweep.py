"""The command line that trains several runs side by side."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dynhp_jax.config import Config
from experiments import commandline, sweep
from experiments.workdir import Workdir

ROOT = Path(__file__).parents[1]
CLOCKS = {"seconds", "compile_seconds", "compilations"}
QUICK = [
    "--config=configs/digits.py",
    "--config.model.hidden=(12,)",
    "--config.penalty.lam=4.0",
    "--config.optimizer.learning_rate=0.01",
    "--seeds=0,3",
    "--alphas=0.2,0.9",
]


def test_every_member_leaves_a_run_and_more_epochs_go_on(capsys, monkeypatch, tmp_path):
    arguments = [*QUICK, f"--workdir={tmp_path / 'one'}"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.sweep", *arguments, "--config.epochs=2"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(ROOT)
    assert commandline.run(sweep.main, ["sweep", *arguments, "--config.epochs=3"]) == 0
    said = capsys.readouterr().out
    assert "going on after epoch 2 of 3" in said
    names = [f"alpha{alpha}-seed{seed}" for alpha in (0.2, 0.9) for seed in (0, 3)]
    finished = []
    for name in names:
        workdir = Workdir(tmp_path / "one" / name)
        records = workdir.records()
        assert [record["epoch"] for record in records] == [1, 2, 3]
        summary = json.loads(workdir.summary_file.read_text())
        assert summary["test_error"] == records[-1]["test_error"]
        assert f"{summary['seed']}" in name
        assert (workdir.figures / "units.png").exists()
        finished.append([{k: v for k, v in r.items() if k not in CLOCKS} for r in records])
    assert len({json.dumps(each) for each in finished}) == 4
    lines = said.splitlines()
    (head,) = [k for k, line in enumerate(lines) if line.startswith("setting")]
    assert [line.split()[:3] for line in lines[head + 2 : head + 4]] == [
        ["alpha", "0.2", "2"],
        ["alpha", "0.9", "2"],
    ]
    others = ["--config.epochs=3", "--lams=1,2"]
    assert commandline.run(sweep.main, ["sweep", *arguments, *others]) == 2
    assert "holds a sweep over alpha0.2-seed0" in capsys.readouterr().err


def test_values_that_are_nearly_the_same_are_members_of_their_own():
    lists = {"seeds": "20231101,20231102", "lams": "0.12345671,0.12345672"}
    found = sweep.combinations(Config(), lists)
    assert len(found) == 4 and "seed20231101-lam0.12345671" in found
    assert found["seed20231102-lam0.12345672"].penalty.lam == 0.12345672


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--seeds=0,one"], "--seeds: 'one' is not allowed"),
        (["--seeds=1,1"], "--seeds=1,1 names a value twice"),
        ([], "nothing to sweep"),
        (["--alphas=1.5"], "config.batch.alpha is 1.5"),
        (["--seeds=0", "--config.memory.meter=xla"], "config.memory.meter is 'xla'"),
        (["--seeds=0", "--config.memory.meter=ounces"], "config.memory.meter is 'ounces'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(capfd, monkeypatch, tmp_path, arguments, said):
    monkeypatch.chdir(ROOT)
    workdir = tmp_path / "none"
    arguments = ["sweep", "--config=configs/digits.py", f"--workdir={workdir}", *arguments]
    assert commandline.run(sweep.main, arguments) == 2
    shown = capfd.readouterr().err
    assert shown.startswith("error: ") and shown.count("\n") == 1 and said in shown
    assert not workdir.exists()
