"""Measures signals of a fixed batch: G's samples of the same latents, and D's logits of them and of real samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ganjax.data.images import Images, pack
from ganjax.evals.monitor.reference import SIDE, Reference, features_of, least_diverse
from ganjax.runtime.keys import Stream, fold_each, stream_key, stream_keys
from ganjax.training import parallel
from ganjax.training.forward import GAN, generate, logits_of
from ganjax.training.state import GanState, NetState

Tree = Any
PAIRS = 32  # a device compares so many pairs of samples by structural similarity


class ProbeProgram:
    """The compiled part of a probe, which runs of one program share.

    Args:
      gan: the run's GAN; its step is not called.
      devices: the devices of the run, over which it is spread.
      similarity: pairs of images [P, H, W, C] float32 in [0, 255] → [P] in [0, 1] (MS-SSIM); None leaves it out.
    """

    def __init__(
        self,
        gan: GAN,
        devices: Sequence[jax.Device],
        similarity: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    ) -> None:
        self._gan, self._similarity = gan, similarity
        self.measure = parallel.map_shares(self._measure, devices)
        self.sigmas = jax.jit(lambda gen, dis: (layer_sigmas(gen), layer_sigmas(dis)))

    def _measure(self, state: GanState, fixed: Tree) -> Tree:
        """Computes one device's share: features of the fakes [n, F], logits, gradients per scale, similarities."""
        gan = self._gan
        reals, labels, heldout, index = fixed
        keys = fold_each(stream_key(state.seed, Stream.PROBE), index)
        fakes, _ = generate(gan, state.gen, keys, labels, update_stats=False)
        judged = len(reals[0])
        keys, labels = keys[:judged], None if labels is None else labels[:judged]

        def logits(images: Images, stream: Stream) -> jax.Array:
            shown = pack(gan.transform(stream_keys(keys, stream), images, state), gan.packing)
            return logits_of(gan, state.dis, shown, labels)

        def of_fakes(images: Images) -> tuple[jax.Array, jax.Array]:
            found = logits(images, Stream.FAKES)
            return jnp.sum(found), found

        gradients, fake = jax.grad(of_fakes, has_aux=True)(tuple(x[:judged] for x in fakes))
        result = {
            "fakes": pooled(fakes[-1]),
            "fake": fake,
            "real": logits(reals, Stream.REALS),
            "gradients": tuple(_norms(g) for g in gradients),
        }
        if heldout is not None:
            result["heldout"] = logits(heldout, Stream.HELDOUT)
        if self._similarity is not None:
            images = (fakes[-1].astype(jnp.float32) + 1.0) * 127.5
            pairs = min(PAIRS, images.shape[0] // 2)
            result["similarity"] = self._similarity(images[:pairs], images[pairs : 2 * pairs])
        return result


class Probe:
    """Measures a state at log time, over all devices of the run; the batch is the same at every call.

    Args:
      program: the compiled part.
      devices: the number of devices that it uses.
      samples: N, the number of samples that G makes: at least the number of reals, a multiple of the devices.
      reals: images of the data as D takes them, lowest resolution first, [J, ...] float32, J a multiple of the
        devices, of the packing and of the group that D compares. D gets as many fakes: its passes cost most.
      labels: [N] int32, labels of the fakes, the first J those of the reals; None if there are none.
      heldout: images as in `reals` that D was never trained on; None where the data has none.
      reference: the reference of the data.
      spreads: the variety of the reals of each class (`class_spreads`); empty where G knows no classes.
      names: one name a class, or empty.
    """

    def __init__(
        self,
        program: ProbeProgram,
        devices: int,
        samples: int,
        reals: tuple[np.ndarray, ...],
        labels: np.ndarray | None,
        heldout: tuple[np.ndarray, ...] | None,
        reference: Reference,
        spreads: Mapping[int, float] | None = None,
        names: Sequence[str] = (),
    ) -> None:
        self._program, self._reference = program, reference
        self._spreads, self._names = spreads or {}, names
        self._sides = [scale.shape[1] if scale.ndim == 4 else 0 for scale in reals]
        judged = len(reals[0])

        def share(x: np.ndarray) -> np.ndarray:
            """Joins the rows of each device; its share of the rows that D gets comes first."""
            parts = [part.reshape(devices, -1, *x.shape[1:]) for part in (x[:judged], x[judged:])]
            return np.concatenate(parts, axis=1).reshape(x.shape)

        self._fixed = jax.tree.map(share, (reals, labels, heldout, np.arange(samples, dtype=np.int32)))

    def compile(self, state: GanState) -> None:
        """Compiles what a call needs, for states like this one; nothing is computed."""
        self._program.measure.compile(state, self._fixed)

    def __call__(self, state: GanState) -> dict[str, float | str]:
        """Returns the signals of `state`, by the names that `metrics.jsonl` has."""
        found = self._program.measure(state, self._fixed)
        sigmas = self._program.sigmas(state.gen, state.dis)
        joined = {name: value for name, value in found.items() if name != "gradients"}
        features = features_of(joined.pop("fakes"))
        signals = self._reference.judge(features)
        real, fake = joined["real"].ravel(), joined["fake"].ravel()
        signals |= {"real": mean(real), "fake": mean(fake), "separation": separation(real, fake)}
        if "heldout" in joined:
            signals["heldout"] = mean(joined["heldout"])
            signals["memorised"] = separation(real, joined["heldout"].ravel())
        if "similarity" in joined:
            signals["ms_ssim"] = mean(joined["similarity"])
        if len(self._sides) > 1:
            for side, norms in zip(self._sides, found["gradients"], strict=True):
                signals[f"gradient/{side}"] = mean(norms)
        else:
            signals["gradient"] = mean(found["gradients"][0])
        result: dict[str, float | str] = {f"monitor/{name}": value for name, value in signals.items()}
        if self._spreads and (found_class := least_diverse(features, self._fixed[1], self._spreads)):
            label, share = found_class
            result["monitor/class_diversity"] = share
            result["least_diverse_class"] = self._names[label] if self._names else str(label)
        for net, layers in zip(("gen", "dis"), sigmas, strict=True):
            values = {name: float(sigma) for name, sigma in layers.items()}
            result |= {f"sigma/{net}/{name}": value for name, value in values.items()}
            if values:
                result[f"sigma/{net}/log_product"] = float(
                    np.log(np.maximum(list(values.values()), 1e-30)).sum()
                )
        return result


def pooled(images: jax.Array) -> jax.Array:
    """Averages images down to `SIDE` or fewer, so that little has to leave the device; returns points as they are."""
    x = images.astype(jnp.float32)
    while x.ndim == 4 and min(x.shape[1:3]) > SIDE:
        n, h, w, c = x.shape
        x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
    return x


def mean(values: np.ndarray) -> float:
    """Returns the mean of the values, computed in float64."""
    return float(np.mean(values, dtype=np.float64))


def separation(high: np.ndarray, low: np.ndarray) -> float:
    """Returns the share of pairs in which the value of `high` [N] is above that of `low` [M].

    Ties count half. The share is 1 where every value of `high` is above every value of `low`.
    """
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, "left") + np.searchsorted(ordered, high, "right")
    return float(below.sum() / (2 * len(high) * len(low)))


