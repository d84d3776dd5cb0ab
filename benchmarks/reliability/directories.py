"""Damages every file of a run's directory, in every way, and goes on with the run.

    python -m benchmarks.reliability.directories

A small run on the digits is made, and a sweep of two. Every damage of `damage` is done to a copy;
then the network is evaluated, and the run is lengthened. Right is: one line, exit code 2, and
nothing changed on disk; or exit code 0, and all numbers those of a run that was never damaged.
Where a damaged checkpoint is passed over for an earlier one, a line says so, and the numbers are
that one's. The counts go to results/reliability/directories.json.
"""

import argparse
import collections
import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.reliability import damage
from benchmarks.reliability.calling import ROOT, Answer, call

CLOCKS = {"seconds", "compile_seconds", "compilations"}
SMALL = [
    f"--config={ROOT}/configs/digits.py",
    "--config.model.hidden=(12, 7)",
    "--config.penalty.lam=4.0",
    "--config.optimizer.learning_rate=0.01",
    "--config.batch.alpha=0.3",
    "--config.checkpoint.keep=2",
]
BEFORE, AFTER = 3, 4  # epochs
RIGHT = ("refused", "right", "right, and said")


class Trial:
    """A whole directory, the same after more epochs, and what both say.

    Args:
      scratch: an empty folder.
      program: 'train' or 'sweep'.
      flags: of it.
      inside: where the run to evaluate lies in the directory.
    """

    def __init__(self, scratch: Path, program: str, flags: list[str], inside: str):
        self._scratch, self._flags, self._inside, self.program = scratch, flags, inside, program
        self.whole, longer = scratch / "whole", scratch / "longer"
        assert self._trained(self.whole, BEFORE).code == 0
        shutil.copytree(self.whole, longer)
        answer = self._trained(longer, AFTER)
        assert answer.code == 0, answer.said
        self._records = records_of(longer)
        self._outputs = {}
        answer = self._evaluated(self.whole)
        assert answer.code == 0, answer.said
        self._outputs[answer.out] = "last"
        earlier = scratch / "earlier"
        shutil.copytree(self.whole, earlier)
        for folder in earlier.rglob(f"{BEFORE:06d}"):
            shutil.rmtree(folder)
        answer = self._evaluated(earlier)
        self._outputs[answer.out] = "earlier"

    def _trained(self, workdir: Path, epochs: int) -> Answer:
        flags = [*self._flags, f"--config.epochs={epochs}", f"--workdir={workdir}"]
        return call(self.program, flags, self._scratch)

    def _evaluated(self, workdir: Path) -> Answer:
        flags = [f"--workdir={workdir / self._inside}"]
        return call("evaluate", flags, self._scratch)

    def case(self, change: damage.Damage, action: str) -> tuple[str, Answer]:
        """(what came of one damage and one program, how it ended)."""
        copy = self._scratch / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.whole, copy)
        change(copy)
        before = _snapshot(copy)
        answer = self._evaluated(copy) if action == "evaluate" else self._trained(copy, AFTER)
        if answer.traced:
            return "traceback", answer
        if answer.code == 2:
            if not answer.one_line:
                return "several lines", answer
            return "refused" if _snapshot(copy) == before else "refused, but changed", answer
        if answer.code != 0:
            return f"exit code {answer.code}", answer
        said = any(line.startswith("warning: ") for line in answer.said.splitlines())
        if action == "evaluate":
            found = self._outputs.get(answer.out)
            right = found == "last" or (found == "earlier" and said)
        else:
            right = records_of(copy) == self._records
        return ("right, and said" if said else "right") if right else "wrong", answer


def records_of(workdir: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of every metrics.jsonl without clocks, and what the summaries say."""
    found = {}
    for file in sorted(workdir.rglob("metrics.jsonl")):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        found[str(file.relative_to(workdir))] = [
            {k: v for k, v in line.items() if k not in CLOCKS} for line in lines
        ]
    for file in sorted(workdir.rglob("summary.json")):
        summary = json.loads(file.read_text())
        kept = {k: v for k, v in summary.items() if re.search("error|units|parameters|epochs", k)}
        found[str(file.relative_to(workdir))] = [kept]
    return found


def _snapshot(workdir: Path) -> dict[str, str]:
    """Everything in a directory; the lock's file is no content."""
    return {
        str(path.relative_to(workdir)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else str(path.is_dir())
        )
        for path in sorted(workdir.rglob("*"))
        if path.name != ".lock"
    }


def main() -> None:
    """Makes the directories, tries every damage and writes the counts."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--out", default="results/reliability/directories.json", type=Path)
    flags.add_argument("--seed", default=0, type=int)
    flags.add_argument("--part", default=1.0, type=float, help="share of the cases to try")
    flags = flags.parse_args()
    counts, failed, cases = collections.Counter(), [], 0
    with tempfile.TemporaryDirectory() as scratch:
        trials = []
        for program, further, inside in (("train", [], "."), ("sweep", ["--seeds=0,1"], "seed0")):
            folder = Path(scratch, program)
            folder.mkdir()
            trials.append(Trial(folder, program, [*SMALL, *further], inside))
        for trial in trials:
            damages = list(damage.of_directory(trial.whole, flags.seed))
            step = max(1, round(1 / flags.part))
            for name, change in damages[::step]:
                for action in ("evaluate", trial.program):
                    outcome, answer = trial.case(change, action)
                    counts[f"{trial.program}, then {action}: {outcome}"] += 1
                    cases += 1
                    if outcome not in RIGHT:
                        said = answer.said[-400:].replace(scratch, "")
                        failed.append({"damage": name, "of": trial.program, "then": action,
                                       "outcome": outcome, "said": said})  # fmt: skip
                        print(
                            f"{trial.program} {name}: {action}: {outcome}: {said[-200:]}",
                            flush=True,
                        )
    result = record.head(f"python -m benchmarks.reliability.directories --seed={flags.seed}")
    result |= {"cases": cases, "outcomes": dict(sorted(counts.items())), "failed": failed}
    record.write(flags.out, result)
    print(json.dumps(result["outcomes"], indent=1), f"{cases} cases, {len(failed)} failed")


if __name__ == "__main__":
    main()
