"""What `test_devices.py` runs in a process of its own, that is told to have eight devices.

Usage: python -m on_eight_devices FOLDER. It goes on from the checkpoints FOLDER/one/*,
leaves FOLDER/eight/* and FOLDER/resumed/*, and what it found in FOLDER/found.json.
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from kept import Kept

from dynhp_jax import checkpoint, compiling, config, data, loop, runs
from dynhp_jax.config import Config
from dynhp_jax.errors import UserError
from dynhp_jax.gating import gated
from dynhp_jax.groups import find_groups
from dynhp_jax.surgery import cut, resized
from dynhp_jax.variance import probed

EPOCHS, STOP = 6, 3
DIGITS = data.load("digits")


def make(devices: int, per_example: bool = False, **changes) -> Config:
    base = Config(
        name="test",
        epochs=EPOCHS,
        devices=devices,
        model=config.Model(hidden=(12, 7)),
        gates=config.Gates(per_example=per_example),
        penalty=config.Penalty(lam=4.0),
        batch=config.Batch(alpha=0.0),
        optimizer=config.Optimizer(learning_rate=1e-2),
        memory=config.Memory(budget="none"),
        compiling=config.Compiling(shrink=0.3, ahead=False),
    )
    return dataclasses.replace(base, **changes)


def trainer_of(settings: Config, programs: compiling.Programs | None = None) -> runs.Trainer:
    programs = compiling.Programs() if programs is None else programs
    return runs.Trainer(settings, DIGITS, programs)


def whole_run(settings: Config, programs: Kept, folder: Path) -> list[dict]:
    """Trains from the start; leaves checkpoints of epoch STOP and of the end."""
    trainer = trainer_of(settings, programs)
    run, records = trainer.start(), []
    while run.epoch < EPOCHS:
        run, record = loop.advance(trainer, run)
        records.append(record)
        if run.epoch in (STOP, EPOCHS):
            save(folder / f"{run.epoch}", trainer, run)
    return records


def resumed_run(settings: Config, programs: Kept, start: Path, folder: Path) -> list[dict]:
    """Goes on from a checkpoint to the end, and leaves one of that."""
    trainer = trainer_of(settings, programs)
    run, records = trainer.resume(checkpoint.restore(start, trainer.state_shapes)), []
    while run.epoch < EPOCHS:
        run, record = loop.advance(trainer, run)
        records.append(record)
    save(folder, trainer, run)
    return records


def save(folder: Path, trainer: runs.Trainer, run: runs.Run) -> None:
    checkpoint.save(folder, run.epoch, run.state, runs.host_part(run, trainer))


def refusal(**changes) -> str:
    try:
        trainer_of(make(**{"devices": 8} | changes))
    except UserError as error:
        return str(error)
    return ""


@jax.custom_vjp
def squared(h):
    return h * h


squared.defvjp(lambda h: (h * h, h), lambda h, cotangent: (2 * h * cotangent,))


def layers(p, x):
    """What is bound in many ways: a gather, a loop, a derivative of its own."""
    h = jax.lax.fori_loop(0, 2, lambda _, h: jnp.tanh(2 * h), x @ p["a"] + p["b"])
    return squared(h[:, np.array([3, 1, 2, 0, 5, 4])]) @ p["c"]


def normalised(mean):
    """Batch normalisation in between, of a batch whose mean the function gives."""

    def apply(p, x):
        h = x @ p["a"] + p["b"]
        h = h - mean(h)
        return jax.nn.relu(h * jax.lax.rsqrt(mean(h**2) + 1e-3)) @ p["c"]

    return apply


def inside_shard_map() -> dict:
    """What shard_map, with its defaults, makes of each transform, and what is without it."""
    rng = np.random.default_rng(0)
    shapes = {"a": (4, 6), "b": (6,), "c": (6, 2)}
    params = {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}
    x, gates = rng.normal(size=(16, 4)).astype("f4"), rng.uniform(size=(16, 6)).astype("f4")
    with_probe = probed(layers, "")

    def derived(f):
        return lambda p, x, z: (f(p, x, z), jax.grad(lambda p: jnp.sum(f(p, x, z) ** 2))(p))

    def units(apply):
        groups = find_groups(apply, params, x)
        (name,) = (group.name for group, _ in groups.on_axis("a", 1))
        return groups, name, {name: np.array([0, 2, 5])}

    def with_gates(apply, like):
        groups, name, _ = units(like)
        f = gated(apply, groups)
        return derived(lambda p, x, z: f(p, {name: z}, x)), params

    def small(apply, like):
        groups, _, keeps = units(like)
        f = resized(apply, params, groups, keeps)
        return derived(lambda p, x, _: f(p, x)), cut(params, groups, keeps)

    def norms(p, x, probe):
        return jax.grad(lambda probe: jnp.sum(with_probe(p, probe, x) ** 2))(probe), ()

    share, same = PartitionSpec("d"), PartitionSpec()
    mesh = Mesh(jax.devices(), "d")
    synchronised = normalised(lambda h: jax.lax.pmean(jnp.mean(h, 0), "d"))
    whole = normalised(lambda h: jnp.mean(h, 0))
    cases = {
        "gated": (with_gates(layers, layers), with_gates(layers, layers), gates),
        "resized": (small(layers, layers), small(layers, layers), gates),
        "probed": ((norms, params), (norms, params), np.zeros(16, "f4")),
        "gated, synchronised": (with_gates(synchronised, whole), with_gates(whole, whole), gates),
        "resized, synchronised": (small(synchronised, whole), small(whole, whole), gates),
    }
    found = {}
    for case, ((inside, p), (alone, _), z) in cases.items():
        specs = {"in_specs": (same, share, share), "out_specs": (share, same)}
        shared = jax.shard_map(inside, mesh=mesh, **specs)
        results = [jax.jit(each)(p, x, z) for each in (shared, alone)]
        found[case] = [[np.asarray(a).tolist() for a in jax.tree.leaves(r)] for r in results]
    try:
        shared = jax.shard_map(norms, mesh=mesh, in_specs=(same, share, same), out_specs=same)
        jax.eval_shape(shared, params, x, np.zeros(2, "f4"))
    except ValueError as error:
        found["one probe"] = str(error)
    return found


def main(folder: Path) -> None:
    compiling.use_cache()
    found = {"devices": len(jax.devices()), "records": {}, "resumed": {}, "programs": {}}
    for per_example in (False, True):
        name, settings, programs = str(per_example), make(0, per_example), Kept()
        found["records"][name] = whole_run(settings, programs, folder / "eight" / name)
        found["resumed"][name] = resumed_run(
            settings, Kept(), folder / "one" / name / f"{STOP}", folder / "resumed" / name
        )
        trainer = trainer_of(settings, programs)
        found["programs"][name] = trainer.steps.training_program(trainer.whole, 16).as_text()
    evaluation = trainer.steps.evaluation_program(
        trainer.whole, trainer.steps.evaluated(357, "test"), "test"
    )
    found["evaluation"] = evaluation.as_text()

    streamed = {}
    for resident in ("2GiB", "20KiB"):
        trainer = trainer_of(make(8, data=config.Data(resident=resident)))
        run, _ = loop.advance(trainer, trainer.start())
        streamed[resident] = [np.asarray(a).tobytes().hex() for a in jax.tree.leaves(run.state)]
    found["streamed is resident"] = streamed["2GiB"] == streamed["20KiB"]

    three = trainer_of(make(3, memory=config.Memory(budget="none")))
    found["in threes"] = [three.fit(three.whole, size)[1] for size in (1, 3, 16, 100)]
    metered = trainer_of(make(8, memory=config.Memory("xla", "none"))).steps
    found["metered"] = metered.training_bytes(metered.whole, 16)
    found["shard_map"] = inside_shard_map()
    found["refused"] = {
        "too many": refusal(devices=9),
        "no multiple": refusal(method="hp", batch=config.Batch(size=100)),
        "little room": refusal(memory=config.Memory(budget="5.5KiB")),
    }
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
