from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.distance import cdist

from aecore import cli
from aecore.data.images import Images
from aecore.search import duplicates
from aecore.search.duplicates import Pairs, groups, near_pairs
from aecore.search.searcher import Searcher, Source


def by_hand(distances: np.ndarray, threshold: float) -> list[list[int]]:
    """Groups by repeated merging, from a full matrix of distances."""
    sets = [{i} for i in range(len(distances))]
    for a, b in np.argwhere(distances <= threshold):
        one, other = (next(s for s in sets if i in s) for i in (a, b))
        if one is not other:
            one |= other
            sets.remove(other)
    return sorted(sorted(s) for s in sets if len(s) > 1)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=25), st.integers(0, 8))
def test_groups_are_what_merging_by_hand_gives(places: list[int], threshold: int) -> None:
    distances = cdist(np.array(places)[:, None], np.array(places)[:, None])
    a, b = np.nonzero(np.triu(distances <= threshold, 1))
    found = groups(Pairs(a, b, distances[a, b].astype(np.float32)), len(places))
    assert sorted(part.tolist() for part, _ in found) == by_hand(distances, threshold)
    for part, longest in found:  # on a line the longest link needed is the widest gap
        gaps = np.diff(np.sort(np.array(places)[part]))
        assert longest == pytest.approx(gaps.max(), abs=1e-6)
    assert [longest for _, longest in found] == sorted(longest for _, longest in found)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.5])
def test_pairs_are_those_of_all_distances(workspace: Path, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", 37)
    searcher = Searcher.open(Source.find())
    vectors = searcher.base.embeddings.load().astype(np.float64)
    center = vectors[searcher.base.images.positions("train")].mean(axis=0)
    distances = cdist(vectors - center, vectors - center, "cosine")
    a, b = np.triu_indices(len(vectors), 1)
    threshold = float(np.quantile(distances[a, b], share))
    near = distances[a, b] <= threshold
    found = near_pairs(searcher, threshold)
    expected, got = set(zip(a[near], b[near], strict=True)), set(zip(found.a, found.b, strict=True))
    edge = {(i, j) for i, j in expected ^ got if abs(distances[i, j] - threshold) < 1e-6}
    assert expected ^ got == edge
    np.testing.assert_allclose(found.distance, distances[found.a, found.b], atol=1e-5)


def test_planted_copies_are_found_and_leaks_named(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = Images.open()
    names = [images.items["path"][int(p)].as_py() for p in images.positions("test")[:6]]
    folder = Path("data/raw/shapes")
    for number, name in enumerate(names):
        pixels = np.array(Image.open(folder / name))
        pixels[0, 0] ^= 1  # all but the same picture
        Image.fromarray(pixels).save(folder / name.split("/")[0] / f"again{number}.png")
    (folder / "disc/same.png").write_bytes((folder / names[0]).read_bytes())
    for stage in ("prepare", "train", "embed", "index"):
        assert cli.main([stage]) == 0
    capsys.readouterr()
    assert cli.main(["duplicates", "--json", "--montage", "groups.png"]) == 0
    answer = json.loads(capsys.readouterr().out)
    paths = [sorted(image["path"] for image in group["images"]) for group in answer["near"]]
    for number, name in enumerate(names):
        again = f"{name.split('/')[0]}/again{number}.png"
        assert any(name in group and again in group for group in paths)
    for group in answer["near"]:
        assert group["leak"] == ({"train", "test"} <= {image["split"] for image in group["images"]})
        assert 0 <= group["distance"] <= answer["threshold"] + 1e-6
    copies = {entry["path"]: entry["copies"] for entry in answer["exact"]}
    assert sorted(path for pair in copies.items() for path in (pair[0], *pair[1])) == sorted(
        [names[0], "disc/same.png"]
    )
    with Image.open("groups.png") as picture:
        assert picture.width > 300

    assert cli.main(["duplicates", "--distance", "0", "-n", "1"]) == 0
    assert "groups of" in capsys.readouterr().out
    assert cli.main(["duplicates", "--distance", "1e-12", "--montage", "none.png"]) == 0
    assert "No two images are so near; nothing was drawn: --distance" in capsys.readouterr().out
    assert not Path("none.png").exists()
    assert cli.main(["duplicates", "--distance", "-1"]) == 2
    assert "--distance is -1;" in capsys.readouterr().err
    assert cli.main(["duplicates", "--montage", "nowhere/groups.png"]) == 2
