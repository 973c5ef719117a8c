"""The page's skeleton: well-formed, self-contained, accessible, and nothing of the user's is markup."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aecore.analysis.page import Bars, Cell, Code, Figure, Key, Link, Measured, Section, Strip, Table, Thumb, page
from tests.analysis.markup import Page

HOSTILE = """<script>alert("1")</script><img src=http://evil.example/x onerror='x()'>&amp;"'"""


def png(width: int = 5, height: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def whole(text: str, pictures: list[Figure]) -> str:
    """A page with `text` wherever a text may stand."""
    section = Section(
        text, [text, Measured(text)], pictures,
        [Table(text, (text, text), [(text, Cell(text, text, strong=True)), (Cell(text, code=True), Measured(text))],
               numbers=(1,), note=text),
         Table(text, (), [(text, text)], narrow=True)],
        [Code(text, [text, Measured(text)], columns=True)],
        [Bars(text, [(text, text, 0.5)])], [Strip(text, [Thumb(png(), text)])], [Link(text, "report.html")],
    )  # fmt: skip
    return page(text, text, [text], [Key(text, text, text, [(text, text, 0.5)])], pictures, [section, section], text)


def test_hostile_text_stays_text_wherever_it_stands() -> None:
    figure = Figure(png(), HOSTILE, HOSTILE)
    read, harmless = Page(whole(HOSTILE, [figure])), Page(whole("x", [Figure(png(), "x", "x")]))
    assert [tag for tag, _ in read.tags] == [tag for tag, _ in harmless.tags]
    assert [sorted(given) for _, given in read.tags] == [sorted(given) for _, given in harmless.tags]
    assert read.text.count(HOSTILE) == harmless.text.count("x") > 15
    assert {given["alt"] for given in read.all("img")} == {HOSTILE}
    assert {given["title"] for given in read.all("img") if "title" in given} == {HOSTILE}


def test_prose_has_code_and_weight_and_cells_have_not() -> None:
    part = Section("`s`", tables=[Table("c", (), [("`x`", "**y**")])], bars=[Bars("c", [("`z`", "**1**", 1.0)])])
    read = Page(page("k", "t", ["run `a < b` **now**, 2 * 3, `**c**`"], [], [], [part], "f"))
    assert read.texts("code") == ["a < b", "**c**"]
    assert read.texts("strong") == ["now"]
    assert read.texts("th") == ["`x`"]
    assert read.texts("td") == ["**y**"]
    assert read.texts("h2") == ["`s`"]
    assert read.texts("span") == ["`z`", "", "**1**"]


def test_pictures_are_inside_and_take_their_room_before_they_load(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(png(50, 20))
    figures = [Figure(png(), "first", "c"), Figure(tmp_path / "b.png", "second", "c", chart=True)]
    read = Page(page("k", "t", [], [], figures, [], "f"))
    assert [(given["alt"], given["width"], given["height"]) for given in read.all("img")] == [
        ("first", "5", "4"), ("second", "50", "20")
    ]  # fmt: skip
    sources = [base64.b64decode(given["src"].removeprefix("data:image/png;base64,")) for given in read.all("img")]
    assert sources == [png(), png(50, 20)]
    assert [given["class"] for given in read.all("figure")] == ["sheet", "chart wide"]
    with pytest.raises(ValueError, match="no PNG"):
        page("k", "t", [], [], [Figure(b"GIF89a", "a", "a caption")], [], "f")


def test_narrow_ones_share_a_row_and_what_is_empty_leaves_no_gap() -> None:
    facts = [Table(name, (), [("a", "b")], narrow=name != "wide") for name in ("one", "two", "wide", "three")]
    read = Page(page("k", "t", [], [], [], [Section("only a heading"), Section("tables", tables=facts)], "f"))
    assert [given.get("class") for given in read.all("div")].count("beside") == 2
    assert len(read.all("table")) == 4
    assert not read.all("figure")
    assert all(text.strip() for text in read.texts("p"))


def test_headings_get_anchors_of_their_own() -> None:
    titles = ["Map", "Map", "Content", "地図", "A & <b>"]
    read = Page(page("k", "t", [], [], [], [Section(title) for title in titles], "f"))
    assert read.texts("h2") == titles
    assert [given["id"] for given in read.all("h2")] == ["map", "map-2", "content-3", "section", "a-b"]
    assert [given["href"][1:] for given in read.all("a")][1:] == [given["id"] for given in read.all("h2")]


def test_a_bar_is_as_long_as_its_number() -> None:
    bars = [("ours", "0.5", 0.5), ("theirs", "2", 2.0), ("none", "0", 0.0)]
    text = page("k", "t", [], [Key("label", "0.5", "note", bars)], [], [], "f")
    assert re.findall(r"width:([\d.]+)%", text.split("</style>")[1]) == ["50.0", "100.0", "0.0"]
    assert Page(text).all("li")[1].get("class") == "ours"


def test_bars_strips_and_links_stand_in_their_section() -> None:
    bars = Bars("sizes", [("one", "1", 0.1), ("two", "2", 0.2)], ours=1)
    strips = [Strip("most", [Thumb(png(9, 8), "first\nid 1")], large=True), Strip("least", [Thumb(png(), "a")] * 2)]
    text = page(
        "k", "t", [], [], [], [Section("s", bars=[bars], strips=strips, links=[Link("there", "report.html")])], "f"
    )
    read = Page(text)
    assert [given.get("class") for given in read.all("li")][1:] == [None, "ours", None, None, None]
    assert [given["class"] for given in read.all("figure")] == ["tally", "strip large", "strip"]
    assert [(given["title"], given["width"], given["height"]) for given in read.all("img")] == [
        ("first\nid 1", "9", "8"), ("a", "5", "4"), ("a", "5", "4")
    ]  # fmt: skip
    assert [given["href"] for given in read.all("a")][-1] == "report.html"


def test_light_dark_paper_and_phone_have_rules_of_their_own() -> None:
    text = page("k", "t", [], [], [], [], "f")
    for rule in ("(prefers-color-scheme: dark)", "print", "(max-width: 44rem)", "(prefers-reduced-motion: reduce)"):
        assert f"@media {rule}" in text
    assert "default-src 'none'" in text
    assert not re.search(r"@import|@font-face|url\(", text)
