"""Names are data: whatever folders and files are called, it is told as text, and kept as it is where programs read."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from aecore import cli, lettering
from aecore.analysis import cluster_page, figures
from aecore.data.images import Images
from aecore.generate import interpolate
from aecore.names import aligned, columns, cut, legible, ljust, tolerate
from aecore.search.montage import draw_montage
from tests.analysis.markup import Page
from tests.conftest import ROOT, SMALL, write_params

LONG = "long " + "x" * 190 + " end"
LOOKS = {
    "$x^$": "$x^$",
    "_private": "_private",
    "a\nb": "a\\nb",
    "\x1b[31mred": "\\x1b[31mred",
    LONG: LONG,
    "<b>&\"'": "<b>&\"'",
    "|x|`*_": "|x|`*_",
    "ümläut": "ümläut",
    "日本": "日本",
    " lead": "\\x20lead",
    "%s{}": "%s{}",
    "tab\there": "tab\\there",
    "gpj.\u202eexe": "gpj.\\u202eexe",
    "zero\u200bwidth": "zero\\u200bwidth",
    "שלום": "שלום",
    "007": "007",
}
"""Names of folders and files, and how each looks."""
EACH = 5
STRANGE = re.compile(r"[^\S\n ]|[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
"""What no text for people may hold."""


@pytest.fixture(scope="module")
def _hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of images in folders and files of these names, with every stage done."""
    folder = tmp_path_factory.mktemp("hostile")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    write_params(folder, SMALL)
    write_params(folder, {"data": {"path": "data/raw/<i>&\t$_"}})
    rng = np.random.default_rng(0)
    for name in LOOKS:
        inside = folder / "data/raw/<i>&\t$_" / name
        inside.mkdir(parents=True)
        for number in range(EACH):
            pixels = rng.integers(0, 256, (3, 3), np.uint8).repeat(4, 0).repeat(4, 1)
            Image.fromarray(pixels).save(inside / f"{name if number == 0 else number}.png")
    here = Path.cwd()
    os.chdir(folder)
    try:
        for stage in cli.STAGES:
            assert cli.main([stage]) == 0, stage
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def hostile(_hostile: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """It is the current directory; for reading."""
    monkeypatch.chdir(_hostile)
    return _hostile


@pytest.mark.parametrize(("name", "look"), LOOKS.items())
def test_a_name_is_one_line_of_text(name: str, look: str) -> None:
    assert legible(name) == look
    assert legible(legible(name)) == look
    assert not STRANGE.search(look)


@pytest.mark.parametrize(
    ("name", "look"),
    [
        ("\udcff\udce9.png", "\\xff\\xe9.png"),
        ("\x00\x7f\x85\u2028", "\\x00\\x7f\\x85\\u2028"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("a\u200cb", "a\\u200cb"),
        ("\u200dא", "\\u200dא"),
        ("\U000e0041", "\\U000e0041"),
        ("end ", "end\\x20"),
        ("in between", "in between"),
        ("C:\\new", "C:\\new"),
        ("", ""),
        (Path("a/b"), "a/b"),
    ],
)
def test_what_has_no_look_is_written_as_its_code(name: object, look: str) -> None:
    assert legible(name) == look


def test_columns_are_those_of_a_terminal() -> None:
    assert [columns(text) for text in ("abc", "日本", "e\u0301", "ﾊ", "👩\u200d🚀")] == [3, 4, 1, 1, 4]
    assert [columns(ljust(text, 6)) for text in ("abc", "日本", "e\u0301")] == [6, 6, 6]
    lines = aligned([["name", "n", "path"], ["日本", "1", "a\nb"], [LONG, "20", "c"], ["x" * 40, "3", "d"]], right=[1])
    assert len(lines) == 4
    assert all("\n" not in line for line in lines)
    starts = [line.index(path) for line, path in zip(lines, ("path", "a\\nb"), strict=False)]
    assert [columns(line[:start]) for line, start in zip(lines, starts, strict=False)] == [46, 46]
    assert lines[3] == "x" * 40 + "   3  d"
    assert lines[2] == f"{LONG}  20  c"


@pytest.mark.parametrize("most", range(9))
def test_what_does_not_fit_keeps_both_its_ends(most: int) -> None:
    short = cut("0123456789", lambda text: len(text) <= most)
    assert len(short) == max(1, most)
    head, _, tail = short.partition("…")
    assert "0123456789".startswith(head)
    assert "0123456789".endswith(tail)
    assert len(head) - len(tail) in (0, 1)
    assert cut("01234", lambda text: len(text) <= 5) == "01234"


def test_a_terminal_that_is_not_utf_8_gets_every_text() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "ascii")
    tolerate(stream)
    stream.write("data.path: … – ümläut 日本 \udcff 1 × 2")
    stream.flush()
    assert raw.getvalue() == rb"data.path: ... - \xfcml\xe4ut \u65e5\u672c \xff 1 x 2"


def drawn_texts(figure: Figure) -> dict[str, Text]:
    return {text.get_text().replace("\n", ""): text for text in figure.findobj(Text) if text.get_text()}


def assert_inside(figure: Figure) -> None:
    """Save the figure (a warning is an error), and find all its words inside it."""
    figure.savefig(io.BytesIO(), format="png")
    whole = figure.bbox
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible():
            box = text.get_window_extent()
            assert box.x0 >= -1, text
            assert box.y0 >= -1, text
            assert box.x1 <= whole.x1 + 1, text
            assert box.y1 <= whole.y1 + 1, text


def test_a_legend_has_every_name_whole_where_there_is_room() -> None:
    names = list(LOOKS)
    groups = np.arange(len(names)).repeat(2)
    figure = figures.scatter(np.random.default_rng(0).normal(size=(len(groups), 2)), groups, names, "t")
    assert_inside(figure)
    (legend,) = [axes.get_legend() for axes in figure.axes]
    told = [text.get_text() for text in legend.get_texts()]
    assert told == [lettering.fitted(name, 72 * 6.53, figures.LEGEND) for name in names]
    assert [text for text in told if "…" in text] == [told[names.index(LONG)]]
    assert told[names.index(LONG)].startswith("long x")
    assert told[names.index(LONG)].endswith("x end")
    few = figures.scatter(np.zeros((3, 2)), np.arange(3), ["_private", "$x^$", "n" * 30], "t")
    assert [text.get_text() for text in few.axes[0].get_legend().get_texts()] == ["_private", "$x^$", "n" * 30]


def test_sheets_hold_all_their_words() -> None:
    names = list(LOOKS)
    pixels = np.zeros((len(names), 1, 8, 8), np.float32)
    found = pixels[:, None].repeat(2, 1)
    way = interpolate.Way(np.zeros((2, 1, 8, 8), np.uint8), [LONG, "$x^$"], pixels[:5], pixels[:5], "a straight line")
    for figure in (
        figures.reconstructions(pixels, [("autoencoder", pixels)], names),
        figures.neighbours(pixels, found, names, None),
        figures.clusters([pixels[:2]] * len(names), [["1 images", f"50% {name}"] for name in names], "t"),
        interpolate.draw([way]),
    ):
        assert_inside(figure)
        texts = drawn_texts(figure)
        assert any("$x^$" in text for text in texts)
        assert all(text.get_parse_math() is False for content, text in texts.items() if "$" in content)
        assert any("long" in text and text.endswith("end") for text in texts)


def test_a_picture_writes_what_its_fonts_lack_as_codes() -> None:
    assert lettering.drawable("a\U0001fae8\ue000").startswith("a\\U0001fae8\\ue000")
    assert lettering.drawable("ümläut Ω я") == "ümläut Ω я"
    assert lettering.style("ümläut") == {}
    other = lettering.Font("Elsewhere", lettering.runs("a")[0][1], frozenset(map(ord, "日本")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lettering, "_others", lambda: (other,))
        lettering._font.cache_clear()
        assert lettering.drawable("日本x") == "日本x"
        assert lettering.style("日本x") == {"fontfamily": [lettering.FAMILY, "Elsewhere"]}
        assert [piece for piece, _ in lettering.runs("日本x")] == ["日本x"] or len(lettering.runs("日本x")) == 2
    lettering._font.cache_clear()


def test_a_montage_takes_every_name() -> None:
    names = list(LOOKS)
    pixels = np.zeros((len(names), 1, 12, 12), np.uint8)
    picture = draw_montage([["query", name] for name in names], pixels, [[["0.5", name]] for name in names],
                           pixels[:, None])  # fmt: skip
    plain = draw_montage([["query", "q"]] * len(names), pixels, [[["0.5", "n"]]] * len(names), pixels[:, None])
    assert picture.width == plain.width
    assert picture.height > plain.height  # a long name has lines of its own


def test_everything_is_told_as_text_and_kept_as_it_is(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = pq.read_table(hostile / "data/prepared/items.parquet")
    assert set(items["label_name"].to_pylist()) == set(LOOKS)
    assert {f"{name}/{name}.png" for name in LOOKS} <= set(items["path"].to_pylist())
    files = [f"data/raw/<i>&\t$_/{name}/{name}.png" for name in LOOKS]
    ids = [str(item_id) for item_id in items["id"].to_pylist()]

    def call(*arguments: str, status: int = 0) -> tuple[str, str]:
        assert cli.main(list(arguments)) == status, arguments
        told = capsys.readouterr()
        assert not STRANGE.search(told.out.replace("\r", "")), arguments
        assert not STRANGE.search(told.err.replace("\r", "")), arguments
        return told

    capsys.readouterr()
    out, _ = call("query", *files, "-k", "3", "--montage", str(tmp_path / "a\nb.png"))
    lines = out.splitlines()
    assert len(lines) == len(files) * (2 + 3) + len(files) - 1  # a line each: its name, the head, three neighbours
    assert [line for line in lines if line.startswith("data/raw/")] == [legible(file) for file in files]
    for row in (line for line in lines if re.match(r" +1 ", line)):
        assert any(row.endswith(legible(f"{name}/{name}.png")) for name in LOOKS)
    answer = json.loads(call("query", *files, "-k", "1", "--json")[0])
    assert [query["path"] for query in answer["queries"]] == files
    assert [query["neighbours"][0]["label_name"] for query in answer["queries"]] == list(LOOKS)

    for command in (
        ["inspect"],
        ["duplicates", "--distance", "9", "--montage", str(tmp_path / "d.png")],
        ["outliers", "-n", "90", "--montage", str(tmp_path / "o.png")],
        ["representatives", "-n", "70", "--montage", str(tmp_path / "r.png")],
        ["sample", "-n", "3", "-o", str(tmp_path / "s.png")],
        ["interpolate", *ids[:2], "-o", str(tmp_path / "\x1bi.png")],
        ["compress", *files, "-o", str(tmp_path / "\x1b.aec")],
        ["tour"],
        ["report"],
        ["fetch"],
    ):
        call(*command)
    for item_id in ids:
        assert len(call("inspect", "--id", item_id)[0].splitlines()) == items.num_columns
    _, error = call("query", "no\x1b[31m\nsuch\udcff", status=2)
    assert "no\\x1b[31m\\nsuch\\xff" in error
    assert call("query", "--id", ids[0], "--where", f"label_name = '{LONG}'", "--json")


def test_the_pages_show_names_as_text(hostile: Path) -> None:
    clusters = Page((hostile / "reports/clusters.html").read_text(encoding="utf-8"))
    report = Page((hostile / "reports/report.html").read_text(encoding="utf-8"))
    titles = {line for given in clusters.all("img") for line in given.get("title", "").splitlines()}
    assert {legible(f"{name}/{name}.png") for name in LOOKS} & titles
    assert set(LOOKS.values()) & titles == {line for line in titles if "/" not in line and not line.startswith("id ")}
    for page in (clusters, report):
        assert not STRANGE.search(page.text.replace("\u202f", " ").replace("\xa0", " "))
        assert {"i", "b", "script"} & {tag for tag, _ in page.tags} <= {"i"}  # the bars are <i> of our own
    assert all(look in report.text for look in sorted(LOOKS.values())[:3])
    counted = cluster_page.label_counts(Images.open().labels(), list(LOOKS))  # type: ignore[arg-type]
    assert not [name for name, _ in counted if STRANGE.search(name)]


def test_a_tour_on_a_terminal_that_is_not_utf_8(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    assert cli.main(["tour"]) == 0
    told = raw.getvalue().decode("ascii")
    assert "Try next:" in told
    assert "\\xfcml\\xe4ut" in told or "\\u65e5\\u672c" in told or "\\u05e9" in told


def test_an_argument_that_is_none_is_quoted_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["query", "--k\x1b[31m\n"]) == 2
    assert "--k\\x1b[31m\\n" in capsys.readouterr().err
