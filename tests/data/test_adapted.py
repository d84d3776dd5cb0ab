"""Some of the classes, images of another size: against NumPy, and what is refused."""

import dataclasses

import numpy as np
import pytest

from dynhp_jax import data
from dynhp_jax.common.errors import ArgumentError, ConfigError
from dynhp_jax.data import adapted
from dynhp_jax.training import build
from dynhp_jax.training.config import Config


def test_some_classes_are_numbered_anew():
    whole = data.load("digits", validation=0.2)
    found = adapted.of_classes(whole, (7, 2))
    for split in ("train", "validation", "test"):
        images, labels = (getattr(whole, f"{part}_{split}") for part in "xy")
        kept = np.isin(labels, (7, 2))
        np.testing.assert_array_equal(getattr(found, f"x_{split}"), images[kept])
        np.testing.assert_array_equal(getattr(found, f"y_{split}"), labels[kept] == 2)
    assert found.num_classes == 2


def test_images_are_brought_to_a_size():
    whole = data.load("digits")
    found = adapted.in_size(whole, 16, 3)
    assert found.example_shape == (16, 16, 3)
    image, first = found.x_test[0], whole.x_test[0, ..., 0]
    np.testing.assert_array_equal(image[..., 0], image[..., 2])
    at = (np.arange(16) + 0.5) / 2 - 0.5  # the middle of a pixel, in pixels of the smaller image
    rows = np.array([np.interp(at, np.arange(8), column) for column in first.T])
    wanted = np.array([np.interp(at, np.arange(8), row) for row in rows.T])
    np.testing.assert_allclose(image[..., 0], wanted, atol=1e-6)
    same = adapted.in_size(whole, 0, 3)
    np.testing.assert_array_equal(same.x_train, np.repeat(whole.x_train, 3, -1))


def test_the_first_examples_are_counted_among_the_classes():
    config = Config(data=dataclasses.replace(Config().data, classes=(0, 1), examples=100, size=4))
    found = build.dataset_of(config)
    assert found.x_train.shape == (100, 4, 4, 1) and set(found.y_train) == {0, 1}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"classes": (0, 10)}, "data.classes"),
        ({"classes": (3,)}, "data.classes"),
        ({"classes": (3, 3)}, "data.classes"),
        ({"channels": 2, "name": "cifar10"}, "data.channels"),
        ({"name": "diabetes", "size": 4}, "data.size"),
    ],
)
def test_what_cannot_be_is_refused(change, field):
    change = {"name": "digits"} | change
    if change["name"] == "cifar10":  # images of three channels, without the files
        whole = adapted.in_size(data.load("digits"), 0, 3)
        with pytest.raises(ArgumentError, match="^channels is 2; allowed: 0 or 3"):
            adapted.in_size(whole, 0, 2)
        return
    config = Config(data=dataclasses.replace(Config().data, **change))
    with pytest.raises(ConfigError, match=f"^config.{field} is"):
        build.dataset_of(config)
