from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aecore.artifact import writing
from aecore.config import UserError, WorkFailed
from aecore.data.images import Images, shard_name

SIZES = [3, 5, 2]
PIXELS = np.random.default_rng(0).integers(0, 256, (10, 3, 4, 5), dtype=np.uint8)
SPLIT = ["train", "test", "train", "validation", "train", "test", "train", "train", "validation", "test"]


def make(path: Path, labels: list[str] | None) -> Images:
    facts = {"count": 10, "channels": 3, "height": 4, "width": 5, "shards": SIZES, "labels": labels}
    with writing(path, "data", facts=facts) as folder:
        for i, shard in enumerate(np.split(PIXELS, np.cumsum(SIZES)[:-1])):
            np.save(folder / shard_name(i), shard)
        label = [None if i % 3 == 2 or labels is None else i % 2 for i in range(10)]
        table = {"id": np.arange(10) * 7, "label": pa.array(label, pa.int32()), "split": SPLIT}
        pq.write_table(pa.table(table), folder / "items.parquet")
    return Images.open(path)


@pytest.mark.parametrize("positions", [[], [9], [0, 1, 2], [9, 0, 3, 3, 2, 8, 7], list(range(10))])
def test_rows_are_the_pixels_at_any_positions(positions: list[int], tmp_path: Path) -> None:
    images = make(tmp_path / "x", ["a", "b"])
    found = images.rows(np.array(positions, dtype=np.int64))
    np.testing.assert_array_equal(found, PIXELS[np.array(positions, dtype=np.int64)])
    assert found.dtype == np.uint8
    assert type(found) is np.ndarray


@pytest.mark.parametrize("position", [-1, 10])
def test_positions_outside_are_refused(position: int, tmp_path: Path) -> None:
    with pytest.raises(IndexError):
        make(tmp_path / "x", None).rows(np.array([0, position]))


def test_shards(tmp_path: Path) -> None:
    images = make(tmp_path / "x", None)
    found = list(images.shards())
    assert [first for first, _ in found] == [0, 3, 8]
    np.testing.assert_array_equal(np.concatenate([shard for _, shard in found]), PIXELS)
    assert all(isinstance(shard, np.memmap) for _, shard in found)


def test_columns(tmp_path: Path) -> None:
    images = make(tmp_path / "x", ["a", "b"])
    assert (images.count, images.shape, images.shard_sizes) == (10, (3, 4, 5), SIZES)
    assert images.ids().tolist() == [7 * i for i in range(10)]
    labels = images.labels()
    assert labels is not None
    assert labels.tolist() == [0, 1, -1, 1, 0, -1, 0, 1, -1, 1]
    assert labels.dtype == np.int32
    assert images.positions("train").tolist() == [0, 2, 4, 6, 7]
    assert images.positions("validation").tolist() == [3, 8]
    with pytest.raises(UserError, match="split is 'all'"):
        images.positions("all")


def test_without_labels(tmp_path: Path) -> None:
    images = make(tmp_path / "x", None)
    assert images.labels() is None
    assert images.label_names is None


def test_missing_and_damaged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="python -m aecore prepare"):
        Images.open(tmp_path / "x")
    make(tmp_path / "x", None)
    (tmp_path / "x" / shard_name(1)).write_bytes(b"short")
    with pytest.raises(WorkFailed, match=r"images-00001\.npy is missing or cut short"):
        Images.open(tmp_path / "x")
