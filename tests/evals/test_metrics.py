"""Measures of distributions: closed forms, SciPy's square root, and other packages' values on fixed features."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from paths import ORACLE_FILES

from ganjax.evals.metrics import intervals
from ganjax.evals.metrics.frechet import FrechetTo, Gaussian, Moments, frechet_distance, gaussian
from ganjax.evals.metrics.ms_ssim import count_scales, diversity, ms_ssim
from ganjax.evals.metrics.neighbours import (
    manifolds,
    memorised,
    nearest_neighbours,
    square_distances,
    squared_radii,
)
from ganjax.evals.metrics.scores import (
    inception_score,
    kid_estimates,
    kid_subsets,
    polynomial_mmd,
    score_of,
    softmax,
)

ORACLE = np.load(ORACLE_FILES / "metrics_torch.npz")
X, Y = ORACLE["x"], ORACLE["y"]


def draw(n: int, d: int, seed: int = 0, mean: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, scale, (n, d))


def test_fid_in_closed_form() -> None:
    """‖0 − 1‖² + Tr(I + 4I − 2·2I) = 3 + 3."""
    p = Gaussian(10, np.zeros(3), np.eye(3))
    q = Gaussian(10, np.ones(3), 4 * np.eye(3))
    assert frechet_distance(p, q) == pytest.approx(6.0, rel=1e-12)
    assert frechet_distance(q, p) == pytest.approx(6.0, rel=1e-12)
    assert frechet_distance(q, q) == pytest.approx(0.0, abs=1e-12)


def test_fid_is_torch_fidelitys() -> None:
    assert frechet_distance(gaussian(X), gaussian(Y)) == pytest.approx(float(ORACLE["fid"]), rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(500, 40), (30, 40)])
def test_fid_is_that_of_scipys_square_root(n: int, d: int) -> None:
    """Also where the covariances are singular; there SciPy's root wants the usual 1e-6 on the diagonal."""
    mix = np.random.default_rng(3).normal(size=(d, d))
    p, q = gaussian(draw(n, d, 1) @ mix), gaussian(draw(n, d, 2, mean=0.3))
    eps = 0.0 if n > d else 1e-6 * np.eye(d)
    root = np.real(scipy.linalg.sqrtm((p.covariance + eps) @ (q.covariance + eps)))
    gap = np.square(p.mean - q.mean).sum()
    expected = gap + np.trace(p.covariance) + np.trace(q.covariance) - 2 * np.trace(root)
    assert frechet_distance(p, q) == pytest.approx(expected, rel=1e-9 if n > d else 1e-3)


def test_moments_in_a_stream_are_numpys() -> None:
    x = draw(10_007, 12, mean=1e4, scale=0.1)  # where Σxxᵀ − nμμᵀ in one go would lose 10 digits
    moments = Moments()
    for part in np.array_split(x, 13):
        moments.add(part)
    found = moments.result()
    assert found.count == len(x) == moments.count
    np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(x.T), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found.covariance, found.covariance.T)


def test_weights_are_repetitions() -> None:
    x, counts = draw(5000, 4), np.random.default_rng(1).integers(0, 4, 5000)
    moments = Moments()
    moments.add(x, counts)
    expected, found = gaussian(np.repeat(x, counts, axis=0)), moments.result()
    assert found.count == expected.count
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-10, atol=1e-12)


def test_moments_of_misfits() -> None:
    moments = Moments()
    with pytest.raises(ValueError, match="two features"):
        moments.result()
    moments.add(draw(3, 4))
    with pytest.raises(ValueError, match=r"shape \[n, 4\]"):
        moments.add(draw(3, 5))
    with pytest.raises(ValueError, match="finite"):
        moments.add(np.full((2, 4), np.nan))
    with pytest.raises(ValueError, match="one dimension"):
        frechet_distance(gaussian(draw(5, 2)), gaussian(draw(5, 3)))


def test_kid_is_torch_fidelitys_on_the_same_subsets() -> None:
    estimates = kid_estimates(X, Y, zip(ORACLE["subsets_x"], ORACLE["subsets_y"], strict=True))
    assert estimates.mean() == pytest.approx(float(ORACLE["kid"]), rel=1e-6)
    assert estimates.std() == pytest.approx(float(ORACLE["kid_std"]), rel=1e-6)


