"""Paths, names, numbers and sizes that cannot be: one line before work starts, nothing on disk."""

import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_lines import ROOT, command, fails, here, one_line
from hypothesis import example, given
from hypothesis import strategies as st

from dynhp_jax.common import machine, paths
from dynhp_jax.common.errors import ConfigError, UserError
from dynhp_jax.data.loading import load
from dynhp_jax.training import config as configuration
from experiments import commandline, compare, evaluate, interrupting, memory, sweep, train
from experiments import reproduce as reproduction
from experiments.comparison import running

DIGITS = ("--config=configs/digits.py", "--config.epochs=1", "--config.method=dense")
SMALL = (*DIGITS, "--config.model.hidden=(4,)")
COMPARE = (
    "--config=configs/compare_fmnist.py", "--config.data.name=digits", "--config.data.examples=0",
    "--config.data.validation=0.1", "--config.model.name=mlp", "--config.model.hidden=(8,)",
    "--config.epochs=1", "--config.compare.test=0", "--config.compare.criteria=('l1',)",
    "--config.compare.fractions=(0.5,)", "--config.compare.seeds=(0,)",
    "--config.compare.methods=('hp',)",
)  # fmt: skip
TABLE = ("--table=2", "--rows=dense", "--seeds=0", "--epochs=1", "--variants=data.examples=500")
PROGRAMS = {
    train: SMALL,
    sweep: (*SMALL, "--seeds=0,1"),
    compare: COMPARE,
    reproduction: TABLE,
    evaluate: (),
}


def alone(capfd, folder, main, *arguments):
    """The one line of a command that is started in a folder, in which nothing is left."""
    arguments = [each.replace("=configs/", f"={ROOT}/configs/") for each in arguments]
    before = os.getcwd()
    os.chdir(folder)
    try:
        capfd.readouterr()
        code = commandline.run(main, ["program", *arguments])
    finally:
        os.chdir(before)
    said = capfd.readouterr().err
    assert code == 2 and one_line(said), (code, said)
    assert list(folder.iterdir()) == [], said
    return said


def name_of(module):
    return module.__name__.rpartition(".")[2]


# -- paths -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS, ids=name_of)
def test_no_program_takes_a_workdir_that_is_no_path(program, tmp_path, capfd):
    for path in ("~nosuchuser/x", "a\0b", "a" * 300, "/b" * 2500, "\udcff"):
        flags = (*PROGRAMS[program], f"--workdir={path}")
        assert alone(capfd, tmp_path, program.main, *flags).startswith("error: --workdir is ")


@pytest.mark.parametrize("program", [compare, reproduction], ids=name_of)
def test_no_program_takes_results_that_are_no_path(program, tmp_path, capfd):
    only = ("--table=2",) if program is reproduction else COMPARE
    for flags in (PROGRAMS[program], (*only, "--print")):
        said = alone(capfd, tmp_path, program.main, *flags, "--results=~nosuchuser/x")
        assert said.startswith("error: --results is '~nosuchuser/x'")


@pytest.mark.parametrize("field", ["data.dir", "data.cache_dir", "compiling.cache_dir"])
def test_fields_that_hold_paths_take_no_others(field, tmp_path, capfd):
    for path in ("~nosuchuser/x", "a\0b"):
        said = alone(capfd, tmp_path, train.main, *SMALL, f"--config.{field}={path}")
        assert said.startswith(f"error: config.{field} is ")


@pytest.mark.parametrize(
    "variable", ["DYNHP_CACHE", "XDG_CACHE_HOME", "TFDS_DATA_DIR", "DYNHP_ORIGINALS"]
)
def test_the_environment_names_no_other_paths(variable, nowhere, monkeypatch):
    if variable == "XDG_CACHE_HOME":
        monkeypatch.delenv("DYNHP_CACHE")
    monkeypatch.setenv(variable, "~nosuchuser/x")
    with pytest.raises(UserError, match=f"^{variable} is '~nosuchuser/x'"):
        load("mnist")


