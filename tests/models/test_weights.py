"""Weights in a file: folded BatchNorm, a new head, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_folded import WEIGHTS

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.tree_paths import leaf_paths
from dynhp_jax.models import registry, weights
from dynhp_jax.models.folded import MOBILENETV2, MobileNetV2
from dynhp_jax.models.mlp import MLPSpec
from dynhp_jax.models.resnet import FoldedResNetSpec, ResNetSpec
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut

# Small arrays: what takes time is compiling.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SIZES = ((3, 4, 4), ((5, 2), (6, 3), (4,)), 3, (8, 6, 2))


def random_variables(spec):
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("var", "scale"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype("f4")
        return rng.normal(size=leaf.shape).astype("f4") / 3

    return jax.tree_util.tree_map_with_path(draw, spec.shapes())


def by_path(variables):
    return dict(zip(leaf_paths(variables), jax.tree.leaves(variables), strict=True))


def test_a_folded_network_computes_the_same(tmp_path):
    spec, folded = ResNetSpec(*SIZES), FoldedResNetSpec(*SIZES)
    variables, x = random_variables(spec), np.random.default_rng(1).normal(size=(4, 8, 6, 2))
    weights.write(tmp_path / "w.npz", variables)
    leaves = weights.read(tmp_path / "w.npz")
    assert leaves.keys() == by_path(variables).keys()
    given = weights.starting(folded, leaves, 0, "w.npz")
    head = {"output": variables["params"]["output"]}  # the new one is another
    given = {"params": given["params"] | head}
    x = jnp.asarray(x, "f4")
    wanted = jit(spec.evaluate)(variables, x)
    np.testing.assert_allclose(jit(folded.evaluate)(given, x), wanted, atol=1e-4)
    assert jax.eval_shape(folded.train, given, x)[1] == {}


def test_the_head_is_new_and_all_else_is_the_file_s():
    before, after = MLPSpec((6, 4, 3)), MLPSpec((6, 4, 9))
    leaves = by_path(random_variables(before))
    given = by_path(weights.starting(after, leaves, 3, "w.npz"))
    drawn = by_path(jax.jit(after.init)(jax.random.key(3)))
    for path, leaf in given.items():
        source = drawn if path.startswith("params/output") else leaves
        np.testing.assert_array_equal(leaf, source[path])


@pytest.mark.parametrize(
    ("spec", "change", "why"),
    [
        (MLPSpec((6, 5, 3)), {}, "shape .* model 'mlp' of .* config.model.name"),
        (MLPSpec((6, 4, 4, 3)), {}, "has no 'params/hidden_2/bias'"),
        (MLPSpec((6, 4, 3)), {"params/other/kernel": np.ones(2)}, "which model 'mlp' has not"),
    ],
)
def test_weights_of_another_network_are_refused(spec, change, why):
    leaves = by_path(random_variables(MLPSpec((6, 4, 3)))) | change
    with pytest.raises(UserError, match=why):
        weights.starting(spec, leaves, 0, "'w.npz'")


def test_files_that_are_no_weights_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.ones(2))
    np.savez(tmp_path / "pickle.npz", **{"params/a": np.array([{}], object)})
    (tmp_path / "text.npz").write_text("no")
    for name, why in (
        ("none.npz", "there is no file .*none.npz'; set config.start.weights to"),
        ("other.npz", "has 'a'; allowed: arrays of floats"),
        ("pickle.npz", "is no archive of weights"),
        ("text.npz", "is no archive of weights"),
    ):
        with pytest.raises(UserError, match=why):
            weights.read(tmp_path / name)


def test_a_batch_norm_behind_nothing_is_refused():
    leaves = {f"batch_stats/lonely_bn/{part}": np.ones(2) for part in ("mean", "var")}
    with pytest.raises(UserError, match="follows no convolution 'lonely'"):
        weights.folded(leaves)


def test_pretrained_weights_are_a_model_s_by_name():
    path = WEIGHTS / "mbv2-w0.35.npz"
    if not path.exists():
        pytest.skip("needs the pretrained weights beside the project")
    spec = registry.build("mbv2-w0.35", (32, 32, 3), 10)
    given = weights.starting(spec, weights.read(path), 0, str(path))
    spec.check(given)
    assert not np.any(given["params"]["classifier"]["kernel"])
    assert np.any(given["params"]["first"]["kernel"])


def test_a_folded_network_is_cut_like_any_other():
    spec = MobileNetV2(MOBILENETV2.blocks[:3], num_classes=5, input_shape=(16, 16, 3))
    assert registry.from_dict(spec.to_dict()) == spec
    variables = random_variables(spec)
    x = np.random.default_rng(1).uniform(size=(2, 16, 16, 3)).astype("f4")
    groups = find_groups(spec.evaluate, variables, x)
    name = next(name for name in groups.prunable if groups[name].size == 48)
    smaller = cut(variables, groups, {name: np.arange(0, 48, 2)})
    found = spec.resized(smaller["params"])
    assert sorted(block.inner for block in found.blocks) == [16, 24, 48]
    assert jax.eval_shape(found.evaluate, smaller, x).shape == (2, 5)
    with pytest.raises(UserError, match="a list of inner, kernel"):
        registry.from_dict({**spec.to_dict(), "blocks": [[1, 2]]})
