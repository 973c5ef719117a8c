"""Names in pictures: which font has a character, and how much of a name fits where."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

from aecore.names import code, cut, legible

FAMILY = "DejaVu Sans"
"""Comes with matplotlib, and so is on every machine."""
OTHERS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Noto Sans KR", "Source Han Sans",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "IPAGothic", "Hiragino Sans", "PingFang SC", "Arial Unicode MS",
    "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Thai",
    "Noto Sans", "Noto Emoji", "Symbola",
)  # fmt: skip
"""What has further characters, where it is installed."""
BREAKS = " _-/.,:"
"""A line ends behind one of these, where there is one."""
LEADING = 1.25
"""Of a line, in sizes of its letters."""

ROUNDED = 1.04
"""Letters are a little wider than they say where they are rounded to pixels."""


class Font(NamedTuple):
    """A font that is here."""

    family: str
    path: str
    has: frozenset[int]
    """Code points."""


def drawable(name: object) -> str:
    """`name` as `legible`, with codes for the characters that no font here has."""
    return "".join(c if _font(c) is not None else code(c) for c in legible(name))


def style(text: str) -> dict[str, Any]:
    """What matplotlib needs besides to draw `text`, which is drawable: the fonts that have it, if not its own."""
    found = dict.fromkeys(font.family for font in map(_font, text) if font is not None and font.family != FAMILY)
    return {"fontfamily": [FAMILY, *found]} if found else {}


def runs(text: str) -> list[tuple[str, str]]:
    """Pieces of `text`, which is drawable, each with the file of the font that has it."""
    pieces: list[tuple[str, str]] = []
    for character in text:
        font = _font(character)
        path = (font or _own()).path
        if pieces and pieces[-1][1] == path:
            pieces[-1] = (pieces[-1][0] + character, path)
        else:
            pieces.append((character, path))
    return pieces


def fitted(name: object, width: float, size: float, lines: int = 1) -> str:
    """`name`, drawable, in at most `lines` lines that are no wider than `width`, in the unit of the letters' `size`.

    One that does not fit is cut in its middle: names mostly differ at an end.
    """
    text = cut(drawable(name), lambda some: len(_wrapped(some, width / size)) <= lines)
    return "\n".join(_wrapped(text, width / size))


def _wrapped(text: str, width: float) -> list[str]:
    """`text` in lines of at most `width` sizes of its letters, or of one character."""
    lines: list[str] = []
    while text:
        taken, end = 0.0, 0
        while end < len(text) and (taken := taken + _advance(text[end])) <= width:
            end += 1
        end = max(end, 1)
        if end < len(text):
            end = 1 + max(text.rfind(mark, end // 2, end) for mark in BREAKS) or end
        lines.append(text[:end].rstrip())
        text = text[end:]
    return lines or [""]


@functools.cache
def _font(character: str) -> Font | None:
    """The first font that has it; the others are only looked for where matplotlib's own has not."""
    first = _own()
    fonts = (first,) if ord(character) in first.has else _others()
    return next((font for font in fonts if ord(character) in font.has), None)


@functools.cache
def _own() -> Font:
    import matplotlib

    return _read(FAMILY, str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"))


@functools.cache
def _others() -> tuple[Font, ...]:
    from matplotlib.font_manager import fontManager

    upright = [entry for entry in fontManager.ttflist if entry.style == "normal" and entry.weight == 400]
    there = {entry.name: entry.fname for entry in upright}
    return tuple(_read(name, there[name]) for name in OTHERS if name in there)


def _read(family: str, path: str) -> Font:
    from matplotlib.ft2font import FT2Font

    return Font(family, path, frozenset(FT2Font(path).get_charmap()))


@functools.cache
def _advance(character: str) -> float:
    """Width of a drawable character, in sizes of its letters."""
    from PIL import ImageFont

    ((_, path),) = runs(character)
    return ROUNDED * float(ImageFont.truetype(path, 100).getlength(character)) / 100
