"""Rules of aggregation against loops in float64, the virtual teacher against its formula."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynhp_jax import UserError, find_groups
from dynhp_jax.decentralised import (
    RULES,
    Coverage,
    DecAvg,
    DecDiff,
    DecHW,
    VirtualTeacher,
    ZeroFilled,
    graphs,
    mixing_matrix,
    units_of,
)

SHAPES = {"a": (4, 6), "b": (6,), "c": (6, 3)}
GROUPS = find_groups(
    lambda p, x: jnp.tanh(x @ p["a"] + p["b"]) @ p["c"],
    {name: jnp.zeros(shape) for name, shape in SHAPES.items()},
    jnp.zeros((2, 4)),
)
(HIDDEN,) = (group.name for group, _ in GROUPS.on_axis("a", 1))
(INPUT,) = (group.name for group, _ in GROUPS.on_axis("a", 0))


class Case:
    """Some nodes on a graph, with their own units and weights; all in float64."""

    def __init__(self, seed, nodes=5, cut=True):
        rng = np.random.default_rng(seed)
        graph = np.triu(rng.random((nodes, nodes)) < 0.6, 1)
        self.mixing = mixing_matrix(graph | graph.T, rng.integers(1, 9, nodes))
        self.keeps = [
            {name: np.flatnonzero(rng.random(size) < 0.7) if cut else np.arange(size)
             for name, size in ((HIDDEN, 6), (INPUT, 4))}
            for _ in range(nodes)
        ]  # fmt: skip
        self.has = {name: np.ones((nodes, *shape), bool) for name, shape in SHAPES.items()}
        for node, keep in enumerate(self.keeps):
            lost = np.setdiff1d(np.arange(6), keep[HIDDEN])
            self.has["a"][node][:, lost] = self.has["b"][node][lost] = False
            self.has["c"][node][lost] = False
            self.has["a"][node][np.setdiff1d(np.arange(4), keep[INPUT])] = False
        weights = {name: rng.normal(size=(nodes, *shape)) for name, shape in SHAPES.items()}
        self.weights = {name: weights[name] * self.has[name] for name in SHAPES}
        self.evidence = {
            name: rng.gamma(0.5, size=(nodes, *shape)) for name, shape in SHAPES.items()
        }
        self.units = units_of({n: jnp.zeros(s) for n, s in SHAPES.items()}, GROUPS, self.keeps)

    def found(self, rule, units=True, **more):
        weights = {name: value.astype("f4") for name, value in self.weights.items()}
        call = jax.jit(lambda mixing, weights, units, more: rule(mixing, weights, units, **more))
        return call(self.mixing.astype("f4"), weights, self.units if units else None, more)

    def mean(self, name, i, place, weights, evidence=None):
        """Over those of the nodes with a weight who have the number; None if nobody has it."""
        above = below = 0.0
        for j, weight in enumerate(weights):
            if weight and self.has[name][(j, *place)]:
                share = weight * (1 if evidence is None else evidence[name][(j, *place)])
                above += share * self.weights[name][(j, *place)]
                below += share
        return above / below if below else None

    def check(self, found, wanted):
        for name, shape in SHAPES.items():
            for i in range(len(self.mixing)):
                for place in itertools.product(*map(range, shape)):
                    assert float(found[name][(i, *place)]) == pytest.approx(
                        wanted(name, i, place), abs=2e-6
                    )


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10**6))
def test_coverage_and_zeros(seed):
    case = Case(seed)

    def coverage(name, i, place):
        if not case.has[name][(i, *place)]:
            return 0.0
        return case.mean(name, i, place, case.mixing[i])

    def zeros(name, i, place):
        column = case.weights[name][(slice(None), *place)]
        return case.mixing[i] @ column * case.has[name][(i, *place)]

    case.check(case.found(Coverage()), coverage)
    case.check(case.found(ZeroFilled()), zeros)


def test_decavg_is_coverage_where_all_have_all():
    case = Case(3, cut=False)
    wanted = {name: np.einsum("ij,j...->i...", case.mixing, value)
              for name, value in case.weights.items()}  # fmt: skip
    for rule, units in ((DecAvg(), False), (Coverage(), True), (Coverage(), False),
                        (ZeroFilled(), True)):  # fmt: skip
        found = case.found(rule, units)
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, atol=1e-6)


@pytest.mark.parametrize("norm", ["tensor", "global"])
@pytest.mark.parametrize("seed", [1, 2])
def test_decdiff(norm, seed):
    case = Case(seed)
    lonely = case.mixing.copy()
    np.fill_diagonal(lonely, 0)
    apart = {name: np.zeros_like(value) for name, value in case.weights.items()}
    for name, shape in SHAPES.items():
        for i in range(len(lonely)):
            for place in itertools.product(*map(range, shape)):
                mean = case.mean(name, i, place, lonely[i])
                if mean is not None and case.has[name][(i, *place)]:
                    apart[name][(i, *place)] = case.weights[name][(i, *place)] - mean
    squares = {name: [np.sum(each**2) for each in apart[name]] for name in SHAPES}
    if norm == "global":
        total = np.sum(list(squares.values()), 0)
        squares = dict.fromkeys(SHAPES, total)

    def wanted(name, i, place):
        step = apart[name][(i, *place)] / (np.sqrt(squares[name][i]) + 1)
        return case.weights[name][(i, *place)] - step

    case.check(case.found(DecDiff(norm)), wanted)


def test_a_step_of_decdiff_is_shorter_than_one():
    mixing = mixing_matrix(graphs.ring(3))
    for far, step in ((0.1, 0.09), (1, 0.5), (10, 0.91), (100, 0.99)):
        weights = {"w": jnp.array([[far, 0.0], [0, 0], [0, 0]])}
        moved = far - float(DecDiff()(mixing, weights)["w"][0, 0])
        assert moved == pytest.approx(step, abs=0.005)
        assert moved == pytest.approx(far / (far + 1), rel=1e-5)
    alone = {"w": jnp.array([[3.0], [5.0]])}
    assert (DecDiff()(np.eye(2), alone)["w"] == alone["w"]).all()


def test_dechw_weighs_by_damped_evidence_with_the_mean_one():
    case = Case(5)
    damped = {}
    for name, fisher in case.evidence.items():
        mean = fisher.mean(axis=tuple(range(1, fisher.ndim)), keepdims=True)
        damped[name] = (fisher / mean + 0.5) / 1.5
        np.testing.assert_allclose(damped[name].reshape(5, -1).mean(1), 1)

    def wanted(name, i, place):
        if not case.has[name][(i, *place)]:
            return 0.0
        return case.mean(name, i, place, case.mixing[i], damped)

    evidence = {name: value.astype("f4") for name, value in case.evidence.items()}
    case.check(case.found(DecHW(damping=0.5), evidence=evidence), wanted)
    flat = {name: jnp.zeros_like(value) for name, value in evidence.items()}
    found, plain = case.found(DecHW(), evidence=flat), case.found(Coverage())
    for name in SHAPES:
        np.testing.assert_allclose(found[name], plain[name], atol=1e-6)


def test_rules_have_names_and_refuse_what_they_cannot_do():
    assert {name: rule().__class__ for name, rule in RULES.items()} == RULES
    case = Case(0)
    for make, said in (
        (lambda: case.found(DecAvg()), "use Coverage()"),
        (lambda: case.found(DecHW()), "needs the evidence"),
        (lambda: DecDiff("both"), "DecDiff.norm is 'both'; allowed: tensor, global"),
        (lambda: DecHW(damping=0), "both above 0"),
        (lambda: VirtualTeacher(beta=1), "beta between 0 and 1"),
        (lambda: VirtualTeacher(form="log"), "allowed: kl, published_code"),
        (lambda: VirtualTeacher()(jnp.ones((2, 3)), jnp.ones(2)), "the labels are float32[2]"),
    ):
        with pytest.raises(UserError) as error:
            make()
        assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kappa", [1.0, 0.3])
def test_the_virtual_teacher_in_both_forms(kappa):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(7, 10)) * 3, rng.integers(0, 10, 7)
    logits[0], labels[0] = np.r_[12.0, np.zeros(9)], 4  # confidently wrong
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    teacher = np.full((7, 10), 0.01 / 9)
    teacher[np.arange(7), labels] = 0.99
    true = p[np.arange(7), labels]
    kl = (teacher * np.log(teacher / p)).sum(1)
    code = (teacher * (np.log(teacher) - p)).sum(1)
    slope = {"kl": true - 0.99, "published_code": -(0.99 - 0.01 / 9) * true * (1 - true)}
    for form, known in (("kl", kl), ("published_code", code)):
        loss = VirtualTeacher(kappa=kappa, form=form)
        found = loss(jnp.asarray(logits, "f4"), jnp.asarray(labels))
        wanted = kappa * known - (1 - kappa) * np.log(true)
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-5)
        gradient = jax.grad(lambda z, loss=loss: loss(z, jnp.asarray(labels)).sum())(
            jnp.asarray(logits, "f4")
        )
        mine = np.asarray(gradient)[np.arange(7), labels]
        wanted = kappa * slope[form] + (1 - kappa) * (true - 1)
        np.testing.assert_allclose(mine, wanted, atol=2e-5)
    assert np.isnan(VirtualTeacher()(jnp.full((1, 3), jnp.nan), jnp.array([0]))).all()
