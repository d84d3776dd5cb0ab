"""`experiments.frontier`: recipes, result files, table, figure, and what cannot be."""

import json
import os
import re

import pytest
from command_lines import fails, here

from dynhp_jax.common.errors import UserError
from experiments import frontier, result_files
from experiments.frontiers import recipes, results, tables
from experiments.frontiers.published import kib_of, points
from experiments.reproduction.published import METER, WHOLE

ORIGIN = {"commit": None, "versions": {}, "machine": None}


def recorded(place, row, seed, error, parameters, **options):
    """A result as a run of two epochs would have left it."""
    config = recipes.config_of(row, seed, lam=0.5, **options)
    records = [
        {"epoch": e, "test_error": error + 2 - e, "parameters": parameters, "batch_size": 16 * e,
         "steps": 100, "seconds": 1.5, "compile_seconds": 0.5, "compilations": e,
         "allocated_kib": 900.0 + e}
        for e in (1, 2)
    ]  # fmt: skip
    units = {"input": 784, "hidden_1": 300, "hidden_2": 100}
    found = results.of_records(row, config, records, units, range(784), ORIGIN)
    path = results.path_of(place, row, seed)
    result_files.write_lines(path, found)
    return found, path


@pytest.mark.parametrize("data", recipes.SIZES)
def test_every_row_has_a_config_and_a_name_of_its_own(data):
    rows = recipes.rows(data)
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        config = recipes.config_of(row, 3, lam=0.5)
        assert (
            config.seed == 3 and config.data.name == data and recipes.row_of(data, row.name) == row
        )
        if row.method in recipes.SCORED:
            left = (1 - config.scores.fraction) * WHOLE
            assert METER.model_kib(left) == pytest.approx(row.size)
        if row.method in ("dynhp", "worth", "cabs", "doubling"):
            assert config.batching.rule == row.method and config.batching.size == 16


def test_a_result_is_read_back_and_the_table_has_means(tmp_path):
    row = recipes.row_of("mnist", "worth-120KiB")
    for seed, error in enumerate((1.2, 1.4)):
        found, path = recorded(tmp_path, row, seed, error, 30_000)
        config = recipes.config_of(row, seed, lam=0.5)
        assert results.current(path, config) == json.loads(json.dumps(found))
        # 100 steps of 16 and of 32 examples; the network beside them, on average.
        assert found["examples_seen"] == 4_800 and found["compilations"] == 2
        assert found["mean_memory_kib"] == pytest.approx(30_000 * 4 / 1024 + 24 * 784 * 4 / 1024)
    with pytest.raises(UserError, match="penalty.lam"):
        results.current(path, recipes.config_of(row, 1, lam=0.6))
    head, line = tables.build("mnist", results.read_all(tmp_path, "mnist")).cells
    said = dict(zip(head, line, strict=True))
    assert said["test error %"] == "1.30 ± 0.14" and said["seeds"] == "2"
    assert said["KiB"] == "117.2 ± 0.0"


def test_it_prints_and_draws_what_is_there(tmp_path, capfd):
    recorded(tmp_path, recipes.row_of("mnist", "hp-60KiB"), 0, 1.6, 15_000)
    code, said, _ = here(capfd, frontier.main, "--data=mnist", "--print", f"--results={tmp_path}")
    assert code == 0 and "hp-60KiB" in said and "L0 (Louizos et al.) 1.4 % at 272" in said
    assert (tmp_path / "mnist.png").stat().st_size > 10_000
    assert "| hp-60KiB |" in (tmp_path / "mnist.md").read_text()


def test_published_sizes_are_those_of_their_units():
    """By hand: 219-214-100-10 are 219*214 + 214 + 214*100 + 100 + 100*10 + 10 numbers."""
    assert kib_of(219, 214, 100) == 4 * (219 * 214 + 214 + 214 * 100 + 100 + 1010) / 1024
    assert {p.error for p in points("fashion_mnist")} >= {9.64, 9.96}


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--data=mnost"], r"--data is 'mnost'; allowed: mnist, fashion_mnist"),
        (["--data=mnist", "--rows=hp-61KiB"], "'hp-61KiB' is no row; allowed: dense, sp, hp-60KiB"),
        (["--data=mnist", "--lam=-1"], "lam"),
        (["--data=mnist", "--print"], "there is no result of mnist in"),
        (["--data=mnist", "--rows=dense-final-60KiB"], "takes the sizes of worth-60KiB, which has"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(tmp_path, capfd, flags, words):
    places = [f"--results={tmp_path / 'results'}", f"--workdir={tmp_path / 'runs'}"]
    assert re.search(words, fails(capfd, frontier.main, *flags, *places))


@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="needs MNIST")
def test_a_row_is_trained_once(tmp_path, capfd):
    flags = [
        "--data=mnist", "--rows=dense", "--seeds=0", "--epochs=1", "--validation=0.9",
        f"--results={tmp_path / 'results'}", f"--workdir={tmp_path / 'runs'}",
    ]  # fmt: skip
    code, said, _ = here(capfd, frontier.main, *flags)
    assert code == 0 and "held-out error %" in said and "1 epochs" in said
    (file,) = (tmp_path / "results" / "mnist").glob("*.json")
    before = file.stat().st_mtime_ns
    code, again, _ = here(capfd, frontier.main, *flags)
    assert code == 0 and file.stat().st_mtime_ns == before and "epoch 1/1" not in again
