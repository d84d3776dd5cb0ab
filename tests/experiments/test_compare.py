"""The comparison: cells, files, tables, the program from outside, and the split-learning model."""

import dataclasses
import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
from command_lines import ROOT, come_from, fails, here
from comparisons import tiny
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE

from benchmarks import criteria_torch
from configs import compare_cifar10, compare_fmnist
from dynhp_jax.common.errors import ConfigError, UserError
from dynhp_jax.models import registry
from dynhp_jax.training import config as configuration
from dynhp_jax.training.files import provenance
from dynhp_jax.training.files.workdir import Workdir
from dynhp_jax.training.network import whole_network
from experiments import commandline, compare
from experiments.comparison import figures, results, running, settings, split_learning, tables
from experiments.comparison.split_learning import Learning, Traffic, learning, traffic

OWN = """
    import dataclasses

    import jax.numpy as jnp


    @dataclasses.dataclass(frozen=True)
    class LargestWeight:
        def scores(self, evidence):
            kernels = {name: evidence.kernels(name) for name in evidence.scored}
            return {name: jnp.abs(each[0]).max(axis=1) for name, each in kernels.items()}
"""


def config_dict(*flags):
    values, *_ = commandline.parse(["compare", *tiny(*flags)], True, sections=settings.SECTIONS)
    return values


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A comparison by the program itself, with a criterion of the user's own."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "mine.py").write_text(textwrap.dedent(OWN))
    flags = tiny(
        "--config.compare.criteria=('l1', 'velocity', 'flexrel', 'mine:LargestWeight')",
        f"--workdir={folder / 'runs'}", f"--results={folder / 'results'}",
    )  # fmt: skip
    return folder, flags, program(folder, *flags, "--split-learning")


def program(folder, *flags):
    return subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.append(sys.argv.pop(1));"
         "from experiments import commandline, compare;"
         "sys.exit(commandline.run(compare.main, sys.argv))", str(folder), *flags],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip


def read(folder):
    return {path.stem: json.loads(path.read_text()) for path in (folder / "results").glob("*.json")}


def test_every_cell_has_a_result_and_the_table_its_rows(done):
    folder, _, ran = done
    assert ran.returncode == 0, ran.stderr
    found = read(folder)
    names = ("l1", "velocity", "flexrel", "mine_LargestWeight")
    assert set(found) == {
        *(f"{name}-f{f}-seed{s}" for name in names for f in (0.5, 0.8) for s in (0, 1)),
        *(f"{name}-seed{s}" for name in ("dense", "hp-lam0.1") for s in (0, 1)),
    }
    for name, each in found.items():
        assert each["commit"] and each["machine"] and each["versions"]["jax"]
        assert each["whole_units"] == {"hidden_1": 16, "hidden_2": 8}
        parameters = each["units"]["hidden_1"], each["units"]["hidden_2"]
        first, second = parameters
        assert each["parameters"] == 65 * first + (first + 1) * second + (second + 1) * 10
        assert each["removed"] == pytest.approx(1 - each["parameters"] / 1266)
        if "-f" in name:
            assert each["fraction"] <= each["removed"] < each["fraction"] + 65 / 1266
            assert each["score_seconds"] > 0 and len(each["fine_tuning_test_errors"]) == 1
            assert each["test_error"] == each["fine_tuning_test_errors"][-1]
    for name in ("flexrel-f0.5-seed0", "flexrel-f0.8-seed1"):
        tried = found[name]["validation_error_by_delta"]
        assert tried[f"{found[name]['delta']:g}"] == min(tried.values()) and len(tried) == 5
    for row in (*names[:3], "mine:LargestWeight", "dense, 0 % gone", "hp", "flexrel over l1"):
        assert f"\n{row} " in ran.stdout
    table = (folder / "results" / "table.md").read_text()
    assert "| l1 |" in table and "split learning" in table
    assert (folder / "results" / "accuracy.png").stat().st_size > 10_000


