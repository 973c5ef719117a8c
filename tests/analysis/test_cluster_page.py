"""The page of the clusters: what stands on it is what the artefact says, for both methods, with labels and without."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aecore import artifact, cli, config
from aecore.analysis import cluster_page, pictures
from aecore.analysis.cluster_page import label_counts, members, read_assignments, told
from aecore.data.images import Images
from aecore.search.clusters import NOISE
from tests.analysis.markup import Page

Set = Callable[..., None]
HOSTILE = '<img src=http://evil.example/x onerror="x()">`b`'


def written(**facts: Any) -> tuple[Page, list[dict[str, Any]]]:
    """The page of the clusters that are here, and their table; `facts` are told instead of the manifest's."""
    found = artifact.read_manifest(config.CLUSTERS, "clusters").facts | facts
    table = pq.read_table(config.CLUSTERS / "clusters.parquet").to_pylist()
    return Page(cluster_page.write(Images.open(), found, table, *read_assignments())), table


def titles(page: Page) -> list[list[str]]:
    """Path and id (and label) of every picture."""
    return [given["title"].split("\n") for given in page.all("img")]


def test_every_cluster_shows_its_medoid_its_nearest_and_its_farthest(workspace: Path) -> None:
    page, table = written()
    images, (cluster, distance) = Images.open(), read_assignments()
    ids, paths = images.ids(), images.items["path"].to_pylist()
    shown = titles(page)
    for row in table:
        mine = sorted((float(distance[i]), int(ids[i])) for i in np.flatnonzero(cluster == row["cluster"]))
        near, far = mine[: 1 + cluster_page.TYPICAL], mine[: cluster_page.TYPICAL : -1][: cluster_page.ODD]
        expected = [number for _, number in [*near, *far]]
        assert expected[0] == row["medoid"]
        group, shown = shown[: len(expected)], shown[len(expected) :]
        assert [int(said[1].removeprefix("id ")) for said in group] == expected
        assert all(
            paths[int(np.flatnonzero(ids == number)[0])] == said[0]
            for number, said in zip(expected, group, strict=True)
        )
        assert f"{row['size']:,} images" in page.text
        assert f"; {100 * row['purity']:.1f}\u202f% of those with a label" in page.text
        assert f"{row['cluster']} · {row['label_name']}" in page.texts("h2")
    assert shown == []
    assert page.texts("h2")[0] == "Overview"
    assert [given["href"] for given in page.all("a")][-1] == "report.html"
    pixels = images.rows(np.flatnonzero(ids == table[0]["medoid"]))[0, 0]
    first = io.BytesIO(base64.b64decode(page.all("img")[0]["src"].partition(",")[2]))
    np.testing.assert_array_equal(np.asarray(Image.open(first)), pixels)


def test_labels_are_counted_the_commonest_first(workspace: Path) -> None:
    page, table = written()
    images, (cluster, _) = Images.open(), read_assignments()
    labels, bars = images.labels(), [text for text in page.texts("span") if text]
    assert labels is not None
    assert images.label_names is not None
    for row in table:
        for label, name in enumerate(images.label_names):
            if count := int((labels[cluster == row["cluster"]] == label).sum()):
                assert (name, f"{count:,}") in list(itertools.pairwise(bars))


def test_few_labels_are_named_and_the_others_counted() -> None:
    labels, names = np.repeat([0, 1, 2, 3, 4, 5, 6, 7, -1], [1, 9, 8, 7, 6, 5, 4, 1, 2]), list("abcdefgh")
    counted = [("b", 9), ("c", 8), ("d", 7), ("e", 6), ("f", 5), ("g", 4)]
    assert label_counts(labels, names) == [*counted, ("2 others", 2), ("without a label", 2)]
    assert label_counts(labels[labels != 7], names) == [*counted, ("a", 1), ("without a label", 2)]
    assert label_counts(np.array([-1]), names) == [("without a label", 1)]


