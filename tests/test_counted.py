from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from aecore.counted import counted

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("number", "words", "expected"),
    [
        (0, ["image"], "0 images"),
        (1, ["image"], "1 image"),
        (2, ["image"], "2 images"),
        (1_234_567, ["test image"], "1,234,567 test images"),
        (1, ["query", "queries"], "1 query"),
        (10, ["query", "queries"], "10 queries"),
    ],
)
def test_one_is_singular_and_all_else_plural(number: int, words: list[str], expected: str) -> None:
    assert counted(number, *words) == expected


NOUNS = re.compile(
    r" ((?!the )\w+ )?(images|files|groups|clusters|pictures|neighbours|copies|queries|codes|pairs|records)\b"
)


def plurals(path: Path) -> list[str]:
    """The plurals that f-strings of a file write right after a number, whatever it is; constants are never 1."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        parts = [ast.Constant(""), *node.values] if isinstance(node, ast.JoinedStr) else []
        for before, value, text in zip(parts, parts[1:], parts[2:], strict=False):
            if not isinstance(value, ast.FormattedValue) or not isinstance(text, ast.Constant):
                continue
            number = ast.unparse(value.value)
            plain = value.format_spec is None or ast.unparse(value.format_spec) == "f','"
            name = isinstance(before, ast.Constant) and str(before.value)[-1:].isalpha()  # int8
            counts = plain and not name and not number.isupper() and not number.startswith("counted(")
            if counts and NOUNS.match(str(text.value)):
                found.append(f"{path.name}: {{{number}}}{text.value}")
    return found


def test_no_number_that_may_be_1_stands_before_a_plural() -> None:
    files = sorted((ROOT / "aecore").rglob("*.py"))
    assert [said for path in files for said in plurals(path)] == []
