"""Code of one's own: a person's word alone runs it, and it is looked at before it is called."""

import dataclasses
import json
import os
import re
import shutil
import signal

import pytest
from command_lines import ROOT, fails, here
from own_modules import SMALL

from dynhp_jax.common import own_code
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.own_code import Origin, OwnCodeError
from dynhp_jax.data.loading import load
from dynhp_jax.export import runs
from dynhp_jax.pruning.criteria import parse, registry
from dynhp_jax.pruning.options import ScoreOptions
from dynhp_jax.training import build, config
from dynhp_jax.training.compiled import programs
from dynhp_jax.training.files.workdir import Workdir
from dynhp_jax.training.run import trainer
from experiments import commandline, evaluate, train

# -- who may name it -------------------------------------------------------------------------------


LEFT = """
    from pathlib import Path

    from dynhp_jax.pruning.criteria.l1 import L1

    Path(__file__).with_suffix(".imported").touch()
"""


def left_behind(workdir, own_module, tmp_path):
    """A run whose config names a module; the file that its import leaves."""
    name = own_module(LEFT)
    file = workdir / "config.json"
    values = json.loads(file.read_text())
    values["scores"]["criterion"] = f"{name}:L1"
    file.write_text(json.dumps(values))
    return tmp_path / f"{name}.imported"


@pytest.fixture(scope="module")
def pruned(tmp_path_factory, dynhp_cache):
    """The workdir of a run that was pruned by a criterion."""
    workdir = tmp_path_factory.mktemp("pruned") / "run"
    before = os.getcwd()
    os.chdir(ROOT)
    flags = [*SMALL, "--config.scores.criterion=l1", f"--workdir={workdir}"]
    assert commandline.run(train.main, ["train", *flags]) == 0
    os.chdir(before)
    return workdir


@pytest.fixture
def run_of_another(pruned, own_module, tmp_path):
    """A copy, as if its criterion were somebody's own: (workdir, what an import would leave)."""
    workdir = shutil.copytree(pruned, tmp_path / "run")
    return workdir, left_behind(workdir, own_module, tmp_path)


def test_a_run_is_evaluated_without_the_code_that_its_config_names(run_of_another, capfd):
    workdir, imported = run_of_another
    code, said, complaint = here(capfd, evaluate.main, f"--workdir={workdir}")
    assert code == 0, complaint
    last = Workdir(workdir).records()[-1]
    assert f"test error {last['test_error']:.2f} %" in said
    assert f"units of hidden_1: {last['units']['hidden_1']} of 8" in said
    assert not imported.exists()


def test_a_run_that_goes_on_imports_what_its_command_names(run_of_another, capfd):
    workdir, imported = run_of_another
    said = fails(capfd, train.main, *SMALL, "--config.scores.criterion=l1", f"--workdir={workdir}")
    assert "config.scores.criterion" in said and not imported.exists()


def test_a_config_that_was_read_back_trains_only_with_a_criterion_that_is_handed_in(
    run_of_another,
):
    workdir, imported = run_of_another
    recorded = config.from_dict(json.loads((workdir / "config.json").read_text()))
    dataset = build.dataset_of(recorded)
    for each in (recorded, dataclasses.replace(recorded, seed=3)):
        with pytest.raises(UserError, match=r"was read from a file.*--config.scores.criterion or"):
            trainer.Trainer(each, dataset, programs.Programs())
    assert not imported.exists()
    mine = registry.get_criterion("l1")
    assert trainer.Trainer(recorded, dataset, programs.Programs(), mine).criterion is mine


def test_the_origin_of_a_config_is_in_its_type():
    typed = config.Config(method="scores", epochs=3, scores=ScoreOptions("mine:Own", start=1))
    read = config.from_dict(json.loads(json.dumps(config.to_dict(typed))))
    assert (typed.origin, read.origin) == (Origin.PERSON, Origin.FILE)
    assert read == typed and typed == read and hash(read) == hash(typed)
    assert read != dataclasses.replace(typed, seed=1)
    assert config.from_config_dict(config.default_config_dict()).origin is Origin.PERSON
    for text in ("mine:Own", "mine:Own(a=1)", "dynhp_jax.pruning.criteria.l1:L1"):
        with pytest.raises(UserError, match="was read from a file"):
            parse.parse(text, Origin.FILE)
    assert parse.parse("flexrel(delta=0.2)", Origin.FILE).delta == 0.2


