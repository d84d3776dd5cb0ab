"""What the papers claim, and whether the results confirm it: paired over seeds and budgets.

A claim is that one row is better than another by more than some points. Of the differences between
their runs of one seed and one budget a 95 % t-interval is taken: wholly on the claim's side the
claim is confirmed, wholly on the other side refuted, else undecided, with the number of pairs that
would decide it if differences went on as they are.
"""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

from scipy import stats

from experiments.finetuning import tables
from experiments.grids import Grid
from experiments.intervals import CONFIRMED, REFUTED, UNDECIDED, interval, quantile
from experiments.result_files import Result

MOST = 10_000  # pairs that somebody may think of


@dataclasses.dataclass(frozen=True)
class Claim:
    """One row against another.

    Attributes:
      text: in words.
      published: as the papers have it.
      better, worse: the two rows.
      within: 0 for "better is better"; else that the two differ by no more points than that.
    """

    text: str
    published: str
    better: str
    worse: str
    within: float = 0.0


CLAIMS = (
    Claim("dynamic > static: TraDy - S-TopK random", "+0.5 to +0.7", "trady", "static"),
    Claim("dynamic > static: TraDy - SU", "+0.5 to +0.7", "trady", "su"),
    Claim("kept layers > all layers", "+0.7, vanishing", "trady", "random"),
    Claim("random >= largest weights", "TraDy >= D-Det", "trady", "largest"),
    Claim("LaRa-MeDyate > TraDy", "+0.5", "medyate", "trady"),
    Claim("HOSVD(0.8) below vanilla", "1 to 6", "last-4", "hosvd-4"),
    Claim("ASI = HOSVD", "within 0.5", "asi-4", "hosvd-4", within=0.5),
    Claim("velocity > random", "+0.9, reversed on ResNet-18", "velocity", "random"),
    Claim("selection > last-k at equal bytes", "untested", "trady", "last-k"),
    Claim("selection > LoRA (rank 4)", "untested", "trady", "lora-4"),
    Claim("selection > biases", "untested", "trady", "bias"),
    Claim("full > selection", "-", "full", "trady"),
    Claim("quota = pooled", "ours", "trady", "trady-pooled", within=0.3),
    Claim("selection > full, computed anew", "untested", "trady", "full-remat"),
    Claim("bits change nothing", "exact", "full-bits", "full", within=0.3),
)


def verdict(differences: Sequence[float], within: float = 0.0) -> tuple[str, int | None]:
    """'confirmed', 'refuted' or 'undecided', and how many pairs would decide it.

    >>> verdict([1.0, 1.2, 0.9]), verdict([1.0, -1.2, 0.9])[0]
    (('confirmed', None), 'undecided')
    """
    low, high = interval(differences)
    if within:
        if -within < low and high < within:
            return CONFIRMED, None
        if low > within or high < -within:
            return REFUTED, None
    elif low > 0:
        return CONFIRMED, None
    elif high < 0:
        return REFUTED, None
    return UNDECIDED, pairs_to_decide(differences, within)


def pairs_to_decide(differences: Sequence[float], within: float = 0.0) -> int | None:
    """How many pairs of this mean and deviation have an interval on one side; None for too many."""
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    room = abs(within - abs(mean)) if within else abs(mean)
    for count in range(2, MOST):
        if quantile(count) * deviation / math.sqrt(count) < room:
            return count
    return None


def verdicts(found: Sequence[Result]) -> Grid:
    """A line for each claim of whose rows there are results."""
    chosen = tables.of_chosen_rates(found)
    rows = [("claim", "published", "pairs", "difference, points", "verdict")]
    for claim in CLAIMS:
        pairs = paired(chosen, claim)
        if len(pairs) < 2:
            said = ("-", f"{len(pairs)} pairs: undecided")
        else:
            low, high = interval(pairs)
            called, more = verdict(pairs, claim.within)
            need = f", {more} pairs would decide it" if more else ""
            need = need if called != UNDECIDED or more else f", more than {MOST} pairs needed"
            said = (f"{statistics.fmean(pairs):+.2f} ({low:+.2f} to {high:+.2f})", called + need)
        rows.append((claim.text, claim.published, str(len(pairs)), *said))
    note = (
        "differences of test accuracy between runs of one seed and one budget, a row without a"
        " budget beside each; intervals are of 95 %, by Student's t; budgets of one seed are not"
        " independent, so that intervals are rather too narrow"
    )
    return Grid("What was claimed", tuple(rows), (note,))


ALIKE = 0.8  # Spearman's coefficient from which on layers rank alike
_LEAST = 5  # layers


def spearman(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[float, float, float]:
    """Spearman's coefficient of two measures of the same layers, with its 95 % interval.

    By Fisher's transformation, with the variance of Bonett and Wright (2000).

    >>> [round(each, 3) for each in spearman(dict(zip("abcdef", range(6))),
    ...                                      dict(zip("abcdef", (0, 1, 2, 3, 5, 4))))]
    [0.943, 0.454, 0.995]
    """
    names = [name for name in one if name in other]
    found = stats.spearmanr([one[n] for n in names], [other[n] for n in names]).statistic
    if abs(found) == 1:
        return found, found, found
    half = 1.96 * math.sqrt((1 + found**2 / 2) / (len(names) - 3))
    low, high = math.tanh(math.atanh(found) - half), math.tanh(math.atanh(found) + half)
    return float(found), low, high


def of_layer_ranks(measures: Mapping[str, Mapping[str, float]]) -> Grid:
    """Whether layers rank alike on several tasks, a line for each pair of them.

    Args:
      measures: task -> path of a kernel -> what layers are ranked by.
    """
    rows = [("layers rank alike on", "layers", "Spearman's coefficient", "verdict")]
    for one, other in itertools.combinations(measures, 2):
        layers = measures[one].keys() & measures[other].keys()
        if len(layers) < _LEAST:
            rows.append((f"{one} and {other}", str(len(layers)), "-", UNDECIDED))
            continue
        found, low, high = spearman(measures[one], measures[other])
        called = CONFIRMED if low >= ALIKE else REFUTED if high < ALIKE else UNDECIDED
        said = f"{found:.2f} ({low:.2f} to {high:.2f})"
        rows.append((f"{one} and {other}", str(len(layers)), said, called))
    note = f"claimed: they do not depend on the task; here: a coefficient of {ALIKE} or more"
    return Grid("Layers' ranks", tuple(rows), (note,))


def paired(chosen: dict[tables.Group, list[Result]], claim: Claim) -> list[float]:
    """Differences between the two rows, of one seed and one budget each."""
    sides = []
    for row in (claim.better, claim.worse):
        sides.append(
            {
                (budget, each["seed"]): each["test_accuracy"]
                for (name, budget), runs in chosen.items()
                if name == row
                for each in runs
            }
        )
    budgets = {budget for side in sides for budget, _ in side if budget is not None} or {None}
    seeds = {seed for side in sides for _, seed in side}
    found = []
    for budget in sorted(budgets, key=lambda each: each or 0.0):
        for seed in sorted(seeds):
            of = [side.get((budget, seed), side.get((None, seed))) for side in sides]
            if None not in of:
                found.append(of[0] - of[1])
    return found
