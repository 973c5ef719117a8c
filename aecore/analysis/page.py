"""One self-contained HTML page: sections of prose, bars, pictures, tables and commands. It loads and runs nothing.

Every text is escaped. In prose and captions `backticks` mark code and **asterisks** weight; nothing else is markup, and
in headings, tables and bars and under small pictures nothing is.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from aecore.analysis.style import STYLE

PNG = b"\x89PNG\r\n\x1a\n"
OURS = ' class="ours"'


class Measured(str):
    """Text that differs between two equal runs (a duration, a commit): the page marks it as such."""

    __slots__ = ()


class Cell(NamedTuple):
    """A table's cell with more than a text."""

    text: str
    note: str = ""
    """Small print below it."""
    strong: bool = False
    code: bool = False


class Table(NamedTuple):
    """Rows under a caption; the first cell of a row is its header."""

    caption: str
    head: Sequence[str]
    """The columns' headers; empty for a list of facts, whose rows' headers say enough."""
    rows: Sequence[Sequence[str | Cell]]
    numbers: Sequence[int] = ()
    """Columns set flush right, from 0."""
    narrow: bool = False
    """Stands beside other narrow ones where the screen is wide enough."""
    note: str = ""
    """Small print under it."""


class Figure(NamedTuple):
    """A picture, PNG bytes or the path of one."""

    png: bytes | Path
    alt: str
    """What it shows, for who cannot see it."""
    caption: str
    chart: bool = False
    """A drawing on white, which dark mode turns over; photographs stay as they are."""
    narrow: bool = False
    """As of a table."""


class Thumb(NamedTuple):
    """A small picture of a strip."""

    png: bytes
    title: str
    """What it is: shown beside the pointer, and for who cannot see it."""


class Strip(NamedTuple):
    """Small pictures in a row, or a single large one before other strips."""

    label: str
    thumbs: Sequence[Thumb]
    large: bool = False


class Bars(NamedTuple):
    """Numbers as lengths."""

    caption: str
    rows: Sequence[tuple[str, str, float]]
    """(name, value as text, length from 0 to 1)."""
    ours: int | None = None
    """The row that stands out."""


class Link(NamedTuple):
    """To a page beside this one."""

    text: str
    file: str


class Code(NamedTuple):
    """Lines to read or to run."""

    title: str
    lines: Sequence[str]
    columns: bool = False
    """Many short lines, set in columns."""


class Section(NamedTuple):
    """A heading and what stands under it, in this order; whatever is empty leaves no gap."""

    title: str
    prose: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    code: Sequence[Code] = ()
    bars: Sequence[Bars] = ()
    strips: Sequence[Strip] = ()
    links: Sequence[Link] = ()


class Key(NamedTuple):
    """A key figure of the strip at the top."""

    label: str
    value: str
    note: str
    bars: Sequence[tuple[str, str, float]] = ()
    """(name, value as text, length from 0 to 1); the first is ours, the others stand beside it."""


