"""A run directory tells the truth, heals, or is refused in one line, with nothing changed."""

import hashlib
import json
import os
import shutil
import textwrap

import pytest
from command_lines import QUICK, copy_of, fails, here, rewrite_host

from dynhp_jax.common.errors import UserError
from dynhp_jax.training.files.records import Records, Seal
from dynhp_jax.training.files.workdir import Workdir
from experiments import evaluate, train


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run."""
    return Workdir(copy_of(finished[0], tmp_path))


def contents(folder):
    """{path: what is there} of everything below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else os.path.islink(path)
        for path in folder.rglob("*")
    }


def lines_of(run):
    return run.metrics_file.read_bytes().splitlines(keepends=True)


def with_line(number, change):
    """Damage to one line of metrics.jsonl, counted from 1."""

    def damage(run):
        lines = lines_of(run)
        lines[number - 1] = change(lines[number - 1])
        run.metrics_file.write_bytes(b"".join(lines))

    return damage


def with_entry(number, **entries):
    """A line that is JSON still, with other entries; those that are ... go."""

    def change(line):
        record = json.loads(line) | entries
        return json.dumps({k: v for k, v in record.items() if v is not ...}).encode() + b"\n"

    return with_line(number, change)


def content(name, text):
    """A file with another content."""

    def damage(run):
        raw = text if isinstance(text, bytes) else text.encode()
        (run.path / name).write_bytes(raw)

    return damage


def in_the_place_of(name, make):
    """Something of another kind under the name of a file or directory."""

    def damage(run):
        path = run.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        make(path)

    return damage


def a_link_to_nothing(path):
    path.symlink_to("nowhere")


def a_file(path):
    path.write_text("text")


def renamed(before, after):
    def damage(run):
        (run.checkpoints / before).rename(run.checkpoints / after)

    return damage


def lost_checkpoints(run):
    for path in run.checkpoints.glob("0*"):
        shutil.rmtree(path)


METRICS = {
    "garbage": (with_line(3, lambda line: b"garbage\n"), "line 3: it is no JSON"),
    "garbage at the end": (with_line(6, lambda line: b"{}\n"), "line 6: it has no epoch"),
    "nul bytes": (with_line(2, lambda line: bytes(len(line) - 1) + b"\n"), "line 2: "),
    "nul bytes at the end": (with_line(6, lambda line: bytes(len(line))), "has 5 epochs"),
    "no utf-8": (with_line(2, lambda line: line.replace(b"epoch", b"ep\xff")), "line 2: it is no "),
    "a number": (with_line(1, lambda line: b"5\n"), "line 1: it is not an object"),
    "an empty line": (with_line(4, lambda line: b"\n" + line), "line 4: it is no JSON"),
    "no number of JSON": (
        with_line(2, lambda line: line.replace(b'"epoch": 2', b'"epoch": 2, "more": NaN')),
        "line 2: NaN is no number",
    ),
    "a name twice": (with_line(2, lambda line: b'{"epoch": 2, ' + line[1:]), "has epoch twice"),
    "nested deeply": (with_line(2, lambda line: b"[" * 10**5 + b"\n"), "nested too deeply"),
    "digits": (with_line(2, lambda line: b"1" * 5000 + b"\n"), "line 2: a number in it has too"),
    "another value": (with_entry(5, test_error=1.0), "line 5: it is not what was written"),
    "another type": (with_entry(5, test_error="1.0"), "line 5: its test_error is not a finite"),
    "a flag for a number": (
        with_entry(5, parameters=True),
        "its parameters is not a whole",
    ),
    "a field less": (with_entry(5, units=...), "line 5: it has no units"),
    "a group less": (with_entry(5, units={"input": 3}), "line 5: its units are of other groups"),
    "no epoch's number": (
        with_entry(4, epoch=7),
        "line 4: its epoch is 7, that of",
    ),
    "a line twice": (with_line(4, lambda line: line + line), "line 5: its epoch is 4"),
    "a line less": (with_line(4, lambda line: b""), "line 4: its epoch is 5"),
    "the last line less": (with_line(6, lambda line: b""), "has 5 epochs that can be read"),
    "the last line half": (with_line(6, lambda line: line[:40]), "has 5 epochs that can be read"),
    "the first line less": (with_line(1, lambda line: b""), "has 5 epochs that can be read"),
    "other line ends": (with_line(3, lambda line: line[:-1] + b"\r\n"), "line 3: it is not what"),
    "no line at all": (content("metrics.jsonl", "no line"), "has 0 epochs that can be read"),
}


