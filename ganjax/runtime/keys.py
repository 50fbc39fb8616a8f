"""Random keys that belong to images: a key for each place in the global batch, whatever device it is on."""

from __future__ import annotations

import jax


def image_keys(seed: jax.Array, step: jax.Array, purpose: int | jax.Array, index: jax.Array) -> jax.Array:
    """One key per image, [n], for this seed, step, purpose and place in the global batch."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return fold_each(jax.random.fold_in(key, purpose), index)


def fold_each(key: jax.Array, index: jax.Array) -> jax.Array:
    """`key` folded with each of `index` [n]."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def purpose_keys(keys: jax.Array, purpose: int) -> jax.Array:
    """Each key [n] folded with the same number."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, purpose)