def test_the_same_command_skips_what_is_there(done, capfd, monkeypatch, tmp_path):
    whole, flags, first = done
    folder = shutil.copytree(whole, tmp_path / "copy")  # the seconds of a cell that is run again
    flags = [flag.replace(str(whole), str(folder)) for flag in flags]  # are not those of before
    (kept,) = (folder / "runs").glob("warm-up-seed1/provenance.json")
    (now,) = json.loads(kept.read_text())
    earlier = now | {"commit": "abc", "machine": "another"}
    come_from(Workdir(kept.parent), [earlier])
    (folder / "results" / "l1-f0.8-seed1.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in (folder / "results").glob("*.json")}
    monkeypatch.syspath_prepend(folder)
    code, said, _ = here(capfd, compare.main, *flags)
    assert code == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    again = json.loads((folder / "results" / "l1-f0.8-seed1.json").read_text())
    assert again["segments"] == [earlier, now | {"from_epoch": again["warm_up"] + 1}]
    assert again["commit"] == now["commit"]
    assert "warm-up" not in said and "l1-f0.8-seed1" in said
    assert said.count("of the parameters gone,") == 1
    table = first.stdout[first.stdout.index("tiny: accuracy") :].split("to score")[0]
    assert table in said


def test_print_only_prints(done, capfd, monkeypatch):
    folder, flags, first = done
    before = {path: path.stat().st_mtime_ns for path in (folder / "results").iterdir()}
    monkeypatch.syspath_prepend(folder)
    code, said, _ = here(capfd, compare.main, *flags, "--print")
    assert code == 0
    assert (
        said.rstrip() in first.stdout and "tiny: accuracy" in said and "split learning" not in said
    )
    assert {path: path.stat().st_mtime_ns for path in (folder / "results").iterdir()} == before


def test_a_warm_up_that_was_killed_before_its_summary_gets_it(done, capfd, monkeypatch, tmp_path):
    whole, flags, _ = done
    folder = shutil.copytree(whole, tmp_path / "copy")
    flags = [flag.replace(str(whole), str(folder)) for flag in flags]
    run = folder / "runs" / "warm-up-seed0"
    (run / "summary.json").unlink()  # its last checkpoint is there
    (folder / "results" / "l1-f0.5-seed0.json").unlink()
    monkeypatch.syspath_prepend(folder)
    code, _, said = here(capfd, compare.main, *flags)
    assert code == 0, said
    written, expected = (
        json.loads((place / "runs" / "warm-up-seed0" / "summary.json").read_text())
        for place in (folder, whole)
    )
    clocks = {name for name in expected if "seconds" in name or name == "compilations"}
    assert {n: v for n, v in written.items() if n not in clocks} == {
        n: v for n, v in expected.items() if n not in clocks
    }
    before, after = (read(place)["l1-f0.5-seed0"] for place in (whole, folder))
    assert after["pruned_test_error"] == before["pruned_test_error"]


def test_results_of_another_config_are_refused(done, capfd):
    folder, flags, _ = done
    for flag, said in (
        ("--config.optimizer.learning_rate=0.01", "config.optimizer.learning_rate (there 0.001"),
        ("--config.compare.epochs=2", "epochs of fine-tuning (there 1, here 2)"),
        ("--config.compare.test=100", "test examples (there 360, here 100)"),
        ("--config.epochs=2", "epochs of warm-up (there 3, here 2)"),
        ("--config.scores.scope=group", "config.scores.scope (there 'global', here 'group')"),
    ):
        name = flag.partition("=")[0]
        kept = [each for each in flags if each.partition("=")[0] != name]
        error = fails(capfd, compare.main, *kept, flag, "--print")
        assert said in error and "move it away" in error


def test_the_pruned_network_and_the_scores_are_those_of_the_warm_up(done):
    """An independent look at a result: l1 at a half, of the last checkpoint's weights."""
    folder, flags, _ = done
    values = config_dict(*[flag for flag in flags if "criteria" in flag])
    base, comparison = settings.from_config_dict(values)
    place = running.Place(
        base, comparison, folder / "runs", folder / "results", provenance.present()
    )
    start = place.start(0)
    params = jax.device_get(start.saved.state.variables["params"])
    sums = {
        n: np.abs(params[n]["kernel"].astype(np.float64)).sum(0) for n in ("hidden_1", "hidden_2")
    }
    scaled = {name: each / each.mean() for name, each in sums.items()}
    ranked = sorted((s, n, u) for n, each in scaled.items() for u, s in enumerate(each))
    dead = {"hidden_1": set(), "hidden_2": set()}
    for _, name, unit in ranked:
        first, second = 16 - len(dead["hidden_1"]), 8 - len(dead["hidden_2"])
        if 65 * first + (first + 1) * second + (second + 1) * 10 <= 1266 / 2:
            break
        dead[name].add(unit)
    x = place.dataset.x_test.reshape(len(place.dataset.x_test), -1).astype(np.float64)
    for layer in ("hidden_1", "hidden_2"):
        x = np.maximum(x @ params[layer]["kernel"] + params[layer]["bias"], 0)
        x[:, sorted(dead[layer])] = 0
    logits = x @ params["output"]["kernel"] + params["output"]["bias"]
    wrong = 100 * np.mean(logits.argmax(1) != place.dataset.y_test)
    result = read(folder)["l1-f0.5-seed0"]
    assert result["units"] == {"hidden_1": 16 - len(dead["hidden_1"]),
                               "hidden_2": 8 - len(dead["hidden_2"])}  # fmt: skip
    assert result["pruned_test_error"] == pytest.approx(wrong, abs=0.3)  # an example is 0.28


@pytest.mark.parametrize(
    ("criterion", "schedule"),
    [
        ("taylor", ("schedule=each_epoch", "end=2")),
        ("velocity", ("schedule=each_epoch", "end=2")),
        ("l1", ("start=1",)),
    ],
)
def test_a_schedule_prunes_within_the_fine_tuning(criterion, schedule, tmp_path):
    values = config_dict(
        f"--config.compare.criteria=('{criterion}',)", "--config.compare.seeds=(0,)",
        "--config.compare.fractions=(0.8,)", "--config.compare.methods=()",
        "--config.compare.epochs=3", *(f"--config.scores.{each}" for each in schedule),
    )  # fmt: skip
    base, comparison = settings.from_config_dict(values)
    place = running.Place(base, comparison, tmp_path / "runs", tmp_path, provenance.present())
    compare.check(place)
    found = [running.result(place, each) for each in running.cells(comparison)]
    assert [each["row"] for each in found] == ["dense", criterion]
    assert "pruned_test_error" not in found[1] and found[1]["removed"] >= 0.8
    assert len(found[1]["fine_tuning_test_errors"]) == 3
    assert len(tables.build(base, comparison, found)) == 1
    figures.draw(base, comparison, found, tmp_path / "accuracy.png")


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--config.compare.criteria=('l1', 'l7')", "there is no criterion 'l7'; allowed: "),
        ("--config.compare.criteria=('nowhere_at_all:C',)", "there is no module 'nowhere_at_all'"),
        ("--config.compare.criteria=()", "config.compare.criteria is (); allowed: at least one"),
        ("--config.compare.fractions=(0.5, 1.0)", "config.compare.fractions is (0.5, 1.0);"),
        ("--config.compare.fractions=(0.5, 0.5)", "and each once"),
        ("--config.compare.methods=('hp', 'hp')", "compare.methods is ('hp', 'hp'); allowed: each"),
        ("--config.compare.lams=(0.1, 0.1)", "config.compare.lams is (0.1, 0.1); allowed: each"),
        ("--config.compare.criteria=('l1', 'batch_norm')", "config.compare.criteria is 'batch_no"),
        ("--config.compare.criteria=('activation',)", "one that can score this network, such as"),
        ("--config.epochs=2", "config.epochs is 2; allowed: more than the 2 earlier epochs that"),
        ("--config.compare.fractions=(0.995,)", "cannot be reached"),
        ("--config.compare.methods=('sp',)", "config.compare.methods is ('sp',); allowed: names"),
        ("--config.compare.sedes=(0,)", "config.compare.sedes is not a field; did you mean"),
        ("--config.compare.test=361", "config.compare.test is 361; allowed: 0 (all) to 360"),
        ("--config.compare.epochs=many", "config.compare.epochs is 'many'; allowed: a whole"),
        ("--config.compare.cut=conv_9", "config.compare.cut is 'conv_9'; allowed: '' or a name"),
        ("--config.scores.criterion=l1", "config.scores.criterion is 'l1'; allowed: '' here"),
        ("--config.data.validation=0.0", "units are scored on it"),
        ("--config.scores.schedule=cubic", "config.scores.end is 13; allowed: less than the 4"),
        ("--print", "there is no result of this config in"),
    ],
)
def test_what_cannot_be_is_said_in_a_line_before_anything_runs(flag, said, tmp_path, capfd):
    flags = tiny(flag, f"--workdir={tmp_path / 'runs'}", f"--results={tmp_path / 'results'}")
    assert said in fails(capfd, compare.main, *flags)
    assert not any(tmp_path.iterdir())


