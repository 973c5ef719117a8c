"""MLflow, or nothing: read back through MLflow's own client."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from aecore import cli, tracking
from aecore.artifact import Manifest, sha256_json
from aecore.config import WorkFailed
from aecore.tracking import TrackingConfig
from tests.servers import free_port, mlflow_server

ON = TrackingConfig(mlflow=True, experiment="tests")
DATA, WEIGHTS = "d" * 64, "e" * 64
PARAMETERS = {"train": {"latent_dim": 32, "overrides": {}, "widths": [16, 32], "recipe": "conv_nearest"}, "rate": None}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def python(folder: Path, code: str, **environment: str) -> subprocess.Popen[str]:
    root = str(Path(__file__).resolve().parents[1])
    before = "import os, signal, sys, time\nfrom aecore import tracking\nON = tracking.TrackingConfig(True, 'tests')\n"
    return subprocess.Popen(
        [sys.executable, "-c", before + textwrap.dedent(code)], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": root, **environment},
    )  # fmt: skip


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database with MLflow's tables in it; a copy is a hundred times faster than another."""
    folder = tmp_path_factory.mktemp("migrated")
    code = """
        with tracking._without_percent():
            from mlflow import MlflowClient
        MlflowClient("sqlite:///mlflow.db").search_experiments()
    """
    made = python(folder, code)
    _, errors = made.communicate(timeout=120)
    assert made.returncode == 0, errors
    return folder / "mlflow.db"


@pytest.fixture
def project(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / ".aecore/mlflow").mkdir(parents=True)
    shutil.copy(migrated, tmp_path / ".aecore/mlflow/mlflow.db")
    return tmp_path


def recorded(project: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project}/.aecore/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]))


def test_importing_it_does_not_import_mlflow(tmp_path: Path) -> None:
    done = python(tmp_path, "assert 'mlflow' not in sys.modules and 'filelock' not in sys.modules")
    assert done.communicate(timeout=60) == ("", "")


def test_off_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    off = TrackingConfig(mlflow=False, experiment="tests")
    with tracking.run("train", {}, {}, off) as run:
        run.log({"mse": 1.0}, step=1)
        run.image(np.zeros((2, 2), np.uint8), "images", 1)
        run.figure(None, "figure")  # type: ignore[arg-type]
        run.dataset("prepared", DATA, "training")
        run.model(Path("models/autoencoder"), Manifest("model", WEIGHTS), {"mse": 1.0})
        run.tags({"a": "b"})
    assert tracking.reap(off) == []
    assert list(tmp_path.iterdir()) == []


def test_without_mlflow_it_says_so_and_goes_on(tmp_path: Path) -> None:
    code = """
        sys.modules["mlflow"] = None
        with tracking.run("train", {}, {}, ON) as run:
            run.log({"mse": 1.0})
        print("went on")
    """
    out, errors = python(tmp_path, code).communicate(timeout=60)
    assert out == "went on\n"
    assert errors.startswith("MLflow is not installed")
    assert len(errors.splitlines()) == 1


def test_the_store_is_the_projects_in_every_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / ".dvc").mkdir()
    for workspace in (tmp_path, tmp_path / ".dvc/tmp/exps/standalone/tmpx", tmp_path / ".dvc/tmp/exps/tmpy"):
        (workspace / ".dvc").mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(workspace)
        assert tracking.store() == f"sqlite:///{tmp_path}/.aecore/mlflow/mlflow.db"
    inside = tmp_path / ".dvc/tmp/exps/tmpy/below"
    inside.mkdir()
    monkeypatch.chdir(inside)
    assert tracking.store() == f"sqlite:///{tmp_path}/below/.aecore/mlflow/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking.store() == "http://tracking:5000"


ODD = ["a b", "c#d", "e%20f", "g?h", "i'j\"k", "ü & é", "l;m=n", "o:p"]


