"""Real colour pictures for trying things out: the bitmaps of Debian's package fonts-noto-color-emoji, as PNGs.

    apt-get install fonts-noto-color-emoji
    python tools/emoji.py --out=data/emoji

The font (Apache-2.0, SIL OFL 1.1) keeps each glyph as a PNG of 136×128 pixels in its table CBDT; fontTools, which
comes with matplotlib, reads it. Some 3,900 files, 14 MB, named after their glyphs, in a folder for each kind: faces,
flags, hands, people (head and shoulders), figures (whole bodies), pairs (and families) and other things. The kind
follows from the characters that a glyph stands for (Unicode Technical Standard #51).
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")


def characters(*parts: int | tuple[int, int]) -> frozenset[int]:
    """Code points, of single ones and of ranges with both ends."""
    ends = ((part, part) if isinstance(part, int) else part for part in parts)
    return frozenset(point for low, high in ends for point in range(low, high + 1))


JOINERS = characters(0x200D, 0xFE0F)
TONES = characters((0x1F3FB, 0x1F3FF))
FLAGS = characters((0x1F1E6, 0x1F1FF), 0x1F3F3, 0x1F3F4)
SINGLE_PERSONS = characters((0x1F466, 0x1F469), 0x1F9D1, 0x1F9D2)
HANDSHAKE = 0x1F91D
PAIRS = characters((0x1F46A, 0x1F46D), 0x1F46F, 0x1F48F, 0x1F491, 0x1F93C)
HANDS = characters(
    *(
        0x261D,
        0x1F442,
        0x1F443,
        0x1F485,
        0x1F4AA,
        0x1F590,
        0x1F595,
        0x1F596,
        0x1F64C,
        0x1F64F,
        0x1F90C,
        0x1F90F,
    ),
    *(HANDSHAKE, 0x1F932, 0x1F933, 0x1F9B5, 0x1F9B6, 0x1F9BB),
    *((0x270A, 0x270D), (0x1F446, 0x1F450), (0x1F918, 0x1F91F), (0x1FAF0, 0x1FAF8)),
)
FIGURES = characters(
    *(0x26F9, 0x1F3C2, 0x1F3C3, 0x1F3C4, 0x1F3C7, 0x1F3CA, 0x1F3CB, 0x1F3CC, 0x1F483, 0x1F574, 0x1F57A),
    *(0x1F6A3, 0x1F6B4, 0x1F6B5, 0x1F6B6, 0x1F6C0, 0x1F6CC, 0x1F93D, 0x1F93E, 0x1F9AF, 0x1F9BC, 0x1F9BD),
    *(0x1F9CD, 0x1F9CE, 0x1F9D7, 0x1F9D8, 0x1F9DA, 0x1F9DC),
    (0x1F938, 0x1F93A),
)
FACES = characters(
    *(0x2639, 0x263A, 0x1F47F, 0x1F9D0),
    *((0x1F31A, 0x1F31E), (0x1F600, 0x1F644), (0x1F910, 0x1F917), (0x1F920, 0x1F925), (0x1F927, 0x1F92F)),
    *((0x1F970, 0x1F97A), (0x1FAE0, 0x1FAE9)),
)


def glyph_characters(font) -> dict[str, tuple[int, ...]]:
    """The code points of each glyph: one by the table cmap, or several by the ligatures of the table GSUB."""
    found = {glyph: (point,) for point, glyph in font.getBestCmap().items()}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            for first, ligatures in getattr(table, "ligatures", {}).items():
                for ligature in ligatures:
                    parts = [found.get(part, ()) for part in (first, *ligature.Component)]
                    found[ligature.LigGlyph] = sum(parts, ())
    return found


def kind(points: tuple[int, ...], toned: frozenset[int]) -> str:
    """What a glyph shows; `toned` are the characters that come in several tones of skin."""
    of = set(points) - JOINERS
    if of & FLAGS and len(points) > 1:
        return "flags"
    persons = sum(point in SINGLE_PERSONS for point in points)
    if of & PAIRS or persons > 1 or (HANDSHAKE in of and len(of) > 2):
        return "pairs"
    if of & HANDS:
        return "hands"
    if of & toned:
        return "figures" if of & FIGURES else "people"
    return "faces" if of & FACES else "things"


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

    font = TTFont(arguments.font)
    points = glyph_characters(font)
    glyphs = {name: glyph for strike in font["CBDT"].strikeData for name, glyph in strike.items()}
    with_tone = (set(points.get(name, ())) - JOINERS for name in glyphs)
    toned = frozenset().union(*(of - TONES for of in with_tone if len(of) == 2 and of & TONES))
    counts: Counter[str] = Counter()
    for name, glyph in glyphs.items():
        group = kind(points.get(name, ()), toned)
        counts[group] += 1
        folder = arguments.out / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.png").write_bytes(glyph.imageData)
    kinds = ", ".join(f"{count} {group}" for group, count in counts.most_common())
    print(f"{len(glyphs)} pictures in {arguments.out}: {kinds}")


if __name__ == "__main__":
    main()
