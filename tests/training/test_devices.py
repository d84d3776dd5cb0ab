"""Mini-batches spread over eight devices: the numbers of one device, from programs that do share.

A process has the devices that it starts with, so the eight are those of another process.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import chex
import inside_shard_map
import jax
import numpy as np
import on_a_mesh
import pytest
from kept import Kept
from on_eight_devices import EPOCHS, STOP, make, resumed_run, trainer_of, whole_run
from patience import PATIENCE

from dynhp_jax import data
from dynhp_jax.common.errors import ConfigError, UserError
from dynhp_jax.training import config
from dynhp_jax.training.compiled import programs
from dynhp_jax.training.run import checkpoint, resume
from dynhp_jax.training.run.trainer import Trainer

HERE = Path(__file__).resolve().parents[1]
OF_ONE = {per_example: Kept() for per_example in (False, True)}  # programs of one device


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(the folder of checkpoints, one device's records, what the other process found)."""
    folder = tmp_path_factory.mktemp("devices")
    mine = {
        str(each): whole_run(make(1, each), OF_ONE[each], folder / "one" / str(each))
        for each in (False, True)
    }
    flags = os.environ.get("XLA_FLAGS", "")
    done = subprocess.run(
        [sys.executable, "-m", "on_eight_devices", str(folder)],
        env=os.environ
        | {
            "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=8",
            "PYTHONPATH": f"{HERE.parent}:{HERE}",
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "found.json").read_text())
    assert found["devices"] == 8
    return folder, mine, found


def state_in(folder: Path, settings: config.Config):
    found = resume.newest(trainer_of(settings), folder)
    return jax.tree.map(np.asarray, found.state)


def assert_same(one, other):
    chex.assert_trees_all_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("per_example", [False, True])
def test_eight_devices_compute_what_one_does(both, per_example):
    folder, mine, found = both
    name = str(per_example)
    for one, eight in zip(mine[name], found["records"][name], strict=True):
        for field in ("units", "parameters", "materialised", "batch_size", "steps", "next_batch"):
            assert one[field] == eight[field], field
        for field in ("train_loss", "penalty", "grad_variance", "test_cross_entropy"):
            assert one[field] == pytest.approx(eight[field], rel=1e-4), field
    last = mine[name][-1]
    assert last["materialised"] < mine[name][0]["materialised"], "nothing was cut; test more"
    assert last["batch_size"] > 16, "the batch did not grow; test more"
    settings = make(1, per_example)
    ends = [state_in(folder / kind / name / f"{EPOCHS}", settings) for kind in ("one", "eight")]
    assert_same(*ends)


@pytest.mark.parametrize("per_example", [False, True])
def test_a_run_goes_on_with_more_or_fewer_devices(both, tmp_path, per_example):
    folder, mine, found = both
    name, settings = str(per_example), make(1, per_example)
    start = folder / "eight" / name / f"{STOP}"
    records = resumed_run(settings, OF_ONE[per_example], start, tmp_path)
    uninterrupted = state_in(folder / "one" / name / f"{EPOCHS}", settings)
    assert_same(state_in(tmp_path, settings), uninterrupted)
    assert_same(state_in(folder / "resumed" / name, settings), uninterrupted)
    for rest in (records, found["resumed"][name]):
        sizes = [(each["units"], each["batch_size"]) for each in rest]
        assert sizes == [(each["units"], each["batch_size"]) for each in mine[name][STOP:]]


def shapes(program: str) -> set[str]:
    return set(re.findall(r"f32\[[\d,]*\]", program))


@pytest.mark.parametrize("per_example", [False, True])
def test_each_device_has_its_share_of_the_examples_and_sums_are_added_up(both, per_example):
    program = both[2]["programs"][str(per_example)]
    assert "num_partitions=8" in program and " all-reduce" in program
    assert not re.search(r" (all-gather|all-to-all|collective-permute)", program)
    inside = shapes(program)
    assert "f32[2,64]" in inside and "f32[16,64]" not in inside  # images
    assert "f32[2,10]" in inside and "f32[16,10]" not in inside  # logits
    assert "f32[16]" not in inside  # losses, the probe
    if per_example:
        assert "f32[2,12]" in inside and "f32[16,12]" not in inside and "f32[16,83]" not in inside
    evaluation = both[2]["evaluation"]
    assert "f32[45,10]" in shapes(evaluation) and "f32[360,10]" not in shapes(evaluation)


@pytest.mark.parametrize("per_example", [False, True])
def test_one_device_gets_a_program_without_any_of_it(both, per_example):
    trainer = trainer_of(make(1, per_example), OF_ONE[per_example])
    program = trainer.steps.training_program(trainer.whole, 16).as_text()
    for word in (" sharding=", "num_partitions", "all-reduce"):
        assert word not in program
    assert "f32[16,64]" in shapes(program)
    assert " sharding=" in both[2]["programs"][str(per_example)]


def test_streaming_to_eight_devices_changes_nothing(both):
    assert both[2]["streamed is resident"]


def test_mini_batches_are_in_equal_shares(both):
    assert both[2]["in threes"] == [3, 3, 15, 87]
    assert both[2]["metered"]["batch"] == 2 * (64 + 1) * 4