def test_kid_by_hand_and_unbiased() -> None:
    x, y = np.array([[1.0], [2.0]]), np.array([[0.0], [1.0]])
    # k(1, 2) = 27, k(0, 1) = 1, across: 1, 8, 1, 27
    assert polynomial_mmd(x, y) == pytest.approx(27 + 1 - 2 * 37 / 4)
    values = [polynomial_mmd(draw(40, 8, s), draw(40, 8, 1000 + s)) for s in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300) and min(values) < 0


def test_kid_subsets() -> None:
    pairs = list(kid_subsets(5000, 3000, seed=0, subsets=7))
    assert len(pairs) == 7 and all(len(set(i)) == len(set(j)) == 1000 for i, j in pairs)
    assert all(len(i) == 150 for i, _ in kid_subsets(5000, 300, seed=0, subsets=2))
    again = list(kid_subsets(5000, 3000, seed=0, subsets=7))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(pairs, again, strict=True))


def test_inception_score_is_torch_fidelitys() -> None:
    assert inception_score(ORACLE["logits"]) == pytest.approx(
        (float(ORACLE["is"]), float(ORACLE["is_std"])), rel=1e-6
    )


def test_inception_score_at_its_ends() -> None:
    assert inception_score(np.zeros((50, 7))) == (pytest.approx(1.0), pytest.approx(0.0))
    sure = np.tile(1e3 * np.eye(7), (10, 1))
    assert inception_score(sure)[0] == pytest.approx(7.0)
    weights = np.array([0, 2, 1, 1, 0, 3, 0])
    p = softmax(draw(7, 5))
    assert score_of(p, weights) == pytest.approx(score_of(np.repeat(p, weights, axis=0)))


@pytest.mark.parametrize("block_bytes", [1, 8 * 300 * 7, 2**26])
@pytest.mark.parametrize("k", [3, 5])
def test_prdc_is_the_packages(k: int, block_bytes: int) -> None:
    found = manifolds(X, Y, precision_k=k, density_k=k, block_bytes=block_bytes)
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(found, name).mean() == pytest.approx(float(ORACLE[f"{name}/{k}"]), rel=1e-6), name


def test_prdc_with_a_k_for_each_pair() -> None:
    found = manifolds(X, Y)
    known = manifolds(X, Y, real_radii=squared_radii(X, 3, 5))
    assert all(np.array_equal(getattr(found, name), getattr(known, name)) for name in ("recall", "coverage"))
    expected = {"precision": 3, "recall": 3, "density": 5, "coverage": 5}
    for name, k in expected.items():
        assert getattr(found, name).mean() == pytest.approx(float(ORACLE[f"{name}/{k}"]), rel=1e-6), name
    with pytest.raises(ValueError, match="more samples"):
        manifolds(X[:5], Y)


def test_distances_by_hand() -> None:
    whole = np.square(X[:50, None].astype(float) - Y[None]).sum(axis=-1)
    blocks = list(square_distances(X[:50], Y, 8 * 300 * 7))
    assert [len(b) for _, b in blocks] == [7] * 7 + [1]
    np.testing.assert_allclose(np.concatenate([b for _, b in blocks]), whole, rtol=1e-9)
    index, distance = nearest_neighbours(X[:50], Y)
    np.testing.assert_array_equal(index, whole.argmin(axis=1))
    np.testing.assert_allclose(distance, np.sqrt(whole.min(axis=1)), rtol=1e-9)
    line = np.array([[0.0], [1.0], [3.0]])
    assert squared_radii(line, 1, 2).ravel().tolist() == pytest.approx([1, 1, 4, 9, 4, 9])


def test_memorised_samples_are_found() -> None:
    training, fresh = draw(3000, 8, 1), draw(1000, 8, 2)
    assert memorised(fresh, training).mean() < 0.03
    mixed = np.concatenate([training[:300], fresh[:700]])
    assert memorised(mixed, training)[:300].all() and memorised(mixed, training).mean() < 0.33
    doubled = np.concatenate([training, training])
    assert memorised(training, doubled).all() and memorised(fresh, doubled).mean() < 0.01


