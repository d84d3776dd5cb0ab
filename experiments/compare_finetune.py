"""Methods of fine-tuning beside each other, at equal bytes of the compiled step.

    python -m experiments.compare_finetune --track=A --budgets=0.25,0.5 --seeds=0,1,2
    python -m experiments.compare_finetune --track=B --rows=full,head,trady --budgets=0.25
    python -m experiments.compare_finetune --track=A --print

Track A transfers a ResNet-20, pretrained here, to other classes of CIFAR-10; track B adapts the
papers' MobileNetV2 (configs/finetune_cifar10.py and finetune_mbv2.py, whose fields can be
overridden). A budget is a share of what a full step takes above the forward pass: every method is
made as large as its compiled step allows. Its rate is the best of --rates on held-out images with
the first seed. Everything can be stopped at any time; the same command goes on, and what is
finished is skipped. The rows are in experiments/finetuning/rows.py.
"""

import os
import sys
from collections.abc import Sequence

from dynhp_jax.common import paths
from dynhp_jax.common.disk import write_text
from dynhp_jax.common.errors import UserError
from dynhp_jax.memory.fusion import FUSION
from dynhp_jax.training.compiled import program_cache
from dynhp_jax.training.files import provenance
from experiments import commandline, result_files
from experiments.finetuning import (
    claims,
    figures,
    pretraining,
    results,
    rows,
    running,
    settings,
    tables,
    tracks,
)
from experiments.values import numbers, values_of

_OPTIONS = (
    ("track", "", "A (pretrained here) or B (the papers' network)"),
    ("rows", "", "names with commas; empty: all of the track"),
    ("budgets", "0.25", "shares of a full step's bytes above the floor, with commas"),
    ("seeds", "0,1,2", "whole numbers with commas; rates are chosen with the first"),
    ("rates", ",".join(map(str, tracks.RATES)), "learning rates that are tried, with commas"),
    ("results", "", "directory of the result files; empty: results/finetune/trackTRACK"),
)
_SWITCHES = (
    ("print", "only print the results that are there; no file is written"),
    ("ranks", "only rank layers on this task and on another, and say whether they rank alike"),
)
_WORKDIR = "directory in which the runs have theirs; empty: runs/finetune/trackTRACK"


def main(argv: Sequence[str]) -> None:
    """Parses the command line; runs what is missing, prints, draws; or only prints."""
    track, argv = _with_config(argv)
    values, workdirs, _, names, budgets, seeds, rates, directory, *switches = commandline.parse(
        argv, True, _OPTIONS, _SWITCHES, settings.SECTIONS, _WORKDIR
    )
    only_print, only_rank = switches
    base, first = settings.from_config_dict(values)
    wanted = rows.of_track(track, names)
    budgets = numbers("budgets", budgets, float, 0.001, 1.0)
    seeds = values_of("seeds", seeds, "seed")
    rates = values_of("rates", rates, "optimizer.learning_rate")
    results_in = paths.given(directory or f"results/finetune/track{track}", "--results")
    if only_print:
        _show(results.read_all(results_in, track), track)
        return
    # XLA counts nothing of what a CPU's library fuses: bytes are compared without it.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{FUSION}=".strip()
    workdirs = paths.given(workdirs or f"runs/finetune/track{track}", "--workdir")
    paths.make_writable({"--workdir": workdirs, "--results": results_in})
    program_cache.use_cache(base.compiling.cache_dir)
    config = pretraining.begun(base, first, workdirs / "pretraining")
    place = tracks.Place(track, config, workdirs, results_in, provenance.present())
    if only_rank:
        grid = claims.of_layer_ranks(place.layer_measures())
        print(grid.text())
        write_text(results_in / "ranks.md", grid.markdown())
        return
    for cell in running.cells(wanted, budgets):
        running.run(place, cell, seeds, rates)
    found = results.read_all(results_in, track)
    grids = _show(found, track)
    with result_files.writing(results_in):
        write_text(results_in / "table.md", "\n".join(grid.markdown() for grid in grids))
        for path in figures.draw(found, results_in):
            print(path)


def _with_config(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The track, and arguments with its config where none is given."""
    given = [word.split("=", 1)[1] for word in argv if word.startswith(("--track=", "-track="))]
    asked = any(word in ("--help", "-h", "--helpfull") for word in argv)
    track = given[-1] if given else ""
    if track not in tracks.CONFIGS and not asked:
        found = f"is {track!r}" if given else "is missing"
        raise UserError(f"--track {found}; allowed: {', '.join(tracks.CONFIGS)}")
    if asked or any(word.startswith(("--config=", "-config=")) for word in argv):
        return track, list(argv)
    return track, [argv[0], f"--config={tracks.CONFIGS[track]}", *argv[1:]]


def _show(found: Sequence[result_files.Result], track: str) -> list:
    """Prints the tables of the results that are there.

    Raises:
      UserError: there is none.
    """
    if not found:
        raise UserError(f"there is no result of track {track} yet")
    grids = [*tables.build(found), claims.verdicts(found)]
    print("\n\n".join(grid.text() for grid in grids))
    return grids


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
