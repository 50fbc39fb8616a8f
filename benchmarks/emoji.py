"""Real colour pictures for trying things out: the bitmaps of Debian's package fonts-noto-color-emoji, as PNGs.

    apt-get install fonts-noto-color-emoji
    python benchmarks/emoji.py --out=data/emoji

The font (Apache-2.0, SIL OFL 1.1) keeps each glyph as a PNG of 136×128 pixels in its table CBDT; fontTools, which
comes with matplotlib, reads it. Some 3,800 files, 14 MB, named after their glyphs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--font", type=Path, default=FONT)
    parser.add_argument("--out", type=Path, default=Path("data/emoji"))
    arguments = parser.parse_args()
    if not arguments.font.is_file():
        parser.error(f"{arguments.font} is not there: apt-get install fonts-noto-color-emoji")
    from fontTools.ttLib import TTFont

    arguments.out.mkdir(parents=True, exist_ok=True)
    count = 0
    for strike in TTFont(arguments.font)["CBDT"].strikeData:
        for name, glyph in strike.items():
            (arguments.out / f"{name}.png").write_bytes(glyph.imageData)
            count += 1
    print(f"{count} pictures in {arguments.out}")


if __name__ == "__main__":
    main()
