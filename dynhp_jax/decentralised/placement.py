"""Which node has which training examples: a list of index arrays, one for each node.

The functions take labels int[examples] and a seed, and give sorted indices. No example is on two
nodes. `sizes_of` counts them, for mixing matrices.

>>> labels = np.repeat([0, 1], 6)
>>> [part.size for part in iid(labels, 3, seed=0)]
[4, 4, 4]
"""

from collections.abc import Iterable, Sequence

import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.decentralised.centralities import central
from dynhp_jax.decentralised.graphs import Graph

Placement = list[np.ndarray]

_DRAWS = 10_000  # of random sizes, until they fit


def evenly(examples: int, nodes: int, seed: int) -> Placement:
    """Shuffled examples in parts of equal size, or one more; for targets of any kind.

    Args:
      examples: how many there are.
      nodes: how many.
      seed: of the shuffle.
    """
    _check_enough(examples, nodes, "")
    order = np.random.default_rng(seed).permutation(examples)
    return [np.sort(part) for part in np.array_split(order, nodes)]


def iid(labels: np.ndarray, nodes: int, seed: int, each: int = 0) -> Placement:
    """Every node has equally many examples of every class.

    Args:
      labels: int[examples].
      nodes: how many.
      seed: of the shuffle.
      each: examples of a node, of which `each // classes` are of a class; 0 for as many as there
        are. What does not divide evenly is on no node.

    Raises:
      UserError: a class has too few examples.
    """
    by_class, rng = _by_class(labels), np.random.default_rng(seed)
    share = each // len(by_class)
    if each and not share:
        raise UserError(f"each is {each}; allowed: {len(by_class)} or more, one of every class")
    share = share or min(map(len, by_class.values())) // nodes
    parts: list[list[np.ndarray]] = [[] for _ in range(nodes)]
    for label, examples in by_class.items():
        _check_enough(len(examples), nodes * max(share, 1), f" of class {label}")
        shuffled = rng.permutation(examples)
        mine = share if each else len(examples) // nodes
        for node, part in enumerate(parts):
            part.append(shuffled[node * mine : (node + 1) * mine])
    return _joined(parts)


def zipf(labels: np.ndarray, nodes: int, seed: int, exponent: float = 1.6) -> Placement:
    """Sizes by Zipf's law, another node the largest for every class (2312.04504 and its code).

    A number is drawn for every node, all of them again while they sum to more than the smallest
    class has examples. Divided by their sum and moved on by one node for each class, they are the
    nodes' shares of a class, rounded down: some examples are on no node.

    Args:
      labels: int[examples].
      nodes: how many.
      seed: of the draws.
      exponent: above 1; the larger, the less unequal.

    Raises:
      UserError: a class has fewer examples than there are nodes, or the draws never fit.
    """
    if not exponent > 1:
        raise UserError(f"exponent is {exponent}; allowed: a number above 1")
    by_class, rng = _by_class(labels), np.random.default_rng(seed)
    fewest = min(map(len, by_class.values()))
    _check_enough(fewest, nodes, " of the smallest class")
    for _ in range(_DRAWS):
        drawn = rng.zipf(exponent, nodes)
        if (drawn <= fewest).all() and drawn.sum() <= fewest:
            break
    else:
        raise UserError(
            f"{_DRAWS} draws of {nodes} sizes were all larger than the smallest class, of {fewest}"
            " examples; take fewer nodes or a larger exponent"
        )
    parts: list[list[np.ndarray]] = [[] for _ in range(nodes)]
    for turn, examples in enumerate(by_class.values()):
        counts = np.roll(drawn, turn) * len(examples) // drawn.sum()  # in whole numbers
        _deal(parts, rng.permutation(examples), counts)
    return _joined(parts)


