"""Runs that are stopped, killed, damaged or lengthened go on as if they had not been."""

import json
import os
import re
import signal
import subprocess
import textwrap
import time

import jax
import numpy as np
import pytest
from command_lines import QUICK, ROOT, come_from, command, copy_of, final_state, here, timeless
from patience import PATIENCE

from dynhp_jax.training.files.workdir import Workdir
from dynhp_jax.training.run import checkpoint
from experiments import train
from experiments.terminal import Interruptions


def test_killed_at_any_moment_a_run_ends_as_if_it_had_not_been(finished, tmp_path, capfd):
    workdir = tmp_path / "killed"
    arguments = [*QUICK, f"--workdir={workdir}"]
    metrics = workdir / "metrics.jsonl"
    # After a line was written, at once or a while later: in training, compiling, saving.
    for lines, delay in ((1, 0.0), (3, 0.05), (5, 0.2)):
        running = subprocess.Popen(
            command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + PATIENCE
        while running.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and len(metrics.read_text().splitlines()) >= lines:
                break
            time.sleep(0.002)
        time.sleep(delay)
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert not (workdir / "summary.json").exists() or len(timeless(workdir)) == 6
    code, _, said = here(capfd, train.main, *arguments)
    assert code == 0, said
    undisturbed, _ = finished
    assert timeless(workdir) == timeless(undisturbed)
    mine, theirs = final_state(workdir), final_state(undisturbed)
    for a, b in zip(jax.tree.leaves(mine.state), jax.tree.leaves(theirs.state), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    for name in ("batch", "spec", "keeps", "memory_kib", "best"):
        assert mine.host[name] == theirs.host[name]


def test_a_run_that_goes_on_with_other_cores_or_another_jax_says_so_in_a_line(
    finished, tmp_path, capfd
):
    workdir = Workdir(copy_of(finished[0], tmp_path))
    (here_and_now,) = json.loads(workdir.provenance_file.read_text())
    machine = here_and_now["machine"]
    cores = re.search(r"\d+ cores?", machine)[0]
    earlier = here_and_now | {
        "machine": machine.replace(cores, "77 cores"),
        "versions": here_and_now["versions"] | {"jaxlib": "0.1", "numpy": "1.0"},
    }
    come_from(workdir, [earlier])
    arguments = [*QUICK, "--config.epochs=7", f"--workdir={workdir.path}"]
    code, _, said = here(capfd, train.main, *arguments)
    assert code == 0 and said.count("\n") == 1, said
    assert said.startswith("warning: after epoch 6 the last bits may differ")
    assert "77 cores" in said and f"is {machine}" in said and "jaxlib was 0.1, is " in said
    assert "numpy" not in said
    stretches = json.loads(workdir.provenance_file.read_text())
    assert [each["from_epoch"] for each in stretches] == [1, 7]
    # Once more, on the same machine.
    code, _, said = here(capfd, train.main, *arguments, "--config.epochs=8")
    assert (code, said) == (0, "")


def test_ctrl_c_saves_and_says_how_to_go_on(finished, tmp_path, capfd):
    workdir = tmp_path / "interrupted"
    arguments = [*QUICK, "--config.checkpoint.every=5", f"--workdir={workdir}"]
    running = subprocess.Popen(
        command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (workdir / "metrics.jsonl").exists():
        assert running.poll() is None
        time.sleep(0.002)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130, said
    assert "Traceback" not in said
    saved = checkpoint.epochs(workdir / "checkpoints")
    assert len(saved) == 1 and saved[0] < 5
    assert f"epoch {saved[0]} of 6 is saved" in said and "same command" in said

    code, said, complaint = here(capfd, train.main, *arguments)
    assert code == 0, complaint
    assert f"going on after epoch {saved[0]}" in said
    assert timeless(workdir) == timeless(finished[0])


STOPPING = """
    import dataclasses
    import signal
    from pathlib import Path


    @dataclasses.dataclass(frozen=True)
    class Stopping:
        workdir: str = ""
        times: int = 2

        def scores(self, evidence):
            if (Path(self.workdir) / "metrics.jsonl").exists():  # training has begun
                for _ in range(self.times):
                    signal.raise_signal(signal.SIGINT)
            return {name: evidence.kernels(name)[0].sum(1) for name in evidence.scored}
"""


@pytest.mark.parametrize(
    ("every", "kept", "words"),
    [
        (20, [], "nothing is saved yet (config.checkpoint.every is 20), so that the same command"),
        (2, [2], "epoch 2 of 5 is the last one that is saved in"),
    ],
)
def test_ctrl_c_twice_says_what_is_lost(every, kept, words, tmp_path, capfd, monkeypatch):
    """Both while the units are scored that go before epoch 4; not all epochs are saved by then."""
    (tmp_path / "stopping.py").write_text(textwrap.dedent(STOPPING))
    monkeypatch.syspath_prepend(tmp_path)
    workdir = tmp_path / "run"
    code, _, said = here(
        capfd, train.main, *QUICK, "--config.epochs=5", "--config.method=scores",
        f"--config.scores.criterion=stopping:Stopping(workdir='{workdir}')",
        "--config.scores.start=3", f"--config.checkpoint.every={every}", f"--workdir={workdir}",
    )  # fmt: skip
    assert code == 130 and "Traceback" not in said
    assert len(Workdir(workdir).records()) == 3
    assert checkpoint.epochs(workdir / "checkpoints") == kept
    assert said.splitlines()[-1].startswith(f"interrupted: stopped at once; {words}")


def test_ctrl_c_in_the_last_epoch_stops_what_is_next(tmp_path, capfd, monkeypatch):
    (tmp_path / "stopping.py").write_text(textwrap.dedent(STOPPING))
    monkeypatch.syspath_prepend(tmp_path)
    workdir = Workdir(tmp_path / "run")
    code, said, complaint = here(
        capfd, train.main, *QUICK, "--config.epochs=4", "--config.method=scores",
        f"--config.scores.criterion=stopping:Stopping(workdir='{workdir.path}', times=1)",
        "--config.scores.start=3", f"--workdir={workdir.path}",
    )  # fmt: skip
    assert code == 130 and "everything is in" in said
    assert f"that was the last epoch; the whole run is in {workdir.path}" in complaint
    assert json.loads(workdir.summary_file.read_text())["epochs"] == 4


def test_ctrl_c_does_not_stop_what_is_being_saved(capfd):
    with Interruptions() as interruptions:
        with interruptions.saving():
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
        assert interruptions.wanted and "being saved" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_damaged_checkpoint_is_passed_over_and_none_left_is_an_error(finished, tmp_path, capfd):
    workdir = copy_of(finished[0], tmp_path)
    for epoch in (6, 5):
        _damage(workdir / "checkpoints" / f"{epoch:06d}")
    code, said, warnings = here(capfd, train.main, *QUICK, f"--workdir={workdir}")
    assert code == 0, warnings
    warnings = warnings.splitlines()
    assert len(warnings) == 2 and all("damaged" in line for line in warnings)
    assert "going on after epoch 4" in said
    assert timeless(workdir) == timeless(finished[0])

    for epoch in (4, 5, 6):
        _damage(workdir / "checkpoints" / f"{epoch:06d}")
    code, _, said = here(capfd, train.main, *QUICK, f"--workdir={workdir}")
    assert code == 2
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert re.match(r"error: none of the 3 checkpoints in .* is whole", last)


def test_a_finished_run_is_not_trained_again_but_can_be_lengthened(finished, tmp_path, capfd):
    workdir = copy_of(finished[0], tmp_path)
    before = (workdir / "checkpoints" / "000006" / "manifest.json").read_text()
    code, _, said = here(capfd, train.main, *QUICK, f"--workdir={workdir}")
    assert code == 0, said
    assert timeless(workdir) == timeless(finished[0])
    assert (workdir / "checkpoints" / "000006" / "manifest.json").read_text() == before

    code, _, said = here(capfd, train.main, *QUICK, "--config.epochs=7", f"--workdir={workdir}")
    assert code == 0, said
    assert timeless(workdir)[:6] == timeless(finished[0]) and len(timeless(workdir)) == 7
    assert json.loads((workdir / "config.json").read_text())["epochs"] == 7


def _damage(path):
    files = [p for p in (path / "state").rglob("*") if p.is_file() and p.stat().st_size > 8]
    largest = max(files, key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
