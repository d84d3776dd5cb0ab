"""Studies: their verdicts, arms that are configs, runs that are kept, and FedQUIT's federation."""

import json

import jax
import numpy as np
import optax
import pytest
from command_lines import fails, here

from dynhp_jax.common import json_files, schema
from dynhp_jax.decentralised import Member, placement
from dynhp_jax.training.config import Config
from experiments import config_sections
from experiments import studies as program
from experiments.nodes import scenario, settings, studies, unlearning


@pytest.mark.parametrize(
    ("points", "above", "said"),
    [
        ([2.0, 1.5], True, "confirmed"),
        ([-2.0, -1.5], True, "refuted"),
        ([2.0, -0.5], True, "undecided"),
        ([0.4, 0.3], True, "undecided"),
        ([2.0], True, "undecided"),
        ([-2.0, -1.5], False, "confirmed"),
        ([2.0, 1.5], False, "refuted"),
    ],
)
def test_seeds_decide(points, above, said):
    assert studies.verdict(points, above) == said


@pytest.mark.parametrize("name", studies.STUDIES)
def test_every_arm_is_a_scenario_and_every_question_has_its_arms(name):
    study = studies.STUDIES[name]()
    found = {arm: [1.0, 2.0] for arm in study.arms}
    assert [answer["verdict"] for answer in studies.answers(study, found)]
    for arm in study.arms:
        for size in program.FORGETTING:
            config, nodes = program.sized(size, 0)
            nodes = studies.fields_of(study, arm, nodes)
            config_sections.to_dict(config, nodes)
    made = scenario.scenario_of(config, nodes)  # of the last one: the network is initialised
    meant = study.judged(nodes, made)
    assert len(made.parts) == nodes.count and 0 < len(meant) <= nodes.count


def test_a_study_goes_on_and_ends_in_a_verdict(tmp_path, monkeypatch, capfd):
    def sized(size, seed):
        config, nodes = full(size, seed)
        return config, program.studies.dataclasses.replace(
            nodes, count=4, rounds=2, judge_every=1, local_epochs=1
        )

    full = program.sized
    monkeypatch.setattr(program, "sized", sized)
    study = studies.Study(
        "nothing", {"one": {}, "other": {"start": "independent"}},
        [studies.Question("one above other",
                          lambda found: np.subtract(found["one"], found["other"]).tolist())], {},
    )  # fmt: skip
    monkeypatch.setattr(program, "STUDIES", {"tiny": lambda: study})
    flags = ["--study=tiny", f"--out={tmp_path}"]
    code, said, error = here(capfd, program.main, *flags, "--seeds=0")
    assert code == 0, error
    assert "-- tiny/one-seed0" in said and "undecided: one above other" in said
    (tmp_path / "tiny" / "other-seed0.json").unlink()
    code, said, error = here(capfd, program.main, *flags, "--seeds=0")
    assert code == 0 and "tiny/one" not in said and "-- tiny/other-seed0" in said
    found = json_files.read(tmp_path / "tiny.json", schema.MAPPING, "")
    assert found["answers"][0]["verdict"] == "undecided" and found["of"]["nodes"] == 4
    assert (tmp_path / "tiny.png").exists()
    run = tmp_path / "tiny" / "one-seed0.json"
    run.write_text(run.read_text().replace('"count": 4', '"count": 5'))
    assert "one-seed0.json is of another size" in fails(capfd, program.main, *flags, "--seeds=0")


def test_what_is_no_study_is_a_line(capfd):
    assert "--study is 'x'; allowed: placement, " in fails(capfd, program.main, "--study=x")
    said = fails(capfd, program.main, "--study=decdiff", "--seeds=1,b")
    assert "--seeds is '1,b'; allowed: whole numbers with commas" in said


RNG = np.random.default_rng(1)
X, Y = RNG.normal(size=(60, 4)).astype("f4"), RNG.integers(0, 3, 60).astype("i4")
PARAMS = {"a": RNG.normal(size=(4, 5)).astype("f4"), "b": RNG.normal(size=(5, 3)).astype("f4")}
START = {"params": PARAMS}
OPTIONS = {"tx": optax.sgd(0.1), "batch": 8, "local_epochs": 2}


def apply(variables, x):
    params = variables["params"]
    return jax.nn.relu(x @ params["a"]) @ params["b"]


def test_the_relay_holds_the_clients_average_and_forgetting_makes_it_wrong():
    parts = placement.dirichlet(Y, 3, seed=0, alpha=1.0, least=5)
    federation = unlearning.Federation(apply, START, (X, Y), (X, Y), parts, OPTIONS, gone=1)
    found = federation.average(START, 1, without=True)
    left = [parts[0], parts[2]]
    trained = [
        Member(apply, START, data=(X[part], Y[part]), number=number, **OPTIONS)
        for number, part in enumerate(left)
    ]
    arrays = [member.train(member.arrays, 0)[0] for member in trained]
    sizes = list(map(len, left))
    for name in PARAMS:
        mean = np.average([each[f"params/{name}"] for each in arrays], 0, weights=sizes)
        np.testing.assert_allclose(found.variables["params"][name], mean, atol=1e-5)
    assert len(found.curve) == 1
    assert found.curve[0] == pytest.approx(found.accuracy(X, Y), abs=1e-3)
    forgot = federation.forget(found, "least", epochs=40, rate=0.05)
    assert federation.judged(forgot)["forget"] < federation.judged(found)["forget"] - 20


def test_a_result_from_before_a_field_existed_has_its_default():
    now = config_sections.as_json(config_sections.to_dict(Config(), settings.Nodes()))
    before = json.loads(json.dumps(now))
    del before["nodes"]["budgets"], before["pruning"]["size"]
    assert config_sections.agrees(before, now, settings.Nodes)
    assert not config_sections.agrees({**before, "seed": 1}, now, settings.Nodes)
    now["nodes"]["budgets"] = ["25%"]
    assert not config_sections.agrees(before, now, settings.Nodes)
    now["size"] = "small"  # no field of a config, and not in what was recorded
    assert not config_sections.agrees(before, now, settings.Nodes)