def dirichlet(labels: np.ndarray, nodes: int, seed: int, alpha: float, least: int = 1) -> Placement:
    """The nodes' shares of every class are drawn from a Dirichlet distribution (1909.06335).

    Args:
      labels: int[examples].
      nodes: how many.
      seed: of the draws.
      alpha: concentration; the smaller, the less alike the nodes.
      least: examples that every node has to have; all is drawn again until they do.

    Raises:
      UserError: they never do.
    """
    if not alpha > 0:
        raise UserError(f"alpha is {alpha}; allowed: a number above 0")
    by_class, rng = _by_class(labels), np.random.default_rng(seed)
    _check_enough(len(labels), nodes * max(least, 1), "")
    for _ in range(_DRAWS // 10):
        shares = rng.dirichlet(np.full(nodes, alpha), len(by_class))
        ends = [np.round(np.cumsum(share) * len(examples)).astype(int)
                for share, examples in zip(shares, by_class.values(), strict=True)]  # fmt: skip
        counts = np.array([np.diff(end, prepend=0) for end in ends])
        if (counts.sum(0) >= least).all():
            break
    else:
        raise UserError(
            f"{_DRAWS // 10} draws left a node with less than {least} examples; take fewer nodes,"
            " a larger alpha, or least=0"
        )
    parts: list[list[np.ndarray]] = [[] for _ in range(nodes)]
    for mine, examples in zip(counts, by_class.values(), strict=True):
        _deal(parts, rng.permutation(examples), mine)
    return _joined(parts)


def by_classes(labels: np.ndarray, classes: Sequence[Iterable[int]], seed: int) -> Placement:
    """Every node has examples of some classes; those that have a class share it evenly.

    Args:
      labels: int[examples].
      classes: of every node. Examples of a class that nobody has are on no node.
      seed: of the shuffle.

    Raises:
      UserError: a class has fewer examples than nodes that want it, or is none.
    """
    by_class, rng = _by_class(labels), np.random.default_rng(seed)
    wanted = [set(each) for each in classes]
    unknown = set().union(*wanted) - by_class.keys()
    if unknown:
        raise UserError(f"class {min(unknown)} has no example; allowed: {sorted(by_class)}")
    parts: list[list[np.ndarray]] = [[] for _ in wanted]
    for label, examples in by_class.items():
        holders = [node for node, each in enumerate(wanted) if label in each]
        _check_enough(len(examples), len(holders), f" of class {label}")
        shuffled = np.array_split(rng.permutation(examples), max(1, len(holders)))
        for node, part in zip(holders, shuffled, strict=False):
            parts[node].append(part)
    return _joined(parts)


def some_classes(nodes: int, classes: int, each: int, seed: int) -> list[tuple[int, ...]]:
    """`each` classes for every node, at random, all classes equally often or once more.

    Args:
      nodes: how many.
      classes: how many there are.
      each: of a node.
      seed: of the draw.
    """
    if not 1 <= each <= classes:
        raise UserError(f"a node is to have {each} classes; allowed: 1 to {classes}")
    rng = np.random.default_rng(seed)
    found: list[tuple[int, ...]] = []
    used = np.zeros(classes, int)
    for _ in range(nodes):
        order = rng.permutation(classes)
        mine = order[np.argsort(used[order], kind="stable")][:each]
        used[mine] += 1
        found.append(tuple(sorted(int(label) for label in mine)))
    return found


def by_centrality(
    labels: np.ndarray,
    graph: Graph,
    seed: int,
    classes: Iterable[int],
    count: int,
    by: str = "degree",
    lowest: bool = False,
) -> Placement:
    """Some classes only on the most, or least, central nodes, all others on each (2402.18606).

    Args:
      labels: int[examples].
      graph: bool[nodes, nodes].
      seed: of the shuffle.
      classes: that only these nodes have.
      count: how many nodes.
      by: the centrality; see `centralities.central`.
      lowest: whether they are the least central ones.
    """
    rare = set(classes)
    chosen = set(central(graph, count, by, lowest).tolist())
    others = set(np.unique(labels).tolist()) - rare
    wanted = [others | (rare if node in chosen else set()) for node in range(len(graph))]
    return by_classes(labels, wanted, seed)


def sizes_of(parts: Placement) -> np.ndarray:
    """Examples of every node, int[nodes]."""
    return np.array([len(part) for part in parts])


def _by_class(labels: np.ndarray) -> dict[int, np.ndarray]:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size:
        raise UserError(
            f"labels are {labels.dtype}{list(labels.shape)}; allowed: int[examples]; for other"
            " targets use placement.evenly"
        )
    return {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}


def _check_enough(examples: int, needed: int, of: str) -> None:
    if examples < needed:
        raise UserError(
            f"there are {examples} examples{of} for nodes that need {needed}; take fewer nodes, or"
            " more examples"
        )


def _deal(parts: list[list[np.ndarray]], shuffled: np.ndarray, counts: np.ndarray) -> None:
    ends = np.cumsum(counts)
    for part, start, end in zip(parts, ends - counts, ends, strict=True):
        part.append(shuffled[start:end])


def _joined(parts: list[list[np.ndarray]]) -> Placement:
    return [np.sort(np.concatenate(each or [np.zeros(0, int)])) for each in parts]
