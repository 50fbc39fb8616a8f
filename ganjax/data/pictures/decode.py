"""Decodes one picture file to uint8 pixels in [0, 255]: every mode that files have, upright, on white, square."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif")
# Pillow knows forty more formats, some of which start other programs or are hardly ever attacked by anyone's tests.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 89_478_485  # Pillow's own bound, from which on it warns of a decompression bomb: 256 MB as RGB
MAX_FILE_BYTES = 256 * 1024**2
MAX_ENLARGEMENT = 2.0  # a picture that would have to grow more than this is too small to learn from
FITS = ("crop", "pad")


class Refusal(Exception):
    """Error about a picture that cannot be used.

    Attributes:
        kind: `broken`, `huge`, `tiny` or `not a picture`.
        reason: one line for a person.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Hides Pillow's warnings of damaged tags, and of sizes that `decode` refuses. Not for several threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def decode(file: Path | IO[bytes], *, target: int = 0) -> Image:
    """Decodes the picture in `file`: upright, without transparency, 8 bits deep.

    Of a moving picture the first frame is taken; transparent pixels are laid on white; EXIF rotation is applied; 16
    bits become 8 by rounding; CMYK, palettes and the rest become RGB. Colour profiles are not applied. The content of
    a file decides about its format, not its name.

    Args:
        file: path or open file; read to its end at most once.
        target: the side in pixels that it will be shrunk to, 0 for none. JPEGs, whose blocks can be decoded at an
            eighth, a quarter or half of their size, are then decoded at twice that side or more, many times faster.

    Returns:
        A Pillow image of mode L (where the file has shades of grey only) or RGB.

    Raises:
        Refusal: it is no picture, or broken, or has more than `MAX_PIXELS` pixels.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file, formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise Refusal("huge", f"{width}×{height} pixels; at most {MAX_PIXELS:,} are taken")
            if target:
                scale = 2 * target / min(width, height)
                picture.draft(None, (int(width * scale) + 1, int(height * scale) + 1))
            picture.load()
            return _plain(_upright(picture))
    except Refusal:
        raise
    except UnidentifiedImageError:
        raise Refusal("not a picture", "not " + ", ".join(FORMATS) + " by its content") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Refusal("huge", f"more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # a broken file can make Pillow's parsers raise just about anything
        text = " ".join(str(error).split()) or type(error).__name__
        raise Refusal("broken", text[:200]) from None


def _upright(picture: Image) -> Image:
    """Turns the picture as its EXIF tag says. A damaged tag changes nothing."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # the tags are a format of their own, and the pixels are fine without them
        return picture


def _plain(picture: Image) -> Image:
    """Returns the picture in mode L or RGB, on white."""
    from PIL import Image

    if picture.mode.startswith("I"):  # 16 bits, for which Pillow's own conversion clips at 255
        values = np.clip(np.asarray(picture).astype(np.int64), 0, 65535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    grey = picture.mode in ("1", "L", "LA", "La")
    if not picture.has_transparency_data:
        return picture.convert("L" if grey else "RGB")
    layer = picture.convert("RGBA")
    white = Image.new("RGB", layer.size, (255, 255, 255))
    white.paste(layer, mask=layer.getchannel("A"))
    return white.convert("L") if grey else white


def to_array(picture: Image) -> np.ndarray:
    """Returns the picture as [H, W, 1] or [H, W, 3] uint8."""
    pixels = np.asarray(picture)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def fit(picture: Image, resolution: int, how: str) -> np.ndarray:
    """Makes the picture a square.

    `crop` keeps the central square; `pad` keeps everything and adds white. Shrinking averages areas (Pillow's BOX):
    each pixel of the result is the mean of the pixels that it covers, so that nothing aliases and, unlike with
    Lanczos or bicubic kernels, no edge gets a halo that G would learn; it is also how the networks' own pyramid
    shrinks. `reducing_gap` lets Pillow first average whole blocks, which is the same filter and faster. Enlarging
    is bicubic.

    Args:
        picture: a picture of mode L or RGB.
        resolution: the side of the result in pixels.
        how: one of `crop` and `pad`.

    Returns:
        [resolution, resolution, 1 or 3] uint8.

    Raises:
        Refusal: the picture would have to be enlarged more than twice.
    """
    from PIL import Image

    width, height = picture.size
    side = min(width, height) if how == "crop" else max(width, height)
    if side * MAX_ENLARGEMENT < resolution:
        raise Refusal("tiny", f"{width}×{height} pixels, to be enlarged more than twice for {resolution}")
    kind = Image.Resampling.BICUBIC if side < resolution else Image.Resampling.BOX
    if how == "crop":
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
        return to_array(picture.resize((resolution, resolution), kind, box, reducing_gap=3.0))
    inner = [max(1, round(length * resolution / side)) for length in (width, height)]
    square = Image.new(picture.mode, (resolution, resolution), "white")
    place = ((resolution - inner[0]) // 2, (resolution - inner[1]) // 2)
    square.paste(picture.resize((inner[0], inner[1]), kind, reducing_gap=3.0), place)
    return to_array(square)
