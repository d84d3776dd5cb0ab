import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dynhp_jax.common.errors import UserError
from dynhp_jax.training.run import checkpoint


class State(NamedTuple):
    step: jax.Array
    params: dict
    opt_state: tuple


TX = optax.chain(optax.clip(1.0), optax.adam(1e-3))


def state_of(width: int, step: int) -> State:
    params = {
        "hidden": {"kernel": jnp.arange(3.0 * width).reshape(3, width) + step},
        "bits": jnp.asarray(np.random.default_rng(step).normal(size=width), jnp.float32),
    }
    opt_state = TX.init(params)
    _, opt_state = TX.update(params, opt_state, params)
    return State(jnp.int32(step), params, opt_state)


def shapes(host) -> State:
    return jax.eval_shape(lambda: state_of(host["width"], 0))


def save(directory, epoch, width, keep=3):
    return checkpoint.save(
        directory, epoch, state_of(width, epoch), {"width": width, "third": 1 / 3}, keep
    )


def same(left, right) -> None:
    chex.assert_trees_all_equal(left, right, strict=True)


def test_what_was_saved_comes_back_bit_for_bit_though_shapes_changed_in_between(tmp_path):
    for epoch, width in ((1, 8), (2, 5), (3, 2)):
        save(tmp_path, epoch, width)
    found = checkpoint.restore(tmp_path, shapes)
    assert found.epoch == 3
    assert found.host == {"width": 2, "third": 1 / 3}
    same(found.state, state_of(2, 3))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found.state))


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.restore(tmp_path, shapes) is None
    assert checkpoint.restore(tmp_path / "nowhere", shapes) is None


def test_only_the_newest_stay(tmp_path):
    for epoch in range(1, 6):
        save(tmp_path, epoch, 4, keep=2)
    assert checkpoint.epochs(tmp_path) == [4, 5]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000004", "000005"]


def damage_cut(path):
    files = [p for p in (path / "state").rglob("*") if p.is_file() and p.stat().st_size > 8]
    largest = max(files, key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)


def damage_flip(path):
    files = [p for p in (path / "state").rglob("*") if p.is_file() and p.stat().st_size > 8]
    largest = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def damage_host(path):
    (path / "host.json").write_text('{"width": 4, "third": 0.25}')


def damage_lost_file(path):
    (path / "host.json").unlink()


def damage_manifest(path):
    os.truncate(path / "manifest.json", 10)


def damage_manifest_without_files(path):
    (path / "manifest.json").write_text("{}")


def damage_manifest_of_nothing(path):
    (path / "manifest.json").write_text("null")


def damage_no_manifest(path):
    (path / "manifest.json").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        damage_cut,
        damage_flip,
        damage_host,
        damage_lost_file,
        damage_manifest,
        damage_manifest_without_files,
        damage_manifest_of_nothing,
        damage_no_manifest,
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, damage):
    save(tmp_path, 1, 4)
    damage(save(tmp_path, 2, 4))
    warnings = []
    found = checkpoint.restore(tmp_path, shapes, warnings.append)
    assert found.epoch == 1
    same(found.state, state_of(4, 1))
    (warning,) = warnings
    assert "000002" in warning and "damaged" in warning
    # ... and its epoch can be written again.
    save(tmp_path, 2, 4)
    assert checkpoint.restore(tmp_path, shapes).epoch == 2


def test_none_left_is_a_clear_error(tmp_path):
    for epoch in (1, 2):
        damage_flip(save(tmp_path, epoch, 4))
    with pytest.raises(UserError, match="none of the 2 checkpoints") as caught:
        checkpoint.restore(tmp_path, shapes)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda s: s._replace(step=jnp.float32(0)),
            r"int32\[\] as 'step', this run needs float32\[",
        ),
        (
            lambda s: s._replace(params={**s.params, "bits": jnp.zeros(5)}),
            r"float32\[4\] as 'params/bits', this run needs float32\[5\]",
        ),
        (lambda s: s._replace(opt_state=()), r"'opt_state/1/0/count', this run needs nothing"),
        (
            lambda s: s._replace(params={**s.params, "more": jnp.zeros(2)}),
            r"nothing as 'params/more', this run needs float32\[2\]",
        ),
    ],
)
def test_arrays_of_another_state_are_refused_in_a_line_and_never_converted(tmp_path, change, said):
    save(tmp_path, 1, 4)
    with pytest.raises(UserError, match=said) as caught:
        checkpoint.restore(tmp_path, lambda host: jax.eval_shape(lambda: change(state_of(4, 0))))
    assert "000001" in str(caught.value) and "\n" not in str(caught.value)


def test_a_full_disk_leaves_what_was_there(tmp_path):
    """A limit on the size of files makes writes fail half-way, as a full disk does."""
    save(tmp_path, 1, 4)
    wide = jnp.asarray(np.random.default_rng(0).normal(size=(300, 300)), jnp.float32)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint.save(tmp_path, 2, {"wide": wide}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [p.name for p in tmp_path.iterdir()] == ["000001"]
    same(checkpoint.restore(tmp_path, shapes).state, state_of(4, 1))


def test_kills_at_random_moments_leave_only_whole_checkpoints(tmp_path):
    program = textwrap.dedent(
        f"""
        import sys, jax.numpy as jnp
        sys.path.insert(0, {str(os.getcwd())!r})
        from dynhp_jax.training.run import checkpoint
        for epoch in range(1, 10_000):
            state = {{"x": jnp.full(50_000, epoch)}}
            checkpoint.save({str(tmp_path)!r}, epoch, state, {{"e": epoch}}, 2)
            print(epoch, flush=True)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    for delay in (0.0, 0.013, 0.031, 0.055):
        written = int(process.stdout.readline())
        time.sleep(delay)
        process.send_signal(signal.SIGSTOP)  # a frozen writer is what a killed one leaves behind
        newest = checkpoint.epochs(tmp_path)[-1]
        found = checkpoint.restore(
            tmp_path,
            lambda host: {"x": jax.ShapeDtypeStruct((50_000,), jnp.int32)},
            lambda message: pytest.fail(message),
        )
        assert found.epoch == newest >= written
        assert found.host["e"] == found.epoch
        assert (np.asarray(found.state["x"]) == found.epoch).all()
        process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()
    checkpoint.sweep(tmp_path)
    assert all(p.name.isdigit() for p in tmp_path.iterdir())


def test_the_manifest_covers_every_file(tmp_path):
    path = save(tmp_path, 1, 4)
    manifest = json.loads((path / "manifest.json").read_text())
    present = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    assert set(manifest) == present - {"manifest.json"}
