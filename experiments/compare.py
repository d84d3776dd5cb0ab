"""Importance criteria beside each other: scored, pruned and fine-tuned from the same warm-up.

    python -m experiments.compare --config=configs/compare_fmnist.py
    python -m experiments.compare --config=configs/compare_fmnist.py --print
    python -m experiments.compare --config=configs/compare_fmnist.py --split-learning

For every seed a dense network is trained for `epochs`; then, for each of `compare.criteria` and
`compare.fractions`, its units are scored on examples held out of training, the lowest are taken
away, and what is left is trained for `compare.epochs` more. Methods with gates are rows of the same
table. Everything can be stopped at any time; the same command goes on, and what is finished is
skipped. A criterion of your own: --config.compare.criteria="('l1', 'mymodule:MyCriterion')".
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynhp_jax.common import paths
from dynhp_jax.common.disk import write_text
from dynhp_jax.common.errors import ConfigError, UserError
from dynhp_jax.pruning.criteria import parse
from dynhp_jax.pruning.prune_to import prune_to
from dynhp_jax.training import criterion_check
from dynhp_jax.training.compiled import program_cache
from dynhp_jax.training.compiled.scorer import Scorer
from dynhp_jax.training.files import provenance
from dynhp_jax.training.run import examples
from experiments import commandline
from experiments.comparison import figures, running, settings, split_learning, tables
from experiments.comparison.running import Place

_OPTIONS = (
    (
        "results",
        "",
        "directory of the result files; empty: 'results' in the --workdir, and for --print, where"
        " there is none, results/compare/NAME",
    ),
)
_SWITCHES = (
    ("print", "only print the results that are there; no file is written"),
    ("split-learning", "also the learning time and the traffic of split learning, in table.md too"),
)


def main(argv: Sequence[str]) -> None:
    """Parses the command line; runs what is missing, prints, draws; or only prints."""
    values, workdirs, directory, only_print, split = commandline.parse(
        argv, True, _OPTIONS, _SWITCHES, settings.SECTIONS,
        "directory in which the runs have theirs; empty: runs/compare/NAME",
    )  # fmt: skip
    base, comparison = settings.from_config_dict(values)
    workdirs = paths.given(workdirs or f"runs/compare/{base.name}", "--workdir")
    results = results_of(directory, workdirs, base.name, only_print)
    program_cache.use_cache(base.compiling.cache_dir)
    place = Place(base, comparison, workdirs, results, provenance.present())
    if not only_print:
        check(place)
        paths.make_writable({"--workdir": place.workdirs, "--results": place.results})
    found = [running.result(place, cell, not only_print) for cell in running.cells(comparison)]
    found = [each for each in found if each is not None]
    if not found:
        raise UserError(f"there is no result of this config in {place.results} yet")
    grids = tables.build(base, comparison, found)
    if split:
        grids += split_learning.report(place, found)
    print("\n\n".join(grid.text() for grid in grids))
    if only_print:
        return
    write_text(place.results / "table.md", "\n".join(grid.markdown() for grid in grids))
    print(figures.draw(base, comparison, found, place.results / "accuracy.png"))


def results_of(given: str, workdirs: Path, name: str, only_print: bool) -> Path:
    """Where the result files are.

    Those that come with the project are of its own configs: a run, which may have overrides, does
    not look at them unless it is told to.
    """
    if given:
        return paths.given(given, "--results")
    own = workdirs / "results"
    return Path(f"results/compare/{name}") if only_print and not own.is_dir() else own


def check(place: Place) -> None:
    """What cannot be is said before anything is run.

    Raises:
      UserError: a criterion that cannot be found or cannot score the network, a fraction that
        cannot be reached, a group that does not exist, a run that the data or the memory do not
        allow, two results of one name, a result of another config.
    """
    if place.whole.task.best != "error":
        raise ConfigError("loss.best", place.whole.task.best, "'error' in a comparison")
    running.check(place)
    base, groups = place.base, place.whole.groups
    for criterion in place.comparison.criteria:
        _check_criterion(place, criterion)
    for fraction in place.comparison.fractions:
        asked = dataclasses.replace(base.scores, fraction=fraction)
        any_scores = {name: np.arange(groups[name].size) for name in groups}
        most = asked.most(groups)
        prune_to(any_scores, groups, asked.target(most), scope=asked.scope)
        settings.cell(base, place.comparison, 0, place.comparison.criteria[0], fraction)
    cut = place.comparison.cut
    if cut and cut not in groups:
        raise ConfigError("compare.cut", cut, f"'' or a name among {', '.join(groups)}")


def _check_criterion(place: Place, text: str) -> None:
    criterion, base = parse.parse(text), place.base
    needed = criterion_check.earlier_epochs(criterion)
    if needed >= settings.KEPT:
        allowed = f"one that looks at {settings.KEPT - 1} earlier epochs at most, not at {needed}"
        raise ConfigError("compare.criteria", text, allowed)
    if needed >= base.epochs:
        allowed = f"more than the {needed} earlier epochs that {text!r} looks at"
        raise ConfigError("epochs", base.epochs, allowed)
    held_out = place.dataset.splits["validation"].first(base.scores.examples)
    judged_on = examples.fitted(held_out, place.whole)
    criterion_check.check("compare.criteria", text, criterion, place.whole, judged_on)
    again = base.scores.schedule != "one_shot"  # by then other units are masked
    Scorer(criterion, place.budget, text).check(place.whole, len(judged_on), again)


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
