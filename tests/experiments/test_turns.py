"""Sides of a benchmark take turns, and what is made of their seconds."""

import sys
from pathlib import Path

import pytest

from benchmarks import gates_torch, record, turns, whole
from dynhp_jax.training import config

COUNTS = """
from benchmarks import turns
turn = [0]
def count():
    turn[0] += 1
    print("a word in between")
    return {"turn": turn[0]}
turns.serve({"ready": True}, count)
"""


def state(side: turns.Side) -> str:
    """The letter that Linux gives the state of a process."""
    return Path(f"/proc/{side.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_sides_answer_in_turn_and_are_stopped_in_between():
    command = [sys.executable, "-c", COUNTS]
    with turns.sides({"one": command, "other": command}) as running:
        one, other = running["one"], running["other"]
        assert one.ready == other.ready == {"ready": True}
        assert [one.turn()["turn"], other.turn()["turn"], one.turn()["turn"]] == [1, 1, 2]
        if Path("/proc/self/stat").exists():
            for side in (one, other):
                while state(side) == "R":  # the signal is on its way
                    pass
                assert state(side) == "T"
    assert one.returncode == other.returncode == 0


def test_a_side_that_fails_ends_the_benchmark_and_the_other_side():
    ends = [sys.executable, "-c", "raise SystemExit(3)"]
    with (
        pytest.raises(SystemExit, match="code 3"),
        turns.sides({"one": [sys.executable, "-c", COUNTS], "other": ends}),
    ):
        pass


def test_ratios_by_hand():
    ours, theirs = [2.0, 3.0, 1.0, 1.0, 1.0], [1.0, 1.0, 2.0, 4.0, 4.0]
    found = whole.ratios(ours, theirs, marks=(2, 3, 10))
    assert found["cumulative"] == {"2": 6 / 4, "3": 7 / 8, "4": 8 / 12}
    assert found["by_block"] == {
        "1 to 2": {"median": 1.75, "quartiles": [1.125, 2.375]},
        "3": {"median": 0.25, "quartiles": [0.25, 0.25]},
        "4": {"median": 0.25, "quartiles": [0.25, 0.25]},
    }
    assert found["below_1_from"] == 3
    assert whole.ratios(theirs, [0.5] * 5, ())["below_1_from"] is None
    assert whole.ratios([1.0], [2.0], (10,))["cumulative"] == {}


def test_the_dense_side_pays_for_nothing_that_only_pruning_needs():
    settings = whole.pruned(["--config.seed=3", "--config.data.examples=1000"])
    other = whole.dense(settings)
    assert (settings.method, settings.penalty.lam, settings.seed) == ("dynhp", 0.15, 3)
    assert (other.method, other.seed, other.data) == ("dense", 3, settings.data)
    assert other.batching.size == 128 and other.batching.rule == "fixed"
    assert other.batch.variance == "none" and other.memory.budget == "none"
    assert whole.changed(settings)["data.examples"] == 1000
    assert whole.changed(config.Config(data=config.Data(dir="somewhere"))) == {}


def test_losses_that_are_not_alike_are_named():
    one = {"cross_entropy": 0.10, "penalty": 0.20, "active": 900.0}
    assert gates_torch.differing(one, one | {"cross_entropy": 0.11}) == []
    other = {"cross_entropy": 0.10, "penalty": 0.21, "active": 950.0}
    assert gates_torch.differing(one, other) == ["penalty", "active"]


def test_a_spread_and_a_head_without_paths(tmp_path):
    assert record.spread([4.0, 1.0, 3.0, 2.0]) == {"median": 2.5, "quartiles": [1.75, 3.25]}
    head = record.head("python -m benchmarks.nothing", "a device")
    assert head["machine"].endswith("cores") and "a device" in head["machine"]
    record.write(tmp_path / "new" / "result.json", head)
    assert str(Path.cwd()) not in (tmp_path / "new" / "result.json").read_text()
