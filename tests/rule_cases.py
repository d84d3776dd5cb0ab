"""Functions that use every primitive with a rule, and what each must do to the units in between.

A case stands between a layer that makes units and one that reads them; see `test_rules`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.interpreters.ad import add_jaxvals

B, N = 2, 6
CASES = {}


def case(verdict, *primitives):
    """Registers a function of f64[B, N] (and of a key) -> [B, M] under its primitives.

    verdict: 'exact', 'flagged', 'pinned', 'chosen' (exact if units are left out of a choice), or
      the indices of the units that are free.
    """

    def register(function):
        CASES[function.__name__.strip("_")] = (verdict, primitives, function)
        return function

    return register


# Position by position


def apply_all(names, *arguments):
    return sum(getattr(lax, name)(*arguments) for name in names.split())


@case(
    "exact", "abs", "cbrt", "ceil", "cos", "cosh", "erf", "exp", "exp2", "expm1", "floor", "log1p"
)
def of_one(x, k):
    y = apply_all("abs cbrt ceil cos cosh erf exp exp2 expm1 floor", x)
    return y + lax.log1p(jnp.abs(x))


@case("exact", "logistic", "neg", "round", "sign", "sin", "sinh", "square", "tan", "tanh", "asinh")
def of_one_more(x, k):
    return apply_all("logistic neg round sign sin sinh square tan tanh asinh", x)


@case("exact", "asin", "acos", "atanh", "erf_inv", "atan", "erfc")
def of_a_small_one(x, k):
    return apply_all("asin acos atanh erf_inv atan erfc", x / (2 + jnp.abs(x)))


@case("exact", "acosh", "log", "rsqrt", "sqrt", "digamma", "lgamma")
def of_a_large_one(x, k):
    return apply_all("acosh log rsqrt sqrt digamma lgamma", 2 + jnp.abs(x)) + jnp.log2(1 + x * x)


@case("exact", "add", "sub", "mul", "div", "max", "min", "pow", "atan2", "rem")
def of_two(x, k):
    return apply_all("add sub mul div max min pow atan2 rem", 2 + jnp.abs(x), 1 + x * x)


@case("exact", "eq", "ne", "lt", "le", "gt", "ge", "is_finite")
def compared(x, k):
    return jnp.stack([lax.eq(x, x), lax.ne(x, x), x < 1, x <= 1, x > 0, x >= 0]).sum(
        0
    ) + lax.is_finite(x)


@case("exact", "igamma", "igammac", "zeta", "nextafter", "polygamma", "stop_gradient")
def without_derivative(x, k):
    y = lax.stop_gradient(1 + x * x)
    y = apply_all("igamma igammac zeta nextafter", 1 + y, y) + lax.polygamma(jnp.ones_like(y), y)
    return x * y


@case("exact", "igamma_grad_a", "mulhi")
def rarely_met(x, k):
    y = lax.stop_gradient(1 + x * x)
    high = lax.mulhi(whole(x) << 20, whole(x) << 16).astype(x.dtype)
    return x * (lax.igamma_grad_a(y, y + 1) + high)


@case("exact", "bessel_i0e", "bessel_i1e", "regularized_incomplete_beta")
def special(x, k):
    y = lax.stop_gradient(1 + x * x)
    return x * (apply_all("bessel_i0e bessel_i1e", x) + lax.betainc(y, y + 1, 1 / (1 + y)))


def whole(x):
    return (x * 8).astype(jnp.int32)


@case("exact", "and", "or", "xor", "not", "shift_left", "shift_right_arithmetic")
def bits(x, k):
    y = whole(x)
    y = (y & 6) | (y ^ 5) ^ ~y
    return ((y >> 1) + (y << 2)).astype(x.dtype)


@case("exact", "shift_right_logical", "clz", "population_count", "bitcast_convert_type")
def more_bits(x, k):
    y = lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    y = lax.shift_right_logical(y, jnp.full_like(y, 3))
    return (lax.clz(y) + lax.population_count(y)).astype(x.dtype)


@case("exact", "bitcast_convert_type")
def halves_and_back(x, k):
    y = lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint16)
    return x * lax.bitcast_convert_type(y + jnp.uint16(1), jnp.float32).astype(x.dtype)


@case("exact", "bitcast_convert_type")
def pairs_as_one(x, k):
    y = lax.bitcast_convert_type(x.astype(jnp.float32).reshape(B, 3, 2), jnp.float64)
    return (x.reshape(B, 3, 2) * jnp.tanh(y)[..., None]).reshape(B, N)


@case("exact", "complex", "real", "imag", "conj")
def complex_numbers(x, k):
    y = lax.conj(lax.complex(x, jnp.sin(x)) ** 2)
    return lax.real(y) + lax.imag(y)


@case("exact", "clamp", "select_n", "integer_pow", "convert_element_type", "reduce_precision")
def choices(x, k):
    y = jnp.where(x > 0, x, x**3)
    return lax.reduce_precision(lax.clamp(-2.0, y, 2.0), 11, 52) + (x > 1)


@case("exact", "add_any", "name", "optimization_barrier")
def markers(x, k):
    y = checkpoint_name(add_jaxvals(x, x), "here")
    return lax.optimization_barrier(y)


# Shapes


@case("exact", "transpose", "reshape", "broadcast_in_dim")
def there_and_back(x, k):
    y = jnp.broadcast_to(x.T[:, None], (N, 3, B)) * np.arange(1, 4.0)[:, None]
    return jnp.moveaxis(y, 2, 0).reshape(B, -1)


@case("exact", "rev", "concatenate", "slice")
def reversed_halves(x, k):
    return jnp.concatenate([x[:, ::-1], x[:, 1::2], -x[:, :2]], 1)


@case("exact", "split")
def halves(x, k):
    a, b = jnp.split(x, [2], axis=1)
    return jnp.concatenate([b, jnp.sin(a)], 1)


@case("exact", "pad")
def padded(x, k):
    return jnp.pad(x, [(0, 0), (1, 2)], constant_values=0.5)


@case("pinned", "pad")
def padded_between(x, k):
    return lax.pad(x, 0.0, [(0, 0, 0), (0, 0, 1)])


@case("exact", "tile")
def tiled(x, k):
    return jnp.tile(x, (1, 3)) * np.arange(18)


@case("exact", "iota")
def positions(x, k):
    return x * jnp.arange(N) + (jnp.arange(N)[:, None] == jnp.arange(N)).sum(0)


@case("exact", "reshape")
def factors(x, k):
    return jnp.sort(x.reshape(B, 2, 3).sum(1), 1)  # the slow one is summed, the fast one sorted


@case("pinned", "reshape")
def across_units(x, k):
    return x.reshape(4, 3).reshape(B, 6) + x.reshape(3, 4).reshape(B, 6)


@case([1, 2, 3, 4, 5], "squeeze")
def one_for_all(x, k):
    return x * jnp.squeeze(x[:, :1], 1)[:, None]


@case([0, 1, 2, 4, 5], "broadcast_in_dim")
def another_for_all(x, k):
    return x + x[:, 3:4]


# Indices


@case("exact", "gather")
def taken(x, k):
    return jnp.take(x, np.array([5, 0, 2]), axis=1)


@case("exact", "gather")
def taken_twice(x, k):
    return x[:, np.array([4, 4, 1, 0, 4])] * np.arange(1, 6.0)


@case("exact", "gather")
def taken_by_arithmetic(x, k):
    at = (jnp.arange(4) * 5 + 2) % N
    return jnp.take(x, jnp.where(at > 3, at, -at), axis=1)


@case("pinned", "gather")
def taken_by_data(x, k):
    return jnp.take_along_axis(x, jnp.argsort(lax.stop_gradient(x), axis=1), axis=1)


@case([1, 2, 3, 4, 5], "gather")
def rows_by_data(x, k):
    return x[whole(x[:, 0]) % B]


@case("pinned", "dynamic_slice", "dynamic_update_slice")
def window(x, k):
    y = lax.dynamic_slice(x, (0, k.astype(int) % 2), (B, 4))
    return lax.dynamic_update_slice(x, y, (0, k.astype(int) % 3))


@case("exact", "dynamic_slice", "dynamic_update_slice")
def window_of_examples(x, k):
    y = lax.dynamic_slice(x, (k.astype(int) % 2, 0), (1, N))
    return lax.dynamic_update_slice(x, jnp.sin(y), (k.astype(int) % 2, 0))


# Writing


@case("exact", "scatter", *(f"scatter-{n}" for n in ("add", "sub", "mul", "min", "max")))
def written_into_rows(x, k):
    """Units are written whole, into rows of zeros, at known and at computed places."""
    rows, at = jnp.zeros((B, 4, N)).at[:, 1].set(x), k.astype(int)
    rows = rows.at[:, at].add(2 * x).at[:, jnp.array([0, 2])].max(x[:, None])
    rows = rows.at[:, 3].min(lax.stop_gradient(x))
    rows = rows.at[:, 2].subtract(jnp.sin(x))
    rows = rows.at[:, 1:3].multiply(lax.stop_gradient(x)[:, None], unique_indices=True)
    return rows.reshape(B, -1)


@case("exact", "scatter")
def written_beside(x, k):
    """The wider result holds some units, which it is told in a window, and others one by one."""
    y = jnp.zeros((B, N + 4)).at[:, 1:5].set(x[:, :4])
    return y.at[:, np.array([9, 0, 7])].set(x[:, 3:] * np.arange(1, 4.0))


@case("exact", "scatter-add")
def added_several_times(x, k):
    return x.at[:, np.array([1, 4, 1])].add(jnp.sin(x[:, :3]))


@case([0, 1, 3, 4, 5], "scatter")
def one_overwritten(x, k):
    return x.at[:, 2].set(k)


@case("exact", "scatter-add")
def segments_of_examples(x, k):
    messages = jax.ops.segment_sum(jnp.sin(x), (k.astype(int) + jnp.arange(B)) % B, B)
    return messages[::-1] * x


@case("pinned", "scatter-add")
def segments_of_units(x, k):
    return jax.ops.segment_sum(x.T, whole(x[0]) % 3, 3).T


@case("pinned", "scatter")
def written_to_computed_places(x, k):
    return x.at[:, k.astype(int) + jnp.arange(2)].set(x[:, :2])


@case("exact", "scatter")
def each_example_elsewhere(x, k):
    """Places of a batch: one for each example."""
    rows, at = jnp.zeros((B, 3, N)), (k.astype(int) + jnp.arange(B)) % 3
    return jax.vmap(lambda row, at, x: row.at[at].set(x))(rows, at, x).reshape(B, -1)


@case("exact", "dynamic_slice", "dynamic_update_slice")
def window_at_a_known_place(x, k):
    y = lax.dynamic_slice(x, (0, 1), (B, 3))
    return lax.dynamic_update_slice(jnp.cos(x), y, (0, 9))  # as far to the right as it goes


# Transforms of whole axes


@case("exact", "fft")
def waves_of_another_axis(x, k):
    y = jnp.fft.rfft(x[:, None] * np.arange(1, 6.0)[:, None], axis=1)
    return jnp.fft.irfft(y * jnp.conj(y), n=5, axis=1).reshape(B, -1)


@case("pinned", "fft")
def waves_of_units(x, k):
    return jnp.fft.fft(x).real


@case("exact", "cholesky", "triangular_solve", "eigh", "lu", "qr", "svd")
def a_matrix_for_each_unit(x, k):
    matrix = jnp.eye(3) * (2 + x[..., None, None] ** 2) + 0.1 * np.arange(9.0).reshape(3, 3)
    matrix = matrix + jnp.swapaxes(matrix, -1, -2)
    y = jnp.linalg.cholesky(matrix) @ jnp.ones(3) + jnp.linalg.eigvalsh(matrix)
    y = y + lax.linalg.lu(matrix)[0][..., 0] + jnp.abs(jnp.linalg.qr(matrix)[1][..., 0])
    y = y + jnp.linalg.svd(matrix, compute_uv=False)
    factor = jnp.tril(matrix)
    return (y + lax.linalg.triangular_solve(factor, y[..., None], left_side=True)[..., 0]).sum(-1)


@case("exact", "eig", "hessenberg", "householder_product", "schur", "tridiagonal")
def without_derivatives(x, k):
    """Of constants for each unit: JAX has no derivatives of these."""
    matrix = lax.stop_gradient(jnp.sin(x)[..., None, None]) + np.arange(9.0).reshape(3, 3)
    y = lax.linalg.eig(matrix)[0].real.sum(-1) + jnp.abs(lax.linalg.schur(matrix)[0]).sum((-1, -2))
    reflected, taus = lax.linalg.hessenberg(matrix)
    y = y + lax.linalg.householder_product(reflected[..., 1:, :-1], taus).sum((-1, -2))
    symmetric = matrix + jnp.swapaxes(matrix, -1, -2)
    return x * (y + lax.linalg.tridiagonal(symmetric)[1].sum(-1))


@case("exact", "tridiagonal_solve")
def a_band_for_each_unit(x, k):
    side = jnp.broadcast_to(lax.stop_gradient(jnp.sin(x))[..., None], (B, N, 4))
    at = jnp.arange(4)
    y = lax.linalg.tridiagonal_solve(side * (at > 0), 4 + side, side * (at < 3), side[..., None])
    return x * y.sum((-1, -2))


# Constants and repetitions


@case("exact", "iota", "cumsum", "sort")
def running_constants(x, k):
    """What holds units back does so only where they are: these are constants."""
    table = jnp.sort(jnp.cumsum(jnp.sin(jnp.arange(N)))) @ jnp.ones((N, N))
    return x * table + jnp.fft.fft(jnp.arange(1.0 * N)).real


# Reductions


@case("flagged", "reduce_sum")
def mean(x, k):
    return x - x.mean(1, keepdims=True)


@case("flagged", "reduce_max", "reduce_min")
def span(x, k):
    return x / (1 + x.max(1, keepdims=True) - x.min(1, keepdims=True))


@case("flagged", "reduce_prod")
def product(x, k):
    return x * jnp.prod(x, 1, keepdims=True)


@case("flagged", "reduce")
def sum_and_largest(x, k):
    y = lax.stop_gradient(x)
    both = lax.reduce((y, y), (0.0, 0.0), lambda a, b: (a[0] + b[0], lax.max(a[1], b[1])), (1,))
    return x * sum(both)[:, None]


@case("flagged", "reduce_and", "reduce_or", "reduce_xor")
def any_all(x, k):
    some = (x > 0).any(1, keepdims=True) & (x < 9).all(1, keepdims=True)
    return x * some + lax.reduce_xor(whole(x), axes=(1,))[:, None]


@case("exact", "reduce_sum")
def over_another_axis(x, k):
    return (x[:, None] * np.arange(3.0)[:, None]).sum(1)


@case("pinned", "argmax", "argmin")
def places_of_extremes(x, k):
    return x * (jnp.argmax(x, 1) + jnp.argmin(x, 1))[:, None]


@case("pinned", "cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def running(x, k):
    names = "cumsum cumprod cummax cummin cumlogsumexp"
    return sum(getattr(lax, name)(x, axis=1) for name in names.split())


@case("exact", "cumsum")
def running_over_examples(x, k):
    return lax.cumsum(x, axis=0)


@case("pinned", "sort")
def in_order(x, k):
    return jnp.sort(x, 1)


@case("exact", "sort")
def examples_in_order(x, k):
    return jnp.sort(x, 0)


@case("chosen", "top_k")
def largest(x, k):
    return lax.top_k(x, 3)[0]


@case("chosen", "argmax", "argmin", "gather", "iota", "eq")
def where_extremes_are(x, k):
    low, high = jnp.argmin(x, 1), jnp.argmax(x, 1)
    here = x * jax.nn.one_hot(high, N) - jnp.sin(x) * (low[:, None] == jnp.arange(N))
    return here + jnp.take_along_axis(x, low[:, None], 1) * x[jnp.arange(B), high][:, None]


@case("chosen", "top_k", "lt", "sort", "concatenate", "transpose", "dynamic_slice")
def places_of_largest(x, k):
    """Positions that are moved, sorted, joined, compared with each other and with a mask."""
    at = lax.top_k(x, 2)[1]
    at = jnp.sort(jnp.concatenate([at.T, at[:, ::-1].T], 0), 0).T
    low = jnp.arange(N) < jnp.maximum(at[:, 3:], 0)
    one = lax.dynamic_index_in_dim(x, at[0, 0], axis=1)
    return x * low + jnp.take_along_axis(x, at, 1).sum(1)[:, None] * (at[:, :1] < at[:, 3:]) + one


@case("pinned", "argmax", "mul")
def place_as_a_number(x, k):
    return x * (0.5 * jnp.argmax(x, 1))[:, None]


@case("pinned", "top_k", "eq")
def place_of_another_axis(x, k):
    return x + (lax.top_k(x, 2)[1] == jnp.arange(2)).sum(1, keepdims=True)


@case("pinned", "scan", "argmax")
def place_that_a_loop_carries(x, k):
    return x * lax.scan(lambda c, _: (c + 1, None), jnp.argmax(x, 1), None, 2)[0][:, None]


@case("pinned", "cond", "argmax")
def branch_of_the_largest(x, k):
    return lax.switch(jnp.argmax(x[0]), [jnp.sin, jnp.cos, jnp.tanh], x)


def image(x):
    return x[:, None, None, :] * jnp.sin(jnp.arange(1, 17.0)).reshape(4, 4, 1)


@case("exact", "reduce_window_max", "reduce_window_sum", "reduce_window_min")
def pools(x, k):
    y = image(x)
    window = ((1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    y = sum(
        lax.reduce_window(y, start, f, *window)
        for start, f in ((-jnp.inf, lax.max), (jnp.inf, lax.min), (0.0, lax.add))
    )
    return y.reshape(B, -1)


@case("pinned", "reduce_window_sum")
def pool_of_units(x, k):
    return lax.reduce_window(x, 0.0, lax.add, (1, 2), (1, 1), "VALID")


# Contractions


@case("exact", "dot_general")
def with_itself(x, k):
    """Units as batch axes, as free axes, as contracted ones, of data on both sides."""
    gram = jnp.einsum("bi,bj->bij", x, x)
    y = jnp.einsum("bij,bj->bi", gram, jnp.sin(x))
    return jnp.einsum("bi,bi,ci->bc", y, x, x) @ jnp.ones((B, 1)) + y


@case("exact", "conv_general_dilated")
def depthwise(x, k):
    y = lax.conv_general_dilated(
        image(x),
        jnp.ones((2, 2, 1, N)) * k,
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=N,
    )
    return y.reshape(B, -1)


@case("pinned", "conv_general_dilated")
def units_as_space(x, k):
    numbers = ("NWC", "WIO", "NWC")
    y = lax.conv_general_dilated(
        x[..., None], jnp.ones((2, 1, 1)), (1,), "VALID", dimension_numbers=numbers
    )
    return y[..., 0]


@case("exact", "ragged_dot_general")
def experts(x, k):
    """Units on the side of the rows; hidden units of experts are cut in test_constants."""
    return x * lax.ragged_dot(x, jnp.ones((2, N, 1)) * k, jnp.array([1, 1]))


# Control


@case("exact", "scan")
def scanned(x, k):
    last, each = lax.scan(lambda c, w: (jnp.sin(c * w), c + w), x, np.arange(1, 4.0))
    return last + each.sum(0)


@case("pinned", "scan")
def scanned_over_units(x, k):
    return lax.scan(lambda c, v: (c + v, c * v), jnp.zeros(B), x.T)[1].T


@case("exact", "while")
def looped(x, k):
    y = lax.stop_gradient(x)
    y = lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.cos(s[1])), (0, y))[1]
    return x + y


@case("exact", "cond")
def branched(x, k):
    return lax.cond(k > 0, jnp.sin, lambda y: y * jnp.arange(N), x)


@case("exact", "custom_jvp_call", "custom_vjp_call")
def own_derivatives(x, k):
    return odd(jax.nn.relu(x)) + shaped(x)


@jax.custom_vjp
def odd(x):
    return jnp.sin(x)


odd.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (jnp.broadcast_to(3.0, x.shape) * g,))


@jax.custom_jvp
def shaped(x):
    return jnp.cos(x)


shaped.defjvp(
    lambda p, t: (jnp.cos(p[0]), t[0] * jnp.broadcast_to(jnp.arange(p[0].shape[-1]), p[0].shape))
)


@case("exact", "remat2")
def recomputed(x, k):
    return jax.checkpoint(lambda y: jnp.sin(jnp.sin(y)))(x)


@case("exact", "random_bits", "random_fold_in", "random_seed", "random_split")
def dropped_out(x, k):
    """Units that are left see the noise that they would have seen."""
    key = jax.random.split(jax.random.fold_in(jax.random.key(3), 1))[0]
    return jnp.where(jax.random.bernoulli(key, 0.7, x.shape), x, 0.0)


@case("exact", "rng_bit_generator")
def bits_of_a_generator(x, k):
    state = k.astype(jnp.uint32) + jnp.arange(4, dtype=jnp.uint32)
    _, y = lax.rng_bit_generator(state, x.shape)
    return x * (y >> 30).astype(x.dtype)


@case("exact", "random_unwrap", "random_wrap")
def noise_from_raw_keys(x, k):
    key = jax.random.wrap_key_data(jax.random.key_data(jax.random.key(3)))
    return x + jax.random.normal(key, x.shape)