def test_a_tilde_is_the_home_wherever_a_path_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DYNHP_CACHE", "~/c")
    assert paths.given("~/x", "--workdir") == tmp_path / "x"
    assert paths.of_environment("DYNHP_CACHE") == tmp_path / "c"


def test_folders_are_made_all_or_none(tmp_path):
    (tmp_path / "file").write_text("")
    wanted = {"--workdir": tmp_path / "a" / "b", "--results": tmp_path / "file" / "c"}
    with pytest.raises(UserError, match="^--results: .*/file/c cannot be written"):
        paths.make_writable(wanted)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_without_a_home_a_run_goes_on_without_a_cache(tmp_path, monkeypatch, capfd):
    """As the user of a container who is in no list of users."""

    def nobody(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "DYNHP_CACHE", "XDG_CACHE_HOME", "TFDS_DATA_DIR", "DYNHP_ORIGINALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    code, _, said = here(capfd, train.main, *SMALL, f"--workdir={tmp_path / 'run'}")
    assert code == 0 and said.startswith("warning: nothing is kept for later runs"), said
    assert said.count("\n") == 1 and "DYNHP_CACHE" in said
    assert "--workdir is '~/x'" in fails(capfd, train.main, *SMALL, "--workdir=~/x")


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../outside/x", "a/../../x", "..", ".", "", "/tmp/x", "a//b",
                                  "a/", "a\0b", "a\nb", "\x1b[1m", "a" * 300, " "])  # fmt: skip
def test_a_name_of_a_run_stays_in_the_folder_of_runs(name):
    with pytest.raises(ConfigError, match=r"^config\.name is "):
        configuration.Config(name=name)


@given(st.text(max_size=20))
@example("a/b")
def test_names_that_are_allowed_lead_below_the_folder_that_they_are_for(text):
    if paths.is_name(text):
        folder = Path("/runs")
        led = Path(os.path.normpath(folder / text))
        assert led != folder and led.is_relative_to(folder)


def test_a_row_of_a_table_leads_nowhere_else(tmp_path, capfd):
    flags = ("--table=2", "--epochs=1", "--seeds=0")
    for row in ("hp+scores.criterion=a/../../x", "hp+memory.budget=../x", f"hp+{'a' * 300}=1"):
        alone(capfd, tmp_path, reproduction.main, *flags, f"--rows={row}")


def test_all_rows_of_a_table_are_checked_before_the_first_is_run(tfds_dir, tmp_path, capfd):
    flags = ("--table=2", "--epochs=1", "--seeds=0", "--rows=sp,hp+batch.size=100000")
    said = alone(capfd, tmp_path, reproduction.main, *flags)
    assert "config.batch.size is 100000; allowed: at most the 60000 training examples" in said


# -- numbers and sizes -----------------------------------------------------------------------------

NUMBERS = [name for name, value in configuration.flatten(configuration.Config()).items()
           if isinstance(value, int | float) and not isinstance(value, bool)]  # fmt: skip


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e400", "9" * 5000, f"-{'9' * 30}", ""])
def test_no_field_takes_numbers_that_programs_cannot_compute_with(number, tmp_path, capfd):
    for field in NUMBERS:
        said = fails(capfd, train.main, *SMALL, f"--config.{field}={number}")
        assert said.startswith(f"error: config.{field} is ") and len(said) < 800, said


def test_numbers_that_are_nothing_in_float32_are_refused():
    for field, value in (("learning_rate", 1e-50), ("learning_rate", 1e39), ("ema", 1e39)):
        with pytest.raises(ConfigError, match=rf"^config\.optimizer\.{field} is "):
            configuration.from_dict({"optimizer": {field: value}})


