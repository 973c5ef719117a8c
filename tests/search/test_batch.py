"""Batches of queries into a Parquet file, on the tiny workspace, against `query` and against numpy."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aecore import artifact, cli, config
from aecore.config import UserError, WorkFailed
from aecore.data.images import Images
from aecore.search import batch, queries, query, table
from aecore.search.batch import run
from aecore.search.searcher import Searcher, Source
from aecore.serve.grow import add, remove
from aecore.serve.publish import publish

SHAPES = Path("data/raw/shapes")
OUT = Path("near.parquet")
Rows = list[dict[str, Any]]


def asked(capsys: pytest.CaptureFixture[str], *images: Any, **named: Any) -> tuple[dict[str, Any], Rows]:
    capsys.readouterr()
    run(images, named.pop("ids", []), OUT, as_json=True, **named)
    return json.loads(capsys.readouterr().out), pq.read_table(OUT).to_pylist()


def nearest(capsys: pytest.CaptureFixture[str], images: Any, ids: Any, k: int, where: str | None = None) -> Rows:
    """What the interactive command says, as rows of the table."""
    capsys.readouterr()
    query.run(images, ids, k, as_json=True, where=where)
    told = json.loads(capsys.readouterr().out)["queries"]
    return [
        {"query": one["path"], "query_id": one["id"] and int(one["id"]), **row, "id": int(row["id"])}
        for one in told
        for row in one["neighbours"]
    ]


def same(found: Rows, expected: Rows) -> None:
    """Rows agree; the command rounds scores, and a code depends on its batch to rounding."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(table.COLUMNS)
        exact = ("query", "query_id", "rank", "id", "path", "label_name")
        assert {key: one[key] for key in exact} == {key: other[key] for key in exact}
        for key in ("similarity", "distance"):
            assert one[key] == pytest.approx(other[key], abs=3e-6)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "BLOCK", 7)
    monkeypatch.setattr(table, "GROUP", 40)


@pytest.mark.parametrize("where", [None, "label_name = 'disc' or split = 'test'"])
def test_a_batch_finds_what_the_command_finds(
    where: str | None, workspace: Path, small_blocks: None, capsys: pytest.CaptureFixture[str]
) -> None:
    known = [str(item) for item in Images.open().ids()[::11]]
    paths = [str(path) for path in sorted(SHAPES.rglob("*.png"))]
    answer, rows = asked(capsys, SHAPES, SHAPES / "disc/001.png", ids=known, k=4, where=where)
    expected = nearest(capsys, [str(SHAPES / "disc/001.png"), *paths], known, 4, where)
    same(rows, expected)
    assert (answer["queries"], answer["neighbours"]) == (len(paths) + 1 + len(known), len(rows))
    assert answer["block"]["queries"] == 7


def test_all_is_the_graph_of_nearest_neighbours(
    workspace: Path, small_blocks: None, capsys: pytest.CaptureFixture[str]
) -> None:
    _, rows = asked(capsys, everything=True, k=5)
    searcher = Searcher.open(Source.find())
    collection = searcher.collection
    positions = np.arange(searcher.count)
    codes = collection.codes(positions).astype(np.float64)
    distance, ids = 1 - codes @ codes.T, collection.ids(positions)
    assert [row["query_id"] for row in rows] == np.repeat(ids, 5).tolist()
    assert all(row["query"] is None for row in rows)
    for place, item in enumerate(ids.tolist()):
        mine = rows[5 * place : 5 * place + 5]
        assert mine[0]["id"] == item
        assert mine[0]["distance"] == 0
        found = [row["distance"] for row in mine]
        np.testing.assert_allclose(found, np.sort(distance[place].clip(0))[:5], atol=2e-6)
    names = Images.open().items.select(["id", "path", "label_name"]).to_pylist()
    by_id = {row["id"]: row for row in names}
    assert all(by_id[row["id"]] == {key: row[key] for key in ("id", "path", "label_name")} for row in rows)


