from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from aecore import cli, config
from aecore.config import UserError
from aecore.search import searcher as searching
from aecore.search.clusters import Clusters
from aecore.search.filters import matching
from aecore.search.searcher import Searcher, Source
from aecore.serve.grow import add
from aecore.serve.publish import publish
from aecore.vectors import Embeddings

ITEMS = pa.table(
    {
        "id": pa.array(range(6)),
        "label": pa.array([3, None, 3, 5, None, 4], pa.int32()),
        "path": ["a/1.png", "b's/2.png", "a/3.png", None, "c/5.png", "é/6.png"],
        "width": [10, 20, 30, 40, 50, 60],
        "attribute.smiling": [True, False, None, True, True, False],
    }
)


@pytest.mark.parametrize(
    ("where", "positions"),
    [
        ("label = 3", [0, 2]),
        ("label is null", [1, 4]),
        ("label <> 3", [3, 5]),  # a null is neither
        ("width between 20 and 40 and path like '%/%'", [1, 2]),
        ("path = 'b''s/2.png' or path like 'é%'", [1, 5]),
        ('"attribute.smiling"', [0, 3, 4]),
        ("false", []),
    ],
)
def test_conditions_let_through_what_they_say(where: str, positions: list[int]) -> None:
    assert matching(ITEMS, where).tolist() == positions


