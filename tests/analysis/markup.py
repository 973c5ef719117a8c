"""A strict reader of our own pages for tests: balanced tags, unique ids, live anchors, nothing from elsewhere.

A link may lead to the other page of ours, which lies beside it.
"""

from __future__ import annotations

import itertools
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr"}
SIBLINGS = ("report.html", "clusters.html")
REFERENCES = ("src", "href", "srcset", "data", "action", "poster", "xlink:href")


class Page(HTMLParser):
    """Parse and check; then `tags`, `all(tag)`, `texts(tag)` and `text` are there to look at."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[tuple[str, int]] = []
        self._spans: list[tuple[str, int, int]] = []
        self.feed(source)
        self.close()
        assert source.startswith("<!doctype html>\n<html lang=")
        assert self._open == []
        ids = [given["id"] for _, given in self.tags if "id" in given]
        assert len(ids) == len(set(ids)), ids
        for tag, given in self.tags:
            assert tag not in ("script", "iframe", "object", "embed", "base", "form"), tag
            assert not [name for name in given if name.startswith("on")], given
            for name in REFERENCES:
                if name in given and not (tag == "a" and name == "href" and given[name] in SIBLINGS):
                    assert given[name].startswith(("#", "data:")), given[name]
            if given.get("href", "").startswith("#"):
                assert given["href"][1:] in ids
            if "aria-labelledby" in given:
                assert given["aria-labelledby"] in ids
        for given in self.all("img"):
            assert given["src"].startswith("data:image/png;base64,")
            assert given["alt"].strip()
        levels = [int(tag[1]) for tag, _ in self.tags if tag in ("h1", "h2", "h3", "h4")]
        assert levels.count(1) == 1
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        assert all(given.get("scope") in ("row", "col") for given in self.all("th"))
        assert len(self.all("caption")) == len(self.all("table"))

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of every `tag`."""
        return [given for name, given in self.tags if name == tag]

    def texts(self, tag: str) -> list[str]:
        """The text inside every `tag`, in the order of the tags' beginning."""
        spans = sorted((start, stop) for name, start, stop in self._spans if name == tag)
        return [self.text[start:stop] for start, stop in spans]

    def rows(self) -> list[list[str]]:
        """The texts of the cells of every table row."""
        rows = sorted((start, stop) for name, start, stop in self._spans if name == "tr")
        cells = sorted((start, stop) for name, start, stop in self._spans if name in ("td", "th"))
        return [[self.text[a:b] for a, b in cells if start <= a and b <= stop] for start, stop in rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self.text += "\n" if tag == "small" else ""
        if tag not in VOID:
            self._open.append((tag, len(self.text)))

    def handle_endtag(self, tag: str) -> None:
        name, start = self._open.pop()
        assert name == tag, f"</{tag}> where <{name}> is open"
        self._spans.append((tag, start, len(self.text)))
        self.text += "\n" if tag in ("td", "th", "tr", "p", "li", "caption", "h1", "h2", "small") else ""

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] != "style":
            self.text += data
