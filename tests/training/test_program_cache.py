"""The persistent cache of compiled programs: where it is, and how damage in it heals."""

import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import jax
import pytest
from patience import PATIENCE

from dynhp_jax.common.errors import ConfigError
from dynhp_jax.training.compiled import program_cache

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys, jax
from dynhp_jax.training.compiled import program_cache
program_cache.use_cache(sys.argv[1])
def add(x): return x + 41
def times(x): return 3 * x
def power(x): return x ** 5
def root(x): return x ** 0.5
print(*(jax.jit(f)(1.0) for f in (add, times, power, root)))
"""


def compile_with(asked, cache, home):
    """Compiles four programs in a process of its own; returns what it says on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, asked],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE,
        env={"PATH": "", "JAX_PLATFORMS": "cpu", "HOME": str(home), "DYNHP_CACHE": str(cache)},
    )  # fmt: skip
    assert done.stdout == "42.0 3.0 1.0 1.0\n", done.stderr
    return done.stderr


def entries(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*-cache")}


def test_programs_are_kept_beside_the_data_or_where_they_should_be(tmp_path):
    cache, other = tmp_path / "cache", tmp_path / "other"
    compile_with("none", cache, tmp_path)
    assert not cache.exists()
    compile_with("", cache, tmp_path)
    (folder,) = (cache / "xla").iterdir()
    kept = list(folder.iterdir())
    assert kept
    compile_with(str(other), cache, tmp_path)
    assert list(other.iterdir())
    assert list(folder.iterdir()) == kept


def test_a_cache_that_cannot_be_made_is_done_without_unless_it_was_asked_for(tmp_path):
    occupied = tmp_path / "file"
    occupied.write_text("")
    assert compile_with("", occupied, tmp_path) == ""
    with pytest.raises(ConfigError, match="compiling.cache_dir.*a directory that can be made"):
        program_cache.use_cache(str(occupied / "inside"))


def test_damaged_entries_are_said_once_and_kept_anew(tmp_path):
    folder = tmp_path / "programs"
    assert compile_with(str(folder), tmp_path, tmp_path) == ""
    whole = entries(folder)
    damages = [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content[:-9] + bytes([content[-9] ^ 64]) + content[-8:],
        lambda content: b"no program at all",
    ]
    names = [name for name in sorted(whole) if name.split("-")[0][4:] in "add times power root"]
    assert len(names) == 4
    for name, damage in zip(names, damages, strict=True):
        (folder / name).write_bytes(damage(whole[name]))
    said = compile_with(str(folder), tmp_path, tmp_path)
    assert said.count("were damaged, 4 of") == said.count("UserWarning") == 1, said
    healed = entries(folder)
    assert healed.keys() == whole.keys()
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*-cache")}
    assert compile_with(str(folder), tmp_path, tmp_path) == ""  # nothing is compiled any more
    assert times == {path: path.stat().st_mtime_ns for path in folder.glob("*-cache")}


def test_an_entry_that_is_whole_but_no_program_goes_by_its_name(tmp_path):
    folder = tmp_path / "programs"
    compile_with(str(folder), tmp_path, tmp_path)
    (entry,) = folder.glob("jit_times-*-cache")
    entry.write_bytes(zlib.compress(b"\0\0\0\0of another time"))
    said = compile_with(str(folder), tmp_path, tmp_path)
    assert said.count("were damaged, 1 of") == 1, said
    assert compile_with(str(folder), tmp_path, tmp_path) == ""


def test_what_can_be_neither_read_nor_removed_is_said_once(tmp_path):
    folder = tmp_path / "programs"
    compile_with(str(folder), tmp_path, tmp_path)
    for entry in folder.glob("*-cache"):
        entry.unlink()
        entry.mkdir()
        (entry / "something").touch()
    said = compile_with(str(folder), tmp_path, tmp_path)
    assert said.count("cannot be read") == said.count("UserWarning") == 1, said


def test_what_keeps_programs_from_being_written_is_said_once(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *rest: shown.append(str(message)))
    before = jax.config.jax_compilation_cache_dir
    program_cache.use_cache(str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", before)
    for program in ("jit_epoch", "jit_evaluate"):
        words = f"Error writing persistent compilation cache entry for '{program}': OSError: [Errno"
        warnings.showwarning(
            UserWarning(f"{words} 28] No space left on device"), UserWarning, "", 1
        )
    warnings.showwarning(UserWarning("something else"), UserWarning, "", 1)
    assert [line.split(" in ")[0] for line in shown] == [
        "compiled programs cannot be kept",
        "something else",
    ]
    assert "No space left on device" in shown[0]