@pytest.mark.parametrize("kind", METRICS)
def test_damaged_metrics_are_refused_by_line_and_stay_as_they_are(kind, run, capfd):
    damage, says = METRICS[kind]
    damage(run)
    before = contents(run.path)
    said = fails(capfd, train.main, *QUICK, "--config.epochs=7", f"--workdir={run.path}")
    assert says in said and "metrics.jsonl" in said and "remove it, and the same command" in said
    assert contents(run.path) == before


PLACES = {
    name: in_the_place_of(name, make)
    for names, make in (
        (("config.json", "sweep.json", "metrics.jsonl", "summary.json", "provenance.json", ".lock",
          "figures/units.png", "checkpoints/records.jsonl"), os.mkdir),
        (("checkpoints", "figures", "tensorboard"), a_file),
    )
    for name in names
}  # fmt: skip
LINKS = {name: in_the_place_of(name, a_link_to_nothing) for name in PLACES}
PIPES = {f"{name} as a pipe": in_the_place_of(name, os.mkfifo) for name in ("config.json", ".lock")}


@pytest.mark.parametrize("damage", [*PLACES.values(), *LINKS.values(), *PIPES.values()],
                         ids=[*PLACES, *(f"{n} as a link" for n in LINKS), *PIPES])  # fmt: skip
def test_what_has_the_place_of_a_file_or_directory_is_named(damage, run, capfd):
    damage(run)
    before = contents(run.path)
    for program, flags in ((train, QUICK), (evaluate, ())):
        said = fails(capfd, program.main, *flags, f"--workdir={run.path}")
        assert f"{run.path}/" in said
        assert contents(run.path) == before


BOTH, TRAIN = (train, evaluate), (train,)
FILES = {
    **{f"config.json is {text}": (content("config.json", text), "config.json: it is not an object",
                                  BOTH) for text in ("5", "[]", "null", '"text"')},
    "config.json is cut": (content("config.json", '{"epochs": 6'), "config.json, line 1: ", BOTH),
    "config.json is empty": (content("config.json", ""), "config.json, line 1: ", BOTH),
    "config.json is {}": (content("config.json", "{}"), "is not the config of", TRAIN),
    "config.json has a strange field": (
        content("config.json", '{"epoch": 6}'), "config.json: config.epoch is not a field", BOTH),
    "config.json has a strange value": (
        content("config.json", '{"epochs": [6]}'), "config.json: config.epochs is [6]", BOTH),
    "config.json has a strange section": (
        content("config.json", '{"model": 6}'), "config.json: config.model is 6", BOTH),
    "sweep.json is {}": (content("sweep.json", "{}"), "sweep.json: it has no members", BOTH),
    "sweep.json is []": (content("sweep.json", "[]"), "sweep.json: it is not an object", BOTH),
    "sweep.json has no names": (
        content("sweep.json", '{"members": [3]}'), "its members[0] is not a name", BOTH),
    "sweep.json leads out": (
        content("sweep.json", '{"members": ["../x"]}'), "its members[0] is not a name", BOTH),
    "provenance.json is {}": (content("provenance.json", "{}"), "it is not a list; remove", TRAIN),
    "provenance.json has numbers": (content("provenance.json", "[3]"), "its [0] is not", TRAIN),
    "provenance.json has no epoch": (
        content("provenance.json", '[{"commit": null}]'), "it has no [0].from_epoch", TRAIN),
    "provenance.json is another": (
        content("provenance.json", '[{"from_epoch": 1, "commit": "a", "versions": {}, '
                '"machine": null}]'), "provenance.json is not what the checkpoint says", TRAIN),
    "provenance.json is garbage": (content("provenance.json", "\0"), "it is no JSON", TRAIN),
    "another epoch's name": (renamed("000006", "000009"), "000009 holds the checkpoint of epoch "
                             "000006; give it that name again", BOTH),
    "no digit that counts": (renamed("000006", "²"), "² is no checkpoint", BOTH),
    "digits of another script": (renamed("000006", "٠٠٠٠٠٦"), "is no checkpoint", BOTH),
    "too few digits": (renamed("000006", "6"), "6 is no checkpoint", BOTH),
    "a checkpoint that is a file": (
        in_the_place_of("checkpoints/000006", a_file), "000006 is no checkpoint", BOTH),
    "no checkpoint": (lost_checkpoints, "checkpoint", BOTH),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_is_one_line_and_nothing_is_changed(kind, run, capfd):
    damage, says, programs = FILES[kind]
    damage(run)
    before = contents(run.path)
    for program in programs:
        flags = QUICK if program is train else ()
        assert says in fails(capfd, program.main, *flags, f"--workdir={run.path}")
        assert contents(run.path) == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda host: {k: v for k, v in host.items() if k != "epoch"}, "it has no epoch: "),
        (lambda host: {k: v for k, v in host.items() if k != "runs"}, "(it has no runs)"),
        (lambda host: host | {"epoch": 5}, "holds the checkpoint of epoch 000005; give it that"),
        (lambda host: host | {"epoch": "six"}, "holds the checkpoint of epoch six"),
        (lambda host: host | {"runs": {"other": 1}}, "it has no runs."),
        (lambda host: host | {"batch": -1}, "its batch is not a whole number, 1 or more"),
        (lambda host: host | {"keeps": {"input": "all"}}, "its keeps.input is not a list"),
        (lambda host: host | {"spec": {"model": "mlp", "widths": [1, {}]}}, "its spec: "),
        (lambda host: host | {"spec": []}, "its spec is not an object"),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused_though_its_hash_is_right(
    change, says, run, capfd
):
    rewrite_host(run.checkpoints / "000006", change)
    before = contents(run.path)
    for program, flags in ((train, QUICK), (evaluate, ())):
        assert says in fails(capfd, program.main, *flags, f"--workdir={run.path}")
        assert contents(run.path) == before


