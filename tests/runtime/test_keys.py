"""Every draw has a key of its own."""

from __future__ import annotations

import ast
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paths import ROOT

from ganjax.runtime.keys import Stream, fold_each, image_keys, stream_key, stream_keys, update_number

# Each draw is made below one of the outer keys of an image.
OUTER = [Stream.LATENTS, Stream.REALS, Stream.FAKES, Stream.TERMS, Stream.HELDOUT]
INNER = [stream for stream in Stream if stream not in OUTER and stream < Stream.PROBE]
OF_THE_RUN = [stream for stream in Stream if stream >= Stream.PROBE]


def numbers(keys: jax.Array) -> list[bytes]:
    return [key.tobytes() for key in np.asarray(jax.random.key_data(keys)).reshape(-1, 2)]


def test_no_two_draws_share_a_key() -> None:
    """Keys of two images in the first updates of steps 0 to 4, those of the streams below them, those of the run."""
    index, found = jnp.arange(2), []
    for step, update in itertools.product(
        range(5), [update_number(n, i) for n in ("dis", "gen") for i in (0, 1)]
    ):
        of_images = image_keys(jnp.uint32(3), jnp.int32(step), update, index)
        found += numbers(of_images)
        for outer in OUTER:
            keys = stream_keys(of_images, outer)
            found += numbers(keys)
            for inner in INNER:
                found += numbers(stream_keys(keys, inner))
    for stream in OF_THE_RUN:
        key = stream_key(jnp.uint32(3), stream)
        found += numbers(key) + numbers(fold_each(key, index))
    assert len(found) == len(set(found))


def test_initialisation_and_flips_are_not_the_keys_of_steps() -> None:
    """`split(key(seed), 3)` would be those of steps 0, 1 and 2."""
    steps = [jax.random.fold_in(jax.random.key(0), step) for step in range(4)]
    of_the_run = [stream_key(0, stream) for stream in OF_THE_RUN]
    found = [number for key in [*steps, *of_the_run] for number in numbers(key)]
    assert len(found) == len(set(found))


@pytest.mark.parametrize("room", ["models", "data", "losses", "training", "evals/monitor", "run"])
def test_streams_are_named(room: str) -> None:
    """A bare number in a key is one that nobody knows of when the next is chosen."""
    bare = []
    for path in (ROOT / "ganjax" / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = (
                    node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                )
                if name in ("stream_keys", "stream_key", "fold_in") and isinstance(
                    node.args[-1], ast.Constant
                ):
                    bare.append(f"{path.name}:{node.lineno}")
    assert not bare
