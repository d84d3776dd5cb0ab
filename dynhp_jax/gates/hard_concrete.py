"""Hard-concrete gates: how they are drawn, what they are worth, what an open one costs.

A gate is a random number in [0, 1] that multiplies a unit. It is exactly 0 or exactly 1 with
positive probability and is differentiable in between, so how often it opens can be learned. Its
one parameter is `log_alpha`, f32[units].

Sources: Louizos, Welling & Kingma 2018 (the distribution); AMLab's published settings (constants,
initialisation, penalty divided by the number of examples); Valerio et al. 2020, Eq. 4 and 5 (the
penalty without that division); Chris Wellons' hash prospector (constants of the mixing function).
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class HardConcrete:
    """Constants of the distribution.

    Args:
      temperature: softness of the relaxation; 0 would be a coin.
      low: lower end of the stretched interval, below 0: gives the gate its mass at exactly 0.
      high: upper end of the stretched interval, above 1: gives the gate its mass at exactly 1.
      eps: uniforms are drawn from (eps, 1 - eps) and probabilities are clipped to it.
    """

    temperature: float = 2 / 3
    low: float = -0.1
    high: float = 1.1
    eps: float = 1e-6

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")
        if not (self.low < 0 and self.high > 1):
            raise ValueError(
                f"the stretch ({self.low}, {self.high}) must contain [0, 1] in its interior; "
                "otherwise a gate is never exactly 0 or never exactly 1"
            )
        if not 0 < self.eps < 0.5:
            raise ValueError(f"eps is {self.eps}; it must lie between 0 and 0.5")


HARD_CONCRETE = HardConcrete()
OPEN = math.log(100.0)  # log alpha of a gate whose value at evaluation is exactly 1


def init(key: jax.Array, units: int, open_rate: float, std: float = 0.01) -> jax.Array:
    """Draws the initial parameters of a group's gates.

    `log_alpha ~ N(log(open_rate / (1 - open_rate)), std^2)`. `open_rate` is one minus AMLab's drop
    rate; because of the stretch the gates are open (above 0) more often than that: 0.952 of the
    draws for an open rate of 0.8, 0.832 for 0.5.

    Args:
      key: a PRNG key.
      units: number of gates.
      open_rate: between 0 and 1, both excluded.
      std: spread that breaks the ties between gates.

    Returns:
      `log_alpha`, f32[units].
    """
    if not 0 < open_rate < 1:
        raise ValueError(f"open_rate is {open_rate}; it must lie strictly between 0 and 1")
    centre = math.log(open_rate) - math.log1p(-open_rate)
    return centre + std * jax.random.normal(key, (units,), jnp.float32)


def uniform(
    key: jax.Array,
    shape: tuple[int, ...],
    hc: HardConcrete = HARD_CONCRETE,
    positions: jax.Array | None = None,
) -> jax.Array:
    """Uniforms on (eps, 1 - eps), f32.

    One 32-bit word per number, of which the upper 23 bits choose a cell and the number is the
    cell's centre. So the resolution is 2^-23 (1.2e-7, below eps), the grid is symmetric about 0.5,
    and neither 0 nor 1 can come out: the odds stay finite in float32.

    A draw for every example and unit is millions of words an epoch, for which jax's generator takes
    as long as the matrix products. Here it only makes two words from the key; the position of each
    number is mixed with them twice, by Wellons' `lowbias32` (a bijection of 32-bit words whose
    input bits each flip every output bit with a probability near one half).

    Args:
      key: a PRNG key.
      shape: of the result.
      hc: constants of the distribution.
      positions: int[shape], which numbers of the key's sequence these are, modulo 2**32; by
        default the first ones, row by row.
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    if positions is None:
        positions = jnp.zeros(shape, jnp.uint32)
        for axis, size in enumerate(shape):
            positions = positions * jnp.uint32(size) + jax.lax.broadcasted_iota(
                jnp.uint32, shape, axis
            )
    words = positions.astype(jnp.uint32) + first
    return _uniform_of_bits(_mixed(_mixed(words) ^ second), hc)


def transform(u: jax.Array, log_alpha: jax.Array, hc: HardConcrete = HARD_CONCRETE) -> jax.Array:
    """Turns uniforms into gates; increasing in both arguments, differentiable in `log_alpha`.

    Args:
      u: [..., units] in (0, 1); constants, no gradient reaches them.
      log_alpha: [units].

    Returns:
      Gates [..., units] in [0, 1], in the dtype of `log_alpha`.

    Raises:
      ValueError: `log_alpha` holds integers.
    """
    if not jnp.issubdtype(jnp.result_type(log_alpha), jnp.floating):
        raise ValueError(f"log_alpha is {jnp.result_type(log_alpha)}; allowed: floating point")
    return _transform(hc, jax.lax.stop_gradient(u), log_alpha)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _transform(hc: HardConcrete, u: jax.Array, log_alpha: jax.Array) -> jax.Array:
    return _stretch(_concrete(hc, u, log_alpha), hc)