# -- what is lost and can be written again ---------------------------------------------------------


def gone(name):
    return lambda run: (run.path / name).unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (gone("metrics.jsonl"), "metrics.jsonl was lost; it is written again, from"),
        (content("metrics.jsonl", ""), "metrics.jsonl was lost; it is written again, from"),
        (gone("checkpoints/records.jsonl"), "records.jsonl was lost or damaged; it is written"),
        (content("checkpoints/records.jsonl", "{}\n"), "records.jsonl was lost or damaged"),
        (gone("config.json"), "config.json was lost; it is written again, from the checkpoint"),
        (gone("provenance.json"), "provenance.json was lost; it is written again, from the"),
    ],
)
def test_what_is_lost_is_written_again_and_said(damage, says, run, capfd):
    names = ("metrics.jsonl", "checkpoints/records.jsonl", "config.json", "provenance.json")
    before = [(run.path / name).read_bytes() for name in names]
    summary = json.loads(run.summary_file.read_text())
    damage(run)
    code, _, said = here(capfd, train.main, *QUICK, f"--workdir={run.path}")
    assert (code, said.count("\n")) == (0, 1) and says in said
    assert [(run.path / name).read_bytes() for name in names] == before
    again = json.loads(run.summary_file.read_text())
    for name in ("epochs", "test_error", "best_test_error", "units", "seconds"):
        assert again[name] == summary[name]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (gone("config.json"), "config.json was lost; the config is that of the checkpoint"),
        (content("config.json", "{}"), "config.json is not the config of the checkpoints, by "),
        (content("config.json", '{"method": "sp"}'), "config.method (there 'dynhp', here 'sp')"),
    ],
)
def test_what_is_evaluated_is_what_the_checkpoint_holds(damage, says, finished, run, capfd):
    whole = here(capfd, evaluate.main, f"--workdir={finished[0]}")
    damage(run)
    before = contents(run.path)
    code, found, said = here(capfd, evaluate.main, f"--workdir={run.path}")
    assert (code, found, said.count("\n")) == (0, whole[1], 1) and says in said
    assert contents(run.path) == before


def test_what_both_copies_lost_cannot_be_written_again(run, capfd):
    for path in (run.metrics_file, run.checkpoints / "records.jsonl"):
        path.unlink()
    before = contents(run.path)
    said = fails(capfd, train.main, *QUICK, f"--workdir={run.path}")
    assert "metrics.jsonl is missing or empty" in said and "records.jsonl does not have" in said
    assert contents(run.path) == before


def test_lines_that_no_checkpoint_has_may_be_unfinished_and_are_trained_again(run, capfd):
    """As a kill leaves them, between the line of epoch 6 and its checkpoint."""
    whole = run.metrics_file.read_bytes()
    shutil.rmtree(run.checkpoints / "000006")
    run.metrics_file.write_bytes(whole + b'{"epoch": 7, "te')
    assert len(run.records()) == 6
    code, said, complaint = here(capfd, train.main, *QUICK, f"--workdir={run.path}")
    assert (code, complaint) == (0, "") and "going on after epoch 5 of 6" in said
    assert lines_of(run)[:5] == whole.splitlines(keepends=True)[:5] and len(lines_of(run)) == 6
    assert (run.checkpoints / "records.jsonl").read_bytes() == run.metrics_file.read_bytes()