def test_programs_that_were_compiled_elsewhere_are_not_run(tmp_path):
    values = {"compiling": {"cache_dir": str(tmp_path)}, "scores": {"criterion": "mine:Own"}}
    found = runs.here(config.from_dict(values))
    assert (found.compiling.cache_dir, found.scores.criterion) == ("", "")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("features.json", {"pythonClassName": "{}.Image", "image": {}}),
        ("features.json", {"featuresDict": {"features": {"image": {"python_class_name": "{}.I"}}}}),
        ("features.json", {"type": "{}.Image", "content": {}}),
        ("features.json", {"jsonFeature": {"json": '{"image": {"type": "{}.Image"}}'}}),
        ("dataset_info.json", {"features": {"pythonClassName": "{}.Image"}}),
    ],
)
def test_a_directory_of_data_imports_nothing(file, content, own_module, tmp_path, nowhere):
    name = own_module(LEFT)
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"name": "mnist", "fileFormat": "array_record"}')
    values = content | {"name": "mnist", "fileFormat": "array_record"}
    (folder / file).write_text(json.dumps(values).replace("{}.", f"{name}."))
    with pytest.raises(UserError, match=f"{file} names the class '{name}.*prepare it anew"):
        load("mnist", directory=tmp_path)
    assert not (tmp_path / f"{name}.imported").exists()


# -- what it has to be -----------------------------------------------------------------------------


TRAPS = """
    import dataclasses
    from pathlib import Path


    def called(*_, **__):
        Path(__file__).with_suffix(".called").touch()


    class NoScores:
        __init__ = called


    class NumberOfScores:
        scores = 5
        __init__ = called


    class WithScores:
        def scores(self, evidence):
            called()


    @dataclasses.dataclass
    class Options:
        a: int = 0
        b: int = dataclasses.field(init=False, default=1)
        scores = called
        __post_init__ = called


    instance = WithScores()
    partial = __import__("functools").partial(WithScores)
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("called(a=1)", "no class"),
        ("instance", "no class"),
        ("partial", "no class"),
        ("NoScores", "no method scores"),
        ("NumberOfScores()", "no method scores"),
        ("Options(c=1)", "no option 'c'; it has: a "),
        ("Options(b=1)", "no option 'b'; it has: a "),
        ("WithScores(a=1)", "no option 'a'; it has: none"),
        ("Missing", "has no 'Missing'"),
        ("Options(a=called())", "are not option=value"),
        ("Options(a=1 + 1)", "are not option=value"),
        ("Options(1)", "are not option=value"),
        ("Options(**{'a': 1})", "are not option=value"),
        ("Options(a=1)(a=2)", "are not option=value"),
        ("Options(a={[]: 1})", "are not option=value"),
        ("Options(a=" + "(" * 3000 + ")" * 3000 + ")", "are not option=value"),
        ("Options(a=" + "-" * 99999 + "1)", "are not option=value"),
    ],
)
def test_what_is_no_criterion_is_refused_before_it_is_called(text, said, own_module, tmp_path):
    name = own_module(TRAPS)
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        parse.parse(f"{name}:{text}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / f"{name}.called").exists()


@pytest.mark.parametrize(
    "text", ["subprocess:Popen(args=('touch', '{}'), shell=False)", "os:system", "builtins:exec",
             "pathlib:Path('{}')", "subprocess:run"],
)  # fmt: skip
def test_a_command_is_no_criterion(text, tmp_path, capfd):
    marker = tmp_path / "touched"
    text = text.format(marker)
    workdir = tmp_path / "run"
    said = fails(
        capfd, train.main, *SMALL, f"--config.scores.criterion={text}", f"--workdir={workdir}"
    )
    assert text in said.replace("\\'", "'") and not marker.exists() and not workdir.exists()


def test_ctrl_c_is_no_failure_of_the_code_that_it_meets():
    with pytest.raises(KeyboardInterrupt), own_code.guarded("mine"):
        signal.raise_signal(signal.SIGINT)
    with (
        pytest.raises(OwnCodeError, match="mine fails: KeyboardInterrupt"),
        own_code.guarded("mine"),
    ):
        raise KeyboardInterrupt
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
