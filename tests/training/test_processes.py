"""Two processes with a device each train one run: the bits of one process with two devices."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import addresses
import jax
import pytest
from command_lines import QUICK, ROOT, command, fails, here, timeless
from event_files import curves
from in_processes import CASES
from patience import PATIENCE

from dynhp_jax.common import processes
from dynhp_jax.common.errors import UserError
from dynhp_jax.training.files.workdir import Workdir
from experiments import evaluate, joining, train

SHORT = [*QUICK, "--config.epochs=4"]
ONE = "--xla_force_host_platform_device_count=2"


def started(words, devices_flag="", **files):
    flags = f"{os.environ.get('XLA_FLAGS', '')} {devices_flag}"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.Popen(
        words, cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": paths},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process):
    out, error = process.communicate(timeout=PATIENCE)
    return process.returncode, out, error


# -- in Python -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """{'alone', '0', '1': what `in_processes` found}."""
    folder, where = tmp_path_factory.mktemp("fitted"), addresses.free()
    words = [sys.executable, "-m", "in_processes", str(folder)]
    running = [started(words, ONE), *(started([*words, where, number]) for number in "01")]
    for process in running:
        code, _, error = ended(process)
        assert code == 0, error
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in ("alone", *"01")}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_compute_what_one_with_two_devices_does(fitted, case):
    alone = fitted["alone"][case]
    for number in "01":
        found = fitted[number][case]
        assert found["records"] == alone["records"]
        assert found["arrays"] == alone["arrays"] and found["error"] == alone["error"]
    assert fitted["0"][case]["callbacks"] == [record["epoch"] for record in alone["records"]]
    assert fitted["1"][case]["callbacks"] == []
    first, last = alone["records"][0], alone["records"][-1]
    assert last["materialised"] < first["materialised"], "nothing was cut; test more"


def test_what_goes_wrong_in_one_process_ends_all(fitted):
    zero, one = (fitted[number]["meetings"] for number in "01")
    assert zero["heard"] == one["heard"] == [10, 11]
    assert (zero["failed"], one["failed"]) == ("process 1: no room", "itself: no room")
    assert zero["point"].startswith("process 1 is at 'point 1', this one at 'point 0'; all need ")
    for found in (zero, one):
        assert found["seed"].startswith("before training: process 1 has config.seed 1, process 0 ")
        assert found["devices"].startswith("config.devices is 2; allowed: 0 (all) to 1, ")
        assert found["exchanged"] == [0, 5]
        assert not any("\n" in found[name] for name in ("point", "seed", "devices"))


def test_one_process_meets_itself():
    with processes.together("here") as meeting:
        meeting.said["number"] = 3
    assert meeting.heard == [{"number": 3}]
    with pytest.raises(OSError, match="no room"), processes.together("here"):
        raise OSError("no room")
    other = processes.Meeting(
        "epoch 3", heard=[{"x": {"units": 5, "loss": 1}}, {"x": {"units": 4}}]
    )
    with pytest.raises(
        UserError, match="^epoch 3: process 1 has units 4, process 0 has 5; also in"
    ):
        other.check_same("x")


# -- from the command line -------------------------------------------------------------------------


def pair(workdir):
    """Both processes of a run, started."""
    where = addresses.free()
    flags = [f"--workdir={workdir}", f"--coordinator_address={where}", "--num_processes=2"]
    flags.append("--heartbeat_timeout=30")
    return [started(command(*SHORT, *flags, f"--process_id={number}")) for number in (0, 1)]


@pytest.mark.long
def test_a_run_goes_on_after_the_death_of_a_process(tmp_path, capfd):
    alone, both = tmp_path / "alone", tmp_path / "both"
    one = started(command(*SHORT, "--config.devices=2", f"--workdir={alone}"), ONE)
    zero, other = pair(both)
    metrics, until = both / "metrics.jsonl", time.monotonic() + PATIENCE
    while not metrics.exists() or metrics.read_text().count("\n") < 2:
        assert time.monotonic() < until and zero.poll() is None, ended(zero)
        time.sleep(0.05)
    other.send_signal(signal.SIGKILL)
    code, _, said = ended(zero)
    assert code == 2, said
    assert " of 2 has ended or does not answer (" in said and said.count("error: ") == 1
    assert "the same commands go on from the newest checkpoint" in said
    assert ended(other)[0] == -signal.SIGKILL
    assert ended(one)[0] == 0

    (code, said, error), (also, silent, second) = map(ended, pair(both))
    assert (code, also) == (0, 0), error + second
    assert "going on after epoch" in said and "everything is in" in said
    assert not [line for line in silent.splitlines() if not line.startswith("[Gloo]")]
    assert timeless(both) == timeless(alone)
    assert [step for step, _ in curves(both / "tensorboard")["test_error"]] == [1, 2, 3, 4]
    code, said, error = here(capfd, evaluate.main, f"--workdir={both}")  # in one process
    assert code == 0, error
    assert f"test error {Workdir(both).records()[-1]['test_error']:.2f} %" in said
    assert sorted(each.name for each in both.iterdir()) == sorted(e.name for e in alone.iterdir())
    assert Workdir(both).records()[-1]["parameters"] < Workdir(both).records()[0]["parameters"]


def test_processes_that_cannot_find_each_other_are_refused_in_a_line(capfd, monkeypatch):
    flags = ["--config=configs/digits.py"]
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)

    def said(*more):
        return fails(capfd, train.main, *flags, *more)

    assert "--num_processes is missing" in said("--coordinator_address=localhost:1")
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    assert "--process_id is missing" in said("--num_processes=2")
    assert "--process_id is 2; allowed: 0 to 1" in said("--num_processes=2", "--process_id=2")
    assert "--num_processes is 'two'; allowed: a whole" in said("--num_processes=two")
    assert "is 'localhost'; allowed: ADDRESS:PORT" in said(
        "--coordinator_address=localhost", "--num_processes=2", "--process_id=1"
    )
    monkeypatch.setattr(joining, "PATIENCE_S", 0.0)
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        each = [f"--coordinator_address=localhost:{port}", "--num_processes=2"]
        assert f"cannot listen at port {port} (" in said(*each, "--process_id=0")
    assert f"is not to be reached at localhost:{port} (" in said(*each, "--process_id=1")
    assert not jax.distributed.is_initialized()
