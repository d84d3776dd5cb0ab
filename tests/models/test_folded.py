"""The networks with BatchNorm folded in: their sizes, and the pretrained weights where they are."""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from dynhp_jax.common.errors import UserError
from dynhp_jax.models import folded

WEIGHTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "weights"
COUNTS = {"mbv2-w0.35": (350_688, 51), "mcunet-5fps": (623_216, 42)}


@pytest.mark.parametrize("name", folded.NETWORKS)
def test_sizes(name):
    net = folded.NETWORKS[name]
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    kernels = [leaf for leaf in jax.tree.leaves(shapes) if len(leaf.shape) > 1]
    assert (sum(leaf.size for leaf in kernels), len(net.layers)) == COUNTS[name]
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), "f4")
    assert jax.eval_shape(net.apply, shapes, images).shape == (2, 1000)


@pytest.mark.parametrize("name", folded.NETWORKS)
def test_pretrained_weights(name):
    path = WEIGHTS / f"{name}.npz"
    if not path.exists():
        pytest.skip("needs the pretrained weights beside the project")
    net, variables = folded.load(path)
    assert net == folded.NETWORKS[name]
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, shapes)
    assert max(abs(leaf).max() for leaf in jax.tree.leaves(variables)) < 17
    with np.load(path, allow_pickle=False) as archive:
        layers = json.loads(str(archive["description"]))["layers"]
    described = [
        (x["name"], x["in_channels"], x["out_channels"], x["kernel"], x["stride"], x["groups"])
        for x in layers[:-1]
    ]
    assert described == [layer[:-1] for layer in net.layers]
    assert [layer["relu6"] for layer in layers[:-1]] == [layer.relu6 for layer in net.layers]
    small, new = folded.load(path, num_classes=10)
    assert (small.num_classes, new["params"]["classifier"]["kernel"].shape[1]) == (10, 10)


def test_what_is_no_archive(tmp_path):
    other = tmp_path / "other.npz"
    np.savez(other, a=np.ones(2))
    (tmp_path / "text.npz").write_text(hashlib.md5(b"").hexdigest())
    for path, why in (
        (tmp_path / "none.npz", "there is no file"),
        (other, "is no archive of a folded network"),
        (tmp_path / "text.npz", "is no archive of a folded network"),
    ):
        with pytest.raises(UserError, match=why):
            folded.load(path)