def test_a_config_without_the_section_is_refused():
    with pytest.raises(UserError, match="no section 'compare'"):
        settings.from_config_dict(configuration.default_config_dict())


@pytest.mark.parametrize("module", [compare_fmnist, compare_cifar10])
def test_the_experiments_are_those_that_the_issue_asks_for(module):
    base, comparison = settings.from_config_dict(module.get_config())
    assert len(comparison.seeds) >= 3 and len(comparison.fractions) >= 4
    assert {"l1", "l2", "taylor", "fisher", "relevance", "flexrel", "random"} <= set(
        comparison.criteria
    )
    assert set(comparison.methods) == {"hp", "dynhp"} and base.data.validation > 0
    assert settings.cell(base, comparison, 0, "l1", 0.5).scores.start == base.epochs


def test_names_of_files_keep_cells_apart():
    _, comparison = settings.from_config_dict(compare_fmnist.get_config())
    paths = [each.path(Path()) for each in running.cells(comparison)]
    assert len(set(paths)) == len(paths)
    assert all(path.name.replace(".json", "").replace("=", "").replace(".", "").replace("-", "")
               .replace("_", "").isalnum() for path in paths)  # fmt: skip


def test_two_rows_are_compared_seed_by_seed():
    found = [
        {"row": row, "fraction": 0.5, "seed": seed, "test_error": error}
        for row, seed, error in (("a", 0, 10.0), ("a", 1, 30.0), ("b", 1, 34.0), ("b", 2, 1.0))
    ]
    assert tables.differences(found, ("a", "b"), 0.5, tables.accuracy) == [4.0]
    assert tables.differences(found, ("a", "b"), 0.7, tables.accuracy) == []


