"""Publishing and rolling back: what is served is whole, tested, and switched in one rename."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from aecore import artifact, cli, config
from aecore.artifact import Manifest
from aecore.config import UserError, WorkFailed
from aecore.data.images import Images
from aecore.search import query
from aecore.search.searcher import EXTRAS, PARTS, Source
from aecore.serve import lock
from aecore.serve import publish as module
from aecore.serve.publish import KEEP, copy_id, publish, rollback
from aecore.vectors import Embeddings

CURRENT = Path("serving/current")


def now() -> str | None:
    return os.readlink(CURRENT) if CURRENT.is_symlink() else None


def copies() -> set[str]:
    return {path.name for path in Path("serving").iterdir() if path.is_dir() and not path.is_symlink()}


@pytest.fixture
def version(workspace: Path) -> Callable[[int], str]:
    """Bring the workspace to version n, each with another index; returns the id it would be published under."""

    def make(number: int) -> str:
        manifest = artifact.read_manifest(config.INDEX, "index")
        parts = {kind: artifact.read_manifest(path, kind) for kind, path in (PARTS | EXTRAS).items()}
        sources = {kind: parts[kind] for kind in PARTS if kind != "index"}
        files = {name: (config.INDEX / name).read_bytes() for name in manifest.files}
        with artifact.writing(config.INDEX, "index", sources, {**manifest.facts, "version": number}) as directory:
            for name, content in files.items():
                (directory / name).write_bytes(content)
        return copy_id({**parts, "index": artifact.read_manifest(config.INDEX, "index")})

    return make


def rewrite(kind: str, change: Callable[[Path], None]) -> None:
    """Write the workspace's artefact of this kind anew, after `change` of its files; its manifest is true of them."""
    manifest = artifact.read_manifest(PARTS[kind], kind)
    files = {name: (PARTS[kind] / name).read_bytes() for name in manifest.files}
    sources = {name: Manifest(name, digest) for name, digest in manifest.sources.items()}
    with artifact.writing(PARTS[kind], kind, sources, manifest.facts) as directory:
        for name, content in files.items():
            (directory / name).write_bytes(content)
        change(directory)


