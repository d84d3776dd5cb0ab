"""What `test_rounds` runs in a process that is told to have two devices: rounds over both of them.

Usage: python -m decentralised.on_two_devices FILE.npz
"""

import sys

import jax
import numpy as np

from decentralised.test_rounds import NODES, SLOTS, made


def main(file: str) -> None:
    assert len(jax.devices()) == 2
    alive = np.ones((SLOTS, NODES), bool)
    alive[1, 4] = False
    judged = np.array([0, 7, 12], np.int32)
    state, losses, (sums,) = made(devices=2).run(alive=alive, judged=judged)
    held = state.variables["params"]["a"]
    assert {shard.data.shape[0] for shard in held.addressable_shards} == {NODES // 2}
    np.savez(file, losses=losses, errors=sums["error"], **state.variables["params"])


if __name__ == "__main__":
    main(sys.argv[1])