def test_a_damaged_file_is_no_result(tmp_path):
    (tmp_path / "l1-seed0.json").write_text('{"row": "l1"}')
    with pytest.raises(UserError, match="no result of this program"):
        results.current(tmp_path / "l1-seed0.json", configuration.Config(), 1, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda result: result.pop("pruned_test_error"), "it has no pruned_test_error"),
        (lambda result: result.update(units={"hidden_1": 4}), "units of other groups"),
        (lambda result: result["units"].update(hidden_2=9), "units of other groups"),
    ],
)
def test_a_result_that_lacks_what_tables_show_is_refused(
    done, change, said, capfd, monkeypatch, tmp_path
):
    whole, flags, _ = done
    shutil.copytree(whole / "results", tmp_path / "results")
    file = tmp_path / "results" / "l1-f0.5-seed0.json"
    result = json.loads(file.read_text())
    change(result)
    file.write_text(json.dumps(result))
    monkeypatch.syspath_prepend(whole)
    flags = [*flags[:-1], f"--results={tmp_path / 'results'}", "--split-learning", "--print"]
    assert said in fails(capfd, compare.main, *flags)


# -- split learning --------------------------------------------------------------------------------


def test_traffic_and_time_are_those_of_the_papers_links_by_hand():
    # 2,880 numbers of 4 bytes, 12,000 examples, 10 epochs: 1,382,400,000 bytes each way. On
    # 150 Mbit/s 73.728 s, on 20 Mbit/s 552.96 s.
    sent = traffic(2880, 12_000, 10)
    assert sent == Traffic(1_382_400_000, 1_382_400_000)
    assert sent.seconds() == pytest.approx(73.728 + 552.96)
    assert sent.seconds(up=20, down=150) == pytest.approx(73.728 + 552.96)
    assert sent.seconds(up=300, down=40) == pytest.approx((73.728 + 552.96) / 2)


def test_a_training_is_scoring_and_computing_and_sending():
    taken = learning(
        epochs=(10, 40), examples=1000, values=(100, 25), share=0.3, epoch_seconds=2.0, scoring=1.5
    )
    # 100 x 1,000 x 10 + 25 x 1,000 x 40 = 2,000,000 numbers, 8 MB each way.
    assert taken.sent == Traffic(8_000_000, 8_000_000)
    assert taken.computing == pytest.approx(2 * 10 + 0.3 * 2 * 40)
    assert taken.seconds == pytest.approx(1.5 + 44 + 64 / 150 + 64 / 20)
    assert isinstance(taken, Learning) and taken.scoring == 1.5


@given(st.integers(1, 5000), st.integers(1, 10**5), st.integers(0, 100), st.integers(0, 100))
def test_epochs_add_up(values, examples, first, then):
    parts = traffic(values, examples, first) + traffic(values, examples, then)
    assert parts == traffic(values, examples, first + then)


