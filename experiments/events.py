"""TensorBoard events, written at once and by this thread.

tensorboardX's SummaryWriter hands events to a thread of its own, where a full disk ends in a
traceback that no caller can catch; so its file writer is used directly.
"""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from dynhp_jax.common.disk import naming


class Events:
    """Scalars by epoch.

    Args:
      directory: where the event file goes; made if missing, in one that exists.
      epoch: the epochs done so far; what older files hold beyond it is going to be overwritten.
    """

    def __init__(self, directory: Path, epoch: int):
        self._directory = directory
        directory.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(directory / "events"), f".{time.time_ns()}")
        if epoch:  # TensorBoard drops what was logged at or after the step of a START
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            event = event_pb2.Event(wall_time=time.time(), step=epoch + 1, session_log=start)
            self._writer.write_event(event)

    def write(self, epoch: int, scalars: Mapping[str, float]) -> None:
        """Adds one point to every curve."""
        with naming(self._directory):
            for name, value in scalars.items():
                point = summary.scalar(name, value)
                self._writer.write_event(
                    event_pb2.Event(wall_time=time.time(), step=epoch, summary=point)
                )
            self._writer.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # every epoch was flushed; nothing is left to lose
            self._writer.close()


def scalars(record: Mapping) -> dict[str, float]:
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
