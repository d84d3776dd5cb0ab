"""Nodes divided among devices, of one process and of several: the run of one device."""

import json
import os
import re
import subprocess
import sys

import addresses
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_lines import ROOT
from patience import PATIENCE

from dynhp_jax import UserError
from dynhp_jax.decentralised import devices

from . import in_members
from .test_rounds import NODES, SLOTS, made
from .test_run import run as small_run

COUNTS = (2, 4)


def started(*words, flags=""):
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "decentralised.in_members", *words], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What one process with four devices found, and groups of two and of four processes."""
    folder = tmp_path_factory.mktemp("members")
    running = [started(str(folder), flags="--xla_force_host_platform_device_count=4")]
    for count in COUNTS:
        (folder / str(count)).mkdir()
        where = addresses.free()
        running += [started(str(folder / str(count)), where, str(number), str(count))
                    for number in range(count)]  # fmt: skip
    try:
        for process in running:
            _, error = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, error
    finally:
        for process in running:
            process.kill()  # those that wait for one that failed
    return folder


def read(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("count", COUNTS)
def test_processes_are_one_with_as_many_devices(folder, count):
    alone, seen = read(folder / f"alone{count}.json"), []
    for number in range(count):
        found = read(folder / str(count) / f"{number}.json")
        assert found["records"][-1] == alone["records"][-1]
        losses = [[each["loss"] for each in one["records"]] for one in (found, alone)]
        assert losses[0] == losses[1]
        seen += found["numbers"]
        assert found["arrays"] == {str(n): alone["arrays"][str(n)] for n in found["numbers"]}
    assert seen == list(range(in_members.EIGHT))


def test_devices_are_one(folder):
    result = in_members.run()
    for count in COUNTS:
        found = read(folder / f"alone{count}.json")
        for node in range(in_members.EIGHT):
            for name, leaf in result.node(node)["params"].items():
                np.testing.assert_allclose(found["arrays"][str(node)][name], leaf, atol=1e-6)
    machine = made()
    alive = np.ones((SLOTS, NODES), bool)
    alive[1, 4] = False
    state, losses, (sums,) = machine.run(alive=alive, judged=np.array([0, 7, 12], np.int32))
    with np.load(folder / "rounds.npz") as found:
        np.testing.assert_allclose(found["losses"], losses, rtol=1e-5)
        np.testing.assert_array_equal(found["errors"], sums["error"])
        for name, leaf in state.variables["params"].items():
            np.testing.assert_allclose(found[name], leaf, atol=1e-6)


def test_members_stop_and_go_on_together(folder):
    zero, one = (read(folder / "2" / f"{number}.json") for number in (0, 1))
    for found in (zero, one):
        assert found["stopped"] == 2 and len(found["records"]) == in_members.ROUNDS
        assert found["seed"].startswith("before training: process 1 has data, nodes, weights")
        assert found["devices"].startswith("devices is 2 for 8 nodes in 2 processes; allowed: ")
    assert (zero["callbacks"], one["callbacks"]) == ([3, 4], [])
    assert zero["elsewhere"] == "node 4 is not here; allowed: [0, 1, 2, 3]"
    lines = (folder / "2" / "workdir" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == zero["records"]


def test_no_device_ever_has_all_nodes(folder):
    """On three of them each has two of six nodes, and no array the weights of all."""
    program = (folder / "program.txt").read_text()
    assert "f32[2,5,6]" in program and "collective-permute" in program
    assert not re.search(r"f32\[(6,5,6|6,30|3,2,5,6|3,2,30)\]", program)


def test_more_devices_than_there_are_is_a_line():
    with pytest.raises(UserError, match="devices is 999 for 4 nodes; allowed: a divisor of 4"):
        small_run(devices=999)
    assert devices.here(3, 1).tolist() == [0, 1, 2]
    tree = {"a": np.arange(3), "key": jax.random.key(0)}
    assert isinstance(devices.placed(tree, 1, divided=True)["a"], jnp.ndarray)
