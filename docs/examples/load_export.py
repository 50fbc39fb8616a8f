"""Pictures from a file of `ganjax export`, with jax alone: python load_export.py model.jaxexport pictures.npy

`pip install jax flatbuffers`: jax.export asks for the second.
"""

import json
import sys

import jax
import jax.export
import numpy as np


def load(path):
    """(facts, generate): what the model is, and (latents [N, Z]) or (latents, labels [N]) → its images."""
    with np.load(path) as file:
        weights = dict(file)
    facts = json.loads(weights.pop("metadata").item())
    program = jax.export.deserialize(bytearray(weights.pop("program").tobytes()))
    weights, call = jax.device_put(weights), jax.jit(program.call)
    return facts, lambda *inputs: call(weights, *inputs)


if __name__ == "__main__":
    facts, generate = load(sys.argv[1])
    n, key = 16, jax.random.key(0)
    latents = jax.random.normal(key, (n, facts["latent_dim"]))
    if facts["latent_distribution"] == "sphere":
        latents *= facts["latent_dim"] ** 0.5 / np.linalg.norm(latents, axis=1, keepdims=True)
    if facts["latent_distribution"] == "uniform":
        latents = jax.random.uniform(key, (n, facts["latent_dim"]), minval=-1, maxval=1)
    labels = [np.arange(n, dtype=np.int32) % facts["classes"]] if facts["classes"] else []
    np.save(sys.argv[2], generate(latents, *labels))
    print(facts)
