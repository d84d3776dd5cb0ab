"""What criteria look at, and what of it they refuse: outputs, labels, losses, activations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dynhp_jax as dp
from dynhp_jax.common.errors import UserError
from dynhp_jax.pruning.criteria import registry
from dynhp_jax.pruning.criteria.evidence import Evidence, strict_cross_entropy
from dynhp_jax.structure.find import find_groups


def small_mlp(classes, behind=lambda outputs: outputs):
    """Evidence of a plain MLP on 16 examples of two classes, of one group 'a' of six units."""
    rng = np.random.default_rng(6)
    sizes = {"a": (4, 6), "b": (6, classes)}
    params = {name: jnp.asarray(rng.normal(size=size), jnp.float32) for name, size in sizes.items()}
    x, y = jnp.asarray(rng.normal(size=(16, 4)), jnp.float32), jnp.arange(16) % 2

    def apply(params, x):
        return behind(jnp.tanh(x @ params["a"]) @ params["b"])

    groups = find_groups(apply, params, x)
    return Evidence(apply, groups, params, (x,), y, names=("a",), earlier=(params, params))


OF_THE_LOSS = {
    "taylor": registry.get_criterion("taylor"),
    "taylor by example": registry.get_criterion("taylor", absolute="example"),
    "fisher": registry.get_criterion("fisher"),
    "gradient_norm": registry.get_criterion("gradient_norm"),
}
OF_LABELS = {**OF_THE_LOSS, "relevance": registry.get_criterion("relevance", start="labels")}


def test_cross_entropy_equals_numpy_and_has_no_derivative_out_of_range():
    rng = np.random.default_rng(7)
    logits, labels = rng.normal(size=(5, 3)), np.array([0, 2, 1, 3, -1])
    losses = strict_cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
    wanted = np.log(np.exp(logits).sum(1))[:3] - logits[np.arange(3), labels[:3]]
    np.testing.assert_allclose(losses[:3], wanted, rtol=1e-5)
    each = jax.vmap(jax.grad(lambda o, y: strict_cross_entropy(o[None], y[None])[0]))
    gradients = each(jnp.asarray(logits), jnp.asarray(labels))
    known = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(3)[labels % 3]
    np.testing.assert_allclose(gradients[:3], known[:3], atol=1e-6)
    assert np.isnan(losses[3:]).all() and np.isnan(gradients[3:]).all()


@pytest.mark.parametrize("name", OF_THE_LOSS)
def test_outputs_and_labels_that_the_cross_entropy_does_not_fit_are_refused(name):
    criterion = OF_THE_LOSS[name]
    one = small_mlp(1)
    with pytest.raises(UserError, match=r"outputs are float32\[16,1\].*two classes or more.*loss="):
        dp.score(criterion, one)
    with pytest.raises(
        UserError, match=r"outputs are \(float32\[16,2\], float32\[16,2\]\); the cr"
    ):
        dp.score(criterion, small_mlp(2, lambda outputs: (outputs, outputs)))
    two = small_mlp(2)
    others = {
        "float32.16.": two.labels * 1.0,
        "float32.16,2.": jnp.eye(2)[two.labels],
        "int32.16,1.": two.labels[:, None],
        "bool.16.": two.labels > 0,
    }
    for found, labels in others.items():
        said = rf"labels are {found}; the cross entropy allows int\[16\], from 0 to 1; "
        with pytest.raises(UserError, match=said):
            dp.score(criterion, dataclasses.replace(two, labels=labels))

    def logistic(outputs, labels):
        return jnp.logaddexp(0, jnp.where(labels > 0, -1, 1) * outputs[:, 0])

    scores = dp.score(criterion, dataclasses.replace(one, loss=logistic))
    assert np.ptp(scores["a"]) > 0


def chosen_only(outputs, labels):
    """Infinite, and without a derivative, where a label is no class."""
    hot = jax.nn.one_hot(labels, outputs.shape[1])
    losses = -jnp.sum(hot * jax.nn.log_softmax(outputs), axis=1)
    return jnp.where(hot.any(axis=1), losses, jnp.inf)


@pytest.mark.parametrize("name", OF_LABELS)
@pytest.mark.parametrize("shift", [5, -1])
def test_a_loss_that_is_not_finite_is_refused(name, shift):
    evidence = small_mlp(2)
    wrong = dataclasses.replace(evidence, labels=evidence.labels.at[3:].add(shift))
    first = 3 if shift == 5 else 4  # the label of example 3 is 1
    label = int(evidence.labels[first]) + shift
    for loss, value in ((strict_cross_entropy, "nan"), (chosen_only, "inf")):
        with pytest.raises(UserError, match=f"example {first} is {value}, its label {label}; allo"):
            dp.score(OF_LABELS[name], dataclasses.replace(wrong, loss=loss))
        dp.score(OF_LABELS[name], dataclasses.replace(evidence, loss=loss))


def test_a_criterion_without_a_loss_does_not_look_at_labels():
    evidence = small_mlp(1)
    assert dp.score("l1", evidence)["a"].any()
    broken = jax.tree.map(lambda a: a * jnp.nan, evidence.variables)
    with pytest.raises(ValueError, match="score of unit 0 of group 'a' is nan"):
        dp.score("l1", dataclasses.replace(evidence, variables=broken))


def test_relevance_of_labels_needs_classes():
    with pytest.raises(UserError, match=r"labels int32\[16\] of outputs that are float32\[16,1\]"):
        dp.score(registry.get_criterion("relevance", start="labels"), small_mlp(1))
    assert dp.score("relevance", small_mlp(1))["a"].any()


@pytest.mark.parametrize(
    "behind", [jax.lax.stop_gradient, jnp.sign, lambda outputs: outputs.argmax(axis=1)]
)
def test_activations_that_the_backward_pass_does_not_meet_are_said_to_be_hidden(behind):
    evidence = small_mlp(2, behind)
    with pytest.raises(UserError, match="sees no activation of group 'a'.*stop_gradient"):
        dp.score("mean_activation", evidence)
    assert np.isfinite(dp.score("velocity", evidence)["a"]).all()  # needs no derivative


def test_units_that_nothing_reads_are_named():
    evidence = small_mlp(2)
    params = {**evidence.variables, "unread": jnp.ones((6, 5))}

    def apply(params, x):
        jnp.tanh(x @ params["a"]) @ params["unread"]
        return evidence.apply(params, x)

    groups = find_groups(apply, params, *evidence.inputs)
    unread = Evidence(
        apply, groups, params, evidence.inputs, evidence.labels, earlier=(params, params)
    )
    for name, said in [("mean_activation", "no activation of group 'unread'"),
                       ("velocity", "nothing reads the units of group 'unread'")]:  # fmt: skip
        with pytest.raises(UserError, match=f"{said}.*leave (it|the group) out of names"):
            dp.score(name, unread)
        named = dataclasses.replace(unread, names=("a",))
        np.testing.assert_allclose(
            dp.score(name, named)["a"], dp.score(name, evidence)["a"], rtol=1e-6
        )
    assert not dp.score("gradient_norm", unread)["unread"].any()
