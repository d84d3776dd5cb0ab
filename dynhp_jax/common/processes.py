"""Several processes that train one run together: who they are, and what they tell each other.

Compiled programs compute with the devices of all of them. All else each process does for itself, so
all have to do the same, in the same order. What they tell each other about that goes through the
key-value store of `jax.distributed`, not through collectives: no device is needed, any thread may
ask, and what is computed meanwhile does not matter. A run of one process does nothing of this.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from dynhp_jax.common.errors import UserError, shown

WAIT_S = 1800.0  # for a process that may be writing, compiling or drawing meanwhile
SIGN_S = 1.0  # between two signs of life
GRACE_S = 10.0  # until the others have heard why a process ends
_POLL_MS = 500  # Ctrl-C is heard in between
_LOST = ("Gloo", "NCCL", "UNAVAILABLE", "Connection reset", "Connection closed", "heartbeat")
_SAME = "all need the same config, data, versions and kind of machine"


class Lost(UserError):
    """Another process has ended, or does not answer."""


def several() -> bool:
    """Whether there is more than one process, as `jax.distributed.initialize` was told."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def leads() -> bool:
    """Whether this is the process that writes files: process 0."""
    return not several() or jax.process_index() == 0


@dataclasses.dataclass
class Meeting:
    """What all processes say at a point that each of them comes to.

    Attributes:
      name: of the point.
      said: by this process; filled in until the end of `together`.
      heard: what each of them said, in their order; [] before that end.
    """

    name: str
    said: dict[str, Any] = dataclasses.field(default_factory=dict)
    heard: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def check_same(self, name: str) -> None:
        """Raises UserError unless all said the same of something, by name: {what: value}."""
        first = self.heard[0][name]
        for number, each in enumerate(self.heard):
            differing = [what for what, value in first.items() if each[name].get(what) != value]
            if differing:
                what = differing[0]
                there, here = (shown(said.get(what)) for said in (each[name], first))
                also = f"; also in {', '.join(differing[1:])}" if differing[1:] else ""
                raise UserError(
                    f"{self.name}: process {number} has {what} {there}, process 0 has {here}{also};"
                    f" {_SAME}"
                )


@contextlib.contextmanager
def together(name: str) -> Iterator[Meeting]:
    """Something that every process does, each its part: if one of them fails, all do.

    Only the main thread may meet the others.

    Raises:
      UserError: another process failed; or they are not at the same point.
      Lost: another process has ended.
    """
    meeting = Meeting(name)
    if not several():
        yield meeting
        meeting.heard = [meeting.said]
        return
    number = next(_meetings)
    try:
        with noticing_losses():
            yield meeting
    except BaseException as error:
        with contextlib.suppress(Lost):
            reason = str(error) or type(error).__name__
            _publish(f"meeting/{number}", [name, {"failed": reason}])
            if not isinstance(error, Lost):
                _answers(f"meeting/{number}", GRACE_S)  # so that they are here to read this one
        raise
    _publish(f"meeting/{number}", [name, {"said": meeting.said}])
    answers = _answers(f"meeting/{number}", WAIT_S)
    _forget(f"meeting/{number - 1}")  # who is here has read all of the one before
    for process, (where, answer) in enumerate(answers):
        if "failed" in answer:
            raise UserError(f"process {process}: {answer['failed']}")
        if where != name:
            raise UserError(f"process {process} is at {where!r}, this one at {name!r}; {_SAME}")
    meeting.heard = [answer["said"] for _, answer in answers]


def check_same(name: str, values: Mapping[str, Any]) -> None:
    """Raises UserError unless all processes have the same values; names the first that differ."""
    with together(name) as meeting:
        meeting.said["values"] = json.loads(json.dumps(dict(values)))
    meeting.check_same("values")


def exchanged(key: str, value: Any) -> list[Any]:
    """What every process says under a key, in their order; any thread may ask, at any time.

    Args:
      key: the same in all processes, and always with the same value.
      value: what JSON holds.
    """
    _publish(key, value)
    return _answers(key, WAIT_S)


@contextlib.contextmanager
def noticing_losses() -> Iterator[None]:
    """Says in a line that another process has ended, where a collective finds that out."""
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, ValueError) as error:
        if several() and any(word in str(error) for word in _LOST):
            raise _lost(str(error)) from error
        raise


def leave(code: int) -> None:
    """Ends this process at once: an ordinary end waits minutes for those that hang or are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


_meetings = itertools.count()


def heartbeat(seconds: float) -> None:
    """How long JAX waits for a sign of life of a process; here it is half of that.

    So a line says that a process has ended, before JAX ends the others with a page of its own.
    """
    _silence[0] = seconds / 2


_silence = [50.0]


@functools.cache
def _give_signs() -> None:
    """Starts the thread that says every now and then that this process is alive."""

    def beat() -> None:
        for number in itertools.count():
            try:
                _set(f"alive/{jax.process_index()}", number)
            except Exception:  # whoever looked after it is gone, or this process is about to end
                return
            time.sleep(SIGN_S)

    threading.Thread(target=beat, daemon=True).start()


def _client() -> Any:
    # Not public, and what Flax and Orbax use, too: JAX has no other way to talk without devices.
    from jax._src import distributed

    return distributed.global_state.client


def _publish(key: str, value: Any) -> None:
    _give_signs()
    try:
        _set(f"{key}/{jax.process_index()}", value)
    except jax.errors.JaxRuntimeError as error:
        raise _lost(str(error)) from error


def _set(key: str, value: Any) -> None:
    _client().key_value_set(f"dynhp_jax/{key}", json.dumps(value), allow_overwrite=True)


def _answers(key: str, seconds: float) -> list[Any]:
    """What all processes have published under a key, waiting for them."""
    until = time.monotonic() + seconds
    return [_answer(key, process, until) for process in range(jax.process_count())]


def _answer(key: str, process: int, until: float) -> Any:
    place, sign, since = f"dynhp_jax/{key}/{process}", _sign(process), time.monotonic()
    while True:
        try:
            return json.loads(_client().blocking_key_value_get(place, _POLL_MS))
        except jax.errors.JaxRuntimeError as error:
            now = time.monotonic()
            if "DEADLINE_EXCEEDED" not in str(error) or now > until:
                raise _lost(str(error), process) from error
        if (latest := _sign(process)) != sign:
            sign, since = latest, now
        elif sign is not None and now > since + _silence[0]:
            raise _lost(f"no sign of life for {now - since:.0f} s", process)


def _sign(process: int) -> str | None:
    """The latest sign of life; None before the first."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        return _client().key_value_try_get(f"dynhp_jax/alive/{process}")
    return None


def _forget(key: str) -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        _client().key_value_delete(f"dynhp_jax/{key}/{jax.process_index()}")


def _lost(why: str, process: int | None = None) -> Lost:
    who = "another process" if process is None else f"process {process}"
    words = " ".join(why.split())[:200]
    return Lost(
        f"{who} of {jax.process_count()} has ended or does not answer ({words}); start all of them"
        " again: the same commands go on from the newest checkpoint"
    )
