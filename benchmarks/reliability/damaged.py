"""A directory that is damaged, and whether the programs that meet it do what is right."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.reliability.calling import ROOT, Answer, Caller
from benchmarks.reliability.damage import Damage

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
_CLOCKS = {
    "seconds", "compile_seconds", "compile_seconds_in_all", "compilations", "from_epoch"
}  # fmt: skip
_WHOLE = ("summary.json", "config.json", "sweep.json", "provenance.json")


class Trial:
    """A whole directory, the same after more epochs, and what both say.

    Args:
      folder: where they are made, unless they are there.
      program: 'train' or 'sweep'.
      flags: of it.
      inside: where the run to evaluate lies in the directory.
    """

    def __init__(self, folder: Path, program: str, flags: Sequence[str], inside: str):
        self._folder, self._flags, self._inside, self.program = folder, flags, inside, program
        self.whole = folder / "whole"

    def make(self, caller: Caller) -> None:
        """Makes the directory, and learns what is right."""
        made, longer, earlier = (self._folder / name for name in ("made", "longer", "earlier"))
        for place in (made, longer, earlier):
            shutil.rmtree(place, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self.whole.exists():
            _ended_well(self._gone_on(caller, made, BEFORE))
            made.rename(self.whole)
        shutil.copytree(self.whole, longer)
        _ended_well(self._gone_on(caller, longer, AFTER))
        self._left = left_in(longer)
        shutil.copytree(self.whole, earlier)
        for checkpoint in earlier.rglob(f"{BEFORE:06d}"):
            shutil.rmtree(checkpoint)
        last = _ended_well(self._evaluated(caller, self.whole)).out
        self._outputs = {last: "last", self._evaluated(caller, earlier).out: "earlier"}

    def _gone_on(self, caller: Caller, workdir: Path, epochs: int) -> Answer:
        flags = [*self._flags, f"--config.epochs={epochs}", f"--workdir={workdir}"]
        return caller.call(self.program, flags, self._folder)

    def _evaluated(self, caller: Caller, workdir: Path) -> Answer:
        return caller.call("evaluate", [f"--workdir={workdir / self._inside}"], self._folder)

    def case(self, caller: Caller, change: Damage, action: str, copy: Path) -> tuple[str, Answer]:
        """One damage and one program.

        Args:
          caller: calls it.
          change: the damage.
          action: 'evaluate', or the program that made the directory, to go on.
          copy: where the damaged directory is.

        Returns:
          What came of it, one of RIGHT or what went wrong; and how it ended.
        """
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.whole, copy)
        change(copy)
        before = _snapshot(copy)
        if action == "evaluate":
            answer = self._evaluated(caller, copy)
        else:
            answer = self._gone_on(caller, copy, AFTER)
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
            right = right and _snapshot(copy) == before
        else:
            left = left_in(copy)  # what was renamed may lie beside it
            right = all(left.get(name) == each for name, each in self._left.items())
        return ("right, and said" if said else "right") if right else "wrong", answer


def left_in(workdir: Path) -> dict[str, Any]:
    """What a run or several say of themselves: lines, summaries, configs, without clocks."""
    found: dict[str, Any] = {}
    for file in sorted(workdir.rglob("*")):
        name = str(file.relative_to(workdir))
        if file.name == "metrics.jsonl":
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            found[name] = [_without_clocks(line) for line in lines]
        elif file.name in _WHOLE:
            found[name] = _without_clocks(json.loads(file.read_text()))
        elif file.suffix == ".png":
            found[name] = "a figure"
    return found


def _without_clocks(values: Any) -> Any:
    """Nor the epochs from which commits are: a run that goes on may train some of them again."""
    if isinstance(values, dict):
        return {name: _without_clocks(each) for name, each in values.items() if name not in _CLOCKS}
    return [_without_clocks(each) for each in values] if isinstance(values, list) else values


def _ended_well(answer: Answer) -> Answer:
    assert answer.code == 0, answer.said
    return answer


def _snapshot(workdir: Path) -> dict[str, str]:
    """Everything in a directory; the lock's file is no content."""
    return {
        str(path.relative_to(workdir)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else str(path.is_dir())
        )
        for path in sorted(workdir.rglob("*"))
        if path.name != ".lock"
    }
