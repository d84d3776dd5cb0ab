"""The comparison of methods of fine-tuning: what is chosen, what is called confirmed, one run."""

import json
import os

import jax
import numpy as np
import pytest
from command_lines import fails, here
from scipy import stats

from dynhp_jax.models import weights
from dynhp_jax.training import build
from experiments import compare_finetune, intervals
from experiments.finetuning import claims, tables
from experiments.finetuning.rows import ROWS


def result(row, budget, rate, seed, held_out, test=50.0):
    return {"row": row, "budget": budget, "rate": rate, "seed": seed,
            "validation_accuracy": held_out, "test_accuracy": test}  # fmt: skip


def test_rates_are_chosen_on_held_out_images_of_the_first_seed():
    found = [
        result("head", None, 0.05, 0, 60.0, test=1.0),
        result("head", None, 0.25, 0, 50.0, test=99.0),
        result("head", None, 0.05, 1, 55.0),
        result("trady", 0.5, 0.05, 0, 50.0),
        result("trady", 0.25, 0.125, 0, 50.0),
        result("trady", 0.25, 0.25, 0, 50.0),  # as good: the smaller rate
    ]
    chosen = tables.of_chosen_rates(found)
    assert list(chosen) == [("head", None), ("trady", 0.25), ("trady", 0.5)]
    assert [(each["rate"], each["seed"]) for each in chosen["head", None]] == [(0.05, 0), (0.05, 1)]
    assert chosen["trady", 0.25][0]["rate"] == 0.125


def test_intervals_are_student_s():
    differences = np.random.default_rng(0).normal(0.3, 1, 7)
    wanted = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose(intervals.interval(differences.tolist()), wanted, rtol=1e-12)


def test_verdicts_and_pairs_that_would_decide():
    assert claims.verdict([1.0, 1.1, 0.9]) == ("confirmed", None)
    assert claims.verdict([-1.0, -1.1, -0.9]) == ("refuted", None)
    called, more = claims.verdict([1.0, -0.6, 0.9])
    assert called == "undecided"
    spread = np.std([1.0, -0.6, 0.9], ddof=1)
    mean = np.mean([1.0, -0.6, 0.9])
    half = lambda n: stats.t.ppf(0.975, n - 1) * spread / np.sqrt(n)  # noqa: E731
    assert half(more) < mean <= half(more - 1)
    assert claims.verdict([0.01, -0.02, 0.03], within=0.3) == ("confirmed", None)
    assert claims.verdict([1.0, 1.1, 0.9], within=0.3) == ("refuted", None)


def test_pairs_are_of_one_seed_and_one_budget():
    found = [result("trady", b, 0.1, s, 50.0, 60 + s + 10 * b) for b in (0.2, 0.4) for s in (0, 1)]
    found += [result("bias", None, 0.1, s, 50.0, 50 + s) for s in (0, 1)]
    claim = claims.Claim("", "", "trady", "bias")
    assert claims.paired(tables.of_chosen_rates(found), claim) == [12.0, 12.0, 14.0, 14.0]


def test_layers_rank_alike_or_not():
    rng = np.random.default_rng(0)
    one = {f"layer{k}": float(k) for k in range(40)}
    near = {name: value + rng.normal() for name, value in one.items()}
    far = dict(zip(one, rng.permutation(40).astype(float), strict=True))
    wanted = stats.spearmanr(list(one.values()), list(near.values())).statistic
    found, low, high = claims.spearman(one, near)
    assert found == pytest.approx(wanted) and low < found < high
    grid = claims.of_layer_ranks({"a": one, "b": near, "c": far})
    assert [row[-1] for row in grid.cells[1:]] == ["confirmed", "refuted", "refuted"]
    few = claims.of_layer_ranks({"a": {"x": 1.0}, "b": {"x": 2.0}})
    assert few.cells[1][-1] == "undecided"


def test_rows_change_more_than_the_extension_where_they_say_so():
    from configs import finetune_digits
    from experiments.finetuning import settings, tracks

    base, _ = settings.from_config_dict(finetune_digits.get_config())
    place = tracks.Place("A", base, None, None, {})
    config = place.config("full()", 1, 0.25, ROWS["galore-4"].changes)
    tx = build.optimizer_of(config)
    params = {"kernel": np.ones((3, 3, 8, 16), "f4"), "bias": np.ones(16, "f4")}
    state = tx.init(params)
    largest = max(leaf.size for leaf in jax.tree.leaves(state))
    assert largest <= 9 * 8 * 4  # a projection of 4 directions, no moment of the kernel's size
    updates, _ = tx.update(params, state, params)
    assert updates["kernel"].shape == (3, 3, 8, 16)
    parts = place.config("full()", changes=ROWS["full-parts"].changes)
    assert (parts.batch.variance, parts.batch.micro_batches) == ("micro", 4)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_names_an_extension(name):
    from dynhp_jax.training import extensions

    row = ROWS[name]
    assert extensions.named(row.text(50, ("params/a/kernel",)))


def test_one_row_is_run_printed_and_skipped(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))  # put back afterwards
    rng, sizes = np.random.default_rng(0), (64, 12, 10)
    params = {
        layer: {"kernel": rng.normal(size=(read, made)).astype("f4") / 8, "bias": np.zeros(made)}
        for layer, read, made in zip(("hidden_1", "output"), sizes, sizes[1:], strict=False)
    }
    weights.write(tmp_path / "w.npz", {"params": params})
    asked = [
        "--track=A", "--rows=head", "--seeds=0", "--rates=0.1", f"--results={tmp_path / 'results'}",
        f"--workdir={tmp_path / 'runs'}", "--config=configs/finetune_digits.py",
        "--config.model.name=mlp", "--config.model.depth=0", "--config.model.width=0.0",
        "--config.model.hidden=(12,)", "--config.data.validation=0.2", "--config.epochs=2",
        "--config.memory.meter=paper", f"--config.start.weights={tmp_path / 'w.npz'}",
    ]  # fmt: skip
    code, out, said = here(capfd, compare_finetune.main, *asked)
    assert code == 0, said
    found = json.loads((tmp_path / "results" / "head-rate0.1-seed0.json").read_text())
    assert found["config"]["start"]["weights"] == "w.npz"  # no path of a machine
    assert found["bytes"]["gradients"] == 4 * (12 * 10 + 10) and found["papers_numbers"] == 0
    assert (tmp_path / "results" / "accuracy.png").exists()
    assert "Fine-tuning at equal bytes" in (tmp_path / "results" / "table.md").read_text()
    code, again, _ = here(capfd, compare_finetune.main, *asked, "--print")
    assert code == 0 and "-- head" not in again and again.strip() in out
    said = fails(capfd, compare_finetune.main, *asked, "--config.optimizer.warmup=0")
    assert "is of another config; what differs: config.optimizer.warmup" in said


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--track=C"], "--track is 'C'; allowed: A, B"),
        ([], "--track is missing"),
        (["--track=A", "--rows=su"], "there is no row 'su'; allowed: full, head"),
        (["--track=A", "--budgets=2"], "--budgets: '2' is not allowed; allowed: numbers, 0.001"),
        (["--track=A", "--rates=-1"], "--rates: '-1' is not allowed"),
        (["--track=A", "--print", "--results=nowhere"], "there is no result of track A yet"),
    ],
)
def test_bad_flags_are_one_line(flags, why, capfd):
    assert why in fails(capfd, compare_finetune.main, *flags)
