"""What lies in the directory of a run, read and checked; nothing is written.

Every checkpoint holds the config, the provenance, and the number and sha256 of the lines of
metrics.jsonl: what disagrees with it is refused; what is lost is taken from there, and lines from
their second copy.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dynhp_jax.common import json_files, paths, schema
from dynhp_jax.common.errors import UserError
from dynhp_jax.memory import trial_records
from dynhp_jax.training import config as configuration
from dynhp_jax.training.config import Config
from dynhp_jax.training.files.records import SEAL, Record, Records, Seal
from dynhp_jax.training.run import checkpoint

_MEMBERS = schema.fields({"members": schema.list_of(schema.NAME, 1)})
RUNS = "runs"  # in a checkpoint's host part: what it knows of the files of its runs, by name
_ALONE = "alone"  # the name of a run of its own
_STRETCH = schema.fields(
    {
        "from_epoch": schema.POSITIVE,
        "commit": schema.optional(schema.TEXT),
        "versions": schema.mapping_of(schema.TEXT),
        "machine": schema.optional(schema.TEXT),
    }
)
_STRETCHES = schema.rising(_STRETCH, "in the order of its epochs", lambda each: each["from_epoch"])
_RUN = schema.fields({"config": schema.MAPPING, "provenance": _STRETCHES, "records": SEAL})


class RunDirectory:
    """Paths and files of one run.

    Args:
      path: the directory, which need not be there.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = paths.given(path, "--workdir")
        self.config_file = self.path / "config.json"
        self.sweep_file = self.path / "sweep.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.summary_file = self.path / "summary.json"
        self.provenance_file = self.path / "provenance.json"
        self.checkpoints = self.path / "checkpoints"
        self.figures = self.path / "figures"
        self.tensorboard = self.path / "tensorboard"
        self.lock_file = self.path / ".lock"

    def config(self, tell: Callable[[str], None] | None = None) -> Config:
        """The config of the run that lies here; that of its checkpoint, if its own file is lost.

        Args:
          tell: where the checkpoint's is good enough; told, in a line, why it is taken.

        Raises:
          UserError: there is none, it cannot be read, or, without `tell`, it is not that of the
            checkpoint.
        """
        known = self.known()
        then = known and _config_of(known["config"], self.checkpoints, "take another --workdir")
        try:
            values = json_files.read(self.config_file, schema.MAPPING, _remedy(known))
            found = _config_of(values, self.config_file, _remedy(known))
            wrong = then and configuration.differences(then, found)
        except FileNotFoundError:
            if then is None:
                raise UserError(f"{self.path} holds no run (no config.json)") from None
            found, wrong = then, []
            if tell:
                tell(f"{self.config_file} was lost; the config is that of the checkpoint")
        if not wrong:
            return found
        what = f"{self.config_file} is not the config of the checkpoints, by {', '.join(wrong)}"
        if tell is None:
            raise UserError(f"{what}; {_remedy(known)}")
        tell(f"{what}; that of the checkpoints is taken")
        return then

    @property
    def members(self) -> list[str]:
        """Names of all members of the sweep to which the directory belongs; [] if to none.

        Raises:
          UserError: the file that says so cannot be read.
        """
        try:
            remedy = "put it back as it was, or take another --workdir"
            return json_files.read(self.sweep_file, _MEMBERS, remedy)["members"]
        except FileNotFoundError:
            return []

    @property
    def of_sweep(self) -> bool:
        """Whether this is a member's directory, in the folder of its sweep.

        Raises:
          UserError: the file that says so cannot be read.
        """
        members, folder = self.members, RunDirectory(self.path.parent)
        return self.path.name in members and folder.members == members

    @property
    def begun(self) -> bool:
        """Whether an epoch was finished here; of a member, its sweep's checkpoints know it."""
        if any(os.path.lexists(each) for each in (self.checkpoints, self.all_checkpoints)):
            return True
        try:
            return b"\n" in json_files.read_bytes(self.metrics_file, "move it away")
        except FileNotFoundError:
            return False

    def finished(self, epochs: int) -> bool:
        """Whether a run of so many epochs came to its end here: its summary is written last."""
        return checkpoint.epochs(self.checkpoints)[-1:] == [epochs] and self.summary_file.is_file()

    def records(self) -> list[Record]:
        """The lines of metrics.jsonl; one that a killed run did not finish is left out.

        Raises:
          UserError: one is damaged, or they are not those of which the checkpoint knows.
        """
        return self.open_records().read()

    def stretches(self) -> list[dict[str, Any]]:
        """What provenance.json holds, or the checkpoint, if that is lost; [] where there is none.

        Raises:
          UserError: it cannot be read, or says other things of the epochs than the checkpoint.
        """
        known = self.known()
        remedy = "remove it: its epochs then count as those of an unknown commit and machine"
        if known:
            remedy = "remove it: what it said is in the checkpoint, too"
        try:
            found = json_files.read(self.provenance_file, _STRETCHES, remedy)
        except FileNotFoundError:
            return known["provenance"] if known else []
        if known:
            so_far = [each for each in found if each["from_epoch"] <= known["records"]["last"]]
            if so_far != known["provenance"]:
                raise UserError(f"{self.provenance_file} is not what the checkpoint says; {remedy}")
        return found

    def check_places(self) -> None:
        """Raises UserError where a file is in the place of a directory, or the other way round."""
        files = [self.config_file, self.sweep_file, self.metrics_file, self.summary_file,
                 self.provenance_file, self.lock_file, self._copy]  # fmt: skip
        folders = [self.path, self.checkpoints, self.figures, self.tensorboard]
        if self.figures.is_dir():
            files += self.figures.glob("*.png")
        for path in files:
            if os.path.lexists(path) and not path.is_file():
                raise UserError(f"{path} is no file, as it has to be; move it away")
        for path in folders:
            if os.path.lexists(path) and not path.is_dir():
                raise UserError(f"{path} is no directory, as it has to be; move it away")

    @property
    def name(self) -> str:
        """Of the run, in its checkpoints."""
        return self.path.name if self.of_sweep else _ALONE

    @property
    def all_checkpoints(self) -> Path:
        """Where the run's checkpoints are."""
        return RunDirectory(self.path.parent).checkpoints if self.of_sweep else self.checkpoints

    @property
    def _copy(self) -> Path:
        """The second copy of metrics.jsonl."""
        name = f"records-{self.name}.jsonl" if self.of_sweep else "records.jsonl"
        return self.all_checkpoints / name

    def open_records(self) -> Records:
        """Their files, with what the newest checkpoint knows of them."""
        known = self.known()
        return Records(self.metrics_file, self._copy, known and Seal(**known["records"]))

    @property
    def trials(self) -> Mapping[str, Any]:
        """What the newest checkpoint knows of the run's programs; see `trial_records`."""
        found = checkpoint.newest_host(self.all_checkpoints).get("trials", {})
        with contextlib.suppress(schema.Unfit):  # which is said when all of the checkpoint is read
            schema.check(found, trial_records.SEVERAL)
            return found
        return {}

    def known(self) -> dict[str, Any] | None:
        """What the newest checkpoint that is whole knows of the run's files.

        Raises:
          UserError: it knows nothing, as those of other versions do.
        """
        folder = self.all_checkpoints
        for epoch in reversed(checkpoint.epochs(folder)):
            with contextlib.suppress(checkpoint.Corrupted):
                host = checkpoint.read_host(folder, epoch)
                try:
                    schema.check(host, schema.fields({RUNS: schema.fields({self.name: _RUN})}))
                    known = host[RUNS][self.name]
                    if known["records"]["last"] != epoch:
                        raise schema.Unfit(f"its records do not end with epoch {epoch}")
                except schema.Unfit as fault:
                    raise UserError(
                        f"the checkpoint {folder / f'{epoch:06d}'} has another content than"
                        f" expected ({fault}): it is of another version of dynhp_jax, or of another"
                        " run; take another --workdir"
                    ) from None
                return known
        return None


def _remedy(known: Any) -> str:
    """What to do about a damaged config.json."""
    if known is None:
        return "put it back as it was, or take another --workdir"
    return "remove it: the config is in the checkpoint, too"


def _config_of(values: Mapping[str, Any], where: Path, remedy: str) -> Config:
    try:
        return configuration.from_dict(values)
    except UserError as error:
        raise UserError(f"{where}: {error}; {remedy}") from None
