"""Pictures of samples: grids, pyramids of scales, scatters. Images are uint8 [N, H, W, C] in [0, 255]."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ganjax.runtime.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image

_SMALLEST_SIDE = 64  # pixels: below this a person does not see what an image shows
_BACKGROUND = 255
_POINT, _MODE = "#2f6fb0", "#c8453a"


def _checked(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns images [N, H, W, 1 or 3]. Of two channels the first is kept, of four and more the first three."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"expected uint8 images [N, H, W, C], no side 0, got {images.dtype} {images.shape}")
    return images[..., :3] if images.shape[-1] >= 3 else images[..., :1]


def _enlarged(images: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Enlarges images by nearest neighbour: each pixel becomes a square of `factor` × `factor`."""
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def png_bytes(image: NDArray[np.uint8]) -> bytes:
    """Returns one image [H, W, C] uint8 as a PNG. C = 1 is stored as grey, 3 as RGB; of more, the first three."""
    from PIL.Image import fromarray

    pixels = _checked(image[None])[0]
    file = io.BytesIO()
    fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, format="PNG")
    return file.getvalue()


def write_grid(
    path: str | Path,
    images: NDArray[np.uint8],
    *,
    columns: int | None = None,
    scale: int | None = None,
    padding: int = 2,
) -> None:
    """Writes `grid_picture` of the other arguments to a PNG file.

    Args:
        path: the PNG file; it appears whole or not at all, and missing folders are made.
        images, columns, scale, padding: as for `grid_picture`.

    Raises:
        ValueError: see `grid_picture`.
        UserError: the file cannot be written.
    """
    picture = grid_picture(images, columns=columns, scale=scale, padding=padding)
    file = io.BytesIO()
    picture.save(file, format="PNG")
    write_atomically(Path(path), file.getvalue(), "a picture")


