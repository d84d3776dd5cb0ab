"""Training images that are moved and mirrored, also where pixels have been pruned."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynhp_jax import data
from dynhp_jax.common.errors import ConfigError
from dynhp_jax.training import config
from dynhp_jax.training.compiled import programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.run import examples, loop
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step import augmentation
from dynhp_jax.training.step.objective import Examples

DIGITS = data.load("digits", validation=0.1)
FEW = dataclasses.replace(DIGITS, x_train=DIGITS.x_train[:200], y_train=DIGITS.y_train[:200])

LARGE = dataclasses.replace(  # every pixel four times, for a network of convolutions
    FEW,
    **{name: getattr(FEW, name).repeat(2, 1).repeat(2, 2)
       for name in ("x_train", "x_validation", "x_test")},
)  # fmt: skip


def make(**changes) -> Config:
    base = Config(
        epochs=4,
        method="hp",
        model=config.Model(hidden=(24, 12)),
        data=config.Data(shift=0.6),
        penalty=config.Penalty(lam=1.0),
        optimizer=config.Optimizer(learning_rate=2e-2),
        batch=config.Batch(size=16),
        memory=config.Memory(budget="none"),
        compiling=config.Compiling(shrink=0.3, ahead=False),
    )
    return dataclasses.replace(base, **changes)


def start(asked, dataset=FEW):
    trainer = Trainer(asked, dataset, programs.Programs())
    return trainer, trainer.start()


def trained(asked, epochs, dataset=FEW):
    trainer, run = start(asked, dataset)
    for _ in range(epochs):
        run, record = loop.advance(trainer, run)
    return trainer, run, record


def seen(images, keeps=None, key=0, rows=None, first=0, **changes):
    """What training sees of images of [height, width, ...], flat where `keeps` says which."""
    shape = images.shape[1:]
    view = augmentation.make_view(shape, config.Data(**changes))
    places = np.arange(np.prod(shape)).reshape(shape)
    if keeps is not None:
        places = places.reshape(-1)[keeps]
    rows = jnp.arange(len(images)) if rows is None else jnp.asarray(rows)
    return np.asarray(view(jnp.asarray(images), rows, places, jax.random.key(key), first))


def moved(image, down, right, mirrored):
    """By NumPy's padding and slices."""
    if mirrored:
        image = image[:, ::-1]
    height, width = image.shape[:2]
    space = max(abs(down), abs(right))
    padded = np.pad(image, [(space, space)] * 2 + [(0, 0)] * (image.ndim - 2))
    top, left = space - down, space - right
    return padded[top : top + height, left : left + width]


@pytest.mark.parametrize(
    ("shift", "flip", "shape"),
    [(0.6, False, (9, 8)), (0.4, True, (7, 6, 2)), (0.0, True, (5, 4, 1)), (1.5, False, (21, 21))],
)
def test_images_are_moved_as_a_whole_by_rounded_normal_numbers(shift, flip, shape):
    rng = np.random.default_rng(0)
    images = rng.uniform(1, 2, (3, *shape)).astype(np.float32)
    count, most = 1500, math.ceil(5 * shift)
    rows = rng.integers(0, 3, count)
    found = seen(images, rows=rows, shift=shift, flip=flip)
    span = range(-most, most + 1)
    ways = list(itertools.product(span, span, (False, True) if flip else (False,)))
    expected = np.stack([[moved(image, *way) for way in ways] for image in images])
    same = np.array([(one == expected[row]).all(tuple(range(1, 1 + len(shape))))
                     for one, row in zip(found, rows, strict=True)])  # fmt: skip
    assert (same.sum(1) == 1).all(), "an image that is none of those"
    for axis in range(2):  # how often it is moved by so many pixels
        for move in range(-2, 3):
            there = [way[axis] == move for way in ways]
            share = between(move - 0.5, move + 0.5, shift)
            wrong = same[:, there].sum() - count * share
            assert abs(wrong) < 4 * math.sqrt(count * share * (1 - share)) + 1e-3, (axis, move)
    mirrored = same[:, [way[2] for way in ways]].sum()
    assert abs(mirrored - count / 2) < 4 * math.sqrt(count) / 2 if flip else mirrored == 0
    another = seen(images, rows=rows, shift=shift, flip=flip, key=1)
    assert (found != another).any()