@pytest.mark.parametrize("text", [False, True])
def test_ids_of_a_table(text: bool, workspace: Path, small_blocks: None, capsys: pytest.CaptureFixture[str]) -> None:
    known = Images.open().ids()[3:30:2].tolist()
    wanted = [*known[:5], 12, *known[5:], None]
    ids = pa.array([item if item is None else str(item) for item in wanted] if text else wanted)
    pq.write_table(pa.table({"other": ["x"] * len(wanted), "id": ids}), "ids.parquet")
    answer, rows = asked(capsys, table=Path("ids.parquet"), k=2)
    assert [row["query_id"] for row in rows] == np.repeat(known, 2).tolist()
    assert answer["rejected"] == {"count": 2, "parquet": "near.rejected.parquet", "first": [
        {"path": None, "id": "12", "reason": "the id is not indexed"},
        {"path": None, "id": None, "reason": "the id is missing"},
    ]}  # fmt: skip
    again, _ = asked(capsys, table=OUT, k=1)  # the neighbours' own ids, 28 of them
    assert (again["queries"], again["rejected"]) == (28, {"count": 0, "parquet": None, "first": []})


def test_folders_and_archives_are_read_and_what_cannot_be_is_listed(
    workspace: Path, small_blocks: None, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((SHAPES / "square").glob("*.png"))[:10]
    with zipfile.ZipFile("some.zip", "w") as packed:
        for file in files:
            packed.write(file, f"inner/{file.name}")
        packed.writestr("inner/zzz.jpg", b"no image")
    with tarfile.open("some.tar.gz", "w:gz") as packed_too:
        packed_too.add(files[0], "one.png")
    Path("mixed/sub").mkdir(parents=True)
    shutil.copy(files[0], "mixed/sub/a.png")
    Path("mixed/README.md").write_text("words")
    Path("mixed/notes.txt").write_text("words")
    for number in range(12):
        Path(f"mixed/broken{number:02d}.png").write_bytes(b"no image")
    answer, rows = asked(capsys, "some.zip", "mixed", "some.tar.gz", "params.yaml", k=1)
    inside = [f"some.zip/inner/{file.name}" for file in files]
    assert [row["query"] for row in rows] == [*inside, "mixed/sub/a.png", "some.tar.gz/one.png"]
    assert {row["path"] for row in rows} <= {f"square/{file.name}" for file in files}
    listed = pq.read_table("near.rejected.parquet").to_pylist()
    broken = [f"mixed/broken{number:02d}.png" for number in range(12)]
    assert [row["query"] for row in listed] == ["params.yaml", "some.zip/inner/zzz.jpg", *broken]
    assert all(row["query_id"] is None and row["reason"] for row in listed)
    assert answer["rejected"]["count"] == 14
    assert [one["path"] for one in answer["rejected"]["first"]] == [row["query"] for row in listed[:10]]


def test_the_first_rejected_are_named_and_an_old_list_goes(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mixed").mkdir()
    shutil.copy(SHAPES / "disc/000.png", "mixed/a.png")
    for number in range(12):
        Path(f"mixed/broken{number:02d}.png").write_bytes(b"no image")
    run(["mixed"], [], OUT)
    out, err = capsys.readouterr()
    assert re.findall(r"passed over (\S+):", err) == [f"mixed/broken{number:02d}.png" for number in range(10)]
    assert "near.rejected.parquet lists all 12" in err
    assert out.startswith("1 query, 12 rejected: 10 neighbours -> near.parquet\n")
    assert "queries/s; a block of 1 takes" in out
    assert Path("near.rejected.parquet").exists()
    run(["mixed/a.png"], [], OUT)
    assert not Path("near.rejected.parquet").exists()


def test_the_table_says_its_types_and_what_answered(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer, _ = asked(capsys, SHAPES / "disc", k=3, where="split = 'train'")
    capsys.readouterr()
    query.run([SHAPES / "disc/000.png"], [], 3, as_json=True, where="split = 'train'")
    told = json.loads(capsys.readouterr().out)
    file = pq.ParquetFile(OUT)
    kept = json.loads(file.schema_arrow.metadata[b"aecore"])
    assert kept == {key: told[key] for key in ("source", "metric", "where", "k")}
    assert kept == {key: answer[key] for key in kept}
    assert file.schema_arrow.equals(pa.schema(table.COLUMNS.items()))
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert set(answer) == {*kept, "parquet", "queries", "neighbours", "rejected", "seconds", "search_seconds",
                           "queries_per_second", "block", "mlflow_run"}  # fmt: skip
    assert answer["queries_per_second"] == pytest.approx(50 / answer["seconds"], rel=0.1)
    assert 0 < answer["search_seconds"] <= answer["seconds"]
    assert answer["mlflow_run"] is None


def test_the_same_queries_give_the_same_bytes_in_groups_of_a_size(
    workspace: Path, small_blocks: None, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(capsys, SHAPES, everything=True, k=3)
    before = OUT.read_bytes()
    asked(capsys, SHAPES, everything=True, k=3)
    assert OUT.read_bytes() == before
    metadata = pq.ParquetFile(OUT).metadata
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert len(sizes) > 10
    assert all(40 <= size < 40 + 7 * 3 for size in sizes[:-1])


def test_k_beyond_the_count_and_wide_images_make_blocks_smaller(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    count = Images.open().count
    monkeypatch.setattr(batch, "ROWS", 5 * count)
    answer, rows = asked(capsys, everything=True, k=10**9)
    assert (answer["k"], answer["block"]["queries"], len(rows)) == (count, 5, count**2)
    monkeypatch.setattr(queries, "PIXEL_BYTES", 3 * 12 * 12)
    answer, _ = asked(capsys, SHAPES / "disc", k=1)
    assert answer["block"]["queries"] == 3


def test_a_copy_that_grew_and_forgot_answers_in_full(
    workspace: Path, small_blocks: None, capsys: pytest.CaptureFixture[str]
) -> None:
    publish()
    Path("more/disc").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(9):
        Image.fromarray(rng.integers(0, 256, (12, 12), np.uint8)).save(f"more/disc/{number}.png")
    add(["more"])
    gone = Images.open().ids()[:3].tolist()
    remove(gone)
    answer, rows = asked(capsys, "more", ids=gone, everything=True, k=2)
    assert answer["source"]["growth"]["added"] == 9
    assert [one["id"] for one in answer["rejected"]["first"]] == [str(item) for item in gone]
    assert [(row["query"], row["path"]) for row in rows[0:18:2]] == [
        (f"more/disc/{number}.png", f"more/disc/{number}.png") for number in range(9)
    ]
    of_all = [row for row in rows if row["query_id"] is not None]
    assert len({row["query_id"] for row in of_all}) == Images.open().count - 3 + 9
    assert not {row["id"] for row in rows} & set(gone)
    same(of_all[:20], nearest(capsys, [], [row["query_id"] for row in of_all[:20:2]], 2))


@pytest.mark.parametrize(("arguments", "named", "message"), [
    (([], [], None), {"everything": True}, "--parquet OUT.parquet says where"),
    (([], [], OUT), {}, "nothing to look for"),
    ((["nowhere"], [], OUT), {}, "nowhere is not there"),
    (([SHAPES], [], OUT, 0), {}, "-k is 0"),
    (([SHAPES], [], Path("no/near.parquet")), {}, "no/near.parquet cannot be written"),
    (([SHAPES], [], OUT), {"where": "label = 77"}, "no image meets"),
    (([], ["x"], OUT), {}, "'x' is not a number"),
    (([], [str(2**63)], OUT), {}, "is none"),
    (([], ["7"], OUT), {}, r"none of the queries can be looked for \(id 7: the id is not indexed\)"),
    ((["params.yaml"], [], OUT), {}, r"none of the queries.*params.yaml: not an image.*was not written"),
    (([], [], OUT), {"table": Path("nowhere")}, "--ids nowhere is no file"),
    (([], [], OUT), {"table": Path("params.yaml")}, "--ids params.yaml cannot be read as Parquet"),
    (([], [], OUT), {"table": Path("data/prepared/rejected.parquet")}, "no column `id`; it has path, batch, reason"),
    (([], [], OUT), {"table": Path("wrong.parquet")}, "the column `id` holds double"),
    (([], [], OUT), {"table": Path("words.parquet")}, "the column `id` cannot be read"),
    (([], [], OUT), {"table": Path("twice.parquet")}, "twice.parquet has 2 columns `id`: rename all but one"),
])  # fmt: skip
def test_wrong_requests_name_what_is_wrong_and_leave_what_was_there(
    arguments: tuple[Any, ...], named: dict[str, Any], message: str, workspace: Path
) -> None:
    pq.write_table(pa.table({"id": [1.5]}), "wrong.parquet")
    pq.write_table(pa.table({"id": ["word"]}), "words.parquet")
    pq.write_table(pa.table([[1], [2]], names=["id", "id"]), "twice.parquet")
    OUT.write_text("before")
    with pytest.raises(UserError, match=message) as caught:
        run(*arguments, **named)
    assert caught.value.exit_status == 2
    assert OUT.read_text() == "before"
    assert not list(Path().glob(".*.tmp"))


def test_the_command_line_hands_it_all_over(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = str(Images.open().ids()[0])
    pq.write_table(pa.table({"id": [int(known)]}), "ids.parquet")
    command = ["query", str(SHAPES / "disc"), "--id", known, "--ids", "ids.parquet", "--all", "-k", "2",
               "--where", "split = 'test'", "--parquet", str(OUT), "--json"]  # fmt: skip
    assert cli.main(command) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["queries"], answer["k"]) == (50 + 2 + Images.open().count, 2)
    assert answer["where"] == "split = 'test'"
    for drawn in (["--montage", "out.png"], ["--percentile"]):
        assert cli.main([*command, *drawn]) == 2
        assert "--montage and --percentile are for a few queries" in capsys.readouterr().err
    assert cli.main(["query", "--all"]) == 2
    assert cli.main(["query", "--ids", "ids.parquet"]) == 2


def test_another_model_is_refused_naming_both_digests(workspace: Path, set_params: Callable[..., None]) -> None:
    old = artifact.read_manifest(config.MODEL, "model").digest[:12]
    set_params(train={"epochs": 1})
    assert cli.main(["train"]) == 0
    new = artifact.read_manifest(config.MODEL, "model").digest[:12]
    assert old != new
    for images, everything in (([SHAPES], False), ([], True)):
        with pytest.raises(WorkFailed, match=rf"(?=.*{old})(?=.*{new}).*run `dvc repro`"):
            run(images, [], OUT, everything=everything)
    assert not OUT.exists()


def test_a_full_disk_ends_in_one_sentence_and_keeps_what_was_there(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    OUT.write_text("before")
    monkeypatch.setattr(artifact, "fsync", full)
    assert cli.main(["query", "--all", "--parquet", str(OUT)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("aecore query: No space left on device at near.parquet")
    assert OUT.read_text() == "before"
    assert not list(Path().glob(".*.tmp"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_a_disk_that_fills_while_rows_are_written(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Path.open

    def on_a_full_disk(path: Path, *arguments: Any, **named: Any) -> Any:
        return opened(Path("/dev/full") if path.suffix == ".tmp" else path, *arguments, **named)

    monkeypatch.setattr(Path, "open", on_a_full_disk)
    assert cli.main(["query", "--all", "--parquet", str(OUT)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("aecore query: No space left on device at near.parquet")
    assert not OUT.exists()


def test_a_killed_batch_leaves_no_half_file_and_the_next_clears_up(workspace: Path) -> None:
    script = (
        "import time\nfrom pathlib import Path\nfrom aecore.search import batch, table\n"
        "table.GROUP = 1\ntell = batch.tabulate\n"
        "def slow(*arguments):\n    print('a block', flush=True)\n    time.sleep(1)\n    return tell(*arguments)\n"
        "batch.tabulate, batch.BLOCK = slow, 5\n"
        "batch.run([], [], Path('near.parquet'), everything=True)\n"
    )
    OUT.write_text("before")
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "a block\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (left,) = Path().glob(".near.parquet.*.tmp")
    assert left.name == f".near.parquet.{process.pid}.tmp"
    assert OUT.read_text() == "before"
    mine = Path(f".near.parquet.{os.getppid()}.tmp")
    mine.touch()  # of a process that lives
    run([], [], OUT, everything=True)
    assert list(Path().glob(".near.parquet.*.tmp")) == [mine]
    assert pq.ParquetFile(OUT).metadata.num_rows == 10 * Images.open().count


def test_a_batch_is_recorded_in_an_experiment_of_its_own(
    workspace: Path, set_params: Callable[..., None], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    set_params(tracking={"mlflow": True})
    begun = time.time()
    answer, _ = asked(capsys, SHAPES / "disc", "params.yaml", k=3)
    from mlflow import MlflowClient

    from aecore import tracking

    client = MlflowClient(tracking.store())
    kept = client.get_run(answer["mlflow_run"])
    experiment = client.get_experiment(kept.info.experiment_id)
    assert (experiment.name, kept.info.status) == ("aecore-queries", "FINISHED")
    assert kept.info.start_time / 1000 > begun - 1
    metrics = kept.data.metrics
    assert (metrics["queries"], metrics["neighbours"], metrics["rejected"]) == (50, 150, 1)
    assert metrics["block.p95_ms"] == pytest.approx(answer["block"]["p95_ms"])
    assert metrics["seconds"] == pytest.approx(answer["seconds"])
    assert kept.data.tags["aecore.index"] == answer["source"]["digests"]["index"]
    assert kept.data.tags["aecore.weights"] == answer["source"]["digests"]["model"]
    assert kept.data.params["k"] == "3"