def grid_picture(
    images: NDArray[np.uint8],
    *,
    columns: int | None = None,
    scale: int | None = None,
    padding: int = 2,
) -> Image:
    """Makes a grid of images, row by row, with white lines between and around them.

    Args:
        images: the images [N, H, W, C] uint8 in [0, 255]. C = 1 is stored as grey, 3 as RGB; of more, the first three.
        columns: the number of images in a row; the default makes the grid about square.
        scale: the whole factor of enlargement, nearest neighbour; by default the shorter side gets at least 64
            pixels.
        padding: the width of the lines in pixels of the picture.

    Raises:
        ValueError: images of another shape or type, or columns, scale or padding out of range.
    """
    from PIL.Image import fromarray

    images = _checked(images)
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else min(columns, count)
    scale = math.ceil(_SMALLEST_SIDE / min(height, width)) if scale is None else scale
    if columns < 1 or scale < 1 or padding < 0:
        raise ValueError(f"expected columns, scale >= 1, padding >= 0, got {columns}, {scale}, {padding}")
    rows = math.ceil(count / columns)
    pitch_y, pitch_x = height * scale + padding, width * scale + padding
    canvas = np.full((rows * pitch_y + padding, columns * pitch_x + padding, channels), _BACKGROUND, np.uint8)
    for index, image in enumerate(_enlarged(images, scale)):
        top, left = (index // columns) * pitch_y + padding, (index % columns) * pitch_x + padding
        canvas[top : top + height * scale, left : left + width * scale] = image
    return fromarray(canvas[..., 0] if channels == 1 else canvas)


def write_pyramid_grid(
    path: str | Path,
    scales: Sequence[NDArray[np.uint8]],
    *,
    columns: int = 8,
    scale: int | None = None,
    padding: int = 2,
) -> None:
    """Writes the images of a multi-scale generator: a row for each scale, lowest first, all shown equally large.

    Args:
        path: as for `write_grid`.
        scales: one array [N, h, w, C] uint8 a scale, of the same images; h and w divide those of the largest.
        columns: the number of the N images that are shown.
        scale: the enlargement of the largest scale; the default is that of `write_grid`.
        padding: as for `write_grid`.

    Raises:
        ValueError: no scales, or scales that do not fit each other.
        UserError: the file cannot be written.
    """
    checked = [_checked(images) for images in scales]
    if not checked:
        raise ValueError("expected at least one scale, got none")
    count, height, width, channels = max((images.shape for images in checked), key=lambda shape: shape[1])
    rows = []
    for images in checked:
        factor = height // images.shape[1]
        if images.shape != (count, height / factor, width / factor, channels):
            shapes = ", ".join(str(images.shape) for images in checked)
            raise ValueError(f"expected scales that divide the largest, of the same images, got {shapes}")
        rows.append(_enlarged(images[:columns], factor))
    write_grid(path, np.concatenate(rows), columns=min(columns, count), scale=scale, padding=padding)


def _draw_mixture(axes: Axes, points: NDArray[np.float32], modes: NDArray[np.float32], std: float) -> int:
    """Draws points and circles and sets the limits from the modes alone.

    Returns how many points lie beyond the limits.
    """
    from matplotlib.collections import EllipseCollection

    centre = (modes.min(axis=0) + modes.max(axis=0)) / 2
    # The circle, as much again and a fifth of the spread: room to see points that stray.
    reach = float(np.abs(modes - centre).max()) * 1.2 + 6 * std
    inside = np.all(np.abs(points - centre) <= reach, axis=1)
    x, y = points[inside].T
    opacity = min(0.8, max(0.3, 800 / max(len(points), 1)))  # strays stay visible among thousands
    axes.scatter(x, y, s=6, color=_POINT, alpha=opacity, linewidths=0, zorder=2)
    diameters = np.full(len(modes), 6 * std)
    circles = EllipseCollection(
        diameters,
        diameters,
        np.zeros(len(modes)),
        units="xy",
        offsets=modes,
        offset_transform=axes.transData,
        facecolors="none",
        edgecolors=_MODE,
        linewidths=1.1,
        zorder=3,
    )
    axes.add_collection(circles)
    axes.set_xlim(centre[0] - reach, centre[0] + reach)
    axes.set_ylim(centre[1] - reach, centre[1] + reach)
    axes.set_aspect("equal")
    return len(points) - int(inside.sum())


def write_scatter(
    path: str | Path,
    points: NDArray[np.float32],
    modes: NDArray[np.float32],
    *,
    std: float,
    title: str = "",
) -> None:
    """Writes a scatter plot (PNG) of generated points over the modes of a 2-D mixture of Gaussians.

    The axes follow from the modes alone, so the pictures of one run can be laid side by side; how many points
    fall outside of them is written below.

    Args:
        path: as for `write_grid`.
        points: the generated points [N, 2] in the data's own coordinates; non-finite ones count as outside.
        modes: the centres of the mixture, [K, 2].
        std: the standard deviation of each mode, the same along both axes; the circles are 3 std wide in radius.
        title: one line, for instance the step and the number of modes covered.

    Raises:
        ValueError: points or modes of another shape, or `std` not positive.
        UserError: the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    points, modes = np.asarray(points), np.asarray(modes)
    if points.ndim != 2 or points.shape[1] != 2 or modes.shape[1:] != (2,) or not len(modes) or not std > 0:
        raise ValueError(
            f"expected points [N, 2], modes [K, 2], std > 0; got {points.shape}, {modes.shape}, {std}"
        )
    # A Figure without pyplot draws with Agg: no display, nothing global.
    figure = Figure(figsize=(6, 6.5), dpi=110, layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.08))
    axes = figure.add_subplot()
    outside = _draw_mixture(axes, points, modes, std)
    axes.set_axisbelow(True)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=11)
    dot = Line2D([], [], marker="o", linestyle="", markersize=5, color=_POINT)
    ring = Line2D([], [], marker="o", linestyle="", markersize=9, color=_MODE, markerfacecolor="none")
    generated = f"{len(points):,} generated" + (f", {outside:,} of them outside" if outside else "")
    labels = [generated, "modes, 3 std"]
    figure.legend([dot, ring], labels, loc="outside lower center", ncols=2, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    write_atomically(Path(path), file.getvalue(), "a picture")
