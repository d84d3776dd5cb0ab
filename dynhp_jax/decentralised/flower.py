"""Nodes over Flower: real devices that train, and a service that mixes what they send.

Flower has no exchange between peers, so a ServerApp applies the rows of the mixing matrix: FedAvg
is that of the complete graph. Its numbers are those of `train`. The service sees all weights on
their way. It needs the extra: pip install -e '.[flower]'.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.decentralised.aggregation.decavg import DecAvg
from dynhp_jax.decentralised.aggregation.rule import Rule
from dynhp_jax.decentralised.member import Arrays, Member, small_arrays, whole_arrays
from dynhp_jax.decentralised.mixing import check_mixing, present
from dynhp_jax.decentralised.setting import check_whole
from dynhp_jax.decentralised.units import units_of
from dynhp_jax.structure.groups import Groups, Keeps

_made: dict[tuple[int, int], Member] = {}  # Flower makes the app anew for every message


def client_app(member: Callable[[int], Member]) -> Any:
    """A `flwr.clientapp.ClientApp` around a node.

    Args:
      member: makes the node of a number, once in a process; the number is the node's
        'partition-id' in Flower's `node_config`.

    Raises:
      UserError: Flower is not installed.
    """
    _check_installed()
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    def node(context: Any) -> Member:
        place = context.run_id, int(context.node_config["partition-id"])
        if place not in _made:
            _made[place] = member(place[1])
        return _made[place]

    @app.query()
    def start(message: Any, context: Any) -> Any:
        one = node(context)
        about = ConfigRecord({"number": one.number, "examples": one.examples})
        keeps = ConfigRecord({name: [int(k) for k in kept] for name, kept in one.keeps.items()})
        content = {"arrays": _sent(one.arrays), "about": about, "keeps": keeps}
        return Message(RecordDict(content), reply_to=message)

    @app.train()
    def train(message: Any, context: Any) -> Any:
        done = int(message.content["about"]["done"])
        arrays, loss = node(context).train(_arrived(message.content["arrays"]), done)
        content = {"arrays": _sent(arrays), "about": ConfigRecord({"loss": loss})}
        return Message(RecordDict(content), reply_to=message)

    return app


def server_app(
    shapes: Any,
    mixing: Any,
    rounds: int,
    rule: Rule = DecAvg(),  # noqa: B008
    groups: Groups | None = None,
    told: Callable[[dict[str, Any]], Any] = lambda record: None,
    finished: Callable[[list[Arrays]], Any] = lambda arrays: None,
) -> Any:
    """A `flwr.serverapp.ServerApp` that mixes; it keeps weights from a round to the next alone.

    A node whose answer is an error, or does not come, keeps the weights that it was sent, and
    counts as absent in the next exchange.

    Args:
      shapes: of the variables of one node, whole; arrays will do.
      mixing: f64[nodes, nodes], or of every round.
      rounds: how many.
      rule: of aggregation, one that needs no evidence.
      groups: from `find_groups`, where nodes have lost units; None where none has.
      told: is called with the record of every round: 'round', and 'loss' and 'alive' by node.
      finished: is called with the arrays of all nodes at the end.

    Raises:
      UserError: Flower is not installed, or what is given does not fit together.
    """
    _check_installed()
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.serverapp import ServerApp

    check_whole("rounds", rounds)
    mixing = check_mixing(mixing, np.shape(mixing)[-1])
    if rule.needs_evidence:
        raise UserError(f"{type(rule).__name__} needs evidence, which does not travel over Flower")
    nodes, app = mixing.shape[-1], ServerApp()
    matrices = np.broadcast_to(mixing, (rounds, nodes, nodes))

    def asked(grid: Any, kind: str, contents: Mapping[int, Any], group: str) -> dict[int, Any]:
        """What the nodes answer, by Flower's number; errors are left out."""
        messages = [Message(content, dst_node_id=there, message_type=kind, group_id=group)
                    for there, content in contents.items()]  # fmt: skip
        answers = grid.send_and_receive(messages)
        return {each.metadata.src_node_id: each.content for each in answers
                if each.has_content()}  # fmt: skip

    @app.main()
    def main(grid: Any, context: Any) -> None:
        there: Sequence[int] = ()
        while len(there) < nodes:
            there = [*grid.get_node_ids()]
        hello = asked(grid, "query", dict.fromkeys(there, RecordDict()), "start")
        place = {int(found["about"]["number"]): one for one, found in hello.items()}
        if sorted(place) != list(range(nodes)):
            wanted = f"0 to {nodes - 1}, each once"
            raise UserError(f"nodes {sorted(place)} have answered; allowed: {wanted}")
        starts = [hello[place[number]] for number in range(nodes)]
        arrays = [_arrived(found["arrays"]) for found in starts]
        keeps = [{name: np.array(kept, int) for name, kept in found["keeps"].items()}
                 for found in starts]  # fmt: skip
        alive = np.ones(nodes, bool)
        for done in range(rounds):
            matrix = present(matrices[done].astype(np.float32), alive)
            arrays = mixed(rule, matrix, arrays, shapes, groups, keeps)
            about = ConfigRecord({"done": done})
            contents = {place[number]: RecordDict({"arrays": _sent(mine), "about": about})
                        for number, mine in enumerate(arrays)}  # fmt: skip
            answers = asked(grid, "train", contents, str(done + 1))
            losses: list[float | None] = [None] * nodes
            for number in range(nodes):
                alive[number] = place[number] in answers
                if alive[number]:
                    answer = answers[place[number]]
                    arrays[number] = _arrived(answer["arrays"])
                    losses[number] = answer["about"]["loss"]
            told({"round": done + 1, "loss": losses, "alive": alive.astype(int).tolist()})
        finished(arrays)

    return app


def mixed(
    rule: Rule,
    matrix: Any,
    arrays: Sequence[Arrays],
    shapes: Any,
    groups: Groups | None,
    keeps: Sequence[Keeps],
) -> list[Arrays]:
    """The arrays of all nodes after an exchange, each without the units that it has lost.

    Whole numbers, such as counts of steps, stay a node's own.

    Args:
      rule: of aggregation.
      matrix: f32[nodes, nodes].
      arrays: of every node.
      shapes, groups: of the variables, whole.
      keeps: of every node.
    """
    cut = any(keeps)
    if cut and groups is None:
        raise UserError("nodes have lost units; server_app needs groups, from find_groups")
    wholes = [whole_arrays(one, shapes, groups, kept)
              for one, kept in zip(arrays, keeps, strict=True)]  # fmt: skip
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *wholes)
    units = units_of(shapes, groups, keeps) if cut else None
    new = rule(matrix, stacked, units)
    new = jax.tree.map(
        lambda after, before: after if np.issubdtype(before.dtype, np.floating) else before,
        new, stacked,
    )  # fmt: skip
    return [small_arrays(jax.tree.map(lambda leaf, k=k: leaf[k], new), groups, kept)
            for k, kept in enumerate(keeps)]  # fmt: skip


def _sent(arrays: Arrays) -> Any:
    from flwr.app import Array, ArrayRecord

    return ArrayRecord({name: Array(np.ascontiguousarray(each)) for name, each in arrays.items()})


def _arrived(record: Any) -> Arrays:
    return {name: each.numpy() for name, each in record.items()}


def _check_installed() -> None:
    if importlib.util.find_spec("flwr") is None:
        raise UserError("Flower (flwr) is not installed; pip install -e '.[flower]', or use train")
