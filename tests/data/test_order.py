"""The order of images: a permutation each epoch, the same on device and host, no worse than chance."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ganjax.data.order import shuffled_indices


def epochs(size: int, count: int, seed: int = 0) -> np.ndarray:
    """[count, size]: the order of each of the first `count` epochs."""
    positions = np.arange(size * count, dtype=np.uint32)
    return shuffled_indices(positions, size, seed, xp=np).reshape(count, size)


def within_chance(counts: np.ndarray, freedom: int) -> bool:
    """Whether equally likely counts are: chi-square less than 4 standard deviations off its mean."""
    expected = counts.mean()
    return abs(((counts - expected) ** 2 / expected).sum() - freedom) < 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1797, 60000])
def test_every_epoch_holds_each_index_once(size: int) -> None:
    for order in epochs(size, 4):
        np.testing.assert_array_equal(np.sort(order), np.arange(size))


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1797, 60000, 2**31 - 1])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_device_and_host_agree(size: int, seed: int) -> None:
    positions = np.random.default_rng(0).integers(0, 2**32, size=512, dtype=np.uint32)
    host = shuffled_indices(positions, size, seed, xp=np)
    draw = jax.jit(lambda positions, seed: shuffled_indices(positions, size, seed))
    device = draw(jnp.asarray(positions), jnp.uint32(seed))
    assert host.dtype == device.dtype == np.int32
    assert host.min() >= 0 and host.max() < size
    np.testing.assert_array_equal(host, device)


def test_order_is_pinned() -> None:
    # A change of these numbers would break the resuming of every run there is.
    assert epochs(10, 2, seed=42).tolist() == [[0, 3, 4, 6, 9, 5, 2, 7, 8, 1], [9, 7, 4, 0, 3, 2, 5, 8, 1, 6]]


def test_shape_is_kept_and_elements_are_independent() -> None:
    positions = np.arange(24, dtype=np.uint32)
    flat = shuffled_indices(positions, 10, 5, xp=np)
    np.testing.assert_array_equal(shuffled_indices(positions.reshape(2, 3, 4), 10, 5, xp=np).ravel(), flat)
    assert int(shuffled_indices(jnp.uint32(7), 10, 5)) == flat[7]
    assert shuffled_indices(np.uint32(7), 10, 5, xp=np) == flat[7]


def test_seed_and_epoch_change_the_order() -> None:
    first, second = epochs(1797, 2, seed=0)
    other = epochs(1797, 1, seed=1)[0]
    for a, b in ((first, second), (first, other), (second, other)):
        assert np.sum(a == b) < 10


@pytest.mark.parametrize(("size", "count"), [(3, 6000), (4, 12000), (5, 24000)])
def test_all_permutations_are_equally_likely(size: int, count: int) -> None:
    codes = epochs(size, count, seed=7) @ size ** np.arange(size)
    _, counts = np.unique(codes, return_counts=True)
    assert len(counts) == math.factorial(size)
    assert within_chance(counts, len(counts) - 1)


@pytest.mark.parametrize("size", [10, 97])
def test_every_position_sees_every_index_equally_often(size: int) -> None:
    orders = epochs(size, 5000, seed=3)
    counts = np.stack([np.bincount(column, minlength=size) for column in orders.T])
    assert within_chance(counts, (size - 1) ** 2)
    steps = (orders[:, 1:] - orders[:, :-1]) % size
    assert within_chance(np.bincount(steps.ravel(), minlength=size)[1:], size - 2)


@pytest.mark.parametrize("size", [1797, 60000])
def test_no_serial_correlation_and_no_index_left_in_place(size: int) -> None:
    orders = epochs(size, 4, seed=11)
    centred = orders - (size - 1) / 2
    limit = 4 / math.sqrt(size)
    for order, values in zip(orders, centred, strict=True):
        power = (values**2).sum()
        assert abs((values[1:] * values[:-1]).sum() / power) < limit
        assert abs((values * (np.arange(size) - (size - 1) / 2)).sum() / power) < limit
        assert np.sum(order == np.arange(size)) < 8
    assert abs((centred[0] * centred[1]).sum() / (centred[0] ** 2).sum()) < limit


@pytest.mark.parametrize("size", [0, -1, 2**31])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="size must be in"):
        shuffled_indices(np.zeros(1, np.uint32), size, 0, xp=np)
