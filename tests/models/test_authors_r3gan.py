"""R3GAN beside its authors' code: `tests/oracles/r3gan_authors.npz`, whose entry `about` says how it was made."""

from __future__ import annotations

import authors_weights as authors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from authors_weights import error, images, kept, normal, quick

from ganjax.losses.adversarial import LOSSES
from ganjax.losses.penalties import r1, r2
from ganjax.models.layers.equalized import SMOOTH, fir_down, fir_up
from ganjax.models.mappings import export_weights
from ganjax.models.mappings import r3gan as mapping
from ganjax.models.r3gan import R3GANDiscriminator, R3GANGenerator
from ganjax.training.optim import Optimizer, make_chain

ORACLE = authors.load("r3gan")
N, Z, CLASSES, GAMMA = 8, 12, 3, 0.5
LABELS = jnp.arange(N, dtype=jnp.int32) % CLASSES
SMALL, WIDE = {"width": 16, "max_width": 32}, {"width": 128, "max_width": 256}
LOSS = LOSSES["rp_non_saturating"]
unconditional_and_conditional = pytest.mark.parametrize("classes", [0, CLASSES])


def scale(name, shape):
    """Kernels are N(0, 1/inputs), biases N(0, .1²), G's basis N(0, 1)."""
    if name.endswith("Bias"):
        return 0.1, 0.0
    return (1.0 if name.endswith("Layers.0.Basis") else float(np.prod(shape[1:])) ** -0.5), 0.0


def labels_of(classes):
    return LABELS if classes else None


def pair(classes, sizes=SMALL):
    """G and D, their entries, and what they are made with."""
    gen = R3GANGenerator(16, 3, (16,), classes=classes, depth=2, **sizes)
    dis = R3GANDiscriminator(16, classes=classes, depth=2, **sizes)
    latents = jnp.zeros((N, Z if sizes is SMALL else 64))
    return {
        "gen": (gen, mapping.generator(16, classes=classes, **sizes), latents),
        "dis": (dis, mapping.discriminator(16, classes=classes, **sizes), (jnp.zeros((N, 16, 16, 3)),)),
    }


def made(classes):
    """G and D as functions of parameters and inputs, their entries, and parameters."""
    functions, entries, params = [], [], []
    for seed, (net, names, given) in enumerate(pair(classes).values(), 24):
        empty = authors.empty(net, given, labels_of(classes))
        params.append(authors.filled(names, empty, scale, seed)["params"])
        entries.append(names)
        functions.append(lambda p, x, net=net: net.apply({"params": p}, x, labels_of(classes), train=True))
    gen, dis = functions
    return (lambda p, z: gen(p, z)[-1], dis), entries, params


def test_the_resampling_filter():
    x = images(2, 8, 7)
    assert error(fir_up(x, SMOOTH), ORACLE["up"]) < 1e-6
    assert error(fir_down(x, SMOOTH), ORACLE["down"]) < 1e-6


@unconditional_and_conditional
def test_images_and_logits_and_their_gradients(classes):
    (gen, dis), entries, params = made(classes)
    latents, x = normal(N, Z, seed=1), images(N, 16, 13)

    def of_gen(p, z):
        image = gen(p, z)
        return jnp.sum(image * normal(N, 16, 16, 3, seed=2)), image

    def of_dis(p, x):
        logits = dis(p, (x,))
        return jnp.sum(logits * normal(N, seed=4)), logits

    (_, image), (by_params, by_latents) = quick(jax.value_and_grad(of_gen, (0, 1), has_aux=True))(
        params[0], latents
    )
    prefix = f"c{classes}"
    assert error(image[:2], ORACLE[f"{prefix}/gen/images16"]) < 1e-5
    assert error(by_latents, ORACLE[f"{prefix}/gen/d_latents"]) < 1e-4
    assert authors.gradient_errors(ORACLE, f"{prefix}/gen/grad/", entries[0], by_params) < 1e-4
    (_, logits), (by_params, by_images) = quick(jax.value_and_grad(of_dis, (0, 1), has_aux=True))(
        params[1], x
    )
    assert error(logits, ORACLE[f"{prefix}/dis/logits"]) < 1e-5
    assert error(kept(by_images), ORACLE[f"{prefix}/dis/d_images"]) < 1e-4
    assert authors.gradient_errors(ORACLE, f"{prefix}/dis/grad/", entries[1], by_params) < 1e-4


