"""Augmentation: identities, what each transform keeps, agreement over the pyramid, SciPy's warp, NumPy's colours."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from ganjax.data import augment
from ganjax.data.augment import ada

N = 24
STRONGEST = ("color", "translation", "cutout")


def keys(n=N, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def pool(x):
    n, h, w, c = x.shape
    return x.reshape(n, h // 4, 4, w // 4, 4, c).mean(axis=(2, 4))


def pyramid(fine):
    """4 and 16 pixels."""
    return pool(fine), fine


def random_pyramid(n=N, channels=3, seed=0):
    fine = np.random.RandomState(seed).uniform(-1, 1, (n, 16, 16, channels))
    return pyramid(jnp.asarray(fine, jnp.float32))


def blocky_pyramid(n=N):
    """Constant over each pixel of the coarsest scale, 4×4."""
    coarse = random_pyramid(n)[0]
    return pyramid(jnp.repeat(jnp.repeat(coarse, 4, axis=1), 4, axis=2))


# Every transform as (keys, images) → images.
TRANSFORMS = {
    "instance_noise": partial(augment.instance_noise, std=0.3),
    "ada": partial(augment.ada_augment, p=0.7),
    "diff": partial(augment.diff_augment, policy=STRONGEST),
    **{name: partial(augment.diff_augment, policy=(name,)) for name in augment.POLICIES},
}
TRANSFORMS = {name: jax.jit(fn) for name, fn in TRANSFORMS.items()}


@pytest.fixture(params=TRANSFORMS)
def transform(request):
    return TRANSFORMS[request.param]


def test_each_image_depends_on_its_own_key_alone(transform):
    """So a batch may be spread over any number of devices."""
    half = N // 2
    images, others = random_pyramid(), random_pyramid(seed=1)
    mixed = jnp.concatenate([keys()[half:], keys(seed=1)[half:]])
    before = transform(keys(), images)
    after = transform(
        mixed, tuple(jnp.concatenate([x[half:], y[half:]]) for x, y in zip(images, others, strict=True))
    )
    for x, y, original in zip(before, after, images, strict=True):
        assert x.shape == original.shape and x.dtype == original.dtype
        np.testing.assert_allclose(y[:half], x[half:], atol=2e-6)
        assert (np.abs(x - original).max(axis=(1, 2, 3)) > 1e-6).mean() > 0.3


def test_gradients_are_the_transpose_of_the_map(transform):
    """Every transform is affine in the images: ⟨T(x + v) - T(x), w⟩ = ⟨v, Jᵀw⟩."""
    images, v, w = random_pyramid(), random_pyramid(seed=1), random_pyramid(seed=2)
    base, moved = (transform(keys(), x) for x in (images, jax.tree.map(jnp.add, images, v)))
    grads = jax.jit(lambda x, w: jax.vjp(partial(transform, keys()), x)[1](w)[0])(images, w)
    for scale in range(2):
        forward = np.sum((moved[scale] - base[scale]) * w[scale], axis=(1, 2, 3))
        backward = np.sum(grads[scale] * v[scale], axis=(1, 2, 3))
        np.testing.assert_allclose(forward, backward, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", augment.POLICIES)
def test_diff_augment_agrees_over_the_pyramid(name):
    """Transforming the finest scale and pooling equals transforming the coarse ones."""
    images = (
        random_pyramid() if name in ("brightness", "saturation", "contrast", "color") else blocky_pyramid()
    )
    coarse, fine = TRANSFORMS[name](keys(), images)
    np.testing.assert_allclose(coarse, pool(fine), atol=1e-5)


def smooth_images():
    """One slow wave an image and channel, 32×32."""
    draws = np.random.RandomState(0)
    at = (np.arange(32) + 0.5) / 32
    phase, wave = draws.uniform(0, 6.3, (N, 1, 1, 3)), draws.uniform(-1, 1, (2, N, 1, 1, 3)) * 3.1
    fine = 0.8 * np.sin(phase + wave[0] * at.reshape(1, -1, 1, 1) + wave[1] * at.reshape(1, 1, -1, 1))
    return pyramid(jnp.asarray(fine, jnp.float32))


def test_ada_agrees_over_the_pyramid_where_images_are_smooth():
    images = smooth_images()  # 8 and 32 pixels
    coarse, fine = jax.jit(augment.ada_augment)(keys(), images, 1.0)
    spread = float(jnp.std(fine))
    assert np.sqrt(np.mean(np.square(coarse - pool(fine)))) < 0.08 * spread
    assert np.std(coarse - images[0]) > 0.5 * spread  # it did move them


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_happens_at_strength_zero(channels):
    images = random_pyramid(channels=channels)
    run = jax.jit(
        lambda s: (augment.ada_augment(keys(), images, s), augment.instance_noise(keys(), images, s))
    )
    for result in (*run(jnp.float32(0)), augment.diff_augment(keys(), images, ())):
        for after, before in zip(result, images, strict=True):
            np.testing.assert_array_equal(after, before)


def test_instance_noise_is_unbiased_and_alike_at_each_scale():
    images = tuple(jnp.zeros((400, size, size, 1), jnp.float32) for size in (2, 4, 8))
    noisy = augment.instance_noise(keys(400), images, jnp.float32(0.3))
    for x in noisy:
        assert abs(float(x.mean())) < 4 * 0.3 / x.size**0.5
        np.testing.assert_allclose(x.std(), 0.3, rtol=4 / (2 * x.size) ** 0.5)
    assert abs(np.corrcoef(noisy[0].reshape(-1), noisy[1][:, :2, :2].reshape(-1))[0, 1]) < 0.1  # independent


def shifts_of(image):
    """What the translations of a 16×16 image by up to two pixels come to on average."""
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    return np.mean([padded[y : y + 16, x : x + 16] for y in range(5) for x in range(5)], axis=0)


def boxes_of(image):
    """And boxes of 8×8 about each of the 17 × 17 corners of its pixels."""
    at = np.arange(16)
    cut = np.mean([(c - 4 <= at) & (at < c + 4) for c in range(17)], axis=0)
    return image * (1 - np.outer(cut, cut))[..., None]


@pytest.mark.parametrize("name", [*augment.POLICIES, "instance_noise"])
def test_the_mean_image_is_that_of_the_draws(name):
    """Colour and noise leave it as it is; geometry moves zeros in, no more and no less than it should."""
    n = 6000
    image = np.random.RandomState(0).uniform(-1, 1, (16, 16, 3)).astype(np.float32)
    expected = {"translation": shifts_of, "cutout": boxes_of}.get(name, lambda x: x)(image)
    images = jnp.broadcast_to(image, (n, 16, 16, 3))
    seen = np.asarray(TRANSFORMS[name](keys(n), (images,))[0], np.float64)
    error = seen.std(axis=0) / n**0.5 + 1e-6
    assert (np.abs(seen.mean(axis=0) - expected) < 5 * error).all()


def test_instance_noise_takes_points():
    points = (jnp.zeros((N, 2), jnp.float32),)
    assert augment.instance_noise(keys(), points, 0.1)[0].shape == (N, 2)
    for fn in (partial(augment.diff_augment, policy=STRONGEST), partial(augment.ada_augment, p=0.5)):
        with pytest.raises(ValueError, match=r"\[N, H, W"):
            fn(keys(), points)


def test_noise_schedules():
    at = lambda name, t: float(augment.NOISE_SCHEDULES[name](jnp.float32(t)))
    for name, middle, end in (("constant", 1.0, 1.0), ("linear", 0.5, 0.0), ("cosine", 0.5, 0.0)):
        for progress, expected in ((0.0, 1.0), (0.5, middle), (1.0, end), (1.5, end)):
            assert at(name, progress) == pytest.approx(expected, abs=1e-6)


def test_colours_keep_what_they_should():
    images = random_pyramid(2000)[:1]
    run = lambda name: TRANSFORMS[name](keys(2000), images)[0]
    before = images[0]
    shift = (run("brightness") - before).reshape(2000, -1)
    np.testing.assert_allclose(shift - shift[:, :1], 0, atol=1e-6)
    assert np.abs(shift).max() <= 0.5 + 1e-6 and abs(shift[:, 0].mean()) < 4 / (12 * 2000) ** 0.5
    np.testing.assert_allclose(shift[:, 0].std(), 12**-0.5, rtol=0.05)
    np.testing.assert_allclose(run("saturation").mean(axis=3), before.mean(axis=3), atol=1e-6)
    np.testing.assert_allclose(run("contrast").mean(axis=(1, 2, 3)), before.mean(axis=(1, 2, 3)), atol=1e-6)
    for name, axis, low, high in (("saturation", 3, 0.0, 2.0), ("contrast", (1, 2, 3), 0.5, 1.5)):
        factor = run(name).std(axis=axis) / before.std(axis=axis)
        factor = factor.reshape(2000, -1)[:, 0]
        assert low - 1e-4 <= factor.min() and factor.max() <= high + 1e-4
        np.testing.assert_allclose([factor.mean(), factor.std()], [1, (high - low) / 12**0.5], atol=0.05)


def test_translation_is_a_whole_shift_with_zeros():
    """By every one of the 5×5 shifts that ⅛ of 16 pixels allows."""
    images = random_pyramid(300)[-1:]
    moved = np.asarray(TRANSFORMS["translation"](keys(300), images)[0])
    padded = np.pad(images[0], ((0, 0), (2, 2), (2, 2), (0, 0)))
    shifts = [(y, x) for y in range(5) for x in range(5)]
    equal = np.stack([(padded[:, y : y + 16, x : x + 16] == moved).all(axis=(1, 2, 3)) for y, x in shifts])
    assert (equal.sum(axis=0) == 1).all() and (equal.sum(axis=1) > 0).all()


def test_cutout_removes_a_box_of_half_the_size():
    """Its centre is anywhere from row 0 to 16, so the border leaves 4 to 8 of its 8 rows."""
    kept = np.asarray(
        TRANSFORMS["cutout"](keys(2000), (jnp.ones((2000, 16, 16, 1), jnp.float32),))[0][..., 0]
    )
    assert set(np.unique(kept)) == {0.0, 1.0}
    rows, columns = (kept == 0).any(axis=2), (kept == 0).any(axis=1)
    np.testing.assert_array_equal(kept == 0, rows[:, :, None] & columns[:, None, :])  # a box
    for side in (rows, columns):
        length = side.sum(axis=1)
        assert length.max() == 8 and length.min() == 4
        expected = np.minimum(np.arange(17) + 4, 16) - np.maximum(np.arange(17) - 4, 0)
        np.testing.assert_allclose(length.mean(), expected.mean(), atol=0.15)
        edges = side[:, 0].mean() + side[:, -1].mean()
        np.testing.assert_allclose(edges, 10 / 17, atol=0.06)


def test_unknown_policies_are_refused():
    with pytest.raises(ValueError, match="'colour'; choose from brightness"):
        augment.diff_augment(keys(), random_pyramid(), ("colour",))
    with pytest.raises(ValueError, match="1 or 3"):
        augment.ada_augment(keys(), random_pyramid(channels=2), 0.5)


def homogeneous(affine, i):
    a = [float(value[i]) for value in affine]
    return np.array([[a[0], a[1], a[4]], [a[2], a[3], a[5]], [0, 0, 1]])


def test_affine_steps_are_matrix_products():
    draws = np.random.RandomState(0)
    start = ada.Affine(*(jnp.asarray(draws.randn(1), jnp.float32) for _ in range(6)))
    a, b = (jnp.asarray(draws.randn(1), jnp.float32) for _ in range(2))
    cos, sin, x, y = np.cos(float(a[0])), np.sin(float(a[0])), float(a[0]), float(b[0])
    for got, step in (
        (start.turned(jnp.cos(a), jnp.sin(a)), [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]),
        (start.stretched(a, b), [[x, 0, 0], [0, y, 0], [0, 0, 1]]),
        (start.moved(a, b), [[1, 0, x], [0, 1, y], [0, 0, 1]]),
    ):
        np.testing.assert_allclose(homogeneous(got, 0), np.array(step) @ homogeneous(start, 0), rtol=1e-5)


def test_the_warp_is_scipys():
    """`map_coordinates`, order 1, whose mode "reflect" is the mirror about the border; 12×16 pixels."""
    images = jnp.asarray(np.random.RandomState(0).randn(N, 12, 16, 2), jnp.float32)

    @jax.jit
    def run(keys, images):
        affine = ada.random_affine(ada.Draws(keys, 18), jnp.float32(1), 12, 16)
        return affine, ada.warp(images, affine, 12, 16)

    affine, got = run(keys(), images)
    y, x = np.mgrid[:12, :16] + 0.0
    for i in range(N):
        m = homogeneous(affine, i)
        source = m @ np.stack([x.ravel() - 7.5, y.ravel() - 5.5, np.ones(12 * 16)])
        for channel in range(2):
            at = np.stack([source[1] + 5.5, source[0] + 7.5])
            expected = map_coordinates(
                np.asarray(images[i, ..., channel], float), at, order=1, mode="reflect"
            )
            np.testing.assert_allclose(got[i, ..., channel].reshape(-1), expected, atol=2e-4)


def test_flips_quarter_turns_and_whole_shifts_are_exact():
    image = jnp.asarray(np.random.RandomState(0).randn(1, 8, 8, 3), jnp.float32)
    numbers = lambda *values: ada.Affine(*(jnp.array([v], jnp.float32) for v in values))
    for affine, expected in (
        (numbers(-1, 0, 0, 1, 0, 0), image[:, :, ::-1]),
        (numbers(0, -1, 1, 0, 0, 0), np.rot90(image, axes=(1, 2))),
        (numbers(-1, 0, 0, -1, 0, 0), image[:, ::-1, ::-1]),
        (
            numbers(1, 0, 0, 1, 3, -2),
            np.pad(image, ((0, 0), (2, 0), (0, 3), (0, 0)), mode="symmetric")[:, :8, 3:],
        ),
    ):
        np.testing.assert_array_equal(ada.warp(image, affine, 8, 8), expected)


def test_colour_is_the_papers_product_of_matrices():
    draws = np.random.RandomState(0)
    v, eye = np.array([1, 1, 1, 0]) / 3**0.5, np.eye(4)
    grey = np.outer(v, v)
    cross = np.zeros((4, 4))
    cross[:3, :3] = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    for luma in (-1.0, 1.0):
        shift, contrast, theta, saturation = draws.randn(), np.exp(draws.randn()), 2.0, np.exp(draws.randn())
        b = eye.copy()
        b[:3, 3] = shift
        c = np.diag([contrast, contrast, contrast, 1])
        flip = eye - 2 * grey * (luma < 0)
        last = np.diag([0, 0, 0, 1])  # the homogeneous coordinate stays under all of them
        hue = np.cos(theta) * (eye - last) + np.sin(theta) * cross + (1 - np.cos(theta)) * grey + last
        saturate = grey + (eye - last - grey) * saturation + last
        m = saturate @ hue @ flip @ c @ b
        values = (jnp.array([x], jnp.float32) for x in (shift, contrast, luma, theta, saturation))
        image = draws.randn(1, 2, 2, 3).astype(np.float32)
        got = ada.recolour(jnp.asarray(image), ada.compose_colour(*values))
        np.testing.assert_allclose(got, image @ m[:3, :3].T + m[:3, 3], rtol=1e-4, atol=1e-5)


@jax.jit
def ada_parameters(keys, p):
    affine = ada.random_affine(ada.Draws(keys[0], 18), p, 32, 32)
    return affine, *(ada.random_colour(ada.Draws(k, 10), p, c) for k, c in ((keys[1], 3), (keys[2], 1)))


@pytest.mark.parametrize("p", [0.3, 1.0])
def test_ada_applies_each_transform_with_probability_p(p):
    n = 4000
    drawn = ada_parameters(tuple(keys(n, seed) for seed in range(3)), jnp.float32(p))
    affine, colour, grey = jax.tree.map(np.asarray, drawn)
    area = np.abs(affine.xx * affine.yy - affine.xy * affine.yx)
    turned = ~(np.isclose(affine.xx, 0) | np.isclose(affine.xy, 0))
    either = 1 - (1 - p) ** 2
    for seen, expected in (
        (~np.isclose(area, 1, atol=1e-6), p),  # scale, stretch keeps the area
        (turned, p),  # either rotation
        (affine.xx * affine.yy - affine.xy * affine.yx < 0, p / 2),
        (colour.offset != 0, p),
        (np.sign(colour.own + colour.following + colour.next_but_one) < 0, p / 2),
        (~np.isclose(colour.following, colour.next_but_one, atol=1e-6), p),
        ((affine.x0 != 0) | (affine.y0 != 0), either),  # either shift, up to whole ones that round to nothing
        (grey.own < 0, p / 2),
    ):
        np.testing.assert_allclose(np.mean(seen), expected, atol=4 * (0.25 / n) ** 0.5)
    if p == 1.0:
        np.testing.assert_allclose(np.std(np.log2(area)), 0.4, rtol=0.05)  # 2·log₂ of the scale
        total = np.abs(colour.own + colour.following + colour.next_but_one)
        np.testing.assert_allclose(np.std(np.log2(total)), 0.5, rtol=0.05)


def test_ada_moves_p_towards_the_target():
    step = partial(augment.ada_update, images_per_update=256, speed_kimg=500)
    p = jnp.float32(0)
    for _ in range(500_000 // 256 // 2):  # half the images that take it from 0 to 1
        p = step(p, jnp.float32(0.9))
    np.testing.assert_allclose(p, 0.5, atol=1e-3)
    assert step(p, jnp.float32(0.1)) < p and step(p, jnp.float32(0.5), target=jnp.float32(0.4)) > p
    assert step(jnp.float32(0), jnp.float32(-1)) == 0 and step(jnp.float32(1), jnp.float32(1)) > 1


def test_ada_above_one_is_as_at_one():
    images, keys = (
        (jax.random.uniform(jax.random.key(0), (4, 8, 8, 3), minval=-1.0),),
        jax.random.split(jax.random.key(1), 4),
    )
    one, above = (augment.ada_augment(keys, images, p)[0] for p in (1.0, 1.3))
    np.testing.assert_array_equal(above, one)


def test_ada_colours_at_a_share_of_p_and_cuts_out():
    """With no share for colours a flat image keeps its value wherever it was not cut, at any p."""
    keys = jax.random.split(jax.random.key(5), 64)
    flat = (jnp.full((64, 16, 16, 3), 0.5),)
    (kept,) = ada.ada_augment(keys, flat, 1.0, color_share=0.0)
    np.testing.assert_allclose(kept, flat[0], atol=1e-5)
    (cut,) = ada.ada_augment(keys, flat, 1.0, color_share=0.0, cutout=True)
    gone = np.isclose(np.asarray(cut), 0.0, atol=1e-5)
    assert np.all(gone | np.isclose(np.asarray(cut), 0.5, atol=1e-5))
    assert 0.1 < gone.mean() < 0.3  # a square of half the side, less where it leaves the image
    (half,) = ada.ada_augment(keys, flat, 1.0, color_share=0.5)
    (whole,) = ada.ada_augment(keys, flat, 1.0)
    changed = [float(np.mean(np.any(np.abs(np.asarray(x) - 0.5) > 1e-4, (1, 2, 3)))) for x in (half, whole)]
    assert 0 < changed[0] < changed[1] == 1.0