def test_a_condition_that_is_none_lists_every_column_cluster_too(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = str(searching.Searcher.open(Source.find()).base.ids[0])
    assert cli.main(["publish"]) == 0
    capsys.readouterr()
    for command in (["query", "--id", known], ["query", "--all", "--parquet", "o.parquet"], ["representatives"],
                    ["remove"]):  # fmt: skip
        assert cli.main([*command, "--where", "clustre = 1"]) == 2
        error = capsys.readouterr().err
        assert re.search(r"no condition over the images: .*[^.!]\. Columns: id, .*, cluster\.\n$", error), command
    assert cli.main(["query", "--id", known, "-k", "3", "--where", "CLUSTER >= 0"]) == 0  # SQL's names ignore case
    shutil.rmtree("serving")
    shutil.rmtree(config.CLUSTERS)
    assert cli.main(["query", "--id", known, "--where", "clustre = 1"]) == 2
    assert "cluster." not in capsys.readouterr().err


@given(st.lists(st.one_of(st.none(), st.integers(-3, 3)), max_size=30), st.integers(-3, 3))
def test_a_comparison_is_numpys(labels: list[int | None], bound: int) -> None:
    items = pa.table({"label": pa.array(labels, pa.int64())})
    expected = [i for i, label in enumerate(labels) if label is not None and label < bound]
    assert matching(items, f"label < {bound}").tolist() == expected


@pytest.mark.parametrize(
    "where",
    ["", "lable = 3", "label =", "label = 'shoe'", "1; select 2", "exists(select 1 from read_csv('params.yaml'))",
     "exists(select 1 from ITEMS)", "label in (select label from read_text('/etc/hostname'))"],
)  # fmt: skip
def test_what_is_no_condition_is_refused_with_the_columns_there_are(where: str) -> None:
    with pytest.raises(UserError, match=r"no condition over the images.*Columns: id, label, path, width"):
        matching(ITEMS, where)


@pytest.mark.parametrize("second", ["attribute.Smiling", "ATTRIBUTE.SMILING"])
def test_columns_that_differ_in_case_alone_are_never_taken_for_each_other(second: str) -> None:
    """A copy that was published before such tables were refused may hold them; DuckDB would take the first for both."""
    items = ITEMS.append_column(second, pa.array(["no", "yes"] * 3))
    for name in ("attribute.smiling", second, "attribute.smiling_1"):
        with pytest.raises(UserError, match=rf"No condition can tell attribute\.smiling, {second} apart: rename them"):
            matching(items, f'"{name}"')
    assert matching(items, "label = 3").tolist() == [0, 2]


def brute(searcher: Searcher, queries: np.ndarray, among: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and distances by numpy alone, float64."""
    vectors = Embeddings.open().load().astype(np.float64)
    train = vectors[searcher.base.images.positions("train")].mean(axis=0)
    unit = (vectors - train) / np.linalg.norm(vectors - train, axis=1, keepdims=True)
    asked = (queries - train) / np.linalg.norm(queries - train, axis=1, keepdims=True)
    distance = 1 - asked @ unit[among].T
    ids = np.broadcast_to(searcher.base.images.ids()[among], distance.shape)
    order = np.lexsort((ids, np.round(distance, 12)), axis=1)[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(distance, order, 1)


@pytest.mark.parametrize("kind", ["exact", "ivf"])
@pytest.mark.parametrize("compared", [10**9, 0], ids=["compared", "selected"])
@pytest.mark.parametrize("kept", [1, 3, 40, 150])
def test_filtered_answers_are_those_of_brute_force(
    workspace: Path,
    set_params: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    compared: int,
    kept: int,
) -> None:
    if kind == "ivf":
        set_params(index={"exact_below": 10, "min_recall": 0.9})
        assert cli.main(["index"]) == 0
    monkeypatch.setattr(searching, "COMPARED", compared)
    searcher = Searcher.open(Source.find())
    assert searcher.manifest.facts["index"].startswith(kind)
    among = np.sort(np.random.default_rng(kept).choice(searcher.count, kept, replace=False))
    queries = Embeddings.open().load()[::7]
    found = searcher.search(queries, 10, among)
    ids, distance = brute(searcher, queries, among, 10)
    assert found.ids.shape == (len(queries), min(10, kept))
    if kind == "ivf" and not compared and kept == 150:
        assert (found.ids == ids).mean() > 0.8  # an approximate search of all
    else:
        np.testing.assert_allclose(found.distance, distance, atol=1e-5)
        assert (found.ids == ids).mean() > 0.999  # what ties to rounding may change places
    assert np.isin(found.ids, searcher.base.images.ids()[among]).all()


def test_no_image_may_answer(workspace: Path) -> None:
    found = Searcher.open(Source.find()).search(Embeddings.open().load()[:3], 5, np.empty(0, np.int64))
    assert found.ids.shape == (3, 0)


def test_query_where(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    searcher = Searcher.open(Source.find())
    item = str(searcher.base.images.ids()[0])
    assert (
        cli.main(["query", "--id", item, "-k", "5", "--json", "--where", "label_name = 'disc' and split = 'test'"]) == 0
    )
    told = capsys.readouterr()
    answer = json.loads(told.out)
    assert answer["where"] == "label_name = 'disc' and split = 'test'"
    assert {row["label_name"] for row in answer["queries"][0]["neighbours"]} == {"disc"}
    assert {searcher.collection.item(int(row["id"]))["split"] for row in answer["queries"][0]["neighbours"]} == {"test"}
    assert "images meet" in told.err
    assert cli.main(["query", "--id", item, "--where", "label_name = 'dog'"]) == 2
    assert "no image meets --where" in capsys.readouterr().err
    assert cli.main(["query", "--id", item, "--where", "lable = 1"]) == 2
    assert "label_name" in capsys.readouterr().err


def test_a_condition_may_name_the_cluster_also_of_what_was_added(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = pq.read_table(config.CLUSTERS / "assignments.parquet").to_pydict()
    searcher = Searcher.open(Source.find())
    for number in set(items["cluster"]):
        ids = searcher.collection.ids(searcher.matching(f"cluster = {number}"))
        assert set(ids.tolist()) == {i for i, c in zip(items["id"], items["cluster"], strict=True) if c == number}
    Path("more").mkdir()
    for path in sorted(Path("data/raw/shapes/disc").iterdir())[:8]:
        Image.fromarray(np.asarray(Image.open(path))[::-1].copy()).save(Path("more") / path.name)
    publish()
    add(["more"])
    searcher = Searcher.open(Source.find())
    added = searcher.matching("split = 'added'")
    assert len(added) == 8
    assigned = Clusters.open().assign(searcher.collection.vectors(added))[0]
    for number in set(assigned.tolist()):
        found = searcher.matching(f"split = 'added' and cluster = {number}")
        np.testing.assert_array_equal(found, added[assigned == number])
    shutil.rmtree(Path("serving/current/clusters"))
    with pytest.raises(UserError, match="cluster"):
        searcher.matching("cluster = 0")


def test_hashes_are_read_where_they_are_named(workspace: Path) -> None:
    searcher = Searcher.open(Source.find())
    images = searcher.base.images
    hashes = images.column("pixel_hash").to_pylist()
    assert searcher.matching(f"PIXEL_HASH = '{hashes[7]}'").tolist() == [7]
    assert "pixel_hash" not in images.described.column_names
