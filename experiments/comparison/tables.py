"""The table of a comparison: accuracy by criterion and fraction, before and after fine-tuning."""

from collections.abc import Callable, Sequence

from dynhp_jax.training.config import Config
from experiments.comparison.settings import Comparison, prunes_first
from experiments.grids import Grid, mean_and_deviation
from experiments.result_files import Result

_NONE = "-"
# FlexRel >= magnitude > relevance, with our L1 and relevance and with FlexRel's own two ends.
ORDERING = (
    ("flexrel", "l1"),
    ("l1", "relevance"),
    ("flexrel", "flexrel(delta=0.0)"),
    ("flexrel(delta=0.0)", "flexrel(delta=1.0)"),
)


def build(base: Config, comparison: Comparison, found: Sequence[Result]) -> list[Grid]:
    """The tables of the results that are there, rows in the order of the config."""
    fractions = comparison.fractions
    gone = tuple(f"{100 * fraction:g} % gone" for fraction in fractions)
    notes = _notes(base, comparison)
    grids = []
    if prunes_first(base):
        cells = [("criterion", *gone)]
        for criterion in comparison.criteria:
            each = [of(found, criterion, fraction) for fraction in fractions]
            cells.append((criterion, *(spread(r, pruned_accuracy) for r in each)))
        title = f"{base.name}: accuracy in % after pruning, before any fine-tuning"
        grids.append(Grid(title, tuple(cells)))
    cells = [("criterion", *gone, "to score, ms", "seeds")]
    dense = of(found, "dense", 0.0)
    cells.append(("dense, 0 % gone", spread(dense, accuracy), *[""] * len(gone), _count(dense)))
    for criterion in comparison.criteria:
        each = [of(found, criterion, fraction) for fraction in fractions]
        everything = [result for results in each for result in results]
        cells.append(
            (
                criterion,
                *(spread(results, accuracy) for results in each),
                spread(everything, lambda r: 1000 * r["score_seconds"], deviation=False),
                _count(each[0]),
            )
        )
    title = f"{base.name}: accuracy in % after {fine_tuning(comparison)}"
    grids.append(Grid(title, tuple(cells), notes))
    tuned = [r for r in found if "delta" in r]
    if tuned:
        grids.append(_deltas(base, comparison, tuned))
    pairs = [pair for pair in ORDERING if set(pair) <= set(comparison.criteria)]
    if pairs:
        grids.append(_ordering(base, comparison, found, pairs))
    if comparison.methods:
        grids.append(_gates(base, comparison, found))
    return grids


def accuracy(result: Result) -> float:
    """In percent of the test examples, at the end."""
    return 100 - result["test_error"]


def pruned_accuracy(result: Result) -> float:
    """In percent of the test examples, right after pruning."""
    return 100 - result["pruned_test_error"]


def fine_tuning(comparison: Comparison) -> str:
    """How long it is, in words."""
    return f"{comparison.epochs} epoch{'s' if comparison.epochs != 1 else ''} of fine-tuning"


def of(found: Sequence[Result], row: str, fraction: float | None) -> list[Result]:
    """The results of a row at a fraction, one per seed."""
    return [each for each in found if each["row"] == row and each["fraction"] == fraction]


def spread(results: Sequence[Result], value: Callable, deviation: bool = True) -> str:
    """Mean and standard deviation over seeds."""
    if not results:
        return _NONE
    mean, by = mean_and_deviation([value(each) for each in results])
    return f"{mean:.1f}" + (f" ± {by:.1f}" if deviation and by is not None else "")


def differences(
    found: Sequence[Result], rows: tuple[str, str], fraction: float, value: Callable
) -> list[float]:
    """Of the first row over the second at a fraction, one for each seed that both have."""
    first, second = ({r["seed"]: value(r) for r in of(found, row, fraction)} for row in rows)
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def _ordering(base: Config, comparison: Comparison, found: Sequence[Result], pairs) -> Grid:
    """How much better the first of two criteria is, seed by seed."""
    values = {f"after {fine_tuning(comparison)}": accuracy}
    if prunes_first(base):
        values = {"after pruning": pruned_accuracy} | values
    fractions = comparison.fractions
    cells = [("points of accuracy", "", *(f"{100 * f:g} % gone" for f in fractions))]
    for when, value in values.items():
        for pair in pairs:
            line = []
            for fraction in fractions:
                each = differences(found, pair, fraction, value)
                mean, by = mean_and_deviation(each) if each else (0.0, None)
                text = f"{mean:+.1f}" + ("" if by is None else f" ± {by:.1f}")
                line.append(text if each else _NONE)
            cells.append((f"{pair[0]} over {pair[1]}", when, *line))
    notes = ("mean ± standard deviation of the differences, seed by seed",)
    return Grid(f"{base.name}: FlexRel, magnitude, relevance", tuple(cells), notes)


def _count(results: Sequence[Result]) -> str:
    return str(len(results)) if results else _NONE


def _deltas(base: Config, comparison: Comparison, tuned: Sequence[Result]) -> Grid:
    cells = [("fraction", "seed", "delta", *(f"error % at {d}" for d in _tried(tuned)))]
    for fraction in comparison.fractions:
        for each in sorted((r for r in tuned if r["fraction"] == fraction), key=_seed):
            errors = each["validation_error_by_delta"]
            cells.append(
                (f"{fraction:g}", str(each["seed"]), f"{each['delta']:g}",
                 *(f"{errors[d]:.1f}" if d in errors else _NONE for d in _tried(tuned)))
            )  # fmt: skip
    notes = ("errors are those on the held-out examples, of the pruned network",)
    return Grid(f"{base.name}: the delta of FlexRel", tuple(cells), notes)


def _tried(tuned: Sequence[Result]) -> list[str]:
    return list(tuned[0]["validation_error_by_delta"])


def _seed(result: Result) -> int:
    return result["seed"]


def _gates(base: Config, comparison: Comparison, found: Sequence[Result]) -> Grid:
    cells = [("method", "lambda", "parameters gone, %", "accuracy, %", "seeds")]
    for method in comparison.methods:
        for lam in comparison.lams:
            each = [r for r in of(found, method, None) if r["config"]["penalty"]["lam"] == lam]
            gone = spread(each, lambda r: 100 * r["removed"])
            cells.append((method, f"{lam:g}", gone, spread(each, accuracy), _count(each)))
    epochs = base.epochs + comparison.epochs
    return Grid(f"{base.name}: methods with gates, {epochs} epochs", tuple(cells))


def _notes(base: Config, comparison: Comparison) -> tuple[str, ...]:
    asked = base.scores
    tested = f"the first {comparison.test:,}" if comparison.test else "all"
    return (
        f"mean ± standard deviation over the seeds; accuracy on {tested} test examples",
        f"every cell of a seed starts from the same network, trained for {base.epochs} epochs",
        f"fractions are of the {asked.of}; the choice of units: {asked.scope}, {asked.schedule}",
        f"scores are of {asked.examples} examples held out of training; the time is the"
        " mean over cells, without compiling",
    )
