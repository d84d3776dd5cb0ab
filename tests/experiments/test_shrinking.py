"""The picture of a run that README shows."""

import json
import sys
from pathlib import Path

import pytest

from experiments import shrinking

RUN = Path(__file__).resolve().parents[2] / "results" / "runs"


def test_snapshots_go_from_the_first_epoch_to_the_last_in_even_losses():
    lost = [{"epoch": k, "parameters": 100 - 4 * k} for k in range(1, 26)]
    assert [each["epoch"] for each in shrinking.snapshots(lost)] == [1, 7, 13, 19, 25]
    whole = [{"epoch": k, "parameters": 100} for k in range(1, 4)]
    assert [each["epoch"] for each in shrinking.snapshots(whole)] == [1, 1, 1, 1, 3]


def test_a_run_is_drawn_and_one_of_another_meter_is_refused(tmp_path, monkeypatch, capsys):
    def drawn(run):
        out = tmp_path / f"{run}.png"
        monkeypatch.setattr(sys, "argv", ["", f"--workdir={RUN / run}", f"--out={out}"])
        shrinking.main()
        return out

    assert drawn("fmnist").read_bytes().startswith(b"\x89PNG")
    assert json.loads((RUN / "fmnist_half" / "summary.json").read_text())["meter"] == "xla"
    with pytest.raises(SystemExit) as stop:
        drawn("fmnist_half")
    assert stop.value.code == 2 and "this draws 'paper'" in capsys.readouterr().err