def test_numbers_at_the_cut_and_flops_are_those_of_lenet_by_hand():
    network = whole_network(registry.build("lenet", (28, 28, 1), 10), (), inputs=False)
    # Behind the pooling: 12 x 12 of every channel, then 4 x 4; a neuron is one number.
    for name, numbers in (("conv_1", 144), ("conv_2", 16), ("hidden_1", 1)):
        assert split_learning.values_per_unit(network, name) == numbers

    def flops(a, b, c):
        return 24 * 24 * 25 * a + 8 * 8 * 25 * a * b + 16 * b * c + c * 10

    found = split_learning.flops_left(network, {"conv_1": 10, "conv_2": 7, "hidden_1": 100})
    assert found == pytest.approx(flops(10, 7, 100) / flops(20, 50, 500))


# -- the other side of Torch-Pruning ---------------------------------------------------------------


def torch_conv(x, weight, pad):
    """NumPy: [n, i, h, w] with [o, i, k, k], stride 1."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))
    return np.einsum("nihwkl,oikl->nohw", windows, weight)


def test_pytorchs_parameters_compute_the_same_in_pytorchs_layout():
    network = whole_network(criteria_torch.NETWORKS["LeNet-5"], (), inputs=False)
    variables = criteria_torch.drawn(network, 3)
    arrays = criteria_torch.to_torch(variables, network.model.convs[-1])
    images = np.random.default_rng(0).normal(size=(2, 28, 28, 1)).astype(np.float32)
    x = images.transpose(0, 3, 1, 2).astype(np.float64)
    for conv in ("conv_1", "conv_2"):
        x = torch_conv(x, arrays[f"{conv}.weight"], 0) + arrays[f"{conv}.bias"][:, None, None]
        n, c, h, w = x.shape
        x = np.maximum(x, 0).reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))
    x = x.reshape(2, -1)
    x = np.maximum(x @ arrays["hidden_1.weight"].T + arrays["hidden_1.bias"], 0)
    x = x @ arrays["output.weight"].T + arrays["output.bias"]
    np.testing.assert_allclose(network.evaluate(variables, images), x, rtol=1e-3, atol=1e-3)


def test_groups_are_named_by_their_makers_and_choices_have_the_asked_size():
    network = whole_network(criteria_torch.NETWORKS["ResNet-8"], (), inputs=False)
    variables = criteria_torch.drawn(network, 0)
    kept = criteria_torch.kept(network, variables, "l1", "group", 0.5)
    assert {name: len(keep) for name, keep in kept.items()} == {
        "stage1_block1.conv2 stem": 8, "stage1_block1.conv1": 8,
        "stage2_block1.conv2 stage2_block1.shortcut": 16, "stage2_block1.conv1": 16,
        "stage3_block1.conv2 stage3_block1.shortcut": 32, "stage3_block1.conv1": 32,
    }  # fmt: skip
    kernel = np.asarray(variables["params"]["stage1_block1"]["conv1"]["kernel"], np.float64)
    then = np.asarray(variables["params"]["stage1_block1"]["conv2"]["kernel"], np.float64)
    score = np.abs(kernel).sum((0, 1, 2)) + np.abs(then).sum((0, 1, 3))
    assert set(kept["stage1_block1.conv1"]) == set(np.argsort(-score)[:8])
    theirs = {"choices": [{"importance": "l1", "scope": "group", "ratio": 0.5, "kept": {
        name: keep.tolist() for name, keep in kept.items()}}]}  # fmt: skip
    (same,) = criteria_torch.compared(network, variables, theirs)
    assert same["same_groups"] == same["groups"] == 6 and same["same_units"] == same["units"] == 224
    moved = theirs["choices"][0]["kept"]["stage1_block1.conv1"]
    moved[0] = next(unit for unit in range(16) if unit not in moved)
    (other,) = criteria_torch.compared(network, variables, theirs)
    assert other["same_groups"] == 5 and other["same_units"] == 222


def test_a_result_says_of_what_it_is(done):
    folder, _, _ = done
    for each in read(folder).values():
        config = configuration.from_dict(each["config"])
        assert config.seed == each["seed"] and each["warm_up"] == 3
        if each["fraction"]:
            assert config.scores.criterion == each["row"]
            assert dataclasses.replace(config.scores, criterion="").fraction == each["fraction"]


def test_a_seed_below_zero_is_refused():
    with pytest.raises(ConfigError, match="config.compare.seeds is"):
        settings.Comparison(seeds=(-1,))