@_transform.defjvp
def _transform_jvp(hc: HardConcrete, primals: tuple, tangents: tuple) -> tuple:
    # By hand, as the derivative of the power below would need infinity times zero at the extremes.
    u, log_alpha = primals
    s = _concrete(hc, u, log_alpha)
    z = _stretch(s, hc)
    slope = s * (1 - s) * ((hc.high - hc.low) / hc.temperature)
    return z, jnp.where((z > 0) & (z < 1), slope, 0) * tangents[1]


def _concrete(hc: HardConcrete, u: jax.Array, log_alpha: jax.Array) -> jax.Array:
    """sigmoid((logit(u) + log_alpha) / temperature); one exponential per unit, none per draw."""
    odds = ((1 - u) / u).astype(log_alpha.dtype)  # of staying closed; no logarithm of them is taken
    power = 1 / hc.temperature
    powered = odds * jnp.sqrt(odds) if power == 1.5 else odds**power
    return 1 / (1 + powered * jnp.exp(-log_alpha * power))


def sample(
    key: jax.Array,
    log_alpha: jax.Array,
    batch: int | None = None,
    hc: HardConcrete = HARD_CONCRETE,
    units: jax.Array | None = None,
    of: int = 0,
) -> jax.Array:
    """Draws gates: one draw for the mini-batch, or one for each of its examples.

    Args:
      key: a PRNG key; the same key gives the same gates, so that every group needs its own, see
        `random_keys.key_for`.
      log_alpha: [units].
      batch: number of examples, or None for one draw that all examples share.
      hc: constants of the distribution.
      units: i32[units], the number that each unit had among all `of` units before any were cut: a
        unit's draws then do not depend on which others are left. By default they are all left.
      of: how many units there were; needed with `units`.

    Returns:
      Gates in [0, 1]: [units], or [batch, units].
    """
    shape = log_alpha.shape if batch is None else (batch, *log_alpha.shape)
    positions = None
    if units is not None:
        positions = jnp.broadcast_to(units.astype(jnp.uint32), shape)
        if batch is not None:
            # A NumPy integer would make the words signed, and shifts of them arithmetic.
            positions += jax.lax.broadcasted_iota(jnp.uint32, shape, 0) * jnp.uint32(of)
    return transform(uniform(key, shape, hc, positions), log_alpha, hc)


def mean(log_alpha: jax.Array, hc: HardConcrete = HARD_CONCRETE) -> jax.Array:
    """The deterministic gate used at evaluation, [units] in [0, 1].

    It is not the expectation of the drawn gate but the stretched sigmoid of `log_alpha`, as in
    Louizos et al., Eq. 13. It is exactly 0 for `log_alpha` up to -2.3979, where a drawn gate is
    still open with probability 0.310.

    >>> import jax.numpy as jnp
    >>> mean(jnp.array([-2.4, 0.0, 2.4])).tolist()
    [0.0, 0.5, 1.0]
    """
    return _stretch(jax.nn.sigmoid(log_alpha), hc)


def prob_open(log_alpha: jax.Array, hc: HardConcrete = HARD_CONCRETE) -> jax.Array:
    """Probability that a drawn gate is above 0 (Valerio et al., Eq. 4), clipped to [eps, 1 - eps].

    It is one half at `log_alpha` = -1.5986, where `mean` is 0.102: a unit whose gate is open half
    of the time still counts at evaluation.
    """
    shift = hc.temperature * (math.log(-hc.low) - math.log(hc.high))
    return jnp.clip(jax.nn.sigmoid(log_alpha - shift), hc.eps, 1 - hc.eps)


def clamp(log_alpha: jax.Array, most_open: float = 1.0) -> jax.Array:
    """Keeps `log_alpha` in [log 0.01, log 100], as AMLab does after every update.

    Args:
      log_alpha: [units].
      most_open: an upper bound on one minus the drop rate, as `init` counts it; below 1 every gate
        stays random, so that units that nobody would remove still learn under noise, as with
        dropout.

    >>> import jax.numpy as jnp
    >>> [round(each, 2) for each in clamp(jnp.array([-9.0, 1.0, 9.0]), 0.9).tolist()]
    [-4.61, 1.0, 2.2]
    """
    top = OPEN
    if most_open < 1:
        top = min(top, math.log(most_open) - math.log1p(-most_open))
    return jnp.clip(log_alpha, math.log(0.01), top)


def _mixed(word: jax.Array) -> jax.Array:
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)


def _uniform_of_bits(bits: jax.Array, hc: HardConcrete) -> jax.Array:
    centre = ((bits >> 9).astype(jnp.float32) + 0.5) * 2.0**-23
    return hc.eps + (1 - 2 * hc.eps) * centre


def _stretch(s: jax.Array, hc: HardConcrete) -> jax.Array:
    return jnp.clip(s * (hc.high - hc.low) + hc.low, 0.0, 1.0)