def dis_loss(dis, params, reals, fakes):
    """The mean to minimise, and its parts for each image."""
    judge = lambda x: dis(params, x)
    adversarial = LOSS.dis(judge((reals,)), judge((fakes,)))
    at_reals, at_fakes = r1(judge, (reals,)), r2(judge, (fakes,))
    return jnp.mean(adversarial + GAMMA * (at_reals + at_fakes)), (adversarial, 2 * at_reals, 2 * at_fakes)


def gen_loss(gen, dis, params, judging, latents, reals):
    value = LOSS.gen(dis(judging, (reals,)), dis(judging, (gen(params, latents),)))
    return jnp.mean(value), value


@unconditional_and_conditional
def test_losses_penalties_and_their_gradients(classes):
    (gen, dis), entries, params = made(classes)
    latents, reals, prefix = normal(N, Z, seed=5), images(N, 16, 6), f"c{classes}"
    run = quick(lambda p, fakes: jax.grad(lambda p: dis_loss(dis, p, reals, fakes), has_aux=True)(p))
    grads, parts = run(params[1], quick(gen)(params[0], latents))
    for name, value in zip(("loss_dis", "r1", "r2"), parts, strict=True):
        assert error(value, ORACLE[f"{prefix}/{name}"]) < 1e-5
    assert authors.gradient_errors(ORACLE, f"{prefix}/loss_dis_grad/", entries[1], grads) < 1e-4
    run = quick(jax.grad(lambda p: gen_loss(gen, dis, p, params[1], latents, reals), has_aux=True))
    grads, value = run(params[0])
    assert error(value, ORACLE[f"{prefix}/loss_gen"]) < 1e-5
    assert authors.gradient_errors(ORACLE, f"{prefix}/loss_gen_grad/", entries[0], grads) < 1e-4


@unconditional_and_conditional
def test_weights_start_as_the_authors(classes):
    """Standard deviations and means of every array, as far as chance allows, and the numbers of parameters."""
    for name, (net, entries, given) in pair(classes, WIDE).items():
        start = quick(lambda key, net=net, given=given: net.init(key, given, labels_of(classes), train=True))
        found = export_weights(entries, jax.device_get(start(jax.random.key(1))))
        prefix = f"c{classes}/{name}/start/"
        assert {key[len(prefix) :] for key in ORACLE if key.startswith(prefix)} == set(found)
        for key, x in found.items():
            deviation, mean = ORACLE[prefix + key]
            near = 8 / x.size**0.5 * max(deviation, 1e-6)
            assert abs(np.std(x) - deviation) < near and abs(np.mean(x) - mean) < near, key
    counts = [sum(x.size for x in jax.tree.leaves(params)) for params in made(classes)[2]]
    np.testing.assert_array_equal(counts, ORACLE[f"c{classes}/parameters"])


@unconditional_and_conditional
def test_ten_steps_of_both_optimisers(classes):
    """D, and then G beside reals of its own. Adam makes large moves of tiny gradients, and so of their rounding."""
    (gen, dis), _, params = made(classes)
    chain = make_chain("adam", beta1=0.0, beta2=0.9, eps=1e-8, weight_decay=0.0, clip_norm=0.0)
    optimizer = Optimizer(chain, lambda step: jnp.float32(1.0))

    @quick
    def step(state, z_dis, reals, z_gen, others):
        (g, opt_g), (d, opt_d) = state
        given = {"step": jnp.int32(0), "peak": jnp.float32(2e-4)}
        grads, parts = jax.grad(lambda p: dis_loss(dis, p, reals, gen(g, z_dis)), has_aux=True)(d)
        d, opt_d, _ = optimizer.update(grads, opt_d, d, **given)
        grads, value = jax.grad(lambda p: gen_loss(gen, dis, p, d, z_gen, others), has_aux=True)(g)
        g, opt_g, _ = optimizer.update(grads, opt_g, g, **given)
        return ((g, opt_g), (d, opt_d)), jnp.stack([jnp.mean(x) for x in (*parts, value)])

    state, rows = tuple((p, chain.init(p)) for p in params), []
    for i in range(10):
        reals, others = images(N, 16, 200 + i), images(N, 16, 400 + i)
        state, row = step(state, normal(N, Z, seed=100 + i), reals, normal(N, Z, seed=300 + i), others)
        rows.append(row)
    (g, _), (d, _) = state
    prefix = f"c{classes}/steps"
    assert error(np.asarray(rows)[0], ORACLE[f"{prefix}/rows"][0]) < 1e-5
    assert error(rows, ORACLE[f"{prefix}/rows"]) < 1e-2
    assert error(gen(g, normal(N, Z, seed=1))[:2], ORACLE[f"{prefix}/images"]) < 1e-2
    assert error(dis(d, (images(N, 16, 13),)), ORACLE[f"{prefix}/logits"]) < 1e-2