@pytest.mark.parametrize("program", [train, sweep, memory, compare], ids=name_of)
def test_a_network_that_no_machine_holds_is_refused(program, tmp_path, capfd):
    flags = DIGITS if program is memory else PROGRAMS[program]
    for size in ("hidden=(1000000000000,)", "hidden=(2000000000, 2000000000)", "hidden=(-1,)",
                 "width=1e308", "width=1e30", "depth=1000000000"):  # fmt: skip
        alone(capfd, tmp_path, program.main, *flags, f"--config.model.{size}")


@pytest.mark.parametrize(
    ("copies", "optimizer", "ema"), [(1, "sgd", 0), (2, "momentum", 0), (4, "adam", 1)]
)
def test_moments_and_the_mean_count(copies, optimizer, ema, tmp_path, capfd, monkeypatch):
    numbers = 64 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10
    flags = (f"--config.optimizer.name={optimizer}", f"--config.optimizer.ema={ema}.0")
    monkeypatch.setattr(machine, "memory_bytes", lambda: 4 * numbers * copies - 1)
    said = alone(capfd, tmp_path, train.main, *DIGITS, *flags)
    assert "and there is memory for" in said
    monkeypatch.setattr(machine, "memory_bytes", lambda: 2 * 4 * numbers * copies - 1)
    said = alone(capfd, tmp_path, sweep.main, *DIGITS, *flags, "--seeds=0,1")
    assert "and there is memory for" in said


def test_a_limit_on_the_process_is_what_there_is():
    code = (
        "import resource; from dynhp_jax.common import machine; before = machine.memory_bytes();"
        "resource.setrlimit(resource.RLIMIT_DATA, (2**33, 2**33));"
        "assert machine.memory_bytes() == min(before, 2**33)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_memory_that_runs_out_is_one_line(capfd):
    def hungry(argv):
        raise MemoryError("Unable to allocate 7.28 TiB")

    assert "not enough memory (Unable to allocate 7.28 TiB); take a" in fails(capfd, hungry)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--widths=0.5,0.50"], "--widths: '0.5,0.50' names a value twice"),
        (["--batches=16,16"], "--batches: '16,16' names a value twice"),
        (["--batches=16,5000"], "--batches: 5000 is above the 1437 examples"),
        (["--budgets=1MiB,1024KiB"], "--budgets: '1MiB,1024KiB' names a value twice"),
        ([f"--budgets={'9' * 5000}"], "--budgets: '999"),
        (["--workdir=x"], "workdir"),
    ],
)
def test_the_table_of_memory_asks_for_what_can_be(flags, said, tmp_path, capfd):
    assert said in alone(capfd, tmp_path, memory.main, *DIGITS, *flags)


# -- flags -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        (["--config.model.hidden=(7,)", "--config.model.hidden=(9,)"], (9,)),
        (["--config.model.hidden", "(7, 8)", "--config.model.hidden", "(9,)"], (9,)),
        (["-config.model.hidden=(7,)", "--config.epochs=5", "--config.model.hidden", "9"], (9,)),
        (["--config.model.hidden=(9,)"], (9,)),
        (["--config.model.hidden=(7,)", "--config.model.hidden=()"], ()),
        ([], (128, 64)),
    ],
)
def test_of_a_flag_that_is_given_twice_the_last_one_wins(flags, kept, tmp_path):
    first = ["train", f"--config={ROOT}/configs/digits.py", "--config.epochs=2"]
    file = tmp_path / "flags"
    file.write_text("--config.model.hidden=(1, 2)\n--config.model.hidden=(3,)\n")
    for before in ([], [f"--flagfile={file}"] * bool(flags)):
        argv = [*first, *before, "--config.epochs=5", *flags]
        config = configuration.from_config_dict(commandline.parse(argv, True)[0])
        assert (config.model.hidden, config.epochs) == (kept, 5)


