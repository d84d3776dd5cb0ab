"""Every primitive with a rule: does what it passes on agree with what the arrays do?

Each of `rule_cases` puts a function between a layer that makes units and one that reads them. If
the rule lets units through, removing them must equal masking them, in values and gradients; what it
must hold back or flag is written beside it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_eval
import pytest
from jax import lax
from rule_cases import CASES, B, N

from dynhp_jax.gates.gated import gated
from dynhp_jax.jaxprs.values import known_primitives
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.resized import resized

# Named by other versions of jax, bound by transformations and devices that these tests have not, or
# collectives, which test_collectives and test_devices have.
ELSEWHERE = {
    "all_gather",
    "axis_index",
    "call",
    "checkpoint",
    "closed_call",
    "copy",
    "copy_p",
    "core_call",
    "custom_lin",
    "custom_vjp_call_jaxpr",
    "device_put",
    "eq_to",
    "jit",
    "le_to",
    "log2",
    "lt_to",
    "one_minus_square",
    "pcast",
    "pjit",
    "pmax",
    "pmin",
    "ppermute",
    "psum",
    "psum_invariant",
    "pvary",
    "random_clone",
    "reduce_window",
    "remat",
    "remat2",
    "reshard",
    "select_and_gather_add",
    "select_and_scatter_add",
    "sharding_constraint",
    "stack",
    "unstack",
}


def network(function):
    """Units made by 'a', then the function, then what 'b' makes of it."""
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(3, N)), "bias": rng.normal(size=N), "k": np.array(1.0)}
    x = rng.normal(size=(B, 3))

    def made(p, x):
        return function(jnp.sin(x @ p["a"] + p["bias"]), p["k"])

    wide = jax.eval_shape(made, params, x).shape[-1]
    params["b"] = rng.normal(size=(wide, 2))
    return lambda p, x: made(p, x) @ p["b"], params, x


@pytest.mark.parametrize("name", CASES)
def test_rule(x64, name):
    verdict, primitives, function = CASES[name]
    apply, params, x = network(function)
    for primitive in primitives:
        assert primitive in names_in(jax.make_jaxpr(apply)(params, x)), primitive
    groups = find_groups(apply, params, x)
    assert not groups.unknown
    units = {m.path for g in groups.values() for m in g.members if (m.path, m.axis) == ("a", 1)}
    of_a = [(g, m) for g, m in groups.on_axis("a", 1)]
    if verdict == "pinned":
        assert not units
        return
    free = np.unique(np.concatenate([m.index.ravel() for _, m in of_a]))
    assert free.tolist() == (list(range(N)) if isinstance(verdict, str) else verdict)
    assert all(g.exact == (verdict != "flagged") for g, _ in of_a)
    assert all(bool(g.chosen) == (verdict == "chosen") for g, _ in of_a)
    if verdict == "flagged":
        keeps = {g.name: np.arange(0, g.size, 2) for g, _ in of_a}  # allowed when named
        small = resized(apply, params, groups, keeps)(cut(params, groups, keeps), x)
        assert small.shape == (B, 2)
        assert np.isfinite(small).all()
        return
    rng = np.random.default_rng(1)
    for _ in range(2):
        keeps = {
            g: np.sort(
                rng.choice(groups[g].size, rng.integers(groups[g].least, groups[g].size), False)
            )
            for g in groups.prunable
        }
        agree(apply, params, x, groups, keeps)


def test_a_remainder_has_the_sign_of_the_dividend(x64):
    """As in C and in lax.rem, and unlike in Python: -2 rem 3 is -2, the last position but one."""
    apply, params, x = network(lambda h, _: h[:, lax.rem(jnp.arange(4) - 3, 3)])
    groups = find_groups(apply, params, x)
    read = np.array([0, -2, -1, 0]) % N
    found = {g.name: m.index for g, m in groups.on_axis("a", 1) if g.name in groups.prunable}
    assert {4, 5} <= set(np.concatenate([index.ravel() for index in found.values()]).tolist())
    hidden = np.sin(x @ params["a"] + params["bias"])
    for name, index in found.items():
        for unit in range(len(index)):
            masked = hidden * ~np.isin(np.arange(N), index[unit])
            gate = np.arange(len(index)) != unit
            out = gated(apply, groups)(params, {name: gate * 1.0}, x)
            np.testing.assert_allclose(out, masked[:, read] @ params["b"], rtol=1e-12)


def test_the_bytes_of_a_number_are_no_units():
    """Kernels that are stored as bytes: u8[3, N, 4]. Their columns are units, as those of f32."""
    rng = np.random.default_rng(0)
    kernel, x = rng.normal(size=(3, N)).astype("f4"), rng.normal(size=(B, 3)).astype("f4")
    params = {"a": kernel.view("u1").reshape(3, N, 4), "b": np.ones((N, 2), "f4")}

    def apply(p, x):
        return jnp.sin(x @ lax.bitcast_convert_type(p["a"], jnp.float32)) @ p["b"]

    groups = find_groups(apply, params, x)
    assert groups.prunable == ("input", "a") and not groups.unknown
    assert {(m.path, m.axis) for m in groups["a"].members} == {("a", 1), ("b", 0)}
    keeps = {"a": np.array([0, 3])}
    small = cut(params, groups, keeps)
    np.testing.assert_array_equal(small["a"], params["a"][:, [0, 3]])
    expected = np.sin(x @ kernel)[:, [0, 3]] @ params["b"][[0, 3]]
    np.testing.assert_allclose(resized(apply, params, groups, keeps)(small, x), expected, rtol=1e-5)


def agree(apply, params, x, groups, keeps):
    """Masked and cut: outputs and gradients."""
    masks = {g: np.isin(np.arange(groups[g].size), k) for g, k in keeps.items()}
    large, small = gated(apply, groups), resized(apply, params, groups, keeps)

    def evaluate(f, p):
        def loss(p):
            y = f(p)
            return jnp.sum(y * np.array([[1.0, -0.5], [0.25, 2.0]])), y

        return numpy_eval.compiled(jax.grad(loss, has_aux=True), p)(p)

    by_one, one = evaluate(lambda p: large(p, masks, x), params)
    by_two, two = evaluate(lambda p: small(p, x), cut(params, groups, keeps))
    np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-10)
    by_one = cut(by_one, groups, keeps)
    for path in by_two:
        np.testing.assert_allclose(by_one[path], by_two[path], rtol=1e-10, atol=1e-10, err_msg=path)


def names_in(jaxpr):
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    found = set()
    for eqn in jaxpr.eqns:
        found.add(eqn.primitive.name)
        for value in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")
        ):
            if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                found |= names_in(value)
    return found


def test_every_rule_has_a_case():
    covered = {p for _, primitives, _ in CASES.values() for p in primitives}
    assert set(known_primitives()) - covered <= ELSEWHERE
