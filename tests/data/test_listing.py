"""The walk over a folder, the listing that `prepare` keeps, and what DVC stumbles over."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from aecore.data import listing
from aecore.data.listing import Listing, stumbles, walk


def put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * len(name))
    return root


@pytest.mark.parametrize("seed", range(5))
def test_what_came_went_and_changed_is_counted_exactly(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    names = [f"{folder}/é{number}\udcff.png" for folder in "ab" for number in range(40)]
    then, now = ({name: int(random.integers(3)) for name in names if random.random() < 0.7} for _ in range(2))
    facts = Listing.of(then.items()).save(tmp_path)
    assert (facts["files"], facts["bytes"]) == (len(then), sum(then.values()))
    kept = Listing.load(tmp_path)
    assert kept is not None
    shuffled = [list(now.items())[i] for i in random.permutation(len(now))]
    changed = sum(then[name] != now[name] for name in then.keys() & now.keys())
    assert kept.until(Listing.of(shuffled)) == (len(now.keys() - then), len(then.keys() - now), changed)


def test_a_listing_is_a_function_of_names_and_sizes_and_holds_no_name(tmp_path: Path) -> None:
    pairs = [("b.png", 1), ("a.png", 2)]
    facts = [Listing.of(files).save(tmp_path) for files in (pairs, pairs[::-1])]
    assert facts[0] == facts[1]
    assert b"png" not in (tmp_path / listing.LISTING).read_bytes()
    others = [[("b.png", 1)], [("b.png", 1), ("a.png", 3)], [("b.png", 1), ("c.png", 2)], []]
    assert len({Listing.of(files).save(tmp_path)["digest"] for files in [pairs, *others]}) == 5
    assert Listing.of([]).until(Listing.of(pairs)) == (2, 0, 0)
    assert Listing.load(tmp_path / "elsewhere") is None


def test_links_to_themselves_and_to_each_other_are_names_that_lead_nowhere(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "s/b.png")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    (tmp_path / "s" / "up").symlink_to("..")
    seen = {found.name: found.kind for found in walk(tmp_path)}
    assert seen == {"a.png": "file", "one": "nowhere", "s/b.png": "file", "self": "nowhere", "two": "nowhere"}


def test_the_walk_passes_over_what_prepare_does_and_sees_everything_where_asked(tmp_path: Path) -> None:
    put(tmp_path, "a.png", ".hidden", ".git/x", "README.md", "s/.DS_Store", "s/b.png")
    put(tmp_path / "elsewhere", "e.png")
    root = put(tmp_path / "root", "a.png", ".h/x")
    (root / "l").symlink_to(tmp_path / "elsewhere")
    assert [found.name for found in walk(tmp_path / "root")] == ["a.png", "l/e.png"]
    everything = [(found.name, found.kind, found.watched) for found in walk(root, everything=True)]
    assert everything == [
        (".h/x", "file", True), ("a.png", "file", True), ("l", "link", True), ("l/e.png", "file", False)]  # fmt: skip


def not_utf8(root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root) + b"/b\xff.jpg")).touch()


def below_not_utf8(root: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(root) + b"/b\xff"))
    folder.mkdir()
    (folder / "a.jpg").touch()


def to_each_other(root: Path) -> None:
    (root / "b").symlink_to("c")
    (root / "c").symlink_to("b")


def a_socket(root: Path) -> None:
    here = Path.cwd()
    os.chdir(root)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("s")
    finally:
        os.chdir(here)


def circle(root: Path) -> None:
    (root / "up").symlink_to("..")


def linked_folder(root: Path) -> None:
    elsewhere = put(root.parent / "elsewhere", "x.jpg")
    (elsewhere / "nowhere.jpg").symlink_to("none")
    (root / "linked").symlink_to(elsewhere)


TROUBLES: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "not_utf8": (not_utf8, "name"),
    "below_not_utf8": (below_not_utf8, "name"),
    "broken": (lambda root: (root / "b.jpg").symlink_to("nowhere"), "nowhere"),
    "hidden": (lambda root: (root / ".b").symlink_to("nowhere"), "nowhere"),
    "itself": (lambda root: (root / "b").symlink_to("b"), "nowhere"),
    "to_each_other": (to_each_other, "nowhere"),
    "pipe": (lambda root: os.mkfifo(root / "p.jpg"), "special"),
    "socket": (a_socket, "special"),
    "dvcignore": (lambda root: (root / ".dvcignore").touch(), "ignore"),
    "nothing": (lambda root: None, None),
    "circle": (circle, None),
    "linked_folder": (linked_folder, None),
    "strange": (lambda root: put(root, "a\nb.jpg", "a\\b.jpg", " a .jpg", "é.jpg"), None),
}
"""What may lie in a folder -> how to make it, and why DVC stops at it."""


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_dvc_stops_at_is_found(trouble: str, tmp_path: Path) -> None:
    make, why = TROUBLES[trouble]
    make(put(tmp_path / "d", "a.jpg"))
    found = stumbles(tmp_path / "d")
    found.pop("link", None)
    assert list(found) == ([] if why is None else [why])


@pytest.mark.slow
@pytest.mark.parametrize("trouble", TROUBLES)
def test_dvc_really_stops_there_and_nowhere_else(trouble: str, tmp_path: Path) -> None:
    make, why = TROUBLES[trouble]
    make(put(tmp_path / "d", "a.jpg"))
    (tmp_path / "dvc.yaml").write_text("stages:\n  s:\n    cmd: touch out\n    deps: [d]\n    outs: [out]\n")
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "-q", "--no-scm"], cwd=tmp_path, check=True)
    try:
        status = subprocess.run([*dvc, "repro", "-q"], cwd=tmp_path, capture_output=True, timeout=20).returncode
    except subprocess.TimeoutExpired:
        status = None
    assert (status == 0) == (why is None), status


@pytest.fixture
def nobody() -> Iterator[Callable[[], None]]:
    """Become a user whom permissions hold for, until the test ends."""
    before = os.geteuid()
    yield lambda: os.seteuid(65_534 if before == 0 else before)
    os.seteuid(before)


def test_what_may_not_be_read_is_found_and_a_closed_folder_stops_the_other_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nobody: Callable[[], None]
) -> None:
    put(tmp_path / "d", "a.jpg", "closed.jpg", "folder/b.jpg", "listed/c.jpg")
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d/closed.jpg").chmod(0)
    (tmp_path / "d/folder").chmod(0)
    (tmp_path / "d/listed").chmod(0o444)  # its names can be read, and nothing of what they stand for
    nobody()
    assert stumbles(Path("d")) == {"closed": ["closed.jpg", "folder", "listed/c.jpg"]}
    with pytest.raises(PermissionError):
        list(walk(Path("d")))