def page(
    kicker: str, title: str, lead: Sequence[str], keys: Sequence[Key], hero: Sequence[Figure],
    sections: Sequence[Section], foot: str,
) -> str:  # fmt: skip
    """The whole page: a strip of key figures and a picture on top, a table of contents, the sections."""
    anchors = _anchors([section.title for section in sections])
    contents = "".join(
        f'<li><a href="#{anchor}">{escape(section.title)}</a></li>'
        for anchor, section in zip(anchors, sections, strict=True)
    )
    body = "\n".join(_section(section, anchor) for anchor, section in zip(anchors, sections, strict=True))
    strip = f'<ul class="keys">{"".join(map(_key, keys))}</ul>' if keys else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)} · {escape(kicker)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<p class="kicker">{_inline(kicker)}</p>
<div class="opening"><h1>{_inline(title)}</h1>
<div class="lead">{_paragraphs(lead)}</div></div>
{strip}
{_figures(hero)}
</header>
<nav aria-label="Contents"><ol>{contents}</ol></nav>
<main id="content">
{body}
</main>
<footer><p>{_inline(foot)}</p></footer>
</body>
</html>
"""


def _section(section: Section, anchor: str) -> str:
    parts = [f'<h2 id="{anchor}">{_plain(section.title)}</h2>']
    if section.prose:
        parts.append(f'<div class="prose">{_paragraphs(section.prose)}</div>')
    parts += [_figures(section.figures), _tables(section.tables), *map(_code, section.code)]
    parts += [*map(_tally, section.bars), _strips(section.strips), *map(_link, section.links)]
    inside = "\n".join(part for part in parts if part)
    return f'<section aria-labelledby="{anchor}">\n{inside}\n</section>'


def _key(key: Key) -> str:
    beside = _bars(key.bars, 0) if key.bars else ""
    return (
        f'<li class="key"><p class="label">{_inline(key.label)}</p><p class="value">{_inline(key.value)}</p>'
        f'<p class="note">{_inline(key.note)}</p>{beside}</li>'
    )


def _bars(rows: Sequence[tuple[str, str, float]], ours: int | None) -> str:
    bars = "".join(
        f'<li{OURS if number == ours else ""}><span class="name">{_plain(name)}</span>'
        f'<span class="bar" aria-hidden="true"><i style="width:{100 * min(max(length, 0), 1):.1f}%"></i></span>'
        f'<span class="of">{_plain(value)}</span></li>'
        for number, (name, value, length) in enumerate(rows)
    )
    return f'<ul class="bars">{bars}</ul>'


def _tally(bars: Bars) -> str:
    return (
        f'<figure class="tally"><figcaption>{_inline(bars.caption)}</figcaption>{_bars(bars.rows, bars.ours)}</figure>'
    )


def _strips(strips: Sequence[Strip]) -> str:
    inside = "".join(map(_strip, strips))
    return f'<div class="strips">{inside}</div>' if inside else ""


def _strip(strip: Strip) -> str:
    thumbs = "".join(f"<li>{_picture(thumb.png, thumb.title, thumb.title)}</li>" for thumb in strip.thumbs)
    return (
        f'<figure class="strip{" large" if strip.large else ""}"><figcaption>{_inline(strip.label)}</figcaption>'
        f"<ul>{thumbs}</ul></figure>"
    )


def _link(link: Link) -> str:
    return f'<p class="link"><a href="{escape(link.file)}">{_plain(link.text)}</a></p>'


def _figures(figures: Sequence[Figure]) -> str:
    return _side_by_side([(_figure(figure), figure.narrow) for figure in figures])


def _figure(figure: Figure) -> str:
    png = figure.png.read_bytes() if isinstance(figure.png, Path) else figure.png
    if png[:8] != PNG:
        raise ValueError(f"the figure {figure.caption!r} is no PNG")
    width, height = _size(png)
    kind = ("chart" if figure.chart else "sheet") + (" wide" if width > 2 * height else "")
    return (
        f'<figure class="{kind}"><div class="scroll" role="group" tabindex="0" aria-label="Picture, scrolls sideways">'
        f"{_picture(png, figure.alt)}</div><figcaption>{_inline(figure.caption)}</figcaption></figure>"
    )


def _picture(png: bytes, alt: str, title: str = "") -> str:
    width, height = _size(png)
    data, pointed = base64.b64encode(png).decode(), f' title="{escape(title)}"' if title else ""
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}"{pointed} width="{width}" height="{height}">'


def _size(png: bytes) -> tuple[int, int]:
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def _tables(tables: Sequence[Table]) -> str:
    return _side_by_side([(_table(table), table.narrow) for table in tables])


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col"{_flush(table, column)}>{_inline(text)}</th>' for column, text in enumerate(table.head)
    )
    rows = "".join(f"<tr>{''.join(_cell(table, n, cell) for n, cell in enumerate(row))}</tr>\n" for row in table.rows)
    note = f'<p class="small">{_inline(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(table.caption)}"><table>'
        f"<caption>{_inline(table.caption)}</caption>\n{f'<thead><tr>{head}</tr></thead>' if head else ''}"
        f"<tbody>\n{rows}</tbody></table>{note}</div>"
    )


def _cell(table: Table, column: int, cell: str | Cell) -> str:
    cell = cell if isinstance(cell, Cell) else Cell(cell)
    text = _plain(cell.text)
    text = f"<code>{text}</code>" if cell.code else f"<strong>{text}</strong>" if cell.strong else text
    note = f"<small>{_plain(cell.note)}</small>" if cell.note else ""
    tag, scope = ("td", "") if column else ("th", ' scope="row"')
    return f"<{tag}{scope}{_flush(table, column)}>{text}{note}</{tag}>"


def _flush(table: Table, column: int) -> str:
    return ' class="number"' if column in table.numbers else ""


def _code(code: Code) -> str:
    lines = "\n".join(map(_plain, code.lines))
    columns = " columns" if code.columns else ""
    return (
        f'<figure class="code"><figcaption>{_inline(code.title)}</figcaption>'
        f'<pre class="scroll{columns}" role="region" tabindex="0" aria-label="{escape(code.title)}">'
        f"<code>{lines}</code></pre></figure>"
    )


def _side_by_side(parts: Sequence[tuple[str, bool]]) -> str:
    """Join (HTML, narrow): runs of narrow ones share a row."""
    joined, row = [], list[str]()
    for part, narrow in [*parts, ("", False)]:
        if narrow:
            row.append(part)
            continue
        if row:
            joined.append(f'<div class="beside">{"".join(row)}</div>')
            row = []
        joined.append(part)
    return "\n".join(part for part in joined if part)


def _paragraphs(texts: Sequence[str]) -> str:
    return "".join(f"<p>{_inline(text)}</p>" for text in texts)


def _plain(text: str) -> str:
    escaped = escape(str(text))
    return f'<span class="measured">{escaped}</span>' if isinstance(text, Measured) else escaped


def _inline(text: str) -> str:
    return re.sub(
        r"`([^`]+)`|\*\*([^*]+)\*\*",
        lambda found: f"<code>{found[1]}</code>" if found[1] else f"<strong>{found[2]}</strong>",
        _plain(text),
    )


def _anchors(titles: Sequence[str]) -> list[str]:
    """A unique id for each title, from its letters."""
    anchors: list[str] = []
    for number, title in enumerate(titles, start=1):
        anchor = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        anchors.append(f"{anchor}-{number}" if anchor in (*anchors, "content") else anchor)
    return anchors