@pytest.mark.parametrize("name", [*ODD, "".join(ODD)])
def test_the_store_lies_in_the_project_whatever_that_is_called(
    migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from mlflow import MlflowClient

    folder = tmp_path / "in" / name
    (folder / ".aecore/mlflow").mkdir(parents=True)
    shutil.copy(migrated, folder / ".aecore/mlflow/mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(folder)
    assert tracking.database_path(tracking.store()) == folder / ".aecore/mlflow/mlflow.db"
    with tracking.run("train", {}, {}, ON) as run:
        run.image(np.full((4, 6, 1), 100, np.uint8), "reconstructions", 1)
    client = MlflowClient(tracking.store())
    (artifact,) = [file.path for file in client.list_artifacts(run.id, "images") if file.path.endswith(".png")]
    assert Path(client.download_artifacts(run.id, artifact)).read_bytes()[:4] == b"\x89PNG"
    assert {path.name for path in (folder / ".aecore/mlflow").iterdir()} == {"mlflow.db", "mlflow.db.lock", "artifacts"}
    assert [path.name for path in (tmp_path / "in").iterdir()] == [name]
    assert [path.name for path in folder.iterdir()] == [".aecore"]


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///mlflow.db", Path("mlflow.db")),
        ("sqlite:////srv/a b#c%20d.db", Path("/srv/a b#c%20d.db")),
        ("sqlite:///file:/srv/a%3Fb.db?uri=true", Path("/srv/a?b.db")),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("postgresql://u:p@host/db", None),
        ("http://host:5000", None),
        ("./mlruns", None),
    ],
)
def test_which_file_a_store_is(url: str, path: Path | None) -> None:
    assert tracking.database_path(url) == path


@pytest.mark.slow
def test_mlflow_may_be_installed_below_a_percent_sign(tmp_path: Path) -> None:
    """Its migrations are found by a path that a reader of INI files takes `%` in for markup."""
    import mlflow

    code = """
        sys.path.remove(os.environ["SITE"])  # as in an environment that was made there
        sys.path.insert(0, os.environ["ODD"])
        with tracking.run("train", {}, {}, ON) as run:
            run.log({"mse": 1.0})
        import mlflow
        print("%" in mlflow.__file__, sys.path[0] == os.environ["ODD"])
    """
    site, odd = Path(mlflow.__file__).parents[1], tmp_path / "a%20b/site"
    odd.parent.mkdir()
    odd.symlink_to(site, target_is_directory=True)
    project = tmp_path / "project"
    project.mkdir()
    told = python(project, code, SITE=str(site), ODD=str(odd)).communicate(timeout=200)
    assert told == ("False True\n", "")
    assert [found.info.status for found in recorded(project)] == ["FINISHED"]


def test_what_stands_in_for_a_path_with_a_percent_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch, site, plain = tmp_path / "tmp", tmp_path / "a%20b/site", tmp_path / "a b/site"
    for folder in (site, plain):
        (folder / "mlflow").mkdir(parents=True)
        (folder / "mlflow/__init__.py").touch()
    scratch.mkdir()
    monkeypatch.setattr(tracking.tempfile, "gettempdir", lambda: str(scratch))
    monkeypatch.setattr(tracking.tempfile, "mkdtemp", lambda prefix: str(tmp_path / "own"))
    monkeypatch.setattr(sys, "path", [str(plain)])
    assert tracking._alias() is None
    monkeypatch.setattr(sys, "path", [str(site)])
    link = tracking._alias()
    assert link is not None
    assert link == tracking._alias()
    assert (link.readlink(), link.parent.stat().st_mode & 0o777) == (site, 0o700)
    assert "%" not in str(link)

    shutil.move(link.parent, tmp_path / "own")  # and somebody else's stands where it stood
    link.parent.symlink_to(tmp_path / "own")
    other = tracking._alias()
    assert other is not None
    assert other.parent == tmp_path / "own"


