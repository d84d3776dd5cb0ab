"""Command lines for tests: as processes, and in this one."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from patience import PATIENCE

from dynhp_jax import data
from dynhp_jax.training.compiled import programs
from dynhp_jax.training.files.workdir import Workdir
from dynhp_jax.training.run import checkpoint, resume
from dynhp_jax.training.run.trainer import Trainer
from experiments import commandline

ROOT = Path(__file__).parents[1]
CLOCKS = {"seconds", "compile_seconds", "compilations"}
# Prunes, resizes and grows the batch within a few epochs.
QUICK = [
    "--config=configs/digits.py",
    "--config.epochs=6",
    "--config.model.hidden=(20, 8)",
    "--config.penalty.lam=4.0",
    "--config.optimizer.learning_rate=0.01",
    "--config.batch.alpha=0.3",
    "--config.compiling.shrink=0.3",
    "--config.records.writers=tensorboard",
]


def command(*arguments, module="train"):
    return [sys.executable, "-m", f"experiments.{module}", *arguments]


def process(*arguments, module="train", **options):
    return subprocess.run(
        command(*arguments, module=module),
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, **options,
    )  # fmt: skip


def here(capfd, main, *arguments):
    """Runs a main in this process: (exit code, stdout, stderr)."""
    capfd.readouterr()
    before = os.getcwd()
    os.chdir(ROOT)
    try:
        code = commandline.run(main, ["program", *arguments])
    finally:
        os.chdir(before)
    return code, *capfd.readouterr()


def fails(capfd, main, *arguments):
    """Runs a main in this process and returns the one line that it says on stderr."""
    code, _, said = here(capfd, main, *arguments)
    assert code == 2, said
    assert one_line(said), said
    return said


def one_line(said):
    return said.startswith("error: ") and said.endswith("\n") and said.count("\n") == 1


def timeless(workdir):
    return [{k: v for k, v in r.items() if k not in CLOCKS} for r in Workdir(workdir).records()]


def final_state(workdir):
    directory = Workdir(workdir)
    config = directory.config()
    trainer = Trainer(config, data.load(config.data.name), programs.Programs())
    return resume.newest(trainer, directory.checkpoints)


def copy_of(workdir, tmp_path):
    return Path(shutil.copytree(workdir, tmp_path / "copy"))


def rewrite_host(path, change):
    """Another host part of a checkpoint, `change` of its own, and a manifest that goes with it."""
    host = change(json.loads((path / "host.json").read_text()))
    (path / "host.json").write_text(json.dumps(host))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["host.json"] = hashlib.sha256((path / "host.json").read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


def come_from(workdir, stretches):
    """Makes a run one whose epochs are of other commits and machines."""
    workdir.provenance_file.write_text(json.dumps(stretches))

    def change(host):
        host["runs"]["alone"]["provenance"] = stretches
        return host

    for epoch in checkpoint.epochs(workdir.checkpoints):
        rewrite_host(workdir.checkpoints / f"{epoch:06d}", change)