def test_members_are_ordered_by_distance_then_id() -> None:
    found = members(np.array([1, NOISE, 0, 1, 1]), np.array([0.3, 0.1, 0.2, 0.1, 0.1]), np.array([5, 4, 3, 2, 1]))
    assert {number: positions.tolist() for number, positions in found.items()} == {NOISE: [1], 0: [2], 1: [4, 3, 0]}


def test_what_a_user_named_is_never_markup(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harmless, table = written()
    taken = Images.items.func  # type: ignore[attr-defined]

    def hostile(images: Images) -> Any:
        items = taken(images)
        for name in ("path", "label_name"):
            items = items.set_column(items.column_names.index(name), name, [[HOSTILE] * len(items)])
        return items

    monkeypatch.setattr(Images, "items", property(hostile))
    images, facts = Images.open(), artifact.read_manifest(config.CLUSTERS, "clusters").facts
    images.label_names = [HOSTILE] * 3
    rows = [{**row, "label_name": HOSTILE} for row in table]
    page = Page(cluster_page.write(images, facts, rows, *read_assignments()))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in harmless.tags]
    assert page.text.count(HOSTILE) >= 2 * len(table)
    assert {said[0] for said in titles(page)} == {HOSTILE}


def test_noise_is_told_of_everywhere(set_params: Set, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_params(cluster={"method": "hdbscan", "min_size": 5})
    for stage in ("cluster", "evaluate", "report"):
        assert cli.main([stage]) == 0, capsys.readouterr().err
    facts = artifact.read_manifest(config.CLUSTERS, "clusters").facts
    assert 0 < facts["noise"] < 150
    page, table = written()
    assert page.texts("h2")[-1] == "In no cluster"
    far = titles(page)[-min(facts["noise"], cluster_page.ALONE) :]
    cluster, distance = read_assignments()
    lost = np.flatnonzero(cluster == NOISE)
    farthest = lost[np.argmax(distance[lost])]
    assert far[0][1] == f"id {Images.open().ids()[farthest]}"
    said = f"HDBSCAN found {len(table)} clusters where the codes lie densely; {facts['noise']} of 150 images"
    assert said in page.text
    assert said in Page((config.REPORTS / "report.html").read_text()).text
    drawn = pictures.draw_maps(Images.open(), config.MAP, config.CLUSTERS)["map_clusters"]
    legend = drawn.axes[0].get_legend()
    assert legend is not None
    assert "in none" in [text.get_text() for text in legend.get_texts()]


def test_the_numbers_tried_are_shown_with_the_chosen_one_marked(set_params: Set) -> None:
    set_params(cluster={"clusters": "auto"})
    assert cli.main(["cluster"]) == 0
    page, table = written()
    tried = artifact.read_manifest(config.CLUSTERS, "clusters").facts["silhouettes"]
    bars = [text for text in page.texts("span") if text]
    for number, score in tried:
        assert (f"{number} clusters", f"{score:.3f}") in list(itertools.pairwise(bars))
    ours = [given for given in page.all("li") if given.get("class") == "ours"]
    assert len(ours) == 1
    assert f"one of {len(table)} clusters, by its code alone; of the numbers tried" in page.text


def test_of_many_clusters_the_largest_are_shown(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_page, "SHOWN", 2)
    page, table = written()
    assert page.texts("h2") == ["Overview", *(f"{row['cluster']} · {row['label_name']}" for row in table[:2])]
    assert f"The 2 largest of {len(table)} are shown." in page.text
    bars = [text for text in page.texts("span") if text]
    assert ("1 more", str(table[2]["size"])) in list(itertools.pairwise(bars))


def test_large_images_are_scaled_down_in_proportion(monkeypatch: pytest.MonkeyPatch, workspace: Path) -> None:
    monkeypatch.setattr(cluster_page, "THUMB", 6)
    page, _ = written()
    assert {(given["width"], given["height"]) for given in page.all("img")} == {("6", "6")}


def test_a_single_cluster_and_an_artefact_of_an_older_version_are_told_of() -> None:
    assert told({"clusters": 1, "count": 5}) == "K-means put every image into one of 1 cluster, by its code alone."