def test_ms_ssim_is_pytorch_msssims() -> None:
    rng = np.random.RandomState(1)  # the images of oracles/metrics_torch.py
    coarse = rng.rand(2, 12, 13, 3).repeat(16, axis=1).repeat(16, axis=2) * 255
    noisy = np.clip(coarse + rng.randn(*coarse.shape) * np.array([8.0, 40.0])[:, None, None, None], 0, 255)
    a, b = (jnp.asarray(i.astype(np.uint8), jnp.float32) for i in (coarse, noisy))
    np.testing.assert_allclose(ms_ssim(a, b, scales=5), ORACLE["ms_ssim"], rtol=1e-4)
    small = [i[:, :32, :32] for i in (a, b)]
    np.testing.assert_allclose(ms_ssim(*small, scales=1), ORACLE["ssim"], rtol=1e-4)
    np.testing.assert_allclose(ms_ssim(a, a, scales=5), 1.0, rtol=1e-5)


def test_scales_and_diversity() -> None:
    assert [count_scales(side) for side in (8, 11, 21, 22, 28, 32, 64, 175, 176, 512)] == [
        *(1, 1, 1, 2, 2, 2, 3, 4, 5, 5)
    ]
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (100, 8, 8, 1), dtype=np.uint8)
    same = np.repeat(noise[:1], 100, axis=0)
    assert diversity(noise, seed=0).shape == (5,)
    assert diversity(noise, seed=0).mean() < 0.3 and diversity(same, seed=0).mean() == pytest.approx(1)


def test_intervals_have_the_spread_of_new_samples() -> None:
    """The bootstrap's standard error of FID and of a mean against that of 200 fresh samples."""
    reference = gaussian(draw(20_000, 3, 9))

    def fid(x: np.ndarray, counts: np.ndarray | None = None) -> float:
        moments = Moments()
        moments.add(x, counts)
        return frechet_distance(reference, moments.result())

    x = draw(400, 3, 5, mean=0.3)
    low, high = intervals.bootstrap(lambda counts: fid(x, counts), 400, fid(x), seed=0)
    fresh = np.std([fid(draw(400, 3, 100 + s, mean=0.3)) for s in range(200)])
    assert (low + high) / 2 == pytest.approx(fid(x))
    assert (high - low) / (2 * 1.96) == pytest.approx(fresh, rel=0.25)
    low, high = intervals.mean_interval(draw(1000, 1)[:, 0], seed=0)
    assert (high - low) / (2 * 1.96) == pytest.approx(1 / np.sqrt(1000), rel=0.15)


def test_interval_of_kid_covers_new_samples() -> None:
    def kid(seed: int) -> np.ndarray:
        x, y = draw(1000, 6, 1), draw(1000, 6, seed, mean=0.2)
        return kid_estimates(x, y, kid_subsets(1000, 1000, seed=0, subsets=40, size=200))

    fresh = np.std([kid(50 + s).mean() for s in range(20)])
    low, high = intervals.subsampling_interval(kid(7), 200, 1000)
    assert 0.8 * fresh < (high - low) / (2 * 1.96) < 3 * fresh


@pytest.mark.parametrize("flat", [False, True])
def test_fids_standard_error_is_the_bootstraps(flat: bool) -> None:
    """Also where the samples have no spread in some directions, as collapsed ones."""
    rng = np.random.default_rng(3)
    mixing = rng.normal(size=(12, 12)) / 3
    samples = rng.normal(size=(3000, 12)) ** 3 @ mixing + 0.5
    if flat:
        samples[:, 8:] = 0.1
    reference = gaussian(draw(5000, 12))
    to_reference, own = FrechetTo(reference), gaussian(samples)

    def again(counts: np.ndarray) -> float:
        moments = Moments()
        moments.add(samples, counts)
        return to_reference(moments.result())

    value = to_reference(own)
    low, high = intervals.bootstrap(again, len(samples), value, seed=0, repeats=200)
    assert to_reference.standard_error(samples, own) == pytest.approx(
        (high - low) / 2 / intervals.Z, rel=0.15
    )
