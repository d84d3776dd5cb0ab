"""Records as TensorBoard's events, written at once and by this thread.

tensorboardX's SummaryWriter hands events to a thread of its own, where a full disk ends in a
traceback that no caller can catch; so its file writer is used directly.
"""

import contextlib
import importlib.util
import os
import time
from collections.abc import Mapping
from typing import Any

from dynhp_jax.common import paths
from dynhp_jax.common.disk import naming
from dynhp_jax.common.errors import UserError
from dynhp_jax.writers.writer import Record, Started


class TensorBoard:
    """Every number of a record as a curve over the epochs.

    An event file is made by the first record, one for each process that trains the run. TensorBoard
    shows no epoch twice: a run that goes on marks the epochs that are trained again as void.

    Args:
      folder: where the event files go; made if missing, in one that exists.

    Raises:
      UserError: tensorboardX, which writes the files without TensorFlow, is not installed.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = paths.given(folder, "the folder of TensorBoard")
        self._done, self._file = 0, None
        if importlib.util.find_spec("tensorboardX") is None:
            raise UserError(
                "TensorBoard's events need the package tensorboardX, which is not installed:"
                " pip install 'dynhp_jax[tensorboard]'"
            )

    def begin(self, started: Started) -> None:
        """Notes which epochs are done: what older files hold beyond them is trained again."""
        self._done = started.done

    def __call__(self, record: Record) -> None:
        """Adds one point to every curve; the file has it when this returns."""
        from tensorboardX import summary
        from tensorboardX.proto import event_pb2

        with naming(self.folder):
            if self._file is None:
                self._file = self._opened()
            for name, value in scalars(record).items():
                point = summary.scalar(name, value)
                event = event_pb2.Event(wall_time=time.time(), step=record["epoch"], summary=point)
                self._file.write_event(event)
            self._file.flush()

    def close(self) -> None:
        """Every epoch was flushed; nothing is left to lose."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _opened(self) -> Any:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        self.folder.mkdir(exist_ok=True)
        file = EventsWriter(str(self.folder / "events"), f".{time.time_ns()}")
        if self._done:  # TensorBoard drops what was logged at or after the step of a START
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            step = self._done + 1
            file.write_event(event_pb2.Event(wall_time=time.time(), step=step, session_log=start))
        return file


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record under TensorBoard's names: `units/hidden_1` for nested ones.

    >>> scalars({"epoch": 1, "seconds": 2.5, "allocated": {"training": {"params": 40}}})
    {'seconds': 2.5, 'allocated/training/params': 40}
    """
    flat: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}/{key}": inner for key, inner in scalars(value).items()})
        elif isinstance(value, (int, float)) and name != "epoch":
            flat[name] = value
    return flat
