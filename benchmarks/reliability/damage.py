"""Ways to damage the files of a directory: each a name and a function of the directory."""

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Damage = Callable[[Path], None]
_FLIPS = 3  # of a byte, by file


def of_directory(whole: Path, seed: int) -> Iterator[tuple[str, Damage]]:
    """(name, damage) of everything that lies in a directory.

    Args:
      whole: the directory; it is only read.
      seed: of the places that are chosen at random.
    """
    draws = random.Random(seed)
    for path in sorted(whole.rglob("*")):
        name = path.relative_to(whole)
        kinds = of_file(path, draws) if path.is_file() else of_folder(path)
        for kind, change in kinds:
            yield f"{name}: {kind}", lambda root, name=name, change=change: change(root / name)


def of_folder(path: Path) -> Iterator[tuple[str, Damage]]:
    """What may become of a folder."""

    def emptied(folder: Path) -> None:
        shutil.rmtree(folder)
        folder.mkdir()

    def a_file(folder: Path) -> None:
        shutil.rmtree(folder)
        folder.write_bytes(b"no folder")

    yield "is missing", shutil.rmtree
    yield "is empty", emptied
    yield "is a file", a_file
    yield "is another's name", lambda folder: folder.rename(folder.with_name(f"{folder.name}x"))
    if path.name.isdigit():
        later = f"{int(path.name) + 7:06d}"
        yield "is of a later epoch", lambda folder: folder.rename(folder.with_name(later))
        yield "is no number", lambda folder: folder.rename(folder.with_name("²"))
        yield (
            "has a short number",
            lambda folder: folder.rename(folder.with_name(str(int(folder.name)))),
        )


def of_file(path: Path, draws: random.Random) -> Iterator[tuple[str, Damage]]:
    """What may become of a file."""
    content = path.read_bytes()
    yield "is missing", Path.unlink
    yield "is empty", lambda file: file.write_bytes(b"")
    yield "is a folder", _a_folder
    yield "is a link to nowhere", _a_link
    if not content:
        return
    half = content[: len(content) // 2]
    yield "is cut in half", lambda file: file.write_bytes(half)
    yield "is cut by a byte", lambda file: file.write_bytes(content[:-1])
    yield "has more behind it", lambda file: file.write_bytes(content + b"\0more")
    yield "is NUL", lambda file: file.write_bytes(bytes(len(content)))
    yield "is no UTF-8", lambda file: file.write_bytes(half + b"\xff\xfe" + content[len(half) :])
    for _ in range(_FLIPS):
        place, bit = draws.randrange(len(content)), 1 << draws.randrange(8)
        flipped = bytearray(content)
        flipped[place] ^= bit
        yield f"has bit {bit} of byte {place} flipped", _writes(bytes(flipped))
    if path.suffix == ".json":
        yield from _of_json(json.loads(content), draws)
    elif path.suffix == ".jsonl":
        yield from _of_lines(content.splitlines(), draws)


def _of_json(values: Any, draws: random.Random) -> Iterator[tuple[str, Damage]]:
    for wrong in (5, [], {}, None, "text", [[]]):
        yield f"holds {wrong!r}", _writes(json.dumps(wrong).encode())
    yield "holds a number that is none", _writes(b'{"epochs": NaN}')
    yield "is nested deeply", _writes(b"[" * 100_000)
    if isinstance(values, dict) and values:
        for key in draws.sample(sorted(values), min(4, len(values))):
            for kind, changed in _of_entry(values, key):
                yield f"{kind} {key!r}", _writes(json.dumps(changed).encode())


def _of_lines(lines: list[bytes], draws: random.Random) -> Iterator[tuple[str, Damage]]:
    def joined(lines: list[bytes]) -> Damage:
        return _writes(b"\n".join(lines) + b"\n")

    first, *rest = lines
    for wrong in (b"garbage", b"5", b"{}", b"null", b"", b"\0\0\0", b"\xff"):
        yield f"has {wrong!r} as its second line", joined([first, wrong, *rest[1:]])
    yield "lacks its first line", joined(rest)
    yield "lacks its last line", joined(lines[:-1])
    yield "has a line twice", joined([first, *lines])
    yield "has its lines turned round", joined(lines[::-1])
    record = json.loads(lines[1])
    for key in draws.sample(sorted(record), 5):
        for kind, changed in _of_entry(record, key):
            yield (
                f"{kind} {key!r} in line 2",
                joined([first, json.dumps(changed).encode(), *rest[1:]]),
            )


def _of_entry(values: dict, key: str) -> Iterator[tuple[str, dict]]:
    yield "lacks", {name: value for name, value in values.items() if name != key}
    wrong = copy.deepcopy(values)
    wrong[key] = 5 if isinstance(values[key], (dict, list, str)) else "text"
    yield "has another type of", wrong
    if isinstance(values[key], (int, float)) and not isinstance(values[key], bool):
        yield "has another number as", values | {key: values[key] + 1}


def _writes(content: bytes) -> Damage:
    return lambda file: file.write_bytes(content) and None


def _a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _a_link(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")
