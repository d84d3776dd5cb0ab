"""The persistent cache of compiled programs."""

import subprocess
import sys
from pathlib import Path

import pytest

from dynhp_jax import compiling
from dynhp_jax.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import sys, jax
from dynhp_jax import compiling
compiling.use_cache(sys.argv[1])
print(jax.jit(lambda x: x + 41)(1))
"""


def compile_with(asked, cache, home):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, asked],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={"PATH": "", "JAX_PLATFORMS": "cpu", "HOME": str(home), "DYNHP_CACHE": str(cache)},
    )  # fmt: skip
    assert done.stdout == "42\n", done.stderr
    return done.stderr


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
        compiling.use_cache(str(occupied / "inside"))