def test_what_a_run_records(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

    manifest = Manifest("model", WEIGHTS, {"data": DATA})
    with tracking.run("train", PARAMETERS, {"aecore.data": DATA}, ON) as run:
        run.dataset("prepared", DATA, "training")
        for step in (1, 2):
            run.log({"mse": 1 / step, "lr": 0.1}, step=step)
            run.image(np.full((4, 6, 1), 100, np.uint8), "reconstructions", step)
        run.figure(Figure(figsize=(1, 1)), "curve")
        run.figure(Figure(figsize=(1, 1)), "curves", step=3)
        run.model(Path("models/autoencoder"), manifest, {"validation_mse": 0.25})
        run.tags({"note": "x"})
    assert capfd.readouterr() == ("", "")
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert sorted(path.name for path in project.iterdir()) == [".aecore"]

    (found,) = recorded(project)
    assert found.info.status == "FINISHED"
    assert found.data.params == {
        "train.latent_dim": "32", "train.overrides": "{}", "train.widths": "[16, 32]", "train.recipe": "conv_nearest",
        "rate": "null",
    }  # fmt: skip
    assert found.data.metrics == {"mse": 0.5, "lr": 0.1, "validation_mse": 0.25}
    expected = {
        "aecore.stage": "train", "aecore.params": sha256_json(PARAMETERS), "aecore.data": DATA,
        "aecore.weights": WEIGHTS, "aecore.host": socket.gethostname(), "aecore.pid": str(os.getpid()), "note": "x",
    }  # fmt: skip
    assert expected.items() <= found.data.tags.items()
    (read,) = found.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("prepared", DATA[:32])
    assert [(tag.key, tag.value) for tag in read.tags] == [("mlflow.data.context", "training")]

    client = MlflowClient(tracking.store())
    assert [(m.step, m.value) for m in client.get_metric_history(run.id, "mse")] == [(1, 1.0), (2, 0.5)]
    images = {Path(file.path).name.split("timestamp")[0] for file in client.list_artifacts(run.id, "images")}
    assert images == {"reconstructions+step+1+", "reconstructions+step+2+", "curves+step+3+"}
    assert [file.path for file in client.list_artifacts(run.id, "figures")] == ["figures/curve.png"]
    assert found.info.artifact_uri.startswith((project / ".aecore/mlflow/artifacts").as_uri())

    (model,) = client.search_logged_models([found.info.experiment_id])
    assert (model.name, model.source_run_id) == ("autoencoder", run.id)
    said = {"aecore.weights": WEIGHTS, "aecore.data": DATA, "aecore.path": "models/autoencoder"}
    assert said.items() <= model.tags.items()
    (metric,) = model.metrics
    assert (metric.key, metric.value, metric.dataset_digest) == ("validation_mse", 0.25, DATA[:32])


def test_names_that_are_not_utf_8_are_recorded_as_they_are_told(project: Path) -> None:
    with tracking.run("query", {"parquet": "caf\udce9.parquet", "where": "a\nb"}, {}, ON):
        pass
    (found,) = recorded(project)
    assert found.data.params == {"parquet": "caf\\xe9.parquet", "where": "a\\nb"}


def test_the_commit_is_told_with_what_was_changed(project: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    for name in ("code.py", "dvc.lock"):
        Path(name).write_text("1")
    git("add", "code.py", "dvc.lock")
    git("commit", "-q", "-m", "one")
    commit = git("rev-parse", "HEAD")
    Path("dvc.lock").write_text("written by DVC while the pipeline runs")
    with tracking.run("train", {}, {}, ON):
        pass
    Path("code.py").write_text("2")
    with tracking.run("train", {}, {}, ON):
        pass
    assert [found.data.tags["aecore.commit"] for found in recorded(project)] == [commit, f"{commit}-dirty"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit(1), "FAILED"), (SystemExit(143), "KILLED")],
)
def test_how_a_run_ends(project: Path, error: Any, status: str) -> None:
    with pytest.raises(BaseException) as raised, tracking.run("train", {}, {}, ON):  # noqa: PT011
        raise error
    assert isinstance(raised.value, type(error) if isinstance(error, BaseException) else error)
    (found,) = recorded(project)
    assert (found.info.status, found.info.end_time is not None) == (status, True)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sigterm_ends_the_run_as_killed_and_the_process_with_143(project: Path) -> None:
    code = """
        with tracking.run("train", {}, {}, ON):
            print("working", flush=True)
            time.sleep(60)
    """
    process = python(project, code)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (143, "", "")
    assert [found.info.status for found in recorded(project)] == ["KILLED"]


def test_runs_of_dead_processes_are_reaped_and_no_others(project: Path) -> None:
    code = """
        with tracking.run("train", {}, {}, ON):
            print("working", flush=True)
            time.sleep(60)
    """
    process = python(project, code)
    assert process.stdout is not None
    process.stdout.readline()
    assert tracking.reap(ON) == []
    process.kill()
    process.communicate(timeout=60)
    assert [found.info.status for found in recorded(project)] == ["RUNNING"]
    with tracking.run("train", {}, {}, ON) as run:
        assert [found.info.status for found in recorded(project)] == ["KILLED", "RUNNING"]
        run.tags({"aecore.host": "elsewhere", "aecore.pid": str(process.pid)})
        assert tracking.reap(ON) == []
        run.tags({"aecore.host": socket.gethostname(), "aecore.pid": str(os.getpid()), "aecore.born": "1"})
        assert tracking.reap(ON) == [run.id]  # a pid that was used again