def test_of_two_configs_the_last_one_wins():
    configs = [f"--config={ROOT}/configs/{name}.py" for name in ("fmnist", "digits")]
    values, _ = commandline.parse(["train", configs[0], "--config.epochs=2", configs[1]], True)
    assert (values.name, values.epochs) == ("digits", 2)


def test_where_there_are_no_configs_the_projects_own_are_named(tmp_path, capfd):
    for flags in ((), ("--config=nothing.py",)):
        assert str(ROOT / "configs" / "digits.py") in alone(capfd, tmp_path, train.main, *flags)


# -- comparisons -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("lams=(1e400,)", "config.compare.lams is (inf,); allowed: numbers above 0, at most"),
        ("lams=(1e39,)", "config.compare.lams is (1e+39,)"),
        ("seeds=(4294967296,)", "config.compare.seeds is (4294967296,); allowed: whole numbers"),
        ("epochs=2147483647", "config.compare.epochs is 2147483647; allowed: a whole number, 0 to"),
        ("criteria=('l1', 'l1()')", "'l1' and 'l1()' would write the same file"),
    ],
)
def test_a_comparison_is_refused_before_its_warm_up(flag, said, tmp_path, capfd):
    name = flag.partition("=")[0]
    kept = [each for each in COMPARE if f"compare.{name}=" not in each]
    assert said in alone(capfd, tmp_path, compare.main, *kept, f"--config.compare.{flag}")


def test_methods_of_a_comparison_are_checked_before_its_warm_up(tmp_path, capfd):
    """The warm-up, which has no gates, has room for its mini-batch."""
    more = ("--config.compare.lams=(0.1,)", "--config.batch.rule=dynhp")
    more = (*more, "--config.batch.variance=none")
    said = alone(capfd, tmp_path, compare.main, *COMPARE, *more)
    assert "config.batch.variance is 'none'" in said


def test_fractions_that_are_nearly_the_same_have_files_of_their_own():
    cells = [running.Cell("l1", 0, fraction).path(Path()) for fraction in (0.5, 0.50000001)]
    assert [path.name for path in cells] == ["l1-f0.5-seed0.json", "l1-f0.50000001-seed0.json"]


def test_a_comparison_reads_the_projects_results_only_where_it_is_asked_to(tmp_path, capfd):
    """Those of configs/compare_fmnist.py are of other settings than COMPARE's."""
    theirs, own = Path("results/compare/fmnist"), tmp_path / "results"
    assert (ROOT / theirs / "dense-seed0.json").exists()
    where = compare.results_of
    assert where("", tmp_path, "fmnist", only_print=False) == own
    assert where("", tmp_path, "fmnist", only_print=True) == theirs
    own.mkdir()
    assert where("", tmp_path, "fmnist", only_print=True) == own
    flags = (*COMPARE, f"--workdir={tmp_path / 'runs'}", f"--results={theirs}")
    assert "dense-seed0.json is of another config" in fails(capfd, compare.main, *flags)
    assert not (tmp_path / "runs").exists()


# -- Ctrl-C ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_ctrl_c_while_a_program_imports_is_one_line(delay):
    program, *arguments = command("--config=configs/digits.py")
    starting = subprocess.Popen(  # -v names every import, so that it is known when the first is
        [program, "-v", *arguments],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in starting.stderr:
        if line.startswith("import 'experiments' "):
            break
    time.sleep(delay)
    starting.send_signal(signal.SIGINT)
    said = starting.stderr.read()
    assert starting.wait() == 130, said[-500:]
    assert f"interrupted: {interrupting.AT_ONCE}" in said and "Traceback" not in said


def test_a_ctrl_c_that_is_swallowed_is_not_lost(capfd):
    def main(argv):
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException:
            print("swallowed")

    before = signal.getsignal(signal.SIGINT)
    code, said, complaint = here(capfd, main)
    assert (code, said) == (130, "swallowed\n") and complaint.startswith("interrupted: stopped at")
    assert signal.getsignal(signal.SIGINT) is before
