"""The persistent cache of compiled programs."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
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


def test_where_an_array_is_makes_no_other_program():
    """A restored array is bound to its device, and a cached program must serve it, too."""
    new = {"x": jnp.arange(3.0), "key": jax.random.key(0), "weak": jnp.asarray(2.0)}
    bound = jax.device_put(new, jax.devices()[0])
    lowered = []

    class Noted:
        def __init__(self, function):
            self.function = jax.jit(function)

        def lower(self, *arguments):
            lowered.append(self.function.lower(*arguments))
            return lowered[-1]

    results = []
    for tree in (new, bound):
        program = compiling.Programs().get(
            "sum", (), lambda: Noted(lambda t: t["x"] * t["weak"] + jax.random.uniform(t["key"])),
            tree,
        )  # fmt: skip
        results += [program(new), program(bound)]
    assert lowered[0].as_text() == lowered[1].as_text()
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
