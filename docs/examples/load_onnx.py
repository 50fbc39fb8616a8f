"""Pictures from a file of `ganjax export`, with onnxruntime alone: python load_onnx.py model.onnx pictures.npy"""

import json
import sys

import numpy as np
import onnxruntime


def load_onnx(path):
    """(facts, generate): what the model is, and (latents [N, Z]) or (latents, labels [N]) → its images."""
    session = onnxruntime.InferenceSession(path)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["ganjax"])
    return facts, lambda *inputs: session.run(None, dict(zip(facts["inputs"], inputs, strict=True)))[0]


if __name__ == "__main__":
    facts, generate = load_onnx(sys.argv[1])
    rng, n = np.random.default_rng(0), 16
    latents = rng.standard_normal((n, facts["latent_dim"]), np.float32)
    if facts["latent_distribution"] == "sphere":
        latents *= facts["latent_dim"] ** 0.5 / np.linalg.norm(latents, axis=1, keepdims=True)
    if facts["latent_distribution"] == "uniform":
        latents = rng.uniform(-1, 1, latents.shape).astype(np.float32)
    labels = [np.arange(n, dtype=np.int32) % facts["classes"]] if facts["classes"] else []
    np.save(sys.argv[2], generate(latents, *labels))
    print(facts)