def test_a_published_copy_is_whole_and_answers(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish()
    assert "published serving/" in capsys.readouterr().out
    name = now()
    assert name is not None
    copy = Path("serving") / name
    manifest = artifact.read_manifest(copy, "published")
    artifact.verify(copy, manifest, deep=True)
    assert manifest.sources == {
        kind: artifact.read_manifest(path, kind).digest for kind, path in (PARTS | EXTRAS).items()
    }
    for kind, path in (PARTS | EXTRAS).items():
        assert artifact.read_manifest(copy / kind, kind) == artifact.read_manifest(path, kind)
    for path in (PARTS | EXTRAS).values():
        path.rename(f"{path}-gone")  # the copy needs nothing of the workspace
    query.run(["data/raw/shapes/disc/003.png"], [], 3, as_json=True)
    out, err = capsys.readouterr()
    assert f"the published copy serving/{name}" in err
    answer = json.loads(out)
    assert answer["source"]["kind"] == "published"
    assert answer["source"]["digests"].items() <= manifest.sources.items()
    assert answer["queries"][0]["neighbours"][0]["path"] == "disc/003.png"


def test_files_are_hard_links_also_through_a_cache_s_symbolic_links(workspace: Path) -> None:
    weights = config.MODEL / "weights.safetensors"
    Path("cache").mkdir()
    weights.rename("cache/weights")
    weights.symlink_to(Path("cache/weights").resolve())
    publish()
    copy = CURRENT.resolve()
    assert (copy / "model/weights.safetensors").samefile("cache/weights")
    assert not (copy / "model/weights.safetensors").is_symlink()
    assert (copy / "index/index.faiss").samefile(config.INDEX / "index.faiss")


def test_files_are_copied_where_they_cannot_be_linked(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    publish()
    assert not (CURRENT / "index/index.faiss").samefile(config.INDEX / "index.faiss")
    assert (CURRENT / "index/index.faiss").read_bytes() == (config.INDEX / "index.faiss").read_bytes()


def test_publishing_again_does_nothing(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish()
    inode, history = CURRENT.resolve().stat().st_ino, Path("serving/history.jsonl").read_text()
    capsys.readouterr()
    publish()
    assert "nothing to do" in capsys.readouterr().out
    assert CURRENT.resolve().stat().st_ino == inode
    assert Path("serving/history.jsonl").read_text() == history


def test_a_damaged_copy_is_made_anew(workspace: Path) -> None:
    publish()
    (CURRENT / "model/config.json").unlink()
    publish()
    artifact.read_manifest(CURRENT, "published")
    with pytest.raises(UserError, match="first"):
        rollback()


def test_rollback_goes_back_step_by_step(version: Callable[[int], str], capsys: pytest.CaptureFixture[str]) -> None:
    names = []
    for number in range(3):
        names.append(version(number))
        publish()
        assert now() == names[-1]
    rollback()
    assert now() == names[1]
    assert f"rolled back from {names[2]} to serving/{names[1]}" in capsys.readouterr().out
    rollback()
    assert now() == names[0]
    with pytest.raises(UserError, match="nothing further to go back to"):
        rollback()
    assert now() == names[0]
    publish()
    assert now() == names[2]
    rollback()
    assert now() == names[0]


def test_rollback_never_returns_to_a_copy_it_left(version: Callable[[int], str]) -> None:
    a, b = version(0), version(1)
    for number in (0, 1, 0):
        version(number)
        publish()
    assert now() == a
    rollback()
    assert now() == b
    with pytest.raises(UserError, match="nothing further to go back to"):
        rollback()
    assert now() == b


@pytest.mark.parametrize("seed", range(40))
def test_rollback_walks_strictly_further_back(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was published, rolled back, and killed before its switch.

    The oracle: a copy rolled back from is out until it is published again; of the others, the one published last.
    """
    monkeypatch.setattr(module, "_verify", lambda path: None)
    serving, random = tmp_path / "serving", np.random.default_rng(seed)
    for name in "abcd":
        (serving / name).mkdir(parents=True)
    published: dict[str, int] = {}

    def current() -> str | None:
        return max(published, key=published.__getitem__, default=None)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for time in range(30):
        name = str(random.choice(list("abcd")))
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            if random.random() < 0.2:
                patch.setattr(os, "replace", killed)
            if random.random() < 0.5 and name != current():
                module._switch(serving, "publish", name, current())
                published[name] = time
            elif len(published) > 1:
                rollback(tmp_path)
                del published[str(current())]
        assert module._current(serving) == current()

    while len(published) > 1:
        del published[str(current())]
        rollback(tmp_path)
        assert module._current(serving) == current()
    for _ in range(2):
        with pytest.raises(UserError, match="nothing further"):
            rollback(tmp_path)
        assert module._current(serving) == current()


def test_rollback_after_a_switch_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_verify", lambda path: None)
    serving, previous = tmp_path / "serving", None
    for name in "abc":
        (serving / name).mkdir(parents=True)
        module._switch(serving, "publish", name, previous)
        previous = name
    (serving / "current").unlink()
    (serving / "current").symlink_to("a")
    for name in "cb":
        rollback(tmp_path)
        assert module._current(serving) == name


def test_rollback_without_a_publication_is_refused(workspace: Path) -> None:
    with pytest.raises(UserError, match="aecore publish"):
        rollback()
    assert not Path("serving").exists()


@pytest.mark.parametrize("harm", ["gone", "cut short", "changed"])
def test_rollback_to_a_damaged_copy_is_refused(harm: str, version: Callable[[int], str]) -> None:
    first = version(0)
    publish()
    second = version(1)
    publish()
    file = Path("serving") / first / "index/index.faiss"
    if harm == "gone":
        Path("serving", first).rename("elsewhere")
    else:
        content = file.read_bytes()
        file.unlink()  # it is a hard link
        file.write_bytes(content[:-1] if harm == "cut short" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(WorkFailed, match=first):
        rollback()
    assert now() == second


def test_the_last_copies_are_kept(version: Callable[[int], str], capsys: pytest.CaptureFixture[str]) -> None:
    names = []
    for number in range(KEEP + 2):
        names.append(version(number))
        publish()
    assert copies() == set(names[-KEEP:])
    assert f"removed {names[1]}: the last {KEEP} are kept" in capsys.readouterr().out
    for _ in range(KEEP - 1):
        rollback()
    with pytest.raises(WorkFailed, match=f"{names[1]}.*was removed"):
        rollback()
    names.append(version(99))
    publish()
    assert names[-KEEP - 1] in copies()  # the one before this one, whatever its age
    rollback()
    assert now() == names[-KEEP - 1]


@pytest.mark.parametrize("kind", list(PARTS))
def test_a_damaged_artefact_is_not_published(
    kind: str, version: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = version(0)
    publish()
    version(1)
    monkeypatch.setattr(artifact, "SMALL", 0)  # as if every file were too large to hash when opened
    file = next(path for path in sorted(PARTS[kind].iterdir()) if path.name != artifact.MANIFEST)
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(WorkFailed, match=file.name):
        publish()
    assert now() == before
    assert copies() == {before}


def test_artefacts_of_different_runs_are_not_published(workspace: Path, set_params: Callable[..., None]) -> None:
    old = artifact.read_manifest(config.MODEL, "model").digest[:12]
    set_params(train={"epochs": 1})
    assert cli.main(["train"]) == 0
    new = artifact.read_manifest(config.MODEL, "model").digest[:12]
    with pytest.raises(WorkFailed, match=f"(?=.*{old})(?=.*{new})"):
        publish()
    assert now() is None


def test_a_missing_artefact_names_its_stage(workspace: Path) -> None:
    config.INDEX.rename("elsewhere")
    with pytest.raises(UserError, match="python -m aecore index"):
        publish()


def test_codes_that_the_model_does_not_give_are_not_published(version: Callable[[int], str]) -> None:
    before = version(0)
    publish()

    def change(directory: Path) -> None:
        for path in directory.glob("vectors-*.npy"):
            np.save(path, np.load(path) * np.float32(1.01))

    rewrite("embeddings", change)
    assert cli.main(["index"]) == 0
    with pytest.raises(WorkFailed, match=r"off its stored one by 9\.9e-03"):
        publish()
    assert now() == before
    assert copies() == {before}


def test_an_index_that_does_not_find_its_own_images_is_not_published(version: Callable[[int], str]) -> None:
    before = version(0)
    publish()
    ids, codes = Images.open().ids(), Embeddings.open()

    def change(directory: Path) -> None:
        index = faiss.IndexIDMap2(faiss.IndexFlat(codes.dim, faiss.METRIC_INNER_PRODUCT))
        index.add_with_ids(np.random.default_rng(0).normal(size=(len(ids), codes.dim)).astype(np.float32), ids)
        faiss.write_index(index, str(directory / "index.faiss"))

    rewrite("index", change)
    with pytest.raises(WorkFailed, match="does not find itself"):
        publish()
    assert now() == before
    assert copies() == {before}


def test_one_publishes_at_a_time(workspace: Path) -> None:
    with lock.locked(Path("serving")):
        with pytest.raises(WorkFailed, match=f"process {os.getpid()} is changing"):
            publish()
        assert now() is None
    publish()
    with lock.locked(Path("serving")), pytest.raises(WorkFailed, match="is changing"):
        rollback()


def test_a_history_cut_short_by_a_crash_still_grows(version: Callable[[int], str]) -> None:
    first = version(0)
    publish()
    with Path("serving/history.jsonl").open("a") as file:
        file.write('{"action": "publi')
    version(1)
    publish()
    rollback()
    assert now() == first


KILL = """
import os, signal, sys
from aecore.serve import lock
from aecore.serve import publish as module
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
links = []
def link(source, target, real=module._link):
    real(source, target)
    links.append(target)
    if len(links) == 3:
        kill()
def switch_then_kill(*arguments, real=module._switch):
    real(*arguments)
    kill()
{
    "while copying": lambda: setattr(module, "_link", link),
    "while testing the copy": lambda: setattr(module, "check_golden", kill),
    "before the switch": lambda: setattr(module, "_switch", kill),
    "in the switch": lambda: setattr(module.os, "replace", lambda a, b, real=os.replace:
                                     kill() if str(b).endswith("current") else real(a, b)),
    "after the switch": lambda: setattr(module, "_switch", switch_then_kill),
}[sys.argv[1]]()
module.publish()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "switched"), [
    ("while copying", False),
    ("while testing the copy", False),
    ("before the switch", False),
    ("in the switch", False),
    ("after the switch", True),
])  # fmt: skip
def test_a_kill_leaves_the_old_copy_or_the_new_one(moment: str, switched: bool, version: Callable[[int], str]) -> None:
    old = version(0)
    publish()
    new = version(1)
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", KILL, moment], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert now() == (new if switched else old)
    artifact.verify(CURRENT, artifact.read_manifest(CURRENT, "published"), deep=True)
    query.run([], [str(Images.open(Source.find().path("data")).ids()[0])], 1)
    publish()
    assert now() == new
    assert copies() == {old, new}
    assert not list(Path("serving").glob(".*.*"))
    rollback()
    assert now() == old
