"""Penalties on D, per example; the weight, and the mean over the batch, are the caller's.

`dis` is a closure from images to logits float [N], with parameters, statistics and labels bound; parameter gradients
flow through the closure, so it must be differentiable twice. It must not use batch normalisation, which makes one
image's logit depend on the others and the "gradient per image" meaningless; other couplings (minibatch stddev) are
tolerated, as everywhere in the field: the gradient is that of the sum of the logits.

`images` are tuples of arrays [N, H, W, C] (or points [N, 2]), lowest resolution first, float, in [-1, 1]. With R1 and
R2 `dis` goes through the augmentation, so that the gradient is that of the image before it: a turn leaves its length, a
contrast of c makes it c times as long, and what is cut or moved out of sight has none. All transforms are affine in the
images and pass it on; noise adds and changes nothing.
Penalties average over the scales of the tuple (MSG-GAN, Karnewar & Wang 2019). Values are float32 [N].
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ganjax.config import plugins
from ganjax.data.augment.noise import normal_like
from ganjax.data.images import Images
from ganjax.losses.objective import Dis, LossInputs, Term
from ganjax.runtime.keys import Stream, stream_keys


def _mean_over_scales(values: Images) -> Array:
    return functools.reduce(operator.add, values) / len(values)


def _like(per_image: Array, images: Array) -> Array:
    """Returns [N] as [N, 1, …], of the rank and dtype of `images`."""
    return per_image.astype(images.dtype).reshape(-1, *[1] * (images.ndim - 1))


def gradient_norms_squared(dis: Dis, images: Images) -> Images:
    """Returns ‖∂D/∂x_s‖² for every scale s: a tuple of [N] like `images`.

    Raises:
        ValueError: the images are not a tuple, or D does not give [N].
    """
    if not isinstance(images, tuple):
        raise ValueError(f"expected a tuple of images, lowest resolution first, got {type(images).__name__}")

    def total(images: Images) -> Array:
        logits = dis(images)
        if logits.shape != images[0].shape[:1]:
            raise ValueError(f"expected logits of shape {images[0].shape[:1]}, got {logits.shape}")
        return jnp.sum(logits)

    gradients = jax.grad(total)(images)
    return tuple(jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))) for g in gradients)


def r1(dis: Dis, reals: Images) -> Array:
    """Returns ½‖∇D(real)‖² [N], mean over scales (Mescheder et al. 2018, eq. 9). Multiply by γ.

    The ½ is StyleGAN's; code without it means half our γ (GAN_stability's 10 is γ = 20).
    """
    return 0.5 * _mean_over_scales(gradient_norms_squared(dis, reals))


def r2(dis: Dis, fakes: Images) -> Array:
    """Returns ½‖∇D(fake)‖² [N], mean over scales (Mescheder et al. 2018, eq. 10). Multiply by γ."""
    return r1(dis, fakes)


def _norm_from_target(dis: Dis, images: Images, *, one_sided: bool, target: float) -> Array:
    """Returns (‖∇D‖/target - 1)² [N], mean over scales; if one-sided, only where the norm is above the target."""

    def cost(norm_squared: Array) -> Array:
        # 1e-4 keeps the root's own gradient finite where D is flat; it moves a norm of 1 by 5e-5
        excess = jnp.sqrt(norm_squared + 1e-4) / target - 1.0
        return jnp.square(jax.nn.relu(excess) if one_sided else excess)

    return _mean_over_scales(tuple(cost(n) for n in gradient_norms_squared(dis, images)))


def wgan_gp(
    dis: Dis,
    reals: Images,
    fakes: Images,
    alphas: Array,
    *,
    one_sided: bool = False,
    target: float = 1.0,
) -> Array:
    """Returns (‖∇D(x̂)‖ - 1)² at x̂ = real + α(fake - real), [N], mean over scales. Multiply by λ = 10.

    Args:
        dis: D as a closure.
        reals, fakes: the images, tuples of equal shapes.
        alphas: the α, [N] in [0, 1], one a sample, the same at each scale, so that x̂ is a pyramid as its ends are.
        one_sided: True for no cost below the target (WGAN-LP, Petzka et al. 2018; MSG-GAN's StyleGAN runs).
        target: the target γ; the cost is (‖∇D‖/γ - 1)² (Karras et al. 2018, which takes 750 on CIFAR-10).

    Source: Gulrajani et al. 2017, eq. 3 and alg. 1.
    """
    mixed = tuple(r + _like(alphas, r) * (f - r) for r, f in zip(reals, fakes, strict=True))
    return _norm_from_target(dis, mixed, one_sided=one_sided, target=target)


def _batch_std(images: Array, axis_name: str | None) -> Array:
    """Returns the standard deviation of all values of the global batch, a scalar."""
    mean = jnp.mean(images)
    mean = mean if axis_name is None else jax.lax.pmean(mean, axis_name)
    variance = jnp.mean(jnp.square(images - mean))
    return jnp.sqrt(variance if axis_name is None else jax.lax.pmean(variance, axis_name))


def dragan(
    dis: Dis,
    reals: Images,
    noise: Images,
    *,
    target: float = 1.0,
    axis_name: str | None = None,
) -> Array:
    """Returns (‖∇D(x + ½·std·δ)‖ - 1)² around the reals, [N], mean over scales. Multiply by λ = 10.

    Args:
        dis: D as a closure.
        reals: the real images, a tuple.
        noise: the δ, like `reals`, standard normal. Gaussian as in the paper; ½ the standard deviation of the batch
            (per scale) as in its authors' code, which however draws δ uniformly from [0, 1).
        target: the norm aimed at.
        axis_name: the mapped axis over which the batch is spread, for its standard deviation.

    Source: Kodali et al. 2017, eq. 3.
    """
    around = tuple(x + 0.5 * _batch_std(x, axis_name) * d for x, d in zip(reals, noise, strict=True))
    return _norm_from_target(dis, around, one_sided=False, target=target)


def drift(real_logits: Array) -> Array:
    """Returns r² [N], which keeps a Wasserstein D from drifting off. Multiply by 1e-3 (Karras et al. 2018, app. A)."""
    return jnp.square(real_logits)


def clip_weights(params: Any, limit: float | Array) -> Any:
    """Clips every leaf to [-limit, limit], after each D update (.01 in Arjovsky et al. 2017, alg. 1)."""
    return jax.tree.map(lambda leaf: jnp.clip(leaf, -limit, limit), params)


def lecam(real_logits: Array, fake_logits: Array, ema_real: Array, ema_fake: Array) -> Array:
    """Returns relu(r - ema_fake)² + relu(ema_real - f)² [N]. Multiply by .3, from step 1000 on.

    Args:
        real_logits, fake_logits: D's logits, [N] each.
        ema_real, ema_fake: the running means of D's logits on reals and fakes (`lecam_update`), scalars, constant here.

    Source: Tseng et al. 2021, eq. 4; the relu is from the authors' code.
    """
    ema_real, ema_fake = jax.lax.stop_gradient((ema_real, ema_fake))
    return jnp.square(jax.nn.relu(real_logits - ema_fake)) + jnp.square(jax.nn.relu(ema_real - fake_logits))


def lecam_update(
    emas: tuple[Array, Array], real_mean: Array, fake_mean: Array, decay: float = 0.99
) -> tuple[Array, Array]:
    """Returns (ema_real, ema_fake) after a step with the given mean logits over the *global* batch; all scalars."""
    ema_real, ema_fake = emas
    return decay * ema_real + (1.0 - decay) * real_mean, decay * ema_fake + (1.0 - decay) * fake_mean


def consistency(logits: Array, augmented_logits: Array) -> Array:
    """Returns (D(x) - D(T(x)))² [N]. Multiply by 10.

    On reals: CR-GAN (Zhang et al. 2020); on fakes as well: balanced (bCR, Zhao et al. 2021).
    Its T is a horizontal flip and a shift of up to ⅛ of the image.
    """
    return jnp.square(logits - augmented_logits)


def _uniform(keys: Array) -> Array:
    return jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.float32))(keys)


def _r1(r: LossInputs) -> Array:
    return r1(r.plain_reals.dis, r.plain_reals.images)


def _r2(r: LossInputs) -> Array:
    return r2(r.plain_fakes.dis, r.plain_fakes.images)


def _wgan_gp(r: LossInputs, *, one_sided: bool = False) -> Array:
    return wgan_gp(
        r.dis, r.reals, r.fakes, _uniform(stream_keys(r.keys, Stream.PENALTY)), one_sided=one_sided
    )


def _dragan(r: LossInputs) -> Array:
    noise = normal_like(stream_keys(r.keys, Stream.PENALTY), r.reals)
    return dragan(r.dis, r.reals, noise, axis_name=r.axis_name)


# R1 and R2 differentiate through augmentation and noise to the images before them, as the code of StyleGAN2-ADA and
# R3GAN does. The others take D's own inputs: they ask for a Lipschitz constant of D at points between or around what it
# is shown, which are the augmentation of no one image. None allows batch normalisation in D (`config/rules.py`).
PENALTIES: dict[str, Term] = {
    "r1": _r1,  # Mescheder et al. 2018
    "r2": _r2,  # Mescheder et al. 2018
    "r1_r2": lambda r: _r1(r) + _r2(r),  # Huang et al. 2024 (R3GAN)
    "wgan_gp": _wgan_gp,  # Gulrajani et al. 2017
    "wgan_gp_one_sided": functools.partial(_wgan_gp, one_sided=True),  # Petzka et al. 2018 (WGAN-LP)
    "dragan": _dragan,  # Kodali et al. 2017
}


def register_penalty(name: str) -> Callable[[Term], Term]:
    """Returns a decorator that adds a penalty on D to the choices of `penalty.name`.

    Args:
      name: a name of its own. What is decorated is a function of `LossInputs` that gives a value per example, float
        of any shape, whose mean D's loss gets, `penalty.weight` times.

    Raises:
      UserError: the name is none or taken.
    """

    def problem(found: Any, _: LossInputs) -> str:
        floats = hasattr(found, "dtype") and jnp.issubdtype(found.dtype, jnp.floating)
        return (
            "" if floats else f"gives float values, whose mean ganjax takes; it gave {plugins.shown(found)}"
        )

    return plugins.decorator("penalty", name, PENALTIES, problem)


def orthogonality(params: Any) -> Array:
    """Returns Σ over kernels of ‖WᵀW ⊙ (1 − I)‖²_F, [] float32 (Brock et al. 2019, equation 3).

    This is the paper's formula. The gradient that the authors' code adds is that of half of it, so that their weight is
    twice ours (their 1e-4 is our 5e-5).

    `params` are a network's parameters; the leaves called `kernel` count, as matrices [all else, output channels].
    """
    total = jnp.zeros((), jnp.float32)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if getattr(path[-1], "key", "") == "kernel":
            matrix = leaf.astype(jnp.float32).reshape(-1, leaf.shape[-1])
            products = matrix.T @ matrix
            total += jnp.sum(jnp.square(products)) - jnp.sum(jnp.square(jnp.diagonal(products)))
    return total


def path_lengths(restyle: Callable[[Array], Images], keys: Array, shape: tuple[int, int]) -> Array:
    """Returns ‖Jᵀy‖ for each image, J the derivative of the full image by its styles (Karras et al. 2020, eq. 4).

    y is noise.

    Args:
        restyle: the function from offsets of the styles [N, *shape] to G's images, as a tuple.
        keys: the keys [N] of y, which is normal over the root of the number of pixels.
        shape: the pair (layers with a style, size of a style).

    Returns:
        [N] float32: the root of the mean over layers of the squared length.
    """

    def inner(offsets: Array) -> Array:
        image = restyle(offsets)[-1]
        pixels = image.shape[1] * image.shape[2]
        draw = lambda key: jax.random.normal(key, image.shape[1:], image.dtype)
        return jnp.sum(image * jax.vmap(draw)(keys)) / pixels**0.5

    slopes = jax.grad(inner)(jnp.zeros((keys.shape[0], *shape), jnp.float32))
    return jnp.sqrt(jnp.mean(jnp.sum(jnp.square(slopes), axis=2), axis=1) + 1e-8)
