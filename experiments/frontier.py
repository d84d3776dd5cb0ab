"""Error against bytes: every method by its own recipe, at two sizes, on MNIST or Fashion-MNIST.

    python -m experiments.frontier --data=mnist --seeds=0,1,2
    python -m experiments.frontier --data=mnist --rows=worth-120KiB --lam=0.6 --validation=0.1
    python -m experiments.frontier --data=mnist --print

Each row and seed is a run that can be stopped at any time; the same command goes on, and what is
finished is skipped. Recipes are in experiments/frontiers/recipes.py; what is other than in them
(--lam, --epochs, --validation) is in the names of the results, which are then no rows of the table
but a table of their own. Several machines can share the work by --rows= and --seeds=.
"""

import sys
from collections.abc import Sequence

from dynhp_jax.common import paths
from dynhp_jax.common.disk import write_text
from dynhp_jax.common.errors import UserError
from dynhp_jax.training.files import provenance
from experiments import commandline, result_files
from experiments.frontiers import figures, recipes, results, running, tables
from experiments.frontiers.running import Place
from experiments.values import each_once, value_of, values_of

_OPTIONS = (
    ("data", "", f"{' or '.join(recipes.SIZES)}"),
    ("rows", "", "names with commas, such as worth-120KiB; empty: all"),
    ("seeds", "0,1,2", "whole numbers with commas"),
    ("epochs", "", "of a run; empty: the recipe's"),
    ("lam", "", "lambda instead of the recipe's"),
    ("validation", "", "share of the training set held out, such as 0.1: errors are those on it"),
    ("commit", "", "to write into results where the code does not lie in a git checkout"),
    ("results", "results/frontier", "directory of the result files"),
)
_SWITCHES = (("print", "print the table of the results that are there, and draw them"),)


def main(argv: Sequence[str]) -> None:
    """Parses the command line; runs what is missing, prints, draws."""
    _, workdirs, *values, only_print = commandline.parse(
        argv, False, _OPTIONS, _SWITCHES,
        workdir="directory in which the runs have theirs; empty: runs/frontier",
    )  # fmt: skip
    given = dict(zip((name for name, *_ in _OPTIONS), values, strict=True))
    data = given["data"]
    if data not in recipes.SIZES:
        raise UserError(f"--data is {data!r}; allowed: {', '.join(recipes.SIZES)}")
    place = Place(
        paths.given(workdirs or "runs/frontier", "--workdir"),
        paths.given(given["results"], "--results"),
        provenance.present(given["commit"]),
        epochs=value_of("epochs", given["epochs"], "epochs") if given["epochs"] else 0,
        lam=value_of("lam", given["lam"], "penalty.lam") if given["lam"] else None,
        validation=_share(given["validation"]),
    )
    if not only_print:
        _run(place, data, given["rows"], values_of("seeds", given["seeds"], "seed"))
    _show(place, data, all_rows=not given["rows"])


def _share(text: str) -> float:
    return value_of("validation", text, "data.validation") if text else 0.0


def _run(place: Place, data: str, names: str, seeds: Sequence[int]) -> None:
    """Row by row for each seed, so that whole tables come early; what cannot be is said first."""
    named = names.split(",") if names else [row.name for row in recipes.rows(data)]
    rows = each_once("rows", names, [recipes.row_of(data, name) for name in named])
    rows.sort(key=lambda row: row.method == recipes.DENSE_FINAL)
    for row in rows:
        place.config(row, seeds[0])
    paths.make_writable({"--workdir": place.workdirs, "--results": place.results})
    for seed in seeds:
        for row in rows:
            with result_files.writing(place.results):
                running.run(place, row, seed)


def _show(place: Place, data: str, all_rows: bool) -> None:
    found = results.read_all(place.results, data, place.tried)
    if not found:
        raise UserError(f"there is no result of {data} in {place.results} yet; run it first")
    grid = tables.build(data, found, place.tried)
    print(grid.text())
    if all_rows and not place.tried:
        with result_files.writing(place.results):
            write_text(place.results / f"{data}.md", grid.markdown())
            print(figures.draw(data, found, place.results / f"{data}.png"))


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
