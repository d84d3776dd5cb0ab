"""Gives all six programs input that must be refused.

    python -m benchmarks.reliability.inputs

Right is exit code 2, one line that begins with "error: ", and nothing left in the folder. Counts
and all cases that ended otherwise go to results/reliability/inputs.json; the cases are in
`bad_inputs`.
"""

import argparse
import collections
import json
import os
import resource
import tempfile
from pathlib import Path

from benchmarks import record
from benchmarks.reliability import bad_inputs
from benchmarks.reliability.calling import ROOT, Answer, call


def outcome(case: bad_inputs.Case, folder: Path) -> tuple[str, Answer]:
    """(what came of a case, how it ended); the folder is empty."""
    for name, text in case.files:
        Path(folder, name).write_text(text)
    given = {name for name, _ in case.files} | {"__pycache__"}
    arguments = [each.replace("{configs}", f"{ROOT}/configs") for each in case.arguments]

    def prepare() -> None:
        for name, value in case.environment:
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        if case.room is not None:
            resource.setrlimit(resource.RLIMIT_AS, (case.room, case.room))

    answer = call(case.program, arguments, folder, prepare)
    if answer.traced:
        return "traceback", answer
    if not answer.one_line:
        return f"exit code {answer.code}" if answer.code != 2 else "several lines", answer
    left = {path.name for path in folder.iterdir()} - given
    return f"leaves {', '.join(sorted(left))}" if left else "refused", answer


def main() -> None:
    """Tries every case and writes the counts."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--out", default="results/reliability/inputs.json", type=Path)
    flags.add_argument("--only", default="", help="a part of the names of the cases to try")
    flags = flags.parse_args()
    counts, failed = collections.Counter(), []
    for case in bad_inputs.every():
        if flags.only not in case.name:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            here = Path(scratch, "here")
            here.mkdir()
            found, answer = outcome(case, here)
            if found == "refused" and len(list(Path(scratch).iterdir())) > 1:
                found = "leaves something outside"
            said = answer.said[-400:].replace(scratch, "").replace(str(ROOT), "")
        counts[f"{case.program}: {found}"] += 1
        if found != "refused":
            failed.append({"case": case.name, "outcome": found, "said": said})
            print(f"{found}: {case.name}\n    {said[-160:]}", flush=True)
    result = record.head("python -m benchmarks.reliability.inputs")
    result |= {"cases": sum(counts.values()), "outcomes": dict(sorted(counts.items()))}
    record.write(flags.out, result | {"failed": failed})
    print(json.dumps(result["outcomes"], indent=1), f"{len(failed)} failed")


if __name__ == "__main__":
    main()
