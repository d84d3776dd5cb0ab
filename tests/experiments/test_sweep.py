"""The command line that trains several runs side by side."""

import json
import shutil
import threading
import time

import pytest
from command_lines import CLOCKS, fails, here, one_line, process

from dynhp_jax.training.config import Config
from dynhp_jax.training.files import provenance
from dynhp_jax.training.files.workdir import Workdir
from experiments import commandline, evaluate, sweep, train

QUICK = [
    "--config=configs/digits.py",
    "--config.model.hidden=(12,)",
    "--config.penalty.lam=4.0",
    "--config.optimizer.learning_rate=0.01",
    "--seeds=0,3",
    "--alphas=0.2,0.9",
]


NAMES = [f"alpha{alpha}-seed{seed}" for alpha in (0.2, 0.9) for seed in (0, 3)]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """(folder of a sweep over NAMES that was stopped after epoch 2 and ended with 3, its words)."""
    folder = tmp_path_factory.mktemp("sweep") / "one"
    for epochs in (2, 3):
        arguments = [*QUICK, f"--workdir={folder}", f"--config.epochs={epochs}"]
        done = process(*arguments, module="sweep")
        assert done.returncode == 0, done.stderr
    return folder, done.stdout


def contents(folder):
    """{path: bytes} of everything below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_member_leaves_a_run_and_more_epochs_go_on(swept):
    folder, said = swept
    assert "going on after epoch 2 of 3" in said
    ends = []
    for name in NAMES:
        workdir = Workdir(folder / name)
        records = workdir.records()
        assert [record["epoch"] for record in records] == [1, 2, 3]
        summary = json.loads(workdir.summary_file.read_text())
        assert summary["test_error"] == records[-1]["test_error"]
        assert f"{summary['seed']}" in name
        assert (workdir.figures / "units.png").exists()
        (stretch,) = provenance.stretches_of(workdir, records)
        assert stretch["from_epoch"] == 1 and stretch["machine"] == summary["machine"]
        ends.append([{k: v for k, v in r.items() if k not in CLOCKS} for r in records])
    assert len({json.dumps(each) for each in ends}) == 4
    lines = said.splitlines()
    (head,) = [k for k, line in enumerate(lines) if line.startswith("setting")]
    assert [line.split()[:3] for line in lines[head + 2 : head + 4]] == [
        ["alpha", "0.2", "2"],
        ["alpha", "0.9", "2"],
    ]


def test_a_member_s_network_is_evaluated(swept, capsys, tmp_path):
    folder, _ = swept
    for name in NAMES[1:3]:
        assert commandline.run(evaluate.main, ["evaluate", f"--workdir={folder / name}"]) == 0
        said, last = capsys.readouterr().out, Workdir(folder / name).records()[-1]
        assert "after epoch 3" in said and f"test error {last['test_error']:.2f} %" in said
        assert f"parameters: {last['parameters']:,} of" in said
        for group, units in last["units"].items():
            assert f"units of {group}: {units} of" in said


def test_a_network_that_is_not_of_the_last_epoch_is_said_to_be_earlier(swept, capfd, tmp_path):
    folder = shutil.copytree(swept[0], tmp_path / "copy")
    last = folder / "checkpoints" / "000003"
    last.rename(folder / "checkpoints" / "of-epoch-3")
    code, said, warned = here(capfd, evaluate.main, f"--workdir={folder / NAMES[1]}")
    assert code == 0 and "after epoch 2" in said
    assert one_line(warned.replace("warning: ", "error: "))
    assert f"{NAMES[1]}/metrics.jsonl has epoch 3; the network is that of the newest" in warned


def test_a_member_without_its_sweep_is_named(swept, capfd, tmp_path):
    folder, _ = swept
    said = fails(capfd, evaluate.main, f"--workdir={folder}")
    assert "holds a sweep" in said and f"{folder / NAMES[0]}" in said
    moved = shutil.copytree(folder / NAMES[0], tmp_path / NAMES[0])
    said = fails(capfd, evaluate.main, f"--workdir={moved}")
    assert "belongs to a sweep over alpha0.2-seed0, " in said and f"is not in {tmp_path}" in said


def test_train_takes_nothing_away_from_a_sweep(swept, capfd, tmp_path):
    folder, _ = swept
    moved = shutil.copytree(folder / NAMES[0], tmp_path / NAMES[0])
    before, single = contents(folder), [*QUICK[:-2], "--config.epochs=3"]
    for workdir in (folder / NAMES[0], folder, moved):
        said = fails(capfd, train.main, *single, "--config.batch.alpha=0.2",
                       f"--workdir={workdir}")  # fmt: skip
        assert f"{workdir} belongs to a sweep over alpha0.2-seed0, " in said
    assert (
        contents(folder) == before
        and contents(moved).items() <= contents(folder / NAMES[0]).items()
    )


def test_records_that_do_not_go_with_the_checkpoint_are_refused(swept, capfd, tmp_path):
    folder = shutil.copytree(swept[0], tmp_path / "copy")
    file = Workdir(folder / NAMES[2]).metrics_file
    arguments = [*QUICK, "--config.epochs=3", f"--workdir={folder}"]
    lines = file.read_text().splitlines(keepends=True)
    for kept in (lines[:2], lines[1:], [*lines[:2], "garbage\n"]):
        file.write_text("".join(kept))
        before = contents(folder)
        said = fails(capfd, sweep.main, *arguments)
        if "garbage" in kept[-1]:
            assert f"{file}, line 3: it is no JSON" in said
        else:
            assert f"{file} has 2 epochs" in said and "checkpoint is of epoch 3" in said
        assert contents(folder) == before


def test_what_members_lost_is_written_again_and_said(swept, capfd, tmp_path):
    folder = shutil.copytree(swept[0], tmp_path / "copy")
    kept = ("config.json", "metrics.jsonl", "provenance.json", "sweep.json")
    before = {(each, name): (folder / each / name).read_bytes() for each in NAMES for name in kept}
    shutil.rmtree(folder / NAMES[1])
    (folder / NAMES[2] / "metrics.jsonl").unlink()
    (folder / "checkpoints" / f"records-{NAMES[3]}.jsonl").write_text("no records")
    code, _, said = here(capfd, sweep.main, *QUICK, "--config.epochs=3", f"--workdir={folder}")
    assert code == 0 and all("was lost" in line for line in said.splitlines())
    for name in (f"{NAMES[1]}/config.json", f"{NAMES[1]}/provenance.json",
                 f"{NAMES[1]}/metrics.jsonl", f"{NAMES[2]}/metrics.jsonl",
                 f"checkpoints/records-{NAMES[3]}.jsonl"):  # fmt: skip
        assert said.count(f"{folder / name} was lost") == 1
    assert before == {place: (folder / place[0] / place[1]).read_bytes() for place in before}


@pytest.mark.parametrize("name", [".", NAMES[3], "checkpoints"])
def test_a_sweep_whose_directory_is_taken_away_ends_in_one_line(name, capfd, tmp_path):
    """It has epochs enough to go on until that is noticed, whenever it happens."""
    folder = tmp_path / "sweep"

    def meddle():
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            if (folder / "checkpoints" / "000001").exists():
                (folder / name).rename(tmp_path / "elsewhere")
                return
            time.sleep(0.002)

    meddling = threading.Thread(target=meddle)
    meddling.start()
    said = fails(capfd, sweep.main, *QUICK, "--config.epochs=100000", f"--workdir={folder}")
    meddling.join()
    assert "while the run went on" in said or "removed while it was written" in said
    assert str(folder) in said and not (folder / name).exists()


def test_a_folder_is_one_sweep_s(swept, capfd):
    folder, _ = swept
    before = contents(folder)
    arguments = [*QUICK, "--config.epochs=3", f"--workdir={folder}"]
    for other in ("--lams=1,2", "--seeds=1,2"):
        said = fails(capfd, sweep.main, *arguments, other)
        assert f"{folder} belongs to a sweep over alpha0.2-seed0, " in said
    assert contents(folder) == before
    with Workdir(folder).claim(None, NAMES):
        said = fails(capfd, sweep.main, *arguments, "--seeds=1,2")
    assert f"another run is writing to {folder};" in said


def test_a_sweep_that_does_not_name_its_members_is_of_an_earlier_version(swept, capfd, tmp_path):
    folder = shutil.copytree(swept[0], tmp_path / "earlier")
    for file in folder.rglob("sweep.json"):
        file.unlink()
    before = contents(folder)
    said = fails(capfd, sweep.main, *QUICK, "--config.epochs=4", f"--workdir={folder}")
    assert f"{folder} holds a sweep of an earlier version of dynhp_jax; take another" in said
    assert contents(folder) == before


def test_a_single_run_s_workdir_is_no_sweep_s(capfd, tmp_path):
    single = [*QUICK[:-2], "--config.epochs=1"]
    for seed in (0, 3):
        arguments = [*single, f"--config.seed={seed}", f"--workdir={tmp_path / f'seed{seed}'}"]
        assert here(capfd, train.main, *arguments)[0] == 0
    before = contents(tmp_path)
    for folder, named in ((tmp_path / "seed3", "seed3"), (tmp_path, "seed0")):
        said = fails(capfd, sweep.main, *single, "--seeds=0,3", f"--workdir={folder}")
        assert f"{tmp_path / named} holds a single run; take another --workdir" in said
    assert contents(tmp_path) == before


def test_a_member_whose_loss_is_no_number_is_named(capfd, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = [*QUICK[:-2], "--config.epochs=2", "--seeds=0", "--lams=0.1,1e38"]
    said = fails(capfd, sweep.main, *arguments, "--workdir=~/one")
    assert f"in epoch 1, of lam1e+38-seed0 in {tmp_path}/one; a smaller" in said
    assert "lam0.1-seed0" not in said and not (tmp_path / "one").exists()


def test_values_that_are_nearly_the_same_are_members_of_their_own():
    lists = {"seeds": "20231101,20231102", "lams": "0.12345671,0.12345672"}
    found = sweep.combinations(Config(), lists)
    assert len(found) == 4 and "seed20231101-lam0.12345671" in found
    assert found["seed20231102-lam0.12345672"].penalty.lam == 0.12345672


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--seeds=0,one"], "--seeds: 'one' is not allowed"),
        (["--seeds=1,1"], "--seeds: '1,1' names a value twice"),
        ([], "nothing to sweep"),
        (["--alphas=1.5"], "--alphas: '1.5' is not allowed; allowed: a number from 0 to 1"),
        (["--lams=0.1,1e400"], "--lams: '1e400' is not allowed"),
        (["--seeds=4294967296"], "--seeds: '4294967296' is not allowed; allowed: a whole number"),
        ([f"--{flag}={','.join(map(str, range(40)))}" for flag in ("seeds", "lams")], "1,600 runs"),
        (["--seeds=0", "--config.name=../x"], "config.name is '../x'; allowed: a name that"),
        (["--seeds=0", "--workdir=~nosuchuser/x"], "--workdir is '~nosuchuser/x'"),
        (["--seeds=0", "--config.memory.meter=xla"], "config.memory.meter is 'xla'"),
        (["--seeds=0", "--config.memory.meter=ounces"], "config.memory.meter is 'ounces'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(capfd, tmp_path, arguments, said):
    workdir = tmp_path / "none"
    arguments = ["--config=configs/digits.py", f"--workdir={workdir}", *arguments]
    assert said in fails(capfd, sweep.main, *arguments)
    assert not workdir.exists()
