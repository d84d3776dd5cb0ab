"""Optimizer states as Flax NNX holds them: cut, and gone on with, beside a masked network's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.optimizer import cut_optimizer
from dynhp_jax.surgery.wrapped_states import as_optax

KEEP = np.array([0, 2, 3, 7, 9])
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)

HELD = {
    "opt_state": lambda optimizer: optimizer.opt_state,
    "the state's": lambda optimizer: nnx.state(optimizer)["opt_state"],
    "arrays alone": lambda optimizer: nnx.as_pure(optimizer.opt_state),
    "the state's arrays": lambda optimizer: nnx.as_pure(nnx.state(optimizer)["opt_state"]),
}
OPTIMIZERS = {
    "adamw": optax.adamw(0.03, weight_decay=0.1),
    "chain": optax.chain(
        optax.clip(0.5), optax.trace(0.9), optax.scale_by_adam(), optax.scale(-0.1)
    ),
    "multi-steps": optax.MultiSteps(optax.sgd(0.1, momentum=0.9), every_k_schedule=2),
}


class Net(nnx.Module):
    """A perceptron whose hidden units can be masked."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.a, self.b = nnx.Linear(4, 10, rngs=rngs), nnx.Linear(10, 2, rngs=rngs)

    def __call__(self, x, mask=1.0):
        return self.b(jnp.tanh(self.a(x)) * mask)


def steps(model, optimizer, mask, count):
    for _ in range(count):
        grads = nnx.grad(lambda model: jnp.mean((model(X, mask) - 1) ** 2))(model)
        optimizer.update(model, grads)


@pytest.mark.parametrize("how", HELD)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_network_goes_on_as_the_masked_one_does(name, how):
    tx, model = OPTIMIZERS[name], Net()
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    mask = np.isin(np.arange(10), KEEP).astype(np.float32)
    steps(model, optimizer, mask, 3)

    graph, params = nnx.split(model, nnx.Param)
    groups = find_groups(lambda v, x: nnx.merge(graph, v)(x), params, X)
    held = HELD[how](optimizer)
    state = cut_optimizer(tx, held, params, groups, {"a": KEEP})
    assert jax.tree.structure(state) == jax.tree.structure(held)
    small = nnx.merge(graph, cut(params, groups, {"a": KEEP}))
    going_on = nnx.Optimizer(small, tx, wrt=nnx.Param)
    plain, _ = as_optax(state, tx.init(nnx.state(small, nnx.Param)))
    boxed = jax.tree.structure(going_on.opt_state).unflatten(jax.tree.leaves(plain))
    going_on.opt_state = boxed

    steps(model, optimizer, mask, 3)
    steps(small, going_on, 1.0, 3)
    for mine, masked in (
        (small.a.kernel[...], model.a.kernel[:, KEEP]),
        (small.a.bias[...], model.a.bias[KEEP]),
        (small.b.kernel[...], model.b.kernel[KEEP]),
    ):
        np.testing.assert_allclose(mine, masked, rtol=2e-5, atol=1e-6)


def test_what_holds_the_state_among_others_is_refused_by_its_name():
    tx, model = optax.adam(0.1), Net()
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    graph, params = nnx.split(model, nnx.Param)
    groups = find_groups(lambda v, x: nnx.merge(graph, v)(x), params, X)
    with pytest.raises(ValueError, match=r"^this Optimizer holds .* pass its \.opt_state$"):
        cut_optimizer(tx, optimizer, params, groups, {"a": KEEP})
    with pytest.raises(ValueError, match=r"^this State holds .* pass its \['opt_state'\]$"):
        cut_optimizer(tx, nnx.state(optimizer), params, groups, {"a": KEEP})


def test_a_state_of_another_optimizer_is_still_refused():
    model = Net()
    held = nnx.Optimizer(model, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param).opt_state
    graph, params = nnx.split(model, nnx.Param)
    groups = find_groups(lambda v, x: nnx.merge(graph, v)(x), params, X)
    with pytest.raises(ValueError, match="this is no state of tx for these params"):
        cut_optimizer(optax.adam(0.1), held, params, groups, {"a": KEEP})
