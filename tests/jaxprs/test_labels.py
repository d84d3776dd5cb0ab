"""Labels: what survives, after any sequence of unions, splits, slices and joins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynhp_jax.jaxprs.labels import Labels, axis_size
from dynhp_jax.jaxprs.rules import shapes
from dynhp_jax.jaxprs.values import Walk


def survivors(labels, axis, dead):
    return labels.alive(axis, labels.dead_mask(np.asarray(dead, int)))


def leaves(labels, *axes):
    return np.unique(np.concatenate([labels.leaves(digit) for axis in axes for digit in axis]))


def test_a_union_is_an_equivalence():
    labels = Labels()
    a, b, c = (labels.fresh(4) for _ in range(3))
    labels.union(a, b)
    labels.union(b, c[::-1])
    assert labels.find(a).tolist() == labels.find(c[::-1]).tolist()
    assert survivors(labels, (c,), labels.find(a[:1])).tolist() == [True, True, True, False]


def test_long_chains_of_unions():
    labels = Labels()
    a = labels.fresh(5000)
    labels.union(a[:-1], a[1:])
    assert np.unique(labels.find(a)).size == 1
    b = labels.fresh(5000)
    labels.union(b, np.zeros(5000, int) + a[0])
    assert np.unique(labels.find(b)).size == 1


def test_a_split_holds_wherever_the_atoms_occur():
    labels = Labels()
    whole = labels.fresh(6)
    part = whole[3:]
    slow, fast = labels.split(whole, 2, 3)
    assert [d.tolist() for d in labels.resolve((part,))] == [slow[1:].tolist(), fast.tolist()]
    assert survivors(labels, (part,), slow[:1]).all()
    assert not survivors(labels, (part,), slow[1:]).any()
    assert survivors(labels, (whole[::-1],), fast[:1]).tolist() == [True, True, False] * 2


def test_splitting_again_refines():
    labels = Labels()
    whole = labels.fresh(12)
    slow, fast = labels.split(whole, 3, 4)
    a, b = labels.split(fast, 2, 2)
    assert [d.size for d in labels.resolve((whole,))] == [3, 2, 2]
    expected = np.ones((3, 2, 2), bool)
    expected[:, 1] = False
    expected[0] = False
    assert survivors(labels, (whole,), [*a[1:], *slow[:1]]).tolist() == expected.ravel().tolist()
    assert survivors(labels, (whole,), b).tolist() == [False] * 12


def test_sizes_that_have_no_common_factor_stay_whole():
    labels = Labels()
    one, two = (labels.fresh(4), labels.fresh(9)), (labels.fresh(9), labels.fresh(4))
    labels.unify(one, two, "they differ")
    assert set(labels.pinned().values()) == {"they differ"}
    assert set(leaves(labels, one, two).tolist()) <= set(labels.pinned())


def test_of_sizes_that_differ_the_common_end_is_free():
    labels = Labels()
    one, two = (labels.fresh(4), labels.fresh(6)), (labels.fresh(6), labels.fresh(4))
    labels.unify(one, two, "they differ")
    (end,) = {tuple(labels.resolve(axis)[-1].tolist()) for axis in (one,)}
    assert len(end) == 2
    every = set(leaves(labels, one, two).tolist())
    assert every - set(labels.pinned()) == set(labels.find(np.array(end)).tolist())
    for axis in (one, two):
        assert survivors(labels, axis, end[:1]).tolist() == [False, True] * 12


@pytest.mark.parametrize("order", ["alone first", "joined first"])
def test_rows_are_split_beside_rows_of_another_axis(order):
    """Groups of four: of an axis, and of it joined with another."""
    labels = Labels()
    walk, a, b = Walk(labels), labels.fresh(12), labels.fresh(8)
    steps = [
        lambda: shapes.reshape_axes(walk, ((a,),), (3, 4)),
        lambda: shapes.reshape_axes(walk, (shapes.join(walk, [(a,), (b,)]),), (5, 4)),
    ]
    for step in steps if order == "alone first" else steps[::-1]:
        groups, within = step()
    assert not labels.pinned()
    dead = labels.leaves(within[0][1:3])
    assert survivors(labels, (a,), dead).tolist() == [True, False, False, True] * 3
    assert survivors(labels, (b,), dead).tolist() == [True, False, False, True] * 2


@pytest.mark.parametrize("order", ["alone first", "joined first"])
def test_of_rows_that_lie_across_each_other_the_common_part_is_free(order):
    """Groups of four of an axis, of six of it joined with another: every second can go."""
    labels = Labels()
    walk, a, b = Walk(labels), labels.fresh(16), labels.fresh(8)
    steps = [
        lambda: shapes.reshape_axes(walk, ((a,),), (4, 4)),
        lambda: shapes.reshape_axes(walk, (shapes.join(walk, [(a,), (b,)]),), (4, 6)),
    ]
    for step in steps if order == "alone first" else steps[::-1]:
        step()
    free = set(leaves(labels, (a,)).tolist()) - set(labels.pinned())
    assert len(free) == 2
    assert survivors(labels, (a,), [min(free)]).tolist() in ([True, False] * 8, [False, True] * 8)
    for dead in free:
        assert (
            survivors(labels, (a,), [dead])[:8].tolist() == survivors(labels, (b,), [dead]).tolist()
        )


def test_an_atom_joined_with_its_own_part():
    labels = Labels()
    whole = labels.fresh(6)
    slow, fast = labels.split(whole, 2, 3)
    labels.union(whole[[0, 1, 5]], fast)
    for dead in leaves(labels, (whole,), (slow,), (fast,)):
        alive = survivors(labels, (whole,), [dead])
        assert alive[[0, 1, 5]].tolist() == survivors(labels, (fast,), [dead]).tolist()
        grid = survivors(labels, (slow, fast), [dead])
        assert alive.tolist() == grid.tolist()


def test_a_lone_factor_joins_the_axis_that_it_is_merged_into():
    labels = Labels()
    one, many, other = labels.fresh(1), labels.fresh(4), labels.fresh(4)
    axis = labels.unify((many, one), (other,), "never")
    assert not survivors(labels, (other,), one).any()
    assert axis_size(axis) == 4
    assert not labels.pinned()


@st.composite
def histories(draw):
    """Axes of some sizes, and what is done to them."""
    sizes = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6, 12]), min_size=2, max_size=4))
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["unify", "reshape", "take", "join", "add"]),
                st.integers(0, 9),
                st.integers(0, 9),
                st.integers(0, 2**20),
            ),
            max_size=8,
        )
    )
    return sizes, steps, draw(st.integers(0, 2**20))


@given(histories())
@settings(max_examples=300, deadline=None)
def test_what_survives_is_consistent(history):
    """Whatever dies: joined axes lose the same positions, derived ones what they were made of."""
    sizes, steps, seed = history
    labels = Labels()
    walk, rng = Walk(labels), np.random.default_rng(seed)
    axes = [(labels.fresh(n),) for n in sizes]
    facts = []  # functions of the survivors of all axes, that must be equal
    for what, i, j, number in steps:
        i, j, local = i % len(axes), j % len(axes), np.random.default_rng(number)
        size = axis_size(axes[i])
        if what == "unify":
            if size != axis_size(axes[j]):
                continue
            axes.append(labels.unify(axes[i], axes[j], "differ"))
            facts += [(i, j, None), (i, len(axes) - 1, None)]
        elif what == "take":
            at = local.integers(0, size, local.integers(1, size + 1))
            if number % 3 == 0:
                at = np.arange(0, size, 2)
            if np.unique(at).size < at.size:
                at = np.sort(at)
            axes.append(shapes.take(walk, axes[i], at))
            facts.append((i, len(axes) - 1, at if np.unique(at).size == at.size else None))
            if facts[-1][2] is None:
                facts.pop()  # copies may die by themselves
        elif what == "join":
            axes.append(shapes.join(walk, [axes[i], axes[j]]))
            facts.append(((i, j), len(axes) - 1, "join"))
        elif what == "reshape":
            factors = [f for f in (2, 3, 4) if size % f == 0]
            if not factors:
                continue
            f = factors[number % len(factors)]
            slow, fast = shapes.reshape_axes(walk, (axes[i],), (f, size // f))
            axes += [slow, fast]
            facts.append((len(axes) - 2, len(axes) - 1, ("outer", i)))
        else:
            axes.append((labels.fresh(size),))
    free = np.setdiff1d(leaves(labels, *axes), list(labels.pinned()))
    dead = rng.permutation(free)[: rng.integers(0, free.size + 1)]
    alive = [survivors(labels, axis, dead) for axis in axes]
    for one, two, how in facts:
        if how is None:
            assert alive[one].tolist() == alive[two].tolist()
        elif isinstance(how, np.ndarray):
            assert alive[one][how].tolist() == alive[two].tolist()
        elif how == "join":
            assert np.concatenate([alive[k] for k in one]).tolist() == alive[two].tolist()
        else:
            assert np.outer(alive[one], alive[two]).ravel().tolist() == alive[how[1]].tolist()
    for axis, survived in zip(axes, alive, strict=True):
        positions, atoms = labels.axis_pairs(axis)
        lost = np.isin(np.arange(survived.size), positions[np.isin(atoms, labels.find(dead))])
        assert (~survived).tolist() == lost.tolist()


def test_families_follow_births_and_unions():
    labels = Labels()
    a, b, c = (labels.fresh(3) for _ in range(3))
    labels.union(a[:1], c[2:])
    families = labels.families()
    assert len(set(families[np.concatenate([a, c])])) == 1
    assert families[b[0]] != families[a[0]]


@pytest.mark.parametrize("repeated", [[0, 0, 1, 1], [0, 1, 0, 1]])
def test_copies_can_go_one_by_one_and_go_with_their_original(repeated):
    labels = Labels()
    original = labels.fresh(2)
    (copies,) = shapes.take(Walk(labels), (original,), np.array(repeated))
    alive = survivors(labels, (copies,), original[:1])
    assert alive.tolist() == [k == 1 for k in repeated]
    one = [a for a in labels.leaves(copies[:1]) if a not in labels.find(original)]
    assert survivors(labels, (copies,), one).tolist() == [False, True, True, True]
    assert survivors(labels, (original,), one).all()