def test_four_processes_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    code = """
        with tracking.run("train", {"a": 1}, {}, ON) as run:
            run.log({"mse": 1.0}, step=1)
    """
    processes = [python(tmp_path, code) for _ in range(4)]
    said = [process.communicate(timeout=200) for process in processes]
    assert said == [("", "")] * 4
    assert [process.returncode for process in processes] == [0] * 4
    assert [found.info.status for found in recorded(tmp_path)] == ["FINISHED"] * 4


def test_a_server_that_is_not_there_is_an_error_before_the_work(tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    code = """
        try:
            with tracking.run("train", {}, {}, ON):
                print("worked")
        except tracking.WorkFailed as error:
            print(error)
    """
    started = time.monotonic()
    out, errors = python(tmp_path, code, MLFLOW_TRACKING_URI=uri).communicate(timeout=120)
    assert f"MLflow's store {uri} cannot be used (Connection refused): " in out
    assert len(out) < 170
    assert "tracking.mlflow: false" in out
    assert "worked" not in out
    assert errors == ""
    assert time.monotonic() - started < 60


def test_a_damaged_store_is_an_error_before_the_work(project: Path) -> None:
    (project / ".aecore/mlflow/mlflow.db").write_bytes(b"not a database" * 1000)
    with (
        pytest.raises(WorkFailed, match=r"mlflow\.db cannot be used"),
        tracking.run("train", {}, {}, TrackingConfig(True, "damaged")),
    ):
        raise AssertionError("the work began")


def refused(name: str = "tests") -> str:
    with (
        pytest.raises(WorkFailed) as caught,
        tracking.run("train", {}, {}, TrackingConfig(True, name)),
    ):
        raise AssertionError("the work began")
    return str(caught.value)


def test_a_deleted_experiment_says_how_to_bring_it_back(project: Path) -> None:
    from mlflow import MlflowClient

    with tracking.run("train", {}, {}, ON):
        pass
    client = MlflowClient(tracking.store())
    number = client.get_experiment_by_name("tests").experiment_id
    client.delete_experiment(number)
    said = refused()
    way = f"`MLFLOW_TRACKING_URI={tracking.store()} mlflow experiments restore --experiment-id {number}`"
    assert said == f"MLflow's experiment 'tests' was deleted: bring it back by {way}, or name another as " \
                   "tracking.experiment in params.yaml."  # fmt: skip
    with tracking.run("train", {}, {}, TrackingConfig(True, "another")):
        pass
    client.restore_experiment(number)
    with tracking.run("train", {}, {}, ON):
        pass


def test_a_store_of_another_mlflow_is_told_from_one_that_is_older(project: Path) -> None:
    database = project / ".aecore/mlflow/mlflow.db"
    for revision, way in (("abcdefabcdef", "it is of a newer MLflow: install that one"),
                          ("451aebb31d03", f"run `mlflow db upgrade {tracking.store()}`")):  # fmt: skip
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("update alembic_version set version_num = ?", [revision])
            connection.commit()
        said = refused()
        assert f"its tables have schema {revision}, MLflow " in said
        assert f"{way}, set MLFLOW_TRACKING_URI, or set tracking.mlflow: false in params.yaml." in said
        assert len(said) < 450


def test_a_locked_store_and_one_that_cannot_be_written_say_so(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "plain.db"
    with (
        contextlib.closing(sqlite3.connect(file)) as writer,
        contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=0)) as reader,
    ):
        errors: list[Exception] = [PermissionError(13, "Permission denied", "mlflow.db.lock")]
        for attempt in ("create table a (b)", "select * from sqlite_master"):
            try:
                writer.execute("begin exclusive") if attempt.startswith("select") else None
                reader.execute(attempt)
            except sqlite3.OperationalError as error:
                errors.append(error)
    assert [str(error) for error in errors[1:]] == ["attempt to write a readonly database", "database is locked"]
    ways = ["give yourself the right to write there", "give yourself the right to write there",
            "another program holds it: end that, or run this again when it is done"]  # fmt: skip
    for error, way in zip(errors, ways, strict=True):
        monkeypatch.setattr(tracking, "_open", raising(error))
        said = refused()
        assert f"({tracking._reason(error)}): {way}, set MLFLOW_TRACKING_URI, or set tracking.mlflow: false" in said
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    assert ", unset MLFLOW_TRACKING_URI, or" in refused()


def raising(error: Exception) -> Callable[[str], None]:
    def attempt(_: str) -> None:
        raise error

    return attempt


