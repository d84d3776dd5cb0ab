"""Damages every file of a run's directory, in every way, and goes on with the run.

    python -m benchmarks.reliability.directories

A small run on the digits is made, and a sweep of two. Every damage of `damage` is done to a copy;
then the network is evaluated, or the run is lengthened. Right is: one line, exit code 2, and
nothing changed on disk; or exit code 0, and all numbers those of a run that was never damaged.
Where a damaged checkpoint is passed over for an earlier one, a line says so, and the numbers are
that one's.

Cases are tried in an order in which every file and every kind of damage comes early; each goes as a
line to cases.jsonl in the workdir at once, and the same command goes on there. The counts go to
results/reliability/directories.json.
"""

import argparse
import collections
import dataclasses
import json
import multiprocessing
import random
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.reliability import damage
from benchmarks.reliability.calling import Caller
from benchmarks.reliability.damaged import RIGHT, SMALL, Trial
from dynhp_jax.training.files import origin

_WORKERS = 2
_PLACES = re.compile(r"bit \d+ of byte \d+")
_DIRECTORIES = (("train", (), "."), ("sweep", ("--seeds=0,1",), "seed0"))


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One damage, and one program that meets it.

    Attributes:
      trial: the directory that is damaged.
      name: of the damage, with the file.
      change: the damage.
      action: 'evaluate', or 'train' or 'sweep', which go on.
    """

    trial: Trial
    name: str
    change: damage.Damage
    action: str

    @property
    def key(self) -> tuple[str, str, str]:
        """By which its line is known again."""
        return self.trial.program, self.name, self.action

    @property
    def file_and_kind(self) -> tuple[str, str]:
        """What is damaged, and how, wherever the damage is."""
        file, _, kind = self.name.partition(": ")
        return file, _PLACES.sub("a bit", kind)


def every(trials: Sequence[Trial], seed: int) -> list[Case]:
    """All cases; first those by which every file and every kind of damage has met every program."""
    cases = [
        Case(trial, name, change, action)
        for trial in trials
        for name, change in damage.of_directory(trial.whole, seed)
        for action in ("evaluate", trial.program)
    ]
    random.Random(seed).shuffle(cases)
    seen: set[tuple[str, str, str]] = set()
    first, rest = [], []
    for case in cases:
        new = {(case.trial.program, case.action, part) for part in case.file_and_kind} - seen
        seen |= new
        (first if new else rest).append(case)
    return first + rest


def _try(cases: Sequence[Case], lines: Path, scratch: Path) -> None:
    """What one worker does: a line for every case."""
    with Caller() as caller:
        for number, case in enumerate(cases, 1):
            outcome, answer = case.trial.case(caller, case.change, case.action, scratch)
            of, name, action = case.key
            line = {"of": of, "damage": name, "then": action, "outcome": outcome}
            if outcome not in RIGHT:
                line["said"] = answer.said[-400:].replace(str(scratch), "")
                print(f"{of} {name}: {action}: {outcome}: {line['said'][-200:]}", flush=True)
            with open(lines, "a") as file:
                file.write(json.dumps(line) + "\n")
            if number % 50 == 0:
                print(f"{number} of {len(cases)}", flush=True)


def _read(lines: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    if not lines.exists():
        return {}
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    return {(each["of"], each["damage"], each["then"]): each for each in found}


def _trials(workdir: Path) -> list[Trial]:
    """The directories, made where they are not there yet."""
    found = []
    with Caller() as caller:
        for program, more, inside in _DIRECTORIES:
            found.append(Trial(workdir / program, program, [*SMALL, *more], inside))
            found[-1].make(caller)
    return found


def main() -> None:
    """Makes the directories, tries the damages and writes the counts."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--out", default="results/reliability/directories.json", type=Path)
    flags.add_argument("--workdir", default="runs/reliability", type=Path, help="of the trial")
    flags.add_argument("--seed", default=0, type=int)
    flags.add_argument("--cases", default=None, type=int, help="at most so many; all of them")
    flags = flags.parse_args()
    workdir = (flags.workdir / f"directories-{origin.commit()}-seed{flags.seed}").absolute()
    trials, lines = _trials(workdir), workdir / "cases.jsonl"
    cases, done = every(trials, flags.seed)[: flags.cases], _read(lines)
    missing = [case for case in cases if case.key not in done]
    print(f"{len(cases)} cases, {len(missing)} to be tried", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        workers = []
        for number in range(_WORKERS):
            given = (missing[number::_WORKERS], lines, Path(scratch, str(number)))
            workers.append(multiprocessing.get_context("fork").Process(target=_try, args=given))
            workers[-1].start()
        for worker in workers:
            worker.join()
    assert not any(worker.exitcode for worker in workers)
    tried = _read(lines)
    _write(flags, cases, [tried[case.key] for case in cases])


def _write(flags: argparse.Namespace, cases: Sequence[Case], tried: list[dict[str, Any]]) -> None:
    counts = collections.Counter(f"{e['of']}, then {e['then']}: {e['outcome']}" for e in tried)
    failed = [each for each in tried if each["outcome"] not in RIGHT]
    command = f"python -m benchmarks.reliability.directories --seed={flags.seed}"
    result = record.head(command + (f" --cases={flags.cases}" if flags.cases else "")) | {
        "cases": len(cases),
        "files": len({(case.trial.program, case.file_and_kind[0]) for case in cases}),
        "kinds_of_damage": len({case.file_and_kind[1] for case in cases}),
        "outcomes": dict(sorted(counts.items())),
        "failed": failed,
    }
    record.write(flags.out, result)
    print(json.dumps(result["outcomes"], indent=1), f"{len(cases)} cases, {len(failed)} failed")


if __name__ == "__main__":
    main()
