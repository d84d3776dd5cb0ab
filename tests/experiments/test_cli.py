"""What a run leaves, and what evaluates it, as seen from the command line."""

import json
import math
import os
import re

import numpy as np
import pytest
from command_lines import QUICK, here, process
from event_files import curves
from PIL import Image

from dynhp_jax import data
from dynhp_jax.export import runs
from dynhp_jax.training.files.workdir import Workdir
from dynhp_jax.training.run import checkpoint
from experiments import evaluate, reports, train


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
    shown = {name: dict(points) for name, points in curves(workdir / "tensorboard").items()}
    for record in Workdir(workdir).records():
        epoch = record["epoch"]
        assert shown["test_error"][epoch] == pytest.approx(record["test_error"])
        assert shown["units/hidden_1"][epoch] == record["units"]["hidden_1"]


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
    found = runs.here(train.configuration.from_dict(values))
    assert (found.data.dir, found.data.cache_dir) == (str(tmp_path), "")
    assert found.compiling.cache_dir == "none"


def test_the_dense_numbers_are_those_of_the_whole_network(finished):
    workdir, _ = finished
    summary = json.loads((workdir / "summary.json").read_text())
    parameters = 64 * 20 + 20 + 20 * 8 + 8 + 8 * 10 + 10
    assert summary["dense"]["parameters"] == parameters
    assert summary["dense"]["units"] == {"input": 64, "hidden_1": 20, "hidden_2": 8}
    assert f"{parameters:,}" in reports.table(summary)