@pytest.mark.parametrize(
    "transform",
    ["gated", "resized", "probed", "selected", "gated, synchronised", "resized, synchronised"],
)
def test_inside_shard_map_transforms_give_what_they_give_alone(both, transform):
    inside, alone = both[2]["shard_map"][transform]
    assert all(np.any(numbers) for numbers in alone)
    for a, b in zip(inside, alone, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transform", ["gated", "resized"])
@pytest.mark.parametrize("collective", inside_shard_map.COLLECTIVES)
def test_units_go_through_collectives_as_if_it_were_written_by_hand(both, collective, transform):
    found, by_hand = both[2]["collectives"][collective][transform]
    assert all(np.any(numbers) for numbers in by_hand)
    for a, b in zip(found, by_hand, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transform", ["gated", "probed", "resized", "cut in jit"])
@pytest.mark.parametrize("model", [", ".join(each) for each in on_a_mesh.MODELS])
def test_arrays_that_are_split_on_a_mesh_give_what_they_give_without_one(both, model, transform):
    names = [name for name in both[2]["mesh"][model] if name.startswith(transform)]
    assert names
    for name in names:
        found, alone = both[2]["mesh"][model][name]
        assert np.any(alone)
        np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-5)


def test_a_cut_leaves_arrays_where_and_as_they_are(both):
    """Four devices split the units, in equal parts if there are as many for each."""
    found = both[2]["placements"]
    keeps, everywhere = on_a_mesh.KEEPS, list(range(8))
    shares = {
        "eight": {"a": [4, 2], "b": [2], "c": [2, 6]},
        "six": {"a": [4, 6], "b": [6], "c": [6, 6]},
    }
    whole = {"eight": {"a": [4, 8], "b": [8], "c": [8, 6]}, "six": shares["six"]}
    expected = {  # (share of a device, devices, memory, committed)
        "split": (shares, everywhere, "device", True),
        "moments": (shares, everywhere, "device", True),
        "host": (shares, everywhere, "pinned_host", True),
        "elsewhere": (whole, [5], "device", True),
        "anywhere": (whole, [0], "device", False),
    }
    keys = found["keys"]
    for name, keep in keeps.items():
        whole_keys = jax.random.key_data(jax.random.split(jax.random.key(0), 16))
        assert keys[name]["b"]["numbers"] == np.asarray(whole_keys)[keep].tolist()
        assert keys[name]["b"]["share"] == [*shares[name]["b"], 2]
    for where, (share, devices, memory, committed) in expected.items():
        for keep, leaves in found[where].items():
            for leaf, said in leaves.items():
                axis = on_a_mesh.SHAPES[leaf].index(16)
                numbers = np.take(on_a_mesh.PARAMS[leaf], keeps[keep], axis)
                np.testing.assert_array_equal(np.asarray(said["numbers"], "f4"), numbers)
                assert said["share"] == share[keep][leaf], (where, keep, leaf)
                assert said["devices"] == devices
                assert (said["memory"], said["committed"]) == (memory, committed)


def test_a_cut_inside_a_shard_map_over_some_axes(both):
    rows = on_a_mesh.PARAMS["c"].T[:4]
    np.testing.assert_array_equal(
        np.asarray(both[2]["partly manual"], "f4"), rows[:, on_a_mesh.KEEPS["eight"]]
    )


def test_gates_of_one_device_do_not_stand_on_what_all_have(both):
    said = both[2]["collectives"]["other gates"]
    assert "'a' differ between devices along ('d',)" in said and "the same gates" in said


def test_a_probe_that_devices_would_share_is_refused_inside_shard_map(both):
    assert "pcast(probe, ('d',), to='varying')" in both[2]["shard_map"]["one probe"]


def test_what_cannot_be_shared_is_refused_in_one_line(both):
    said = both[2]["refused"]
    assert said["too many"].startswith("config.devices is 9; allowed: 0 (all) to 8, ")
    assert said["no multiple"].startswith("config.batch.size is 100; allowed: a multiple of 8")
    assert said["little room"].startswith("config.devices is 8; allowed: at most 7")
    assert not any("\n" in line for line in said.values())
    with pytest.raises(ConfigError, match=r"^config.devices is 3; allowed: 0 \(all\) to 1, "):
        trainer_of(make(3))


def test_what_fits_by_xla_s_meter_is_of_a_number_of_devices():
    paper = make(1)
    assert config.differences(paper, dataclasses.replace(paper, devices=8)) == []
    xla = dataclasses.replace(paper, memory=config.Memory("xla", "none"))
    (found,) = config.differences(xla, dataclasses.replace(xla, devices=8))
    assert found.startswith("config.devices")
    # Where all devices were asked for, configs are the same and only the checkpoint knows.
    trainer = Trainer(xla, data.load("digits"), programs.Programs())
    run = trainer.start()
    host = resume.host_part(run, trainer) | {"devices": 8}
    with pytest.raises(UserError, match="on 8 devices, here it is 1, .*--config.devices=8"):
        resume.run_of(trainer, checkpoint.Checkpoint(0, run.state, host))