def test_the_pages_say_that_their_port_is_taken(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "params.yaml").touch()
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: started.append(arguments))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert cli.main(["ui", "--port", str(port)]) == 2
        assert capsys.readouterr().err == (
            f"aecore ui: port {port} of 127.0.0.1 is taken (are the pages open there already?): name another by "
            "--port (`make ui PORT=…`).\n"
        )
        assert started == []
    assert cli.main(["ui", "--port", str(port)]) == 0
    (arguments,) = started
    assert arguments[-2:] == ["--port", str(port)]
    assert tracking.store() in arguments


def test_make_ui_takes_a_port() -> None:
    for given, port in (([], 5000), (["PORT=5001"], 5001)):
        made = subprocess.run(
            ["make", "-n", "ui", *given], cwd=Path(__file__).parents[1], capture_output=True, text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("M")} | {"PORT": "1"},
        )  # fmt: skip
        assert made.stdout.splitlines()[-1] == f"python -m aecore ui --port {port}"


@pytest.fixture
def unused() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def failing(times: int, error: Exception, call: Callable[[], None]) -> Callable[[], None]:
    left = [times]

    def attempt() -> None:
        if left[0]:
            left[0] -= 1
            raise error
        call()

    return attempt


def test_a_store_that_fails_later_costs_a_warning_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now[0])
    run, written = tracking.Run(object()), list[int]()  # type: ignore[arg-type]
    run._record(failing(2, ConnectionError("the server went away"), lambda: written.append(1)))
    run._record(lambda: written.append(2))
    assert written == []
    now[0] += tracking.PAUSE
    run._record(lambda: written.append(3))  # it still fails
    assert written == []
    now[0] += tracking.PAUSE
    run._record(lambda: written.append(4))
    assert written == [1, 2, 3, 4]
    assert capsys.readouterr().err == "MLflow: the server went away (the work goes on; said once)\n"


def nobody_listens() -> None:
    """Fail as MLflow does where nobody listens: it tells what requests tells of what the system said."""
    from mlflow.exceptions import MlflowException

    try:
        try:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        except OSError as error:
            raise requests.ConnectionError(f"HTTPConnectionPool(host=…): Max retries exceeded: {error}" * 9) from error
    except requests.ConnectionError as error:
        raise MlflowException(f"API request failed with exception {error}")  # noqa: B904


def late() -> None:
    raise TimeoutError("timed out")


def wordy() -> None:
    raise requests.ConnectionError("Max retries exceeded " * 30)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (nobody_listens, "Connection refused"),
        (late, "timed out"),
        (wordy, "Max retries exceeded " * 7 + "Max retries …"),
    ],
)
def test_why_a_store_fails_is_told_in_a_few_words(
    call: Callable[[], None], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also while the work itself fails of something else, which Python then takes for the error's context."""
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError:
        tracking.Run(object())._record(call)  # type: ignore[arg-type]
    assert capsys.readouterr().err == f"MLflow: {told} (the work goes on; said once)\n"


def test_what_the_store_refuses_is_dropped_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow.exceptions import MlflowException

    run, written = tracking.Run(object()), list[int]()  # type: ignore[arg-type]
    run._record(failing(9, MlflowException.invalid_parameter_value("no such name"), lambda: None))
    run._record(lambda: written.append(2))
    assert written == [2]
    assert "no such name" in capsys.readouterr().err


def test_a_mistake_of_our_own_is_not_hidden() -> None:
    with pytest.raises(TypeError, match="ours"):
        tracking.Run(object())._record(failing(1, TypeError("ours"), lambda: None))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_training_survives_the_end_of_its_server(tmp_path: Path) -> None:
    """A real MLflow server is killed between two epochs: the work ends well, and says what was lost."""
    with mlflow_server(tmp_path / "server") as (url, server):
        code = """
            with tracking.run("train", {"a": 1}, {}, ON) as run:
                run.log({"mse": 1.0}, step=1)
                print("epoch 1", flush=True)
                time.sleep(6)
                run.log({"mse": 0.5}, step=2)
            print("trained")
        """
        process = python(tmp_path, code, MLFLOW_TRACKING_URI=url)
        assert process.stdout is not None
        assert process.stdout.readline() == "epoch 1\n"
        os.killpg(server.pid, signal.SIGKILL)
        out, errors = process.communicate(timeout=120)
        assert (process.returncode, out) == (0, "trained\n")
        assert "said once" in errors
        assert "records of run" in errors