def between(low, high, deviation):
    """The share of normal numbers of that standard deviation."""
    if not deviation:
        return float(low < 0 < high)
    return (
        math.erf(high / deviation / math.sqrt(2)) - math.erf(low / deviation / math.sqrt(2))
    ) / 2


@pytest.mark.parametrize(("kept", "first"), [((3,), 0), ((0, 1, 7, 12, 19), 4), (range(20), 2)])
def test_pruned_pixels_and_parts_of_a_mini_batch_change_nothing(kept, first):
    images = np.random.default_rng(1).uniform(1, 2, (9, 4, 5)).astype(np.float32)
    keeps = np.array(kept)
    whole = seen(images, shift=1, flip=True)
    cut = seen(images, keeps, shift=1, flip=True)
    np.testing.assert_array_equal(cut, whole.reshape(9, -1)[:, keeps])
    part = seen(images, keeps, rows=np.arange(first, 9), first=first, shift=1, flip=True)
    np.testing.assert_array_equal(part, cut[first:])


@pytest.mark.parametrize("model", ["mlp", "lenet"])
def test_places_are_those_of_the_inputs_that_are_left(model):
    large = FEW if model == "mlp" else LARGE
    trainer, run = start(make(model=config.Model(name=model)), large)
    shape = trainer.whole.model.input_shape
    assert augmentation.input_places(trainer.whole, run.keeps).shape == shape
    keeps = dict(run.keeps)
    if model == "mlp":
        keeps["input"] = np.array([3, 17, 63])
        assert augmentation.input_places(trainer.whole, keeps).tolist() == [3, 17, 63]
    cut = examples.cut(trainer.config, large.splits, trainer.whole, keeps, trainer.place)
    assert cut["train"].inputs.shape == (200, *shape)
    assert cut["test"].inputs.shape[1:] == ((3,) if model == "mlp" else shape)


def test_a_teacher_sees_the_same_view_without_noise():
    trainer, run = start(make())
    view = augmentation.make_view((8, 8, 1), trainer.config.data)
    key, places = jax.random.key(2), run.given.places
    batch = Examples(
        *(run.splits["train"].inputs, run.splits["train"].targets, jnp.arange(6)),
        view=lambda images, rows, first: view(images, rows, places, key, first),
        perturb=lambda images, first: images + 1,
    )
    clean = np.asarray(batch.clean())
    np.testing.assert_array_equal(batch.gathered()[0], clean + 1)
    assert (clean != np.asarray(run.splits["train"].inputs[:6])).any()
    parts = [np.asarray(batch.part(k, 2).clean()) for k in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), clean)


def test_where_the_images_are_kept_changes_nothing():
    found = []
    for resident in ("2GiB", "20KiB"):
        moving = config.Data(shift=0.6, flip=True, noise=0.1, resident=resident)
        _, run, _ = trained(make(data=moving), 1)
        assert isinstance(run.splits["train"].inputs, np.ndarray) == (resident == "20KiB")
        found.append([np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(run.state)])
    assert found[0] == found[1]


def test_scores_are_taken_of_images_as_they_are():
    """Of the training set where nothing is held out: whole there, and cut in evaluation."""
    asked = config.ScoreOptions(criterion="taylor", fraction=0.4)
    everything = dataclasses.replace(
        FEW, x_validation=FEW.x_validation[:0], y_validation=FEW.y_validation[:0]
    )
    _, run, record = trained(make(method="scores", scores=asked), 4, everything)
    assert run.network.model.input_shape[0] < 64, "no pixel was cut; test more"
    assert np.isfinite(record["train_loss"])


def test_what_cannot_be_moved_is_refused_before_work_starts():
    flat = dataclasses.replace(
        FEW, **{name: getattr(FEW, name).reshape(-1, 64) for name in ("x_train", "x_test")},
        x_validation=FEW.x_validation.reshape(-1, 64),
    )  # fmt: skip
    for changes, field in (({"shift": 2}, "data.shift"), ({"flip": True}, "data.flip")):
        with pytest.raises(ConfigError, match=f"{field}.*not images.*height, width"):
            start(make(data=config.Data(**changes)), flat)
    with pytest.raises(ConfigError, match="data.shift is 8.*less than the 8 pixels"):
        start(make(data=config.Data(shift=8)))
    with pytest.raises(ConfigError, match="data.shift"):
        config.Data(shift=-1)
