"""The tables of the comparison: accuracy at measured bytes, and what holds them."""

from collections.abc import Sequence

from experiments.finetuning.rows import ROWS
from experiments.finetuning.running import chosen_rate
from experiments.finetuning.step import PARTS
from experiments.grids import Grid, mean_and_deviation
from experiments.result_files import Result
from experiments.values import shortest

Group = tuple[str, float | None]  # of results: a row and its budget


def of_chosen_rates(found: Sequence[Result]) -> dict[Group, list[Result]]:
    """The runs that count, seed by seed: of each row and budget those with the chosen rate.

    The first seed has runs with all rates; on its held-out images the rate is chosen.
    """
    groups: dict[Group, list[Result]] = {}
    for each in found:
        groups.setdefault((each["row"], each["budget"]), []).append(each)
    order = {name: place for place, name in enumerate(ROWS)}
    chosen = {}
    for key in sorted(groups, key=lambda key: (key[1] or 0.0, order.get(key[0], len(order)))):
        runs = groups[key]
        seeds = [each["seed"] for each in runs]
        first = max(set(seeds), key=lambda seed: (seeds.count(seed), -seed))
        rate = chosen_rate([each for each in runs if each["seed"] == first])
        kept = [each for each in runs if each["rate"] == rate]
        chosen[key] = sorted(kept, key=lambda each: each["seed"])
    return chosen


def build(found: Sequence[Result]) -> list[Grid]:
    """Accuracy by row and budget, and the bytes of each step by what holds them."""
    chosen = of_chosen_rates(found)
    return [_accuracies(chosen), _bytes(chosen)]


def label(key: Group) -> str:
    """Of a row in a budget.

    >>> label(("trady", 0.25)), label(("full", None))
    ('trady at 25 %', 'full')
    """
    row, budget = key
    return row if budget is None else f"{row} at {shortest(round(100 * budget, 3))} %"


def _accuracies(chosen: dict[Group, list[Result]]) -> Grid:
    head = ("row", "step, MiB", "test accuracy, %", "by seed", "papers' numbers", "s an epoch",
            "compilations (s)", "rate")  # fmt: skip
    rows = []
    for key, runs in chosen.items():
        last = runs[-1]
        mean, deviation = mean_and_deviation([each["test_accuracy"] for each in runs])
        seconds, _ = mean_and_deviation([each["seconds_per_epoch"] for each in runs])
        numbers = last["papers_numbers"]
        rows.append(
            (
                label(key) + " (takes more)" * (not last["fits"]),
                _mib(last["bytes"]["temporaries"]),
                f"{mean:.2f}" + (f" ± {deviation:.2f}" if deviation is not None else ""),
                " ".join(f"{each['test_accuracy']:.2f}" for each in runs),
                "-" if numbers is None else f"{numbers:,d}",
                f"{seconds:.1f}",
                f"{last['compilations']} ({last['compile_seconds']:.0f})",
                shortest(last["rate"]),
            )
        )
    any_run = next(iter(chosen.values()))[-1]
    config = any_run["config"]
    notes = (
        f"track {any_run['track']}: {config['data']['examples']} images an epoch,"
        f" {config['epochs']} epochs, mini-batch {config['batch']['size']}; a budget is a share of"
        " what full takes above the forward pass",
        f"the forward pass alone takes {_mib(any_run['floor'])} MiB of temporaries; step: the"
        " temporaries of the compiled step, without parameters and the mini-batch",
        "mean ± standard deviation over the seeds; rates were chosen on held-out images with the"
        " first seed",
    )
    return Grid("Fine-tuning at equal bytes", (head, *rows), notes)


def _bytes(chosen: dict[Group, list[Result]]) -> Grid:
    rows = [
        (label(key), *(_mib(runs[-1]["bytes"][part]) for part in PARTS))
        for key, runs in chosen.items()
    ]
    return Grid("What holds the bytes of a step, MiB", (("row", *PARTS), *rows))


def _mib(size: float) -> str:
    return f"{size / 2**20:.2f}"
