"""The command line that trains nodes on a graph."""

import dataclasses
import json

import numpy as np
import pytest
from command_lines import fails, here

from configs import dec_digits, dec_mnist
from dynhp_jax.decentralised import centralities
from experiments import decentralised
from experiments.nodes import figures, settings
from experiments.nodes.scenario import graph_of, scenario_of

QUICK = [
    "--config=configs/dec_digits.py",
    "--config.model.hidden=(8,)",
    "--config.nodes.count=6",
    "--config.nodes.local_epochs=1",
    "--config.nodes.judge_every=1",
]


def test_a_run_leaves_records_and_figures_and_goes_on(tmp_path, capfd):
    folder = tmp_path / "run"
    flags = [*QUICK, f"--workdir={folder}"]
    code, said, _ = here(capfd, decentralised.main, *flags, "--config.nodes.rounds=2")
    assert code == 0 and "6 nodes, ring with 2 to 2 neighbours" in said
    code, said, _ = here(capfd, decentralised.main, *flags, "--config.nodes.rounds=3")
    assert code == 0 and "going on after round 2 of 3" in said and "round 3/3: accuracy" in said
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["round"] for record in records] == [1, 2, 3]
    assert all(len(record["test_accuracy"]) == 6 for record in records)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["accuracy_by_node"] == records[-1]["test_accuracy"] and summary["edges"] == 6
    assert {each.name for each in (folder / "figures").iterdir()} == {"accuracy.png", "graph.png"}
    said = fails(capfd, decentralised.main, *flags, "--config.nodes.graph=star")
    assert "config.nodes.graph (there 'ring', here 'star')" in said
    assert "here are only 2" in fails(capfd, decentralised.main, *flags, "--config.nodes.rounds=2")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--config.nodes.graph=tree"], "config.nodes.graph is 'tree'; allowed: 'ring'"),
        (["--config.nodes.nodes=4"], "config.nodes.nodes is not a field"),
        (["--config.nodes.count=2"], "2 nodes; allowed: 3 or more"),
        (["--config.nodes.count=400"], "examples of class 0 for nodes that need 400"),
        (["--config.nodes.rule=median"], "there is no rule 'median'; allowed: decavg"),
        (["--config.nodes.rule=decdiff(norm=2)"], "DecDiff.norm is 2"),
        (["--config.nodes.drop=leave", "--config.nodes.drop_at=30"], "0 (never), or 31"),
        (["--config.nodes.placement=classes", "--config.nodes.classes=11"], "1 to 10"),
        (["--config.data.name=diabetes"], "config.data.name is 'diabetes'"),
        (["--config.devices=5"], "devices is 5 for 6 nodes"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(flags, said, tmp_path, capfd):
    folder = tmp_path / "run"
    found = fails(capfd, decentralised.main, *QUICK, f"--workdir={folder}", *flags)
    assert said in found and not (folder / "config.json").exists()


def scenario(**changes):
    config, nodes = settings.from_config_dict(dec_digits.get_config())
    return scenario_of(config, dataclasses.replace(nodes, **changes))


def test_every_field_of_the_section_comes_into_the_run():
    config, nodes = settings.from_config_dict(dec_mnist.get_config())
    assert config.model.hidden == (512, 256, 128) and nodes.start == "gain"
    for name in settings.GRAPHS:
        graph = graph_of(dataclasses.replace(nodes, graph=name, count=12, inside=0.8), 0)
        assert graph.shape == (12, 12) and graph.any()
        places = figures.layout(graph)
        assert np.isfinite(places).all() and len(np.unique(places.round(3), axis=0)) == 12
    hubs = scenario(graph="barabasi_albert", placement="centrality", classes=3, central=0.2,
                    drop="lose_data", drop_at=5, drop_until=9, start="gain")  # fmt: skip
    chosen = centralities.central(hubs.graph, 4)
    labels = hubs.arguments["train"][1]
    have = [9 in labels[part] for part in hubs.parts]
    assert sorted(np.flatnonzero(have)) == sorted(chosen) and hubs.gain > 1
    presence = hubs.arguments["presence"]
    assert presence.alive.all() and (~presence.trains).sum() == 16
    clean = scenario().arguments["train"][1]
    bad = scenario(bad="labels", bad_on="central", bad_share=0.05)
    changed = np.flatnonzero(bad.arguments["train"][1] != clean)
    mine = np.concatenate([bad.parts[node] for node in (0, 1)])
    assert len(changed) == round(0.05 * 16 * 87) and np.isin(changed, mine).all()
    noisy = scenario(bad="pixels").arguments["train"][0]
    assert np.sum((noisy != scenario().arguments["train"][0]).any(1)) == round(0.1 * 16 * 87)
    inputs = scenario().arguments["train"][0]
    assert abs(inputs.mean()) < 1e-3 and abs(inputs.std() - 1) < 1e-3
