"""Interpolates from one sample to the next: on great arcs between latents, or straight between styles; mixes styles."""

from __future__ import annotations

import io
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ganjax.data.dataset import find_classes
from ganjax.data.images import to_uint8
from ganjax.models.base import BASE
from ganjax.models.latents import make_latents
from ganjax.run.open import OpenRun, open_run
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import write_atomically
from ganjax.runtime.keys import Stream, check_seeds, fold_each, stream_key
from ganjax.runtime.logs.images import grid_picture, write_grid

CHUNK = 64  # images made in one call
FORMATS = (".gif", ".webp", ".mp4")
PARALLEL = 1e-4  # sine of an angle below which a spherical path is a straight one


def interpolate(
    workdir: Path,
    out: Path,
    *,
    seeds: Sequence[int] = (0, 1, 2, 3),
    classes: Sequence[int | str] = (),
    steps: int = 24,
    n: int = 9,
    frames_per_second: int = 24,
    weights: str = "ema",
    step: int | None = None,
    truncation: float = 1.0,
) -> str:
    """Writes a film that goes from the samples of each seed to those of the next, and back to the first.

    Args:
      workdir: folder of the run.
      out: a path that ends in .gif, .webp or .mp4.
      seeds: two or more seeds of the latents, as for `ganjax sample --seed=…`; or one, with several classes.
      classes: names or numbers: the film goes from the first seed's samples of the first class to the second seed's of
        the second, and so on, each row taken up again where it is the shorter one; all classes side by side by default.
      steps: number of frames from one seed to the next.
      n: number of images side by side, each on a path of its own; 1 for one large image.
      frames_per_second: speed of the film.
      weights, step, truncation: as for `sample`.

    Raises:
      UserError: no run of images or checkpoint there, an argument out of range, or .mp4 without ffmpeg.
    """
    check_arguments(out, seeds, steps, n, truncation, frames=max(len(seeds), len(classes)))
    most = (
        50 if out.suffix == ".gif" else 1000
    )  # a GIF's times are hundredths, of which viewers take no single one
    if not 1 <= frames_per_second <= most:
        raise UserError(
            f"--fps takes a number from 1 to {most} for {out.suffix}, and got {frames_per_second}."
        )
    run = open_images(workdir, weights, step)
    labels = find_classes(classes, run.dataset.label_names, run.build.classes)
    painter = Painter(run, truncation)
    start = [
        painter.keyframe(seeds[i % len(seeds)], n, labels[i % len(labels)] if labels else None)
        for i in range(max(len(seeds), len(labels)))
    ]
    frames = [
        np.asarray(grid_picture(images, columns=round(n**0.5 + 0.49)))
        for images in painter.paths([*start, start[0]], steps)
    ]
    write_film(out, frames, frames_per_second)
    return f"{len(frames)} frames of step {run.step} ({weights} weights) are in {out}"


