"""docs/extend.md from outside of the package: its files in a folder of their own, and used."""

import json
import re
import sys
from pathlib import Path

import pytest
from command_lines import ROOT, here

import dynhp_jax as dp
from dynhp_jax.training.config import Batch, Penalty, ScoreOptions
from experiments import evaluate, train

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "extend.md").read_text()
FILES = dict(re.findall(r"^```python\n# (my_\w+)\.py\n(.*?)^```\n", PAGE, re.M | re.S))
COMMAND = re.search(r"^python -m experiments.train (.*?)^```", PAGE, re.M | re.S)[1]
FLAGS = [re.sub("[\"']?$", "", re.sub('="', "=", flag)) for flag in re.findall(
    r'--\S+?="[^"]*"|--\S+', COMMAND)]  # fmt: skip


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    """The folder with the page's files, from which they can be imported."""
    assert set(FILES) == {
        "my_model", "my_data", "my_loss", "my_metric", "my_rule", "my_criterion"
    }  # fmt: skip
    for name, code in FILES.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name, None)


def flags(folder, *more):
    asked = [flag for flag in FLAGS if not flag.startswith("--workdir")]
    asked[0] = f"--config={ROOT}/{asked[0].removeprefix('--config=')}"
    return [*asked, "--config.epochs=3", "--config.batch.size=16", *more, f"--workdir={folder}"]


def test_by_flags(mine, capfd):
    code, _, said = here(capfd, train.main, *flags(mine / "run"))
    assert code == 0, said
    records = [json.loads(line) for line in (mine / "run/metrics.jsonl").read_text().splitlines()]
    assert {"huber", "test_near", "validation_r2", "test_huber"} <= records[-1].keys()
    assert records[0]["wanted_batch"] in (16, 32)
    asked = "--run_own_code"
    code, shown, said = here(capfd, evaluate.main, f"--workdir={mine / 'run'}", asked)
    assert code == 0 and "near" in shown, said


def test_a_criterion_by_flags(mine, capfd):
    more = ["--config.method=scores", "--config.scores.start=1",
            "--config.scores.criterion=my_criterion:Largest(power=2.0)"]  # fmt: skip
    code, _, said = here(capfd, train.main, *flags(mine / "run", *more))
    assert code == 0, said
    last = json.loads((mine / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert last["parameters"] < 10 * 24 + 24 + 24


def test_in_python():
    import my_criterion
    import my_data
    import my_loss
    import my_metric
    import my_model

    given = dict(my_data.table(), loss=my_loss.huber)
    config = dp.Config(
        epochs=3,
        batch=Batch(rule="my_rule:Doubling"),
        penalty=Penalty(lam=0.5),
    )
    seen = {"near": my_metric.near, "off": my_metric.close}
    result = dp.fit(*my_model.net(), metrics=seen, config=config, **given)
    assert {"test_near", "test_off", "validation_near"} <= result.records[-1].keys()
    first, last = result.records[0], result.records[-1]
    grows = first["grad_variance"] > first["smoothed_loss"]
    assert first["wanted_batch"] == (32 if grows else 16) and last["next_batch"] > 16
    config = dp.Config(method="scores", epochs=2, scores=ScoreOptions(start=1))
    criterion = my_criterion.Largest()
    pruned = dp.fit(*my_model.net(), criterion=criterion, config=config, **given)
    assert pruned.keeps[next(iter(pruned.keeps))].size < 32
