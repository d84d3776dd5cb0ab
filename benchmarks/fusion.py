"""Convolutional networks with and without the fusion of a CPU's operations: bytes and seconds.

    python -m benchmarks.fusion --out=results/memory/without_fusion.json

On a CPU jaxlib fuses chains of operations into calls of a library (YNNPACK), whose memory XLA does
not count. Without the fusion it counts more of them. Each size of `meter_check` in MODELS runs with
and without, one after the other, in a process of its own: metered and resident bytes, seconds, and
processor seconds, which depend less on what else the machine does. MobileNet is not among them: its
grouped convolutions did not end in minutes without the fusion.
"""

import argparse
import os
from pathlib import Path

import jax

from benchmarks import meter_check, record

MODELS = ("lenet", "vgg", "resnet")
FUSION = {"on": {}, "off": {"XLA_FLAGS": "--xla_cpu_experimental_ynn_fusion_type="}}


def main() -> None:
    """Runs the first size of each model both ways and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/memory/without_fusion.json"))
    flags = parser.parse_args()
    cores, rows = len(os.sched_getaffinity(0)), []
    names = [model.name for _, model, *_ in meter_check.SIZES]
    for model in MODELS:
        for fusion, environment in FUSION.items():
            head = record.head("python -m benchmarks.fusion", jax.devices()[0].device_kind)
            found = meter_check.one(names.index(model), cores, False, "none", environment)
            rows += [{"fusion": fusion, **row} for row in found]
            record.write(flags.out, {**head, "rows": rows})
            print(*rows[-len(found) :], sep="\n", flush=True)


if __name__ == "__main__":
    main()