def mix(
    workdir: Path,
    out: Path,
    *,
    side: int,
    seeds: Sequence[int] = (0, 1),
    n: int = 6,
    weights: str = "ema",
    step: int | None = None,
    truncation: float = 1.0,
) -> str:
    """Writes a PNG of mixed styles.

    Each image has the styles up to `side` pixels of its row, and the finer ones of its column. The first column and row
    show the `n` sources of each, samples of the first and of the second seed; the corner is white. The noise is that of
    the row.

    Raises:
      UserError: as `interpolate`, and for a run whose generator has no styles.
    """
    if out.suffix != ".png":
        raise UserError(f"--out takes a file ending in .png with --mix, and got {out.name!r}.")
    if len(seeds) != 2:
        raise UserError(f"--seeds takes two numbers with --mix, rows' and columns', and got {len(seeds)}.")
    check_arguments(None, seeds, 1, n, truncation, frames=2)
    run = open_images(workdir, weights, step)
    if not run.build.truncates:
        raise UserError(
            f"--mix takes a run of a generator with styles (stylegan2), not {run.config.model.name}."
        )
    sides = run.dataset.images.shape[1]
    if not BASE <= side < sides:
        raise UserError(
            f"--mix takes a side from {BASE} to {sides // 2} pixels for this run, and got {side}."
        )
    painter = Painter(run, truncation)
    rows, columns = (painter.keyframe(seed, n) for seed in seeds)
    coarse = (
        2 * ((side // BASE).bit_length() - 1) + 1
    )  # layers up to that side: one at 4 pixels, two a level above
    fine = (np.arange(painter.layers) >= coarse).astype(np.float32)[None, :, None]
    first = painter.images(columns.latents, columns.labels)
    grid = [np.full_like(first[:1], 255), first]
    own = painter.images(rows.latents, rows.labels)
    for i in range(n):
        latents = np.repeat(rows.latents[i : i + 1], n, axis=0)
        labels = None if rows.labels is None else np.repeat(rows.labels[i : i + 1], n)
        offsets = truncation * fine * (columns.styles - rows.styles[i : i + 1])[:, None, :]
        grid += [own[i : i + 1], painter.images(latents, labels, offsets)]
    write_grid(out, np.concatenate(grid), columns=n + 1)
    return f"{n}×{n} mixtures of step {run.step} ({weights} weights) are in {out}"


def check_arguments(
    out: Path | None, seeds: Sequence[int], steps: int, n: int, truncation: float, *, frames: int
) -> None:
    """Raises a `UserError` for an argument out of range; `frames` are the samples that a film passes through."""
    if out is not None and out.suffix not in FORMATS:
        raise UserError(f"--out takes a file ending in .gif, .webp or .mp4, and got {out.name!r}.")
    if out is not None and out.suffix == ".mp4" and not shutil.which("ffmpeg"):
        raise UserError(
            "An .mp4 needs the program ffmpeg, and there is none on PATH; .webp and .gif do without."
        )
    if frames < 2 or not seeds:
        raise UserError(
            f"--seeds takes two numbers or more (one with several --classes), and got {len(seeds)}."
        )
    check_seeds(seeds)
    for name, value in (("--steps", steps), ("--n", n)):
        if value < 1:
            raise UserError(f"{name} takes an integer of at least 1, and got {value}.")
    if not 0 < truncation <= 1:
        raise UserError(f"--truncation takes a number above 0 and at most 1, and got {truncation}.")


def open_images(workdir: Path, weights: str, step: int | None) -> OpenRun:
    """Opens the run in `workdir`. Raises `UserError` where it makes points."""
    run = open_run(workdir, n=1, weights=weights, step=step)
    if run.dataset.images.ndim == 2:
        raise UserError(
            f"There is nothing to see between two samples of {workdir}: it makes points, not images."
        )
    return run


class Keyframe:
    """Samples to pass through: latents [n, Z], labels [n] or None, and styles [n, W] where G has them, else None."""

    def __init__(self, latents: np.ndarray, labels: np.ndarray | None, styles: Any) -> None:
        self.latents, self.labels, self.styles = latents, labels, styles


class Painter:
    """A maker of images, uint8, from given latents and styles, in compiled calls of a fixed size."""

    def __init__(self, run: OpenRun, truncation: float) -> None:
        self._run, self._truncation = run, truncation
        model, styled = run.config.model, run.build.truncates
        self._draw = make_latents(model.latent_dim, model.latent_distribution, 1.0 if styled else truncation)
        self._straight = model.latent_distribution == "uniform"  # the arc would leave the cube
        self._styled = styled
        self.layers: int = run.build.gan.gen.net.style_shape[0] if styled else 0  # type: ignore[attr-defined]
        self._paint, self._map = jax.jit(self._apply), jax.jit(self._styles)

    def _apply(self, variables: Any, latents: jax.Array, labels: Any, offsets: Any) -> jax.Array:
        styles = {"truncation": self._truncation, "style_offsets": offsets} if self._styled else {}
        scales: Any = self._run.build.gan.gen.net.apply(variables, latents, labels, train=False, **styles)
        return to_uint8(scales[-1])

    def images(self, latents: np.ndarray, labels: np.ndarray | None, offsets: Any = None) -> np.ndarray:
        """Returns the images, uint8 [N, H, W, C].

        They are made of latents [N, Z], labels [N] (or weights of the classes, [N, K]) or None, and offsets
        [N, layers, W] of the styles.
        """
        if self._styled and offsets is None:
            offsets = np.zeros((len(latents), *self._run.build.gan.gen.net.style_shape), np.float32)  # type: ignore[attr-defined]
        parts = []
        for start in range(0, len(latents), CHUNK):
            some: Any = [None if x is None else x[start : start + CHUNK] for x in (latents, labels, offsets)]
            count = len(some[0])
            some = [None if x is None else np.resize(x, (CHUNK, *x.shape[1:])) for x in some]
            parts.append(np.asarray(self._paint(self._run.variables, *some))[:count])
        return np.concatenate(parts)

    def keyframe(self, seed: int, n: int, label: int | None = None) -> Keyframe:
        """Returns samples 0 … n - 1 of a seed, as `ganjax sample` makes them: of one class, or of all in turn."""
        key = stream_key(np.uint32(seed), Stream.SAMPLE)
        latents = np.asarray(self._draw(fold_each(key, jnp.arange(n, dtype=jnp.int32))))
        classes = self._run.build.classes
        turn = np.arange(n, dtype=np.int32) % max(classes, 1)
        labels = None if not classes else turn if label is None else np.full(n, label, np.int32)
        styles = np.asarray(self._map(self._run.variables, latents, labels)) if self._styled else None
        return Keyframe(latents, labels, styles)

    def _styles(self, variables: Any, latents: jax.Array, labels: Any) -> jax.Array:
        """Returns the styles of latents, [n, W], before truncation.

        Once compiled, nothing is left of G but its mapping.
        """
        from ganjax.models.stylegan2 import Mapping

        _, seen = self._run.build.gan.gen.net.apply(
            variables,
            latents,
            labels,
            train=False,
            capture_intermediates=lambda module, _: isinstance(module, Mapping),
            mutable=["intermediates"],
        )
        (styles,) = jax.tree.leaves(seen["intermediates"])
        return styles.astype(jnp.float32)

    def paths(self, keyframes: Sequence[Keyframe], steps: int) -> np.ndarray:
        """Returns images uint8 [frames, n, H, W, C] from each keyframe to the next.

        Each path has `steps` frames and leaves out its last.
        """
        given: list[Any] = [frame.labels for frame in keyframes]
        mixed = not all(np.array_equal(labels, given[0]) for labels in given)
        frames = []
        for here, there in itertools.pairwise(keyframes):
            for t in np.arange(steps, dtype=np.float32) / steps:
                frames.append(self._between(here, there, float(t), mixed=mixed))
        latents, labels, offsets = (
            None if part[0] is None else np.concatenate(part) for part in zip(*frames, strict=True)
        )
        assert latents is not None
        made = self.images(latents, labels, offsets)
        return made.reshape(len(frames), -1, *made.shape[1:])

    def _between(
        self, here: Keyframe, there: Keyframe, t: float, *, mixed: bool = False
    ) -> tuple[np.ndarray, Any, Any]:
        """Returns latents, labels and offsets of the styles at share t of the way; `mixed` labels are weights."""
        if self._styled:  # noise stays that of the first, so that only what the styles mean moves
            change = self._truncation * t * (there.styles - here.styles)
            return here.latents, here.labels, np.repeat(change[:, None, :], self.layers, axis=1)
        labels = here.labels
        if mixed:
            first, then = (np.eye(self._run.build.classes, dtype=np.float32)[x.labels] for x in (here, there))
            labels = first + t * (then - first)
        if self._straight:
            return here.latents + t * (there.latents - here.latents), labels, None
        return spherical(here.latents, there.latents, t), labels, None


def spherical(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """Returns the point at share t of the great arc from each vector of a [N, Z] to that of b; lengths change evenly.

    See Shoemake 1985, and White 2016 for latents of GANs: a straight path would pass through lengths that no sample
    has.
    """
    lengths = [np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]
    u, v = (x / np.maximum(length, 1e-12) for x, length in zip((a, b), lengths, strict=True))
    angle = np.arccos(np.clip((u * v).sum(axis=1, keepdims=True), -1.0, 1.0))
    sine = np.sin(angle)
    arc = (np.sin((1 - t) * angle) * u + np.sin(t * angle) * v) / np.maximum(sine, PARALLEL)
    direction = np.where(sine > PARALLEL, arc, (1 - t) * u + t * v)
    return (direction * ((1 - t) * lengths[0] + t * lengths[1])).astype(np.float32)


def write_film(out: Path, frames: Sequence[np.ndarray], frames_per_second: int) -> None:
    """Writes frames uint8 [H, W] or [H, W, 3] as an endless .gif or .webp, or an .mp4; whole or not at all."""
    if out.suffix == ".mp4":
        write_atomically(out, encode_mp4(frames, frames_per_second), "the film")
        return
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in frames]
    file = io.BytesIO()
    options: dict[str, Any] = {"quality": 90} if out.suffix == ".webp" else {}
    # Each frame ends at the unit, a hundredth of a second in a GIF, that is nearest to its time.
    unit = 10 if out.suffix == ".gif" else 1
    ends = [round(1000 * i / frames_per_second / unit) * unit for i in range(len(frames) + 1)]
    duration = [end - start for start, end in itertools.pairwise(ends)]
    pictures[0].save(
        file, out.suffix[1:], save_all=True, append_images=pictures[1:], duration=duration, loop=0, **options
    )
    write_atomically(out, file.getvalue(), "the film")


def encode_mp4(frames: Sequence[np.ndarray], frames_per_second: int) -> bytes:
    """Encodes frames as H.264 in an .mp4, by ffmpeg. Raises `UserError` where it fails."""
    height, width = frames[0].shape[:2]
    kind = "gray" if frames[0].ndim == 2 else "rgb24"
    with tempfile.TemporaryDirectory(prefix="ganjax-") as folder:
        film = Path(folder) / "film.mp4"
        command = ["ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", kind]
        command += ["-s", f"{width}x{height}", "-r", str(frames_per_second), "-i", "-"]
        # Players want an even number of pixels, and colours at half resolution.
        command += ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=white", "-pix_fmt", "yuv420p"]
        command += ["-movflags", "+faststart", str(film)]
        data = b"".join(np.ascontiguousarray(frame).tobytes() for frame in frames)
        done = subprocess.run(command, input=data, capture_output=True, check=False)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip()
            raise UserError(f"ffmpeg could not make the film: {reason or done.returncode}.")
        return film.read_bytes()
