"""Result files: a JSON file for each run of a table, with its config, commit, versions and machine.

Files of several machines are merged by copying them into one directory.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynhp_jax.common import json_files, schema
from dynhp_jax.common.disk import write_text
from dynhp_jax.common.errors import UserError
from dynhp_jax.training import config as configuration
from dynhp_jax.training.config import Config

Result = Mapping[str, Any]

SEED = schema.whole(0, 2**32 - 1)
CONFIG = schema.fields(  # what is used of it as it is; all of it is compared
    {
        "epochs": schema.POSITIVE,
        "method": schema.TEXT,
        "batch": schema.fields({"alpha": schema.NUMBER, "grid": schema.NUMBER}),
        "memory": schema.fields({"sp_batch": schema.POSITIVE}),
        "penalty": schema.fields({"lam": schema.NUMBER}),
    }
)


def read(path: Path, kind: schema.Kind) -> dict[str, Any] | None:
    """The result that lies there, None if there is none.

    Args:
      path: of the file.
      kind: of a result.

    Raises:
      UserError: the file cannot be read, or is no result.
    """
    try:
        return json_files.read(path, kind, "it is no result of this program, move it away")
    except FileNotFoundError:
        return None


def write_lines(path: Path, result: Result) -> None:
    """A file with a line per entry, in a folder that is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (f" {json.dumps(name)}: {json.dumps(value)}" for name, value in result.items())
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[None]:
    """What cannot be written there is put down to --results, not to --workdir.

    Raises:
      UserError: it cannot.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--results: {directory} cannot be written"
            f" ({error.strerror or error}); make room, or choose a directory that can be"
        ) from None


def differences(result: Result, config: Config) -> list[str]:
    """What another config the result is of, a phrase per field; [] for the same run."""
    try:
        earlier = configuration.from_dict(result["config"])
    except UserError as error:
        return [str(error)]
    return configuration.differences(earlier, config)


def check_same(path: Path, differing: Sequence[str]) -> None:
    """Raises UserError if a result there is of another config, which differs in these phrases."""
    if differing:
        raise UserError(
            f"{path} is of another config; what differs: {', '.join(differing)};"
            " move it away, or take another --results"
        )
