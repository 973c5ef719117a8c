"""Names as people see them: paths and labels, and errors that quote them. A name is data and may hold anything.

Whatever prints, draws or marks up a name shows it through here; JSON, Parquet and files keep it as it is.
"""

from __future__ import annotations

import codecs
import io
import unicodedata
from collections.abc import Callable, Collection, Sequence

JOINERS = "\u200c\u200d"
"""Between letters they are spelling (Persian, Indic scripts, emoji)."""
WIDEST = 40
"""Columns that a table sets aside for a name at most: a longer one stands out of its column, whole."""
PLAIN = {"…": "...", "–": "-", "−": "-", "·": "-", "→": "->", "×": "x", "’": "'", "\xa0": " ", "\u202f": " "}
"""The typography of our own sentences, for a terminal that has none."""


def legible(name: object) -> str:
    """`name` as one line that nothing takes for more than text: what has no look of its own is written as its code.

    That is control and escape characters, line breaks, bytes that are not UTF-8, what turns the direction of a text or
    takes no room, and a space at either end: `\\n`, `\\x1b`, `\\xff`, `\\u202e`, `\\x20`. All scripts stay as they are.
    """
    text = str(name)
    return "".join(character if _visible(text, place) else code(character) for place, character in enumerate(text))


def code(character: str) -> str:
    """How a character that cannot be shown is written; a byte that was none of UTF-8 as that byte."""
    number = ord(character)
    if 0xDC80 <= number < 0xDD00:
        return f"\\x{number - 0xDC00:02x}"
    return character.encode("unicode_escape").decode() if number != 0x20 else "\\x20"


def columns(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    return sum(_columns(character) for character in text)


def ljust(text: str, width: int) -> str:
    """`text` and spaces behind it, `width` columns together."""
    return text + " " * (width - columns(text))


def aligned(lines: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Rows of cells that are `legible` as lines of text, in columns two spaces apart; those in `right` flush right."""
    lines = [[legible(cell) for cell in line] for line in lines]
    widths = [min(WIDEST, max(map(columns, cells))) for cells in zip(*lines, strict=True)]
    return [
        "  ".join(
            " " * (width - columns(cell)) + cell if number in right else ljust(cell, width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def cut(text: str, fits: Callable[[str], bool]) -> str:
    """`text`, or as much of both its ends as `fits`, with an ellipsis for what is left out between them."""
    if fits(text):
        return text
    few, many = 0, len(text)  # the most characters that fit lie between
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if fits(_ends(text, middle)) else (few, middle)
    return _ends(text, few)


def tolerate(stream: object) -> None:
    """Let a stream that is not UTF-8 print every text: plain typography, and codes for what it lacks."""
    codecs.register_error("aecore.names", _replacement)
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="aecore.names")


def _replacement(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(character) or code(character) for character in lacking), error.end


def _visible(text: str, place: int) -> bool:
    character = text[place]
    kind = unicodedata.category(character)
    if kind == "Zs":
        return 0 < place < len(text) - 1
    if character in JOINERS:
        around = text[max(0, place - 1) : place] + text[place + 1 : place + 2]
        return len(around) == 2 and all(ord(other) > 0x7F and other.isprintable() for other in around)
    return character.isprintable()


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _ends(text: str, kept: int) -> str:
    return text[: kept - kept // 2] + "…" + (text[-(kept // 2) :] if kept > 1 else "")
