"""experiments.finetune: a pretraining, which is kept, and a fine-tuning that goes on."""

import numpy as np
from command_lines import fails, here, timeless

from dynhp_jax.models import weights
from experiments import finetune

QUICK = [  # a multilayer perceptron compiles in a second
    "--config=configs/finetune_digits.py",
    "--config.model.name=mlp",
    "--config.pretraining.model=",
    "--config.model.depth=0",
    "--config.model.width=0.0",
    "--config.model.hidden=(20, 12)",
    "--config.memory.meter=paper",
    "--config.pretraining.epochs=2",
    "--config.extension=trady(budget=300)",
]


def test_digits_are_pretrained_and_fine_tuned(tmp_path, capfd):
    directories = [f"--pretraining={tmp_path / 'before'}", f"--workdir={tmp_path / 'run'}"]
    code, out, said = here(capfd, finetune.main, *QUICK, *directories, "--config.epochs=3")
    assert code == 0, said
    assert "-- pretraining: 2 epochs" in out
    leaves = weights.read(tmp_path / "before" / "weights.npz")
    assert leaves["params/output/kernel"].shape == (12, 5)  # of the digits 0 to 4
    errors = [record["test_error"] for record in timeless(tmp_path / "run")]
    assert len(errors) == 3 and errors[-1] < errors[0]

    other = [f"--pretraining={tmp_path / 'before'}", f"--workdir={tmp_path / 'other'}"]
    said = fails(capfd, finetune.main, *QUICK, *other, "--config.pretraining.learning_rate=0.1")
    assert "holds another pretraining; what differs: config.optimizer.learning_rate" in said
    np.savez(tmp_path / "w.npz", **{name: 2 * leaf for name, leaf in leaves.items()})
    weighed = f"--config.start.weights={tmp_path / 'w.npz'}"
    said = fails(capfd, finetune.main, *QUICK, *directories, "--config.epochs=3", weighed)
    assert "are of a run of another model" in said


def test_bad_input_is_one_line(tmp_path, capfd):
    run = [f"--pretraining={tmp_path / 'before'}", f"--workdir={tmp_path / 'run'}"]
    none = "--config.pretraining.epochs=0"
    said = fails(capfd, finetune.main, *QUICK, *run, none)
    assert "config.start.weights is ''; allowed: the path of trained weights" in said
    said = fails(capfd, finetune.main, *QUICK, *run, none, "--config.start.weights=nowhere.npz")
    assert "there is no file 'nowhere.npz'; set config.start.weights" in said
    said = fails(capfd, finetune.main, "--config=configs/digits.py", *run)
    assert "no section 'pretraining'; see configs/finetune_digits.py" in said
    said = fails(capfd, finetune.main, *QUICK, *run, "--config.pretraining.epoch=3")
    assert "did you mean: pretraining.epochs" in said
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())