def test_a_directory_with_a_config_of_somebody_else_is_not_taken(tmp_path, capfd):
    (tmp_path / "config.json").write_text('{"port": 80}')
    before = contents(tmp_path)
    said = fails(capfd, train.main, *QUICK, f"--workdir={tmp_path}")
    assert f"{tmp_path}/config.json: config.port is not a field" in said
    assert contents(tmp_path) == before


# -- a directory that is taken away while the run goes on ------------------------------------------

MEDDLING = """
    import dataclasses
    import shutil
    from pathlib import Path


    def remove(workdir):
        shutil.rmtree(workdir)

    def rename(workdir):
        workdir.rename(workdir.with_name("elsewhere"))

    def replace(workdir):
        rename(workdir)
        shutil.copytree(workdir.with_name("elsewhere"), workdir)

    def remove_metrics(workdir):
        (workdir / "metrics.jsonl").unlink()

    def change_metrics(workdir):
        (workdir / "metrics.jsonl").write_text("{}")

    def remove_checkpoints(workdir):
        shutil.rmtree(workdir / "checkpoints")

    def remove_lock(workdir):
        (workdir / ".lock").unlink()


    @dataclasses.dataclass(frozen=True)
    class Meddling:
        workdir: str = ""
        act: str = ""

        def scores(self, evidence):
            if (Path(self.workdir) / "metrics.jsonl").exists():  # training has begun
                globals()[self.act](Path(self.workdir))
            return {name: evidence.kernels(name)[0].sum(1) for name in evidence.scored}
"""


@pytest.mark.parametrize(
    ("act", "says"),
    [
        ("remove", "run was removed, renamed or replaced while the run went on"),
        ("rename", "run was removed, renamed or replaced while the run went on"),
        ("replace", "run was removed, renamed or replaced while the run went on"),
        ("remove_lock", "run was removed, renamed or replaced while the run went on"),
        ("remove_metrics", "metrics.jsonl was removed or changed while the run went on"),
        ("change_metrics", "metrics.jsonl was removed or changed while the run went on"),
        ("remove_checkpoints", "records.jsonl was removed or changed while the run went on"),
    ],
)
def test_a_run_whose_directory_is_taken_away_ends_in_one_line(
    act, says, tmp_path, capfd, monkeypatch
):
    (tmp_path / "meddling.py").write_text(textwrap.dedent(MEDDLING))
    monkeypatch.syspath_prepend(tmp_path)
    workdir = tmp_path / "run"
    said = fails(
        capfd, train.main, "--config=configs/digits.py", "--config.epochs=3",
        "--config.model.hidden=(8,)", "--config.method=scores", "--config.batch.variance=none",
        f"--config.scores.criterion=meddling:Meddling(workdir='{workdir}', act='{act}')",
        "--config.scores.start=1", f"--workdir={workdir}",
    )  # fmt: skip
    assert says in said and str(workdir) in said
    if act in ("remove", "rename"):
        assert not workdir.exists()
    if act in ("rename", "replace"):
        assert len(Workdir(workdir.with_name("elsewhere")).records()) == 1
    if act == "replace":
        left, made = (contents(path) for path in (workdir.with_name("elsewhere"), workdir))
        assert left == made


# -- records ---------------------------------------------------------------------------------------


def test_a_line_costs_the_same_however_many_there_were(finished, tmp_path):
    """What is written for an epoch is its line, twice; a checkpoint's part of it stays as small."""
    line = json.loads(Workdir(finished[0]).metrics_file.read_text().splitlines()[0])
    records = Records(tmp_path / "metrics.jsonl", tmp_path / "checkpoints" / "copy.jsonl", None)
    assert records.begin(0) == []
    for epoch in range(1, 301):
        records.append(line | {"epoch": epoch})
        seal = records.seal()
    raw = records.file.read_bytes()
    assert raw == records.copy.read_bytes() and raw.count(b"\n") == 300
    assert seal == {"first": 1, "last": 300, "bytes": len(raw),
                    "sha256": hashlib.sha256(raw).hexdigest()}  # fmt: skip
    again = Records(records.file, records.copy, Seal(**seal))
    assert [each["epoch"] for each in again.begin(200)] == [*range(1, 201)]
    again.append(line | {"epoch": 201})
    assert again.seal()["last"] == 201
    assert records.copy.read_bytes() == records.file.read_bytes() != raw


def test_a_record_with_a_number_that_is_not_finite_is_no_line(tmp_path):
    records = Records(tmp_path / "metrics.jsonl", tmp_path / "copy.jsonl", None)
    records.begin(0)
    with pytest.raises(UserError, match="train_loss of epoch 1 is NaN or infinite; a smaller"):
        records.append({"epoch": 1, "train_loss": float("inf")})
    assert not records.file.exists()
