"""Tasks beside classification, as shipped: their data, their models, and a short run of each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits

import dynhp_jax as dp
from configs import diabetes, digit_scenes, digit_segments, python_topics
from dynhp_jax import data
from dynhp_jax.common.errors import ConfigError, UserError
from dynhp_jax.data import python_topics as topics
from dynhp_jax.data.digits import SEGMENTS
from dynhp_jax.models import registry
from dynhp_jax.tasks.metrics import METRICS
from dynhp_jax.training import build
from dynhp_jax.training import config as configuration
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.run import loop
from dynhp_jax.training.run.trainer import Trainer

CONFIGS = (diabetes, digit_segments, digit_scenes, python_topics)


def rows_of(arrays):
    return {row.tobytes() for row in np.ascontiguousarray(arrays)}


def test_the_table_is_standard_by_what_is_trained_on():
    splits = data.load("diabetes", validation=0.2).splits
    assert sum(len(each) for each in splits.values()) == 442
    train = splits["train"]
    for array in (train.inputs, train.targets):
        np.testing.assert_allclose(array.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(array.std(0), 1, rtol=1e-5)
    assert abs(splits["test"].inputs.mean(0)).max() > 1e-3
    x, y = load_diabetes(return_X_y=True, scaled=False)
    together = np.concatenate([each.inputs for each in splits.values()])
    for mine, theirs in zip(together.T, x.T, strict=True):  # the same numbers on another scale
        line = np.polyfit(np.sort(theirs), np.sort(mine), 1)
        np.testing.assert_allclose(np.polyval(line, np.sort(theirs)), np.sort(mine), atol=1e-4)


def test_segments_are_those_of_a_display():
    splits = data.load("digit_segments").splits
    x, y = load_digits(return_X_y=True)
    lit = {
        image.tobytes(): SEGMENTS[digit] for image, digit in zip(np.float32(x / 16), y, strict=True)
    }
    for image, target in zip(splits["test"].inputs, splits["test"].targets, strict=True):
        np.testing.assert_array_equal(lit[image.tobytes()], target)
    # 1 lights the two on the right, 8 all; no two digits look the same.
    assert SEGMENTS[1].tolist() == [0, 1, 1, 0, 0, 0, 0] and SEGMENTS[8].all()
    assert len(rows_of(SEGMENTS)) == 10


def test_scenes_are_digits_and_no_digit_is_in_two_splits():
    splits = data.load("digit_scenes", validation=0.2).splits
    x, y = load_digits(return_X_y=True)
    known = {image.tobytes(): digit for image, digit in zip(np.float32(x / 16), y, strict=True)}
    seen = {}
    for name, pairs in splits.items():
        tiles = pairs.inputs[..., 0].reshape(-1, 2, 8, 2, 8).swapaxes(2, 3).reshape(-1, 64)
        owners = pairs.targets.reshape(-1, 2, 8, 2, 8).swapaxes(2, 3).reshape(-1, 64)
        seen[name] = rows_of(tiles)
        for tile, owner in zip(tiles[:200], owners[:200], strict=True):
            digit = known[tile.tobytes()]
            np.testing.assert_array_equal(owner, np.where(tile >= 0.5, digit + 1, 0))
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["validation"]


def test_tokens_are_followed_by_their_targets():
    splits = data.load("python_topics", validation=0.1).splits
    letters = [*topics.ALPHABET, "?"]
    for pairs in splits.values():
        np.testing.assert_array_equal(pairs.inputs[:, 1:], pairs.targets[:, :-1])
        np.testing.assert_array_equal(pairs.inputs[1:, 0], pairs.targets[:-1, -1])
    text = "".join(letters[token] for token in splits["test"].inputs[:40].ravel())
    assert "the" in text and "\n" in text
    shares = {name: len(pairs) for name, pairs in splits.items()}
    assert shares["train"] > 4 * shares["test"] > 400


@pytest.mark.parametrize("spec", [
    registry.build("fcn", (6, 5, 2), 3, hidden=(5, 4)),
    registry.build("decoder", (6,), 8, tokens=True, depth=1, width=0.5),
], ids=lambda spec: spec.model)  # fmt: skip
def test_smaller_networks_compute_what_masked_ones_do(spec):
    variables, rng = spec.init(jax.random.key(0)), np.random.default_rng(0)
    x = rng.integers(0, 8, (3, 6)) if spec.reads == "tokens" else rng.normal(size=(3, 6, 5, 2))
    x = jnp.asarray(x, spec.example.dtype)
    groups = dp.find_groups(spec.evaluate, variables, x)
    groups = groups.select([name for name in groups.prunable if groups[name].kind != "input"])
    keeps = {name: np.arange(1, groups[name].size) for name in groups}
    masks = {name: jnp.ones(groups[name].size).at[0].set(0) for name in groups}
    small = dp.cut(variables, groups, keeps)
    found = spec.cut(small["params"], keeps).evaluate(small, x)
    masked = dp.gated(spec.evaluate, groups)(variables, masks, x)
    np.testing.assert_allclose(found, masked, atol=1e-5)
    assert len(groups) > 1 and spec.cut(small["params"], keeps).shapes()["params"].keys()


def test_a_decoder_sees_nothing_of_what_follows():
    spec = registry.build("decoder", (12,), 20, tokens=True, depth=1, width=0.25)
    variables = spec.init(jax.random.key(0))
    tokens = np.random.default_rng(0).integers(0, 20, (2, 12))
    before = spec.evaluate(variables, jnp.asarray(tokens, jnp.int32))
    tokens[:, 7:] = 3
    after = spec.evaluate(variables, jnp.asarray(tokens, jnp.int32))
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert not np.allclose(before[:, 7:], after[:, 7:])


def test_every_pixel_of_a_fully_convolutional_network_is_judged_alike():
    """A scene that is moved moves its outputs, away from the borders."""
    spec = registry.build("fcn", (20, 20, 1), 3, hidden=(4, 4))
    variables = spec.init(jax.random.key(0))
    images = np.zeros((1, 20, 20, 1), np.float32)
    images[0, 6:10, 6:10, 0] = np.random.default_rng(0).uniform(size=(4, 4))
    there, moved = (spec.evaluate(variables, each) for each in (images, np.roll(images, 3, 1)))
    np.testing.assert_allclose(np.roll(there, 3, 1)[:, 6:17], moved[:, 6:17], atol=1e-6)


def test_perplexity_is_that_of_the_positions_that_count():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(4, 7, 5)), rng.integers(-1, 5, (4, 7))
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    taken = np.take_along_axis(chances, np.maximum(targets, 0)[..., None], -1)[..., 0]
    expected = np.exp(-np.log(taken[targets >= 0]).mean())
    metric = METRICS["perplexity"]
    sums = metric.sums(jnp.asarray(logits, jnp.float32), jnp.asarray(targets), None)
    assert metric.result(sums, 4) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("module", CONFIGS, ids=lambda module: module.__name__.split(".")[-1])
def test_a_short_run_of_each(module):
    asked = configuration.from_config_dict(module.get_config())
    decoder = asked.model.name == "decoder"
    model = {"depth": 1, "width": 0.25} if decoder else {"hidden": (12,)}
    asked = dataclasses.replace(
        asked,
        epochs=2,
        data=dataclasses.replace(asked.data, examples=80),
        model=dataclasses.replace(asked.model, **model),
        batch=dataclasses.replace(asked.batch, size=16),
    )
    trainer = Trainer(asked, build.dataset_of(asked), Programs())
    run, records = trainer.start(), []
    for _ in range(2):
        run, record = loop.advance(trainer, run)
        records.append(record)
    task = trainer.whole.task
    names = {f"{split}_{name}" for split in ("test", "validation") for name in task.metrics}
    assert names <= records[-1].keys() and run.network.groups
    assert records[1][task.called] < records[0][task.called]
    assert all(record["grad_variance"] > 0 for record in records)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"model": "decoder"}, "'decoder' was given examples of real numbers of shape"),
        (
            {"model": "lenet"},
            r"'lenet' was given examples of real numbers of shape \(10,\)",
        ),
        ({"data": "python_topics"}, "'mlp' was given examples of whole numbers of shape"),
        ({"loss": "cross_entropy"}, "the outputs are float32"),
        ({"data": "digit_scenes", "model": "fcn"}, "the outputs are float32.*, the targets int32"),
    ],
)
def test_what_does_not_go_together_is_one_line(changes, words):
    given = {"data": "diabetes", "model": "mlp", "loss": "mean_squared_error"} | changes
    asked = configuration.Config(
        data=configuration.Data(name=given["data"]),
        model=configuration.Model(name=given["model"]),
        loss=configuration.Loss(name=given["loss"]),
    )
    with pytest.raises(UserError, match=words):
        Trainer(asked, build.dataset_of(asked), Programs())


def test_programs_of_classes_say_so():
    asked = configuration.Config(data=configuration.Data(name="diabetes"))
    with pytest.raises(ConfigError, match="data.name is 'diabetes'; .* images and their classes"):
        build.classes_of(asked)
