"""Ctrl-C at the edges of a program: while it imports, before its first epoch, and at its end.

Imports take seconds, in which a KeyboardInterrupt would be a traceback, or be lost in code that
catches it. This module imports nothing that is slow: it is there before anything else.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

INTERRUPTED = 130
AT_ONCE = (  # where nobody nearer by knows more
    "stopped at once; the same command goes on from what is saved, or begins anew where nothing is"
)
_came = False  # whether there was a Ctrl-C that `raised` has turned into a KeyboardInterrupt


def ending() -> None:
    """From now on Ctrl-C says one line and ends the process: there is nothing to put in order."""
    _handle(_end)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Within it Ctrl-C is a KeyboardInterrupt, at its end at the latest."""
    global _came
    _came = False
    before = _handle(_raise)
    try:
        yield
        check()
    finally:
        _handle(before)


def check() -> None:
    """Raises the KeyboardInterrupt that came within `raised` and did not get through."""
    if _came:
        raise KeyboardInterrupt


def _handle(handler: Callable | None) -> Callable | None:
    """Sets the handler of Ctrl-C and returns the earlier one; None where there is nothing to set.

    Whoever started the process may have it ignore Ctrl-C, as a shell does in the background; and
    only the main thread can set handlers.
    """
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if handler is None or not main or before == signal.SIG_IGN:
        return None
    signal.signal(signal.SIGINT, handler)
    return before


def _end(number, frame) -> None:
    os.write(2, f"interrupted: {AT_ONCE}\n".encode())
    os._exit(INTERRUPTED)


def _raise(number, frame) -> None:
    global _came
    _came = True
    raise KeyboardInterrupt
