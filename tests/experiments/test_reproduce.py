"""The reproduction from outside: dense baselines, real runs, resuming, and bad flags."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from command_lines import ROOT, come_from, here, process

from dynhp_jax.common.disk import write_json
from dynhp_jax.training import build
from dynhp_jax.training import config as configuration
from dynhp_jax.training.compiled import programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.files import origin, provenance
from dynhp_jax.training.files.workdir import Workdir
from dynhp_jax.training.run import loop
from dynhp_jax.training.run.trainer import Trainer
from experiments import commandline, reproduce
from experiments.reproduction import baselines, results, running

# -- dense baselines -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dense():
    """A dense run on digits, after an epoch."""
    config = Config(
        name="dense", epochs=3, method="dense", data=configuration.Data(examples=300),
        model=configuration.Model(hidden=(20, 8)), batch=configuration.Batch(size=50),
        optimizer=configuration.Optimizer(ema=1.0),
        memory=configuration.Memory(budget="none"),
    )  # fmt: skip
    dataset = build.dataset_of(config)
    return config, dataset


def after_an_epoch(config, dataset):
    trainer = Trainer(config, dataset, programs.Programs())
    return trainer, loop.advance(trainer, trainer.start())[0]


def test_cut_to_the_same_sizes_a_run_goes_on_as_it_was(dense):
    config, dataset = dense
    trainer, run = after_an_epoch(config, dataset)
    keeps = {"input": np.arange(64), "hidden_1": np.arange(20), "hidden_2": np.arange(8)}
    other = Trainer(config, baselines.of_pixels(dataset, range(64)), programs.Programs())
    cut = baselines.cut_run(other, run, keeps)
    _, again = loop.advance(other, cut)
    _, whole = loop.advance(trainer, after_an_epoch(config, dataset)[1])
    assert cut.epoch == 1 and again["epoch"] == 2
    assert again["test_cross_entropy"] == whole["test_cross_entropy"]


def test_a_cut_run_computes_what_the_whole_one_does_without_those_units(dense):
    config, dataset = dense
    _, run = after_an_epoch(config, dataset)
    units = {"input": 40, "hidden_1": 11, "hidden_2": 5}
    keeps = baselines.random(run, units, seed=5)
    assert {name: len(keep) for name, keep in keeps.items()} == units
    params = jax.device_get(run.state.variables["params"])
    images = dataset.x_test.reshape(len(dataset.x_test), -1)
    dead = {name: np.setdiff1d(np.arange(n), keeps[name])
            for name, n in (("input", 64), ("hidden_1", 20), ("hidden_2", 8))}  # fmt: skip
    x = images.astype(np.float64).copy()
    x[:, dead["input"]] = 0
    for layer in ("hidden_1", "hidden_2"):
        x = np.maximum(x @ params[layer]["kernel"] + params[layer]["bias"], 0)
        x[:, dead[layer]] = 0
    logits = x @ params["output"]["kernel"] + params["output"]["bias"]

    smaller = dataclasses.replace(config, model=configuration.Model(hidden=(11, 5)))
    fewer = baselines.of_pixels(dataset, keeps["input"])
    trainer = Trainer(smaller, fewer, programs.Programs())
    cut = baselines.cut_run(trainer, run, keeps)
    found = cut.network.evaluate(cut.state.variables, cut.splits["test"].inputs)
    np.testing.assert_allclose(np.asarray(found), logits, atol=1e-4)
    moments = jax.tree.leaves(cut.state.opt_state)
    assert any(np.shape(m) == (40, 11) and np.abs(m).max() > 0 for m in moments)
    means = cut.state.averages.variables["params"]
    assert [means[name]["kernel"].shape for name in means] == [(40, 11), (11, 5), (5, 10)]
    later, record = loop.advance(trainer, cut)
    assert later.epoch == 2 and record["parameters"] == 40 * 11 + 11 + 11 * 5 + 5 + 5 * 10 + 10
    assert len(later.memory_kib) == 2


def test_the_largest_units_are_those_with_the_largest_norms(dense):
    config, dataset = dense
    _, run = after_an_epoch(config, dataset)
    params = jax.device_get(run.state.variables["params"])
    first, second = params["hidden_1"], params["hidden_2"]
    norms = {
        "input": np.square(first["kernel"]).sum(1),
        "hidden_1": np.square(first["kernel"]).sum(0) + first["bias"] ** 2
        + np.square(second["kernel"]).sum(1),
        "hidden_2": np.square(second["kernel"]).sum(0) + second["bias"] ** 2
        + np.square(params["output"]["kernel"]).sum(1),
    }  # fmt: skip
    keeps = baselines.largest(run, {"input": 30, "hidden_1": 7, "hidden_2": 3})
    for name, count in (("input", 30), ("hidden_1", 7), ("hidden_2", 3)):
        kept = keeps[name]
        assert len(kept) == count and (np.diff(kept) > 0).all()
        dead = np.setdiff1d(np.arange(len(norms[name])), kept)
        assert norms[name][kept].min() >= norms[name][dead].max()


def test_pixels_that_survive_are_numbered_as_in_the_whole_network():
    """Arrays that were cut once, and of which a unit is masked since."""
    config = Config(name="hp", method="hp", model=configuration.Model(hidden=(6, 4)))
    run = Trainer(config, build.dataset_of(config), programs.Programs()).start()
    masks = {**run.state.masks, "input": np.array([1.0, 0.0, 1.0, 1.0], np.float32)}
    cut = dataclasses.replace(
        run,
        keeps={**run.keeps, "input": np.array([3, 5, 9, 40])},
        state=run.state._replace(masks=masks),
    )
    assert running.surviving_inputs(cut.keeps, cut.state.masks).tolist() == [3, 9, 40]


# -- the program -----------------------------------------------------------------------------------

TINY = (
    "data.examples=600+model.hidden=(12,8)+penalty.lam=0.5+optimizer.name=adam"
    "+optimizer.learning_rate=0.001+gates.learning_rate=0.12"
    "+compiling.shrink=0.999"  # arrays keep their shapes: less to compile
)


@pytest.fixture
def program(capsys):
    """Calls the program in this process: (exit code, stdout, stderr)."""

    def call(*arguments):
        return here(capsys, reproduce.main, "--table=2", *arguments)

    return call


@pytest.fixture(scope="module")
def tiny(tfds_dir, tmp_path_factory):
    """Every kind of row, of 4 epochs, by the program itself."""
    folder = tmp_path_factory.mktemp("reproduction")
    flags = [
        f"--workdir={folder / 'runs'}", f"--results={folder / 'results'}", "--seeds=0",
        f"--variants={TINY}",
    ]  # fmt: skip
    names = "--rows=magnitude@hp,sp,hp,dynhp-0.5,dense-final@hp,random@hp"
    done = process("--table=2", *flags, names, "--epochs=4", module="reproduce")
    assert done.returncode == 0, done.stderr
    return folder, flags, names, done.stdout


def test_what_the_epochs_of_a_run_are_of_is_kept_where_it_goes_on_elsewhere(tmp_path):
    workdir, records = Workdir(tmp_path), [{"epoch": epoch} for epoch in (3, 4, 5, 6)]
    a, b, unknown = (
        {"commit": commit, "versions": {}, "machine": None} for commit in ("a", "b", None)
    )

    def kept(until=6):
        return provenance.stretches_of(workdir, records[: until - 2])

    assert kept() == [{"from_epoch": 3, **unknown}]  # begun by a version that kept none
    provenance.keep(workdir, records[:2], 4, a)
    assert kept() == [{"from_epoch": 3, **unknown}, {"from_epoch": 5, **a}]
    provenance.keep(workdir, records[:3], 5, b)
    assert [each["from_epoch"] for each in kept()] == [3, 5, 6] and kept(5) == kept()[:2]
    provenance.keep(workdir, records[:2], 4, b)  # killed, and again from an earlier checkpoint
    assert kept() == [{"from_epoch": 3, **unknown}, {"from_epoch": 5, **b}]
    assert provenance.entries(kept()) == {**b, "segments": kept()}
    provenance.keep(workdir, [], 2, a)
    provenance.keep(workdir, records, 6, a)
    assert kept() == [{"from_epoch": 3, **a}] and provenance.entries(kept()) == a


def files_of(folder):
    return sorted((folder / "results" / "table2").glob("*.json"))


def test_a_run_of_every_row_fills_the_table(tiny):
    folder, _, _, said = tiny
    found = {r["row"].split("+")[0]: r for r in results.read_all(folder / "results", 2)}
    assert set(found) == {"sp", "hp", "dynhp-0.5", "dense-final@hp", "magnitude@hp", "random@hp"}
    hp = found["hp"]
    assert hp["parameters"] < found["sp"]["parameters"] == 784 * 12 + 12 + 12 * 8 + 8 + 90
    assert len(hp["kept_inputs"]) == hp["units"]["input"] < 784
    for name in ("dense-final@hp", "magnitude@hp", "random@hp"):
        each = found[name]
        assert each["units"] == hp["units"] and each["parameters"] == hp["parameters"]
        assert each["epochs"] == 4 and each["curves"]["epoch"] == [1, 2, 3, 4]
    assert found["dense-final@hp"]["kept_inputs"] == hp["kept_inputs"]
    assert found["magnitude@hp"]["curves"]["parameters"][1] == found["sp"]["parameters"]
    for each in found.values():
        assert each["commit"] and each["versions"]["jax"] and "segments" not in each
        assert each["machine"] == origin.machine() and " core" in each["machine"]
        assert each["seconds"] > 0
        memory = np.array(each["curves"]["parameters"]) * 4 / 1024
        memory += np.array(each["curves"]["batch_size"]) * 3136 / 1024
        assert each["training_memory"] == pytest.approx(memory.sum() / 1e6)
        assert f"{each['test_error']:.2f}" in said


def test_a_printed_table_is_written_unless_it_is_of_less(tiny, program):
    folder, flags, _, _ = tiny
    place, file = flags[1], folder / "results" / "table2.md"
    before = {"results": sorted((folder / "results").iterdir())}
    for less in ("--epochs=4", "--alphas=0.5", f"--variants={TINY}"):
        code, _, _ = program(place, "--print", less)
        assert code == 0 and sorted((folder / "results").iterdir()) == before["results"]
    code, said, complaint = program(place, "--print", "--lam=0.3")
    assert (code, said) == (2, "") and complaint.count("\n") == 1
    assert "no result of table 2+penalty.lam=0.3 in " in complaint
    assert sorted((folder / "results").iterdir()) == before["results"]
    assert program(place, "--print", "--validation=0")[1] == program(place, "--print")[1]
    assert "# Table 2, MNIST, 4 epochs: variants" in file.read_text()
    file.unlink()


def test_what_is_finished_is_skipped(tiny, program):
    folder, flags, names, before = tiny
    times = {path: path.stat().st_mtime_ns for path in files_of(folder)}
    code, said, _ = program(*flags, names, "--epochs=4")
    assert code == 0 and "-- " not in said
    assert {path: path.stat().st_mtime_ns for path in files_of(folder)} == times
    assert said.strip() in before


def test_longer_runs_go_on_and_shorter_ones_are_read_off(tiny, program):
    folder, flags, _, _ = tiny
    (path,) = (folder / "runs" / "table2").glob("hp*")
    workdir, earlier = Workdir(path), {"commit": "abc", "versions": {}, "machine": "another"}
    now = json.loads(workdir.provenance_file.read_text())
    come_from(workdir, [{"from_epoch": 1, **earlier}])
    code, said, _ = program(*flags, "--rows=hp", "--epochs=6")
    assert code == 0 and "going on after epoch 4 of 6" in said
    assert len(workdir.records()) == 6
    code, said, _ = program(*flags, "--rows=hp", "--epochs=3")
    assert code == 0 and "epochs" in said and "-- " not in said
    three, four, six = (
        next(r for r in results.read_all(folder / "results", 2)
             if r["row"].startswith("hp") and r["epochs"] == epochs)
        for epochs in (3, 4, 6)
    )  # fmt: skip
    assert three["curves"]["test_error"] == four["curves"]["test_error"][:3]
    assert six["curves"]["test_error"][:4] == four["curves"]["test_error"]
    assert three["kept_inputs"] is None
    # Of what epochs are, not of where the command was given.
    assert six["segments"] == [{"from_epoch": 1, **earlier}, {**now[0], "from_epoch": 5}]
    assert (six["commit"], three["commit"]) == (now[0]["commit"], "abc")
    assert three["machine"] == "another" and "segments" not in three
    code, _, complaint = program(*flags, "--rows=dense-final@hp", "--epochs=3")
    assert code == 2 and "pixels of hp" in complaint


@pytest.mark.parametrize("row", ["hp", "dynhp-0.5"])
def test_seeds_side_by_side_give_what_each_gives_alone(tiny, program, tmp_path, row):
    folder, flags, _, _ = tiny
    common = [f"--rows={row}", flags[-1], f"--results={tmp_path / 'results'}"]
    flags = [f"--workdir={tmp_path / 'runs'}", *common]

    def found(seed, epochs, place=tmp_path):
        (path,) = (place / "results" / "table2").glob(f"{row}+*-seed{seed}-epochs{epochs}.json")
        return json.loads(path.read_text())

    code, said, _ = program(*flags, "--seeds=0,2", "--epochs=2", "--side_by_side")
    assert code == 0 and said.count("-- ") == 1 and "-seeds0-2: 2 epochs" in said
    (team,) = (tmp_path / "runs" / "table2").iterdir()
    shutil.copytree(team, team.with_name(f"{team.name}.old"))
    team.with_name(f"{team.name}.log").touch()
    # Written in its first epoch by a run that was killed: none to go on with.
    killed = Workdir(team.with_name(team.name.replace("s0-2", "s0..1")))
    killed.path.mkdir()
    write_json(killed.sweep_file, {"members": ["seed0", "seed1"]})
    # Whoever asks for a seed of a team has the team go on; another seed is a run of its own.
    code, said, _ = program(*flags, "--seeds=0,1", "--epochs=4", "--side_by_side")
    assert code == 0 and "going on after epoch 2 of 4" in said
    begun = [line.rpartition("-seed")[2] for line in said.splitlines() if line[:3] == "-- "]
    assert begun == ["s0-2: 4 epochs", "1: 4 epochs"]
    together, alone = found(0, 4), found(0, 4, folder)
    assert together["side_by_side"] == found(2, 4)["side_by_side"] == 2
    assert "side_by_side" not in alone and "side_by_side" not in found(1, 4)
    for name in ("units", "config", "kept_inputs", "commit", "machine", "versions"):
        assert together[name] == alone[name], name
    for name in ("batch_size", "parameters"):
        assert together["curves"][name] == alone["curves"][name]
    errors = [each["curves"]["test_error"] for each in (together, alone)]
    np.testing.assert_allclose(*errors, atol=0.05)  # of 10,000 images
    assert found(2, 4)["curves"] != together["curves"]

    times = {path: path.stat().st_mtime_ns for path in files_of(tmp_path)}
    code, said, _ = program(*flags, "--seeds=0,1,2", "--epochs=4", "--side_by_side")
    assert code == 0 and "-- " not in said
    assert {path: path.stat().st_mtime_ns for path in files_of(tmp_path)} == times
    code, said, _ = program(*flags, "--seeds=2,0", "--epochs=3")
    assert code == 0 and "-- " not in said
    assert found(0, 3)["curves"]["test_error"] == together["curves"]["test_error"][:3]
    assert found(0, 3)["side_by_side"] == 2 and found(0, 3)["kept_inputs"] is None
    (path,) = (tmp_path / "results" / "table2").glob("*-seed2-epochs4.json")
    path.unlink()  # stopped between the members' results
    code, said, _ = program(*flags, "--seeds=0,2", "--epochs=4", "--side_by_side")
    assert code == 0 and "-seeds0-2: 4 epochs" in said and found(2, 4)["kept_inputs"]


def test_an_interrupted_row_is_resumed_to_the_same_result(tiny, program, tmp_path):
    folder, flags, _, _ = tiny
    (path,) = (path for path in files_of(folder) if path.name.startswith("dynhp")
               and path.name.endswith("epochs4.json"))  # fmt: skip
    elsewhere = [f"--workdir={tmp_path / 'runs'}", f"--results={tmp_path / 'results'}", *flags[2:]]
    for epochs in (2, 4):
        code, said, _ = program(*elsewhere, "--rows=dynhp-0.5", f"--epochs={epochs}")
        assert code == 0 and ("going on after epoch 2 of 4" in said) == (epochs == 4)
    one = json.loads(path.read_text())
    other = json.loads((tmp_path / "results" / "table2" / path.name).read_text())
    clocks = ("seconds", "compile_seconds")
    assert {k: v for k, v in one.items() if k not in clocks} == {
        k: v for k, v in other.items() if k not in clocks
    }


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--table is missing; allowed: 2"),
        (["--table=4"], "--table is '4'; allowed: 2"),
        (["--table=2", "--seeds=0,x"], "--seeds: 'x'"),
        (["--table=2", "--epochs=0"], "--epochs: '0'"),
        (["--table=2", "--epochs=1.5"], "--epochs: '1.5' is not allowed; allowed: a whole number"),
        (["--table=2", "--seeds=1.5"], "--seeds: '1.5' is not allowed; allowed: a whole"),
        (["--table=2", "--rows=sp", "--seeds=0,0"], "--seeds: '0,0' names a value twice"),
        (["--table=2", "--rows=dynhp-0.5,dynhp-0.50"], "names a value twice"),
        (["--table=2", "--rows=hp+ce+ce"], "row 'hp+ce+ce' has a variant twice"),
        (["--table=2", "--rows=sp", "--alphas=0.5,0.50"], "--alphas: '0.5,0.50' names a value"),
        (["--table=2", "--rows=sp+scores.criterion=a/../x"], "no file can have such a name"),
        (["--table=2", "--rows=sp", "--results=~nosuchuser/x"], "--results is '~nosuchuser/x'"),
        (["--table=2", "--rows=sp", "--workdir=~nosuchuser/x"], "--workdir is '~nosuchuser/x'"),
        (["--table=2", "--rows=sp,hq"], "'hq' is no row"),
        (["--table=2", "--lam=-1"], "--lam: '-1'"),
        (["--table=2", "--rows=hp", "--lam=inf"], "--lam: 'inf'"),
        (["--table=2", "--alphas=2"], "--alphas: '2' is not allowed; allowed: a number from"),
        (["--table=2", "--rows=sp", "--alphas=0.5,"], "--alphas: '' is not allowed"),
        (["--table=2", "--lam=1,2"], "--lam: '1,2' is not allowed; allowed: a number, 0 or more"),
        (["--table=2", "--print", "--validation=7"], "--validation: '7' is not allowed"),
        (["--table=2", "--print", "--rows=sp"], "--print does not read --rows; beside it"),
        (["--figures", "--table=2"], "--figures does not read --table"),
        (["--table=2", "--print", "--side_by_side"], "--print does not read --side_by_side"),
        (["--table=2", "--side_by_side", "--variants=memory.meter=xla"], "'paper' in a sweep"),
        (["--table=2", "--rows=sp,dynhp-0.9+batch.variance=vmap", "--side_by_side"],
         "config.batch.variance is 'vmap'"),
        (["--table=2", "--print", "--workdir=x"], "--print does not read --workdir"),
        (["--table=2", "--print", "--figures"], "--print and --figures are two things"),
        (["--table=2", "--variants=l3"], "'l3' is no variant"),
        (["--table=2", "--rows=hp", "--validation=1"], "--validation: '1' is not allowed"),
        (["--table=2", "--rows=hp+penalty.lam=-1"], "config.penalty.lam is -1"),
        (["--table=2", "--rows=random@hp", "--results=none"], "run that row first"),
        (["--table=2", "--calibrate", "--results=none"], " rows; such as --rows=dynhp-1"),
        (["--table=2", "--calibrate", "--rows=hp"], "one DynHP row, not hp; such as --rows="),
        (["--table=2", "--calibrate", "--rows=dynhp-1", "--results=none"], "/none"),
        (["--table=2", "--print", "--results=none"], "/none, where the table has results of no"),
        (["--table=3", "--print", "--epochs=500", f"--results={ROOT / 'results/reproduction'}"],
         "no result of table 3 of 500 epochs in "),
        (["--table=2", "--rows=sp", f"--results={ROOT / 'README.md'}"],
         "README.md cannot be written"),
        (["--figures", "--results=none"], "/none"),
        (["--tabel=2"], "tabel"),
    ],
)  # fmt: skip
def test_bad_flags_end_in_one_line_and_leave_nothing(flags, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = commandline.run(reproduce.main, ["reproduce", *flags])
    said = capsys.readouterr().err
    assert code == 2 and says in said and "choose a --workdir" not in said
    assert said.startswith("error: ") and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_help_says_where_runs_go(capsys):
    with pytest.raises(SystemExit, match="0"):
        reproduce.main(["reproduce", "--help"])
    assert "empty: runs/reproduction" in " ".join(capsys.readouterr().out.split())
