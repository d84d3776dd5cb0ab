"""Methods of training from outside of the library, for tests."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

import dynhp_jax as dp


@dataclasses.dataclass(frozen=True)
class Nothing(dp.Extension):
    """Keeps a number; changes nothing."""

    def start(self, variables, key):
        return {"steps": jnp.zeros((), jnp.int32)}

    def observe(self, own, gradients):
        return {"steps": own["steps"] + 1}

    def record(self, own):
        return {"steps": own["steps"]}


@dataclasses.dataclass(frozen=True)
class Frozen(dp.Extension):
    """Rows of kernels that are trained in an epoch: the others stay as they are."""

    share: float = 0.5

    def start(self, variables, key):
        return {"params": jax.tree.map(jnp.ones_like, variables["params"])}

    def begin_epoch(self, own, opt_state, variables, start):
        leaves, structure = jax.tree.flatten(own["params"])
        keys = jax.random.split(start.key, len(leaves))
        chosen = [
            jax.random.bernoulli(key, self.share, leaf.shape[:1]).astype(leaf.dtype)
            for key, leaf in zip(keys, leaves, strict=True)
        ]
        masks = [
            jnp.broadcast_to(rows.reshape(-1, *[1] * (leaf.ndim - 1)), leaf.shape)
            for rows, leaf in zip(chosen, leaves, strict=True)
        ]
        return {"params": structure.unflatten(masks)}, opt_state

    def updated(self, variables, own, trained, change):
        change = jax.tree.map(jnp.multiply, change, own["params"])
        return super().updated(variables, own, trained, change)


@dataclasses.dataclass(frozen=True)
class Rounded(dp.Extension):
    """Weights that are multiples of 1/8, with the gradient of the identity."""

    def weights(self, params):
        return jax.tree.map(
            lambda leaf: leaf + jax.lax.stop_gradient(jnp.round(leaf * 8) / 8 - leaf), params
        )

    def forward(self, apply):
        def f(variables, trained, own, *rest):
            return apply({**variables, "params": self.weights(trained)}, *rest)

        return f

    def evaluation(self, apply):
        def f(variables, own, *rest):
            return apply({**variables, "params": self.weights(variables["params"])}, *rest)

        return f


@dataclasses.dataclass(frozen=True)
class Biases(dp.Extension):
    """Of every layer the bias alone is trained (BitFit; Ben Zaken et al. 2021, 2106.10199)."""

    def trained(self, variables, own):
        return {name: {"bias": layer["bias"]} for name, layer in variables["params"].items()}

    def _whole(self, params, trained):
        return {name: {**layer, **trained[name]} for name, layer in params.items()}

    def forward(self, apply):
        def f(variables, trained, own, *rest):
            params = self._whole(variables["params"], trained)
            return apply({**variables, "params": params}, *rest)

        return f

    def updated(self, variables, own, trained, change):
        params = self._whole(variables["params"], optax.apply_updates(trained, change))
        return {**variables, "params": params}, own


@dataclasses.dataclass(frozen=True)
class Wrong(dp.Extension):
    """Fails in the part that it is told."""

    part: str = "forward"

    def start(self, variables, key):
        if self.part == "start":
            raise RuntimeError("no start")
        return {"seen": jnp.zeros(3)}

    def begin_epoch(self, own, opt_state, variables, start):
        return ({"seen": jnp.zeros(4)} if self.part == "begin_epoch" else own), opt_state

    def forward(self, apply):
        if self.part == "forward":
            return lambda variables, trained, own, *rest: apply(variables, trained, *rest)
        return super().forward(apply)

    def observe(self, own, gradients):
        return {"seen": own["seen"][:2]} if self.part == "observe" else own

    def evaluation(self, apply):
        if self.part == "evaluation":
            return lambda variables, own, *rest: missing_name  # noqa: F821
        return super().evaluation(apply)

    def record(self, own):
        return {"seen": float("nan") if self.part == "record" else 0.0}
