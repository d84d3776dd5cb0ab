"""Which node has which examples, and what goes wrong with them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynhp_jax import UserError
from dynhp_jax.decentralised import centralities, graphs, placement, scenarios

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 300))
BA = graphs.barabasi_albert(20, 2, seed=0)
EVERY = {
    "evenly": lambda seed: placement.evenly(len(LABELS), 20, seed),
    "iid": lambda seed: placement.iid(LABELS, 20, seed),
    "zipf": lambda seed: placement.zipf(LABELS, 20, seed),
    "dirichlet": lambda seed: placement.dirichlet(LABELS, 20, seed, 0.3),
    "by_classes": lambda seed: placement.by_classes(
        LABELS, placement.some_classes(20, 10, 3, seed), seed
    ),
    "by_centrality": lambda seed: placement.by_centrality(LABELS, BA, seed, range(5), 4),
}


def counts(parts):
    return np.array([[np.sum(LABELS[part] == label) for label in range(10)] for part in parts])


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_no_example_is_twice_and_a_seed_says_which(name, seed):
    parts = EVERY[name](seed)
    everything = np.concatenate(parts)
    assert len(parts) == 20 and len(set(everything.tolist())) == len(everything)
    assert all((np.diff(part) > 0).all() and part.size for part in parts)
    again, other = EVERY[name](seed), EVERY[name](seed + 1)
    assert all(map(np.array_equal, parts, again))
    assert not all(map(np.array_equal, parts, other))
    assert (placement.sizes_of(parts) == [part.size for part in parts]).all()


def test_even_placements_are_even():
    assert (counts(EVERY["iid"](0)) == 15).all()
    assert (counts(placement.iid(LABELS, 20, 0, each=87)) == 8).all()
    assert sorted(placement.sizes_of(placement.evenly(103, 4, 0))) == [25, 26, 26, 26]


def test_zipfs_sizes_are_the_same_draw_rolled_for_each_class():
    for seed in range(5):
        found = counts(EVERY["zipf"](seed))
        assert all((found[:, label] == np.roll(found[:, 0], label)).all() for label in range(10))
        assert found.min() >= 1 and 250 < found[:, 0].sum() <= 300
        assert found.max() > 3 * np.median(found)


def test_dirichlet_places_all_examples_and_alpha_says_how_unequal():
    some = [counts(placement.dirichlet(LABELS, 20, 0, alpha)) for alpha in (0.1, 1.0, 1e4)]
    assert all(each.sum() == 3000 for each in some)
    spread = [each.std() for each in some]
    assert spread[0] > 2 * spread[1] > 4 * spread[2] and (np.abs(some[2] - 15) <= 2).all()


def test_classes_go_where_they_are_asked_for():
    wanted = placement.some_classes(20, 10, 3, seed=1)
    found = counts(placement.by_classes(LABELS, wanted, seed=0))
    assert [set(np.flatnonzero(each)) for each in found] == [set(each) for each in wanted]
    often = np.bincount(np.concatenate(wanted))
    assert often.sum() == 60 and set(often) == {6}
    for by, lowest in (("degree", False), ("betweenness", True)):
        chosen = centralities.central(BA, 4, by, lowest)
        found = counts(placement.by_centrality(LABELS, BA, 0, range(5), 4, by, lowest)) > 0
        assert found[:, 5:].all() and sorted(np.flatnonzero(found[:, 0])) == sorted(chosen)


def test_who_is_there_when():
    there = scenarios.everybody(6, 4)
    there = scenarios.leave(there, [1], at=2, until=4)
    there = scenarios.lose_data(there, [0, 3], at=5)
    there = scenarios.isolate(there, [2], at=0, until=1)
    alive = np.ones((6, 4), bool)
    alive[2:4, 1] = alive[0, 2] = False
    trains = np.ones((6, 4), bool)
    trains[2:4, 1] = trains[5, [0, 3]] = False
    assert (there.alive == alive).all() and (there.trains == trains).all()


def test_bad_data_are_as_many_as_asked_for_and_where():
    parts = EVERY["iid"](0)
    spread = scenarios.drawn_examples(parts, range(7), 100, seed=0)
    on = [np.isin(spread, part).sum() for part in parts]
    assert sorted(on[:7]) == [14] * 5 + [15] * 2 and not any(on[7:])
    single = scenarios.drawn_examples(parts, [3], 100, seed=0)
    assert np.isin(single, parts[3]).all() and len(set(single)) == 100
    labels = scenarios.corrupted_labels(LABELS, spread, seed=1)
    assert (np.flatnonzero(labels != LABELS) == spread).all() and labels.max() < 10
    images = np.random.default_rng(1).random((3000, 4, 4)).astype("f4")
    noisy = scenarios.corrupted_pixels(images, spread, seed=1)
    changed = (noisy != images).reshape(3000, -1)
    assert changed[spread].all() and changed.sum() == 1600 and noisy.dtype == images.dtype


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: placement.evenly(3, 4, 0), "there are 3 examples for nodes that need 4"),
        (lambda: placement.iid(LABELS, 400, 0), "300 examples of class 0 for nodes that need 400"),
        (lambda: placement.iid(LABELS, 9, 0, each=7), "each is 7; allowed: 10 or more"),
        (lambda: placement.iid(LABELS * 0.5, 9, 0), "labels are float64[3000]"),
        (lambda: placement.zipf(LABELS, 301, 0), "300 examples of the smallest class"),
        (lambda: placement.zipf(LABELS, 9, 0, 1), "exponent is 1"),
        (lambda: placement.zipf(LABELS, 280, 0), "draws of 280 sizes"),
        (lambda: placement.dirichlet(LABELS, 9, 0, 0), "alpha is 0"),
        (lambda: placement.dirichlet(LABELS, 90, 0, 0.01), "less than 1 examples"),
        (lambda: placement.by_classes(LABELS, [[0], [11]], 0), "class 11 has no example"),
        (lambda: placement.some_classes(4, 10, 11, 0), "11 classes; allowed: 1 to 10"),
        (lambda: scenarios.leave(scenarios.everybody(3, 2), [2], 0), "nodes are [2]"),
        (lambda: scenarios.leave(scenarios.everybody(3, 2), [0], 4), "rounds from 0 to 3"),
        (lambda: scenarios.drawn_examples([np.arange(3)], [0], 4, 0), "node 0 has 3 examples"),
        (lambda: scenarios.drawn_examples([np.arange(3)], [], 4, 0), "4 examples of 0 nodes"),
    ],
)
def test_what_cannot_be_placed_is_one_line(make, said):
    with pytest.raises(UserError) as error:
        make()
    assert said in str(error.value) and "\n" not in str(error.value)
