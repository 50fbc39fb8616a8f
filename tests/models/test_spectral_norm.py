"""SpectralNorm against the SVD and PyTorch's parametrisation."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paths import ORACLE_FILES

from ganjax.models.layers.spectral_norm import COLLECTION, SpectralNorm, power_iteration

LAYERS = {
    "dense": (lambda: nn.Dense(24), lambda: jnp.ones((2, 40))),
    "conv": (lambda: nn.Conv(16, (3, 3)), lambda: jnp.ones((2, 6, 6, 8))),
    "conv_transpose": (lambda: nn.ConvTranspose(8, (4, 4), strides=(2, 2)), lambda: jnp.ones((2, 5, 5, 16))),
    "embed": (lambda: nn.Embed(10, 32), lambda: jnp.array([1, 2])),
}
ORACLE = ORACLE_FILES / "spectral_norm.npz"


def raw_matrix(variables):
    kernel = next(v for k, v in variables["params"]["layer"].items() if k != "bias")
    return np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])


def vectors(variables):
    flat = {name[-1]: value for name, value in variables[COLLECTION].items()}
    return np.asarray(flat["u"], np.float64), np.asarray(flat["v"], np.float64)


def sigma(variables):
    u, v = vectors(variables)
    return u @ raw_matrix(variables) @ v


def largest(matrix):
    return np.linalg.svd(matrix, compute_uv=False)[0]


@pytest.mark.parametrize("name", LAYERS)
def test_sigma_after_warm_up_is_the_largest_singular_value(name):
    make, x = LAYERS[name]
    variables = SpectralNorm(make()).init(jax.random.key(0), x())
    np.testing.assert_allclose(sigma(variables), largest(raw_matrix(variables)), rtol=1e-3)


@pytest.mark.parametrize("name", LAYERS)
def test_output_is_that_of_the_kernel_over_sigma(name):
    make, x = LAYERS[name]
    layer, wrapped = make(), SpectralNorm(make())
    variables = wrapped.init(jax.random.key(0), x())
    divided = {
        k: v if k == "bias" else v / jnp.float32(sigma(variables))
        for k, v in variables["params"]["layer"].items()
    }
    np.testing.assert_allclose(
        wrapped.apply(variables, x()), layer.apply({"params": divided}, x()), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", LAYERS)
def test_params_hold_the_raw_kernel_at_the_scale_of_its_initialiser(name):
    make, x = LAYERS[name]
    wrapped = SpectralNorm(make()).init(jax.random.key(0), x())["params"]["layer"]
    for leaf in wrapped.values():
        assert leaf.dtype == jnp.float32
    assert largest(raw_matrix({"params": {"layer": wrapped}})) > 1.05


def test_vectors_move_only_where_the_caller_made_them_mutable():
    layer = SpectralNorm(nn.Dense(24))
    x = jnp.ones((2, 40))
    variables = layer.init(jax.random.key(0), x)
    changed = {**variables, "params": jax.tree.map(lambda p: p + 0.1, variables["params"])}
    plain = layer.apply(changed, x)
    also_plain, others = layer.apply(changed, x, mutable=["batch_stats"])
    np.testing.assert_array_equal(plain, also_plain)
    assert COLLECTION not in others
    _, moved = layer.apply(changed, x, mutable=[COLLECTION])
    assert not np.array_equal(*(vectors(v)[0] for v in (variables, moved)))


def test_perturbed_weights_break_sigma_and_updates_mend_it():
    layer = SpectralNorm(nn.Dense(24))
    x = jnp.ones((2, 40))
    variables = layer.init(jax.random.key(0), x)
    noise = jax.random.normal(jax.random.key(1), (40, 24))
    params = {"layer": {**variables["params"]["layer"], "kernel": noise}}
    state = {**variables, "params": params}
    errors = []
    for _ in range(60):
        errors.append(abs(sigma(state) / largest(raw_matrix(state)) - 1))
        state = {"params": params, **layer.apply(state, x, mutable=[COLLECTION])[1]}
    assert errors[0] > 0.1
    assert errors[-1] < 5e-3


def test_zero_kernels_stay_finite_and_recover():
    layer = SpectralNorm(nn.Dense(4, kernel_init=nn.initializers.zeros))
    x = jnp.ones((2, 3))
    variables = layer.init(jax.random.key(0), x)
    value, grads = jax.value_and_grad(lambda p: jnp.sum(layer.apply({**variables, "params": p}, x)))(
        variables["params"]
    )
    assert value == 0
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(grads))
    params = {"layer": {**variables["params"]["layer"], "kernel": jnp.full((3, 4), 0.5)}}
    state = {**variables, "params": params}
    for _ in range(3):
        state = {"params": params, **layer.apply(state, x, mutable=[COLLECTION])[1]}
    np.testing.assert_allclose(sigma(state), largest(raw_matrix(state)), rtol=1e-4)


def test_gradient_flows_through_sigma_as_if_u_and_v_were_constants():
    layer = SpectralNorm(nn.Dense(5, use_bias=False))
    x = jax.random.normal(jax.random.key(2), (3, 7))
    variables = layer.init(jax.random.key(0), x)
    u, v = vectors(variables)
    weights = np.random.RandomState(0).randn(3, 5)

    def loss(kernel):  # W̄ = W / uᵀWv, eq. 12 of Miyato et al.
        return float(np.sum(weights * (np.asarray(x, np.float64) @ (kernel / (u @ kernel @ v)))))

    kernel = raw_matrix(variables)
    numeric = np.zeros_like(kernel)
    for i in np.ndindex(*kernel.shape):
        step = np.zeros_like(kernel)
        step[i] = 1e-6
        numeric[i] = (loss(kernel + step) - loss(kernel - step)) / 2e-6
    grads = jax.grad(
        lambda p: jnp.sum(jnp.asarray(weights, jnp.float32) * layer.apply({**variables, "params": p}, x))
    )(variables["params"])
    np.testing.assert_allclose(grads["layer"]["kernel"], numeric, rtol=1e-3, atol=1e-5)


def test_known_sigma_and_rate_of_convergence():
    """Values computed with NumPy (techniques page, section 1)."""
    stream = np.random.RandomState(0)
    matrix = stream.randn(3, 3, 8, 16).reshape(-1, 16)
    assert largest(matrix) == pytest.approx(11.93825, abs=1e-5)
    v = stream.randn(16)
    v /= np.linalg.norm(v)
    for rounds, ratio in ((1, 0.805), (2, 0.898), (5, 0.974), (10, 0.9974), (20, 0.99997)):
        w = jnp.asarray(matrix.T, jnp.float32)  # the stream's vector lies on the side of the 16 columns
        u1, v1 = power_iteration(w, jnp.asarray(v, jnp.float32), jnp.zeros(72), iterations=rounds)
        estimate = float(u1 @ (w @ v1))
        assert estimate / 11.93825 == pytest.approx(ratio, abs=6e-3)


def test_bfloat16_layers_keep_vectors_and_sigma_in_float32():
    layer = SpectralNorm(nn.Dense(8, dtype=jnp.bfloat16))
    variables = layer.init(jax.random.key(0), jnp.ones((2, 6)))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert layer.apply(variables, jnp.ones((2, 6))).dtype == jnp.bfloat16


def test_a_few_updates_equal_pytorch():
    """SGD on a linear map under torch.nn.utils.parametrizations.spectral_norm; see the oracle's script."""
    oracle = np.load(ORACLE)
    layer = SpectralNorm(nn.Dense(5, use_bias=False))
    x = jnp.asarray(oracle["x"])
    names = layer.init(jax.random.key(0), x)[COLLECTION]
    spectral = {k: jnp.asarray(oracle["u" if k[-1] == "u" else "v"]) for k in names}
    state = {"params": {"layer": {"kernel": jnp.asarray(oracle["kernel"])}}, COLLECTION: spectral}
    for i in range(len(oracle["kernels"])):

        def loss(params, state=state):
            y, moved = layer.apply({**state, "params": params}, x, mutable=[COLLECTION])
            return 0.5 * jnp.mean(jnp.square(y - jnp.asarray(oracle["target"]))), moved

        grads, moved = jax.grad(loss, has_aux=True)(state["params"])
        params = jax.tree.map(lambda p, g: p - 0.5 * g, state["params"], grads)
        state = {"params": params, **moved}
        np.testing.assert_allclose(params["layer"]["kernel"], oracle["kernels"][i], rtol=1e-5, atol=1e-6)