def layer_sigmas(net: NetState) -> dict[str, jax.Array]:
    """Returns σ = uᵀWv of every layer with a spectral norm, by the layer's path; empty where there is none."""
    vectors = traverse_util.flatten_dict(net.stats.get("spectral", {}))
    kernels = traverse_util.flatten_dict(net.params)
    found: dict[str, jax.Array] = {}
    for path, u in vectors.items():
        *parent, _, name = path  # (…, SpectralNorm_0, kernel/u) goes with (…, Conv_0, kernel)
        if not name.endswith("/u"):
            continue
        v = vectors[(*path[:-1], name.removesuffix("/u") + "/v")]
        for place, kernel in kernels.items():
            layer = "/".join(place[:-1])
            inside = place[: len(parent)] == tuple(parent) and "/".join(place).endswith(
                name.removesuffix("/u")
            )
            if (
                inside
                and layer not in found
                and (kernel.size // kernel.shape[-1], kernel.shape[-1]) == (u.size, v.size)
            ):
                found[layer] = u @ (kernel.astype(jnp.float32).reshape(u.size, v.size) @ v)
                break
    return found


def _norms(gradients: jax.Array) -> jax.Array:
    """Returns the norm of each sample's gradient, [n]."""
    return jnp.sqrt(jnp.sum(jnp.square(gradients.astype(jnp.float32)), axis=tuple(range(1, gradients.ndim))))
