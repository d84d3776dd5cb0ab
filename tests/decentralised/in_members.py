"""What members of a run do together, and what one process with as many devices does.

python -m decentralised.in_members FOLDER [ADDRESS NUMBER COUNT]
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import optax

from dynhp_jax import UserError
from dynhp_jax.decentralised import graphs, mixing_matrix, placement, scenarios, train
from dynhp_jax.training.compiled import program_cache

ROUNDS, EIGHT = 4, 8
RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(130, 6)).astype("f4"), RNG.integers(0, 3, 130).astype("i4")
PARTS = placement.zipf(Y[:100], EIGHT, seed=1)
GRAPH = graphs.from_edges(EIGHT, [*((k, (k + 1) % EIGHT) for k in range(EIGHT)), (0, 4), (2, 7)])


def apply(params, x):
    return jax.nn.relu(x @ params["a"]) @ params["b"]


def run(judge_every=2, **changes):
    return train(
        apply, {"a": np.ones((6, 5), "f4"), "b": np.ones((5, 3), "f4")}, train=(X[:100], Y[:100]),
        test=(X[100:], Y[100:]), parts=PARTS, mixing=mixing_matrix(GRAPH, list(map(len, PARTS))),
        rounds=ROUNDS, gain=1.3, batch=8, local_epochs=1, tx=optax.adam(0.05),
        presence=scenarios.leave(scenarios.everybody(ROUNDS, EIGHT), [5], 1, 3),
        restart_optimizer=False, judge_every=judge_every, **changes,
    )  # fmt: skip


def described(result):
    return {
        "numbers": result.numbers.tolist(),
        "records": result.records,
        "arrays": {str(number): {name: np.asarray(leaf).tolist() for name, leaf in
                                 result.node(number)["params"].items()}
                   for number in result.numbers},
    }  # fmt: skip


def refusal(act):
    try:
        act()
    except UserError as error:
        return str(error)
    return ""


def alone(folder):
    """One process with four devices: runs on two and four of them, and rounds on three."""
    from decentralised.test_rounds import (  # computes: no member may before it joins
        NODES,
        SLOTS,
        made,
    )

    assert len(jax.devices()) == 4
    for devices in (2, 4):
        found = described(run(devices=devices))
        (folder / f"alone{devices}.json").write_text(json.dumps(found))
    alive = np.ones((SLOTS, NODES), bool)
    alive[1, 4] = False
    machine = made(devices=3)
    jitted = machine.program

    def seen(*given):
        program = jitted.lower(*given).compile()
        (folder / "program.txt").write_text(program.as_text())
        return program(*given)

    machine.program = seen
    state, losses, (sums,) = machine.run(alive=alive, judged=np.array([0, 7, 12], np.int32))
    held = state.variables["params"]["a"]
    assert {shard.data.shape[0] for shard in held.addressable_shards} == {NODES // 3}
    np.savez(folder / "rounds.npz", losses=losses, errors=sums["error"],
             **state.variables["params"])  # fmt: skip


def member(folder, number, count):
    """One of several: a run; with two members it is ended by the second, and goes on."""
    if count == 2:
        program_cache.use_cache()  # the same program, twice
        first = run(workdir=folder / "workdir", stop=lambda: number == 1)
        rounds = []
        result = run(workdir=folder / "workdir", callbacks=[rounds.append])
        found = {
            "stopped": len(first.records),
            "callbacks": [record["round"] for record in rounds],
            "elsewhere": refusal(lambda: result.node(result.numbers[0] ^ 4)),
            "seed": refusal(lambda: run(seed=number)),
            "devices": refusal(lambda: run(devices=2)),
        }
    else:
        result, found = run(judge_every=ROUNDS), {}
    (folder / f"{number}.json").write_text(json.dumps(found | described(result)))


def main(folder, address="", number="", count=""):
    if not address:
        alone(Path(folder))
        return
    jax.config.update(
        "jax_enable_preemption_service", False
    )  # it asks process 0, which may be gone
    jax.distributed.initialize(address, int(count), int(number))
    member(Path(folder), int(number), int(count))


if __name__ == "__main__":
    main(*sys.argv[1:])
