"""What decomposed data of real images takes, how far it is off, and how long such a step takes.

    python -m benchmarks.finetune_compression --weights=../shared/data/weights

The pretrained MobileNetV2-w0.35 on 32 CIFAR-10 images, enlarged to 64x64: the inputs of the last
four pointwise convolutions, at some epsilons. For HOSVD and, after three warm steps on other
images, ASI: stored numbers, relative squared errors, the cosine of each kernel's gradient with the
exact one, and the step's seconds beside those of an exact step of these kernels and of a full one,
in turn.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import finetune_steps, record
from dynhp_jax import data, finetune
from dynhp_jax.finetune import decomposition
from dynhp_jax.finetune.calibration import captured
from dynhp_jax.finetune.policies import convolutions
from dynhp_jax.models import folded

BATCH, WARM = finetune_steps.BATCH, 3


def batches(count: int) -> list[tuple[jax.Array, jax.Array]]:
    """Mini-batches of CIFAR-10's training images at 64x64, in [0, 1], and labels."""
    dataset = data.load("cifar10")
    found = []
    for k in range(count):
        some = slice(k * BATCH, (k + 1) * BATCH)
        images = np.asarray(dataset.x_train[some], np.float32).reshape(BATCH, 32, 32, 3)
        images = images / 255 if images.max() > 1 else images
        large = images.repeat(2, 1).repeat(2, 2)
        found.append((jnp.asarray(large), jnp.asarray(dataset.y_train[some], jnp.int32)))
    return found


def main() -> None:
    """Measures both epsilons and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5, help="0: no steps, errors alone")
    parser.add_argument("--epsilons", default="0.8,0.9")
    parser.add_argument("--out", type=Path, default=Path("results/finetune/compression.json"))
    flags = parser.parse_args()
    # ImageNet's classifier stays: one of zeros would give no gradient to what is below it.
    net, variables = folded.load(flags.weights / "mbv2-w0.35.npz")
    *others, (x, labels) = batches(WARM + 1)
    costs = finetune.channel_costs(net.apply, variables, x)
    paths = [path for path in convolutions(costs) if "pointwise" in path][-4:]

    def gradient(function):
        grad = jax.grad(lambda v: finetune_steps.loss_of(function(v), labels))
        found = finetune.rows.leaves_by_path(jax.jit(grad)(variables))
        return {path: np.asarray(found[path], np.float64) for path in paths}

    exact = gradient(lambda v: net.apply(v, x))
    arrays, _ = captured(net.apply, variables, (x,), paths)
    rows, steps = [], []
    for epsilon in map(float, flags.epsilons.split(",")):
        for how in ("hosvd", "asi"):
            ranks, factors = finetune.calibrate(
                net.apply, variables, others[0][0], paths=paths, epsilon=epsilon, how="asi",
                key=jax.random.key(0),
            )  # fmt: skip
            function = finetune.compressed(net.apply, ranks, how)
            if how == "asi":
                step = jax.jit(lambda f, x, function=function: function(variables, f, x)[1])
                for other, _ in others:
                    factors = step(factors, other)
            else:
                factors = {}
            after = function(variables, factors, x)[1]
            found = gradient(lambda v, f=function, factors=factors: f(v, factors, x)[0])
            rows.append({"epsilon": epsilon, "how": how, "ranks": ranks})
            rows[-1] |= described(arrays, ranks, after, exact, found)
            name = f"{how}, epsilon {epsilon}"
            head = lambda name: name.startswith("params/classifier")  # noqa: E731
            own = finetune_steps.decomposed(net.apply, paths, ranks, factors, how, head)
            steps.append((name, own))
            print({k: v for k, v in rows[-1].items() if k != "ranks"}, flush=True)
    exact_step = finetune_steps.trained(net.apply, lambda name: name in paths or head(name))
    steps += [("exact, these kernels", exact_step)]
    steps += [("full", finetune_steps.trained(net.apply, lambda name: True))]
    steps = steps if flags.rounds else []
    measured = finetune_steps.measured(iter(steps), variables, (x, labels), flags.rounds, "")
    command = (
        "python -m benchmarks.finetune_compression --weights=../shared/data/weights"
        f" --epsilons={flags.epsilons} --rounds={flags.rounds}"
    )
    about = record.head(command, jax.devices()[0].device_kind)
    record.write(flags.out, {**about, "rows": rows, "steps": measured})


def described(arrays, ranks, after, exact, found) -> dict:
    """Numbers, errors and cosines of one way to decompose."""
    stored = {p: decomposition.stored_numbers(arrays[p].shape, ranks[p]) for p in arrays}
    errors = {}
    for path, array in arrays.items():
        factors = after.get(path) or {
            axis: decomposition.leading(array, axis, rank) for axis, rank in ranks[path].items()
        }
        kept = float(jnp.sum(jnp.square(decomposition.core(array, factors))))
        errors[path] = 1 - kept / float(jnp.sum(jnp.square(array)))
    cosines = {
        p: float((exact[p] * found[p]).sum() / np.linalg.norm(exact[p]) / np.linalg.norm(found[p]))
        for p in arrays
    }
    whole = sum(array.size for array in arrays.values())
    return {
        "numbers": [whole, sum(stored.values())],
        "fewer": whole / sum(stored.values()),
        "errors": errors,
        "cosines": cosines,
    }


if __name__ == "__main__":
    main()
