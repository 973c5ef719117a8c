"""Counted nouns: one way to write how many there are."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """The number, with commas, and the noun that goes with it: `1 image`, `2,000 images`.

    `plural` is needed where it is not the noun with an s: `counted(n, "copy", "copies")`, `counted(n, "class",
    "classes")`. A noun of several words counts by its last: `counted(n, "test image")`.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
