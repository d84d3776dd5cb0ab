"""Fetches the original files over HTTP, with a bound on how long no answer is waited for."""

import queue
import threading
import time
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException, HTTPResponse

from tqdm import tqdm

from dynhp_jax.common.errors import UserError
from dynhp_jax.data.catalogue import Arrays, Published, Unavailable
from dynhp_jax.data.originals import decode, gunzip, unpack

# Seconds within which a server must have answered. Name look-up is included, whose own time limit
# no program can set: hence the threads.
ANSWER = 2.5
# Seconds without a byte after which a download that had begun is given up.
STALL = 15.0
# Bytes; the largest original is CIFAR-10's archive (170 MB).
_LARGEST = 256 << 20
_CHUNK = 1 << 18


def fetch(entry: Published, mirrors: Sequence[str] | None = None) -> list[Arrays]:
    """Downloads and decodes a data set, from the mirror that answers first.

    Args:
      entry: which data set.
      mirrors: base addresses to use in place of the entry's own.

    Returns:
      The train and the test split.

    Raises:
      Unavailable: no mirror answered in time, the download broke off, or what came is not the
        published data.
    """
    bases = list(mirrors if mirrors is not None else entry.mirrors)
    if entry.archive:
        names = [entry.archive]
    else:
        names = [f"{file}.gz" for split in entry.splits for file in split.files]
    raw = {}
    for name in names:
        base, raw[name] = _get(bases, name)
        bases = [base]

    def unpacked(file: str, limit: int) -> bytes:
        return gunzip(raw[f"{file}.gz"], limit, f"{base}{file}.gz")

    try:
        archive = entry.archive
        contents = unpack(raw[archive], f"{base}{archive}") if archive else unpacked
        return decode(entry, contents, f"the files of {base}")
    except UserError as error:
        raise Unavailable(f"the download failed ({error})") from error


def _get(bases: Sequence[str], name: str) -> tuple[str, bytes]:
    """The base that answered and the whole file."""
    base, response = _first_answer(bases, name)
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdigit() else None
    received = bytearray()
    try:
        with (
            response,
            tqdm(
                total=total, unit="B", unit_scale=True, desc=name, leave=False, disable=None
            ) as bar,
        ):
            while chunk := response.read(_CHUNK):
                received += chunk
                bar.update(len(chunk))
                if len(received) > _LARGEST:
                    raise Unavailable(f"{base}{name} is larger than any published file")
    except (OSError, HTTPException) as error:
        raise Unavailable(f"the download of {base}{name} broke off ({error})") from error
    if total is not None and len(received) != total:  # Not an error to http.client.
        raise Unavailable(
            f"the download of {base}{name} broke off ({len(received)} of {total} bytes)"
        )
    return base, bytes(received)


def _first_answer(bases: Sequence[str], name: str) -> tuple[str, HTTPResponse]:
    answers = queue.SimpleQueue()

    def ask(base: str) -> None:
        try:
            answers.put((base, urllib.request.urlopen(base + name, timeout=STALL)))
        except (OSError, HTTPException, ValueError) as error:
            answers.put((base, error))

    for base in bases:
        # Daemons: a look-up that hangs must not keep the program from ending.
        threading.Thread(target=ask, args=(base,), daemon=True).start()
    deadline = time.monotonic() + ANSWER
    reasons = []
    for _ in bases:
        try:
            base, answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            reasons.append(f"no answer within {ANSWER:g} s")
            break
        if not isinstance(answer, Exception):
            return base, answer
        reasons.append(f"{base}: {answer}")
    raise Unavailable(f"the download failed ({'; '.join(reasons)})")
