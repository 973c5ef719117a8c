"""MLflow, or nothing: a record of what was run, never a channel between stages.

The only module that imports MLflow, and only once a run begins. Without a server, runs go to SQLite in the project's
folder, one file whichever workspace runs (`dvc exp run --temp` included); `MLFLOW_TRACKING_URI` wins over that.
A store that does not answer is an error when a run begins; later it costs a warning, never the training.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import getpass
import importlib.util
import io
import json
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from aecore.artifact import Manifest, sha256_json
from aecore.config import STATE, UserError, WorkFailed, require
from aecore.counted import counted
from aecore.names import legible

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

PAUSE = 60.0
"""Seconds without a new attempt after the store failed, and between heartbeats."""

HOST = "127.0.0.1"
"""Where MLflow's pages are served: they ask nobody who they are."""

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a process that SIGTERM ended, by the shells' convention."""

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_PRINT_MODEL_URLS_ON_CREATION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""What this project asks of MLflow, unless the user's environment says otherwise: silence, and short waits."""


@dataclasses.dataclass(frozen=True)
class TrackingConfig:
    """Section `tracking`."""

    mlflow: bool
    """Record runs with MLflow."""
    experiment: str
    """The experiment that they are listed under."""

    def __post_init__(self) -> None:
        require(bool(self.experiment.strip()), "experiment", self.experiment, "a name")


class Run:
    """One run's record. Without a client every method does nothing."""

    def __init__(self, client: MlflowClient | None = None, experiment_id: str = "", run_id: str = "") -> None:
        self.id = run_id
        self._client: Any = client
        self._experiment_id = experiment_id
        self._datasets: dict[str, Any] = {}
        self._waiting: list[Callable[[], object]] = []
        self._not_before = 0.0
        self._heartbeat = time.monotonic()
        self._warned = False

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers, at a `step` where there are several."""
        if self._client is None:
            return
        from mlflow.entities import Metric, RunTag

        values = [Metric(key, float(value), _now(), step or 0) for key, value in metrics.items()]
        beat = []
        if time.monotonic() - self._heartbeat > PAUSE:
            self._heartbeat = time.monotonic()
            beat = [RunTag("aecore.heartbeat", _timestamp())]
        self._record(lambda: self._client.log_batch(self.id, metrics=values, tags=beat))

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        if self._client is None:
            return
        from mlflow.entities import RunTag

        entities = [RunTag(key, str(value)) for key, value in tags.items()]
        self._record(lambda: self._client.log_batch(self.id, tags=entities))

    def image(self, array: np.ndarray | Any, key: str, step: int) -> None:
        """Record a uint8 image (H, W), (H, W, 1|3); MLflow's page shows those of one `key` with a slider over steps."""
        if self._client is None:
            return
        copy = array.copy()
        self._record(lambda: self._client.log_image(self.id, copy, key=key, step=step, synchronous=True))

    def figure(self, figure: Figure, name: str, step: int | None = None) -> None:
        """Record a matplotlib figure: as an image of the series `name` at `step`, else as `figures/<name>.png`."""
        if self._client is None:
            return
        from PIL import Image

        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        drawn = Image.open(buffer)
        if step is not None:
            self.image(drawn, name, step)
        else:
            self._record(lambda: self._client.log_image(self.id, drawn, artifact_file=f"figures/{name}.png"))

    def dataset(self, name: str, digest: str, context: str) -> None:
        """Record what the run read: a MetaDataset, known by its digest (MLflow keeps its first 32 characters)."""
        if self._client is None:
            return
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag

        source = CodeDatasetSource(tags={"aecore.data": digest})
        self._datasets[digest] = data = MetaDataset(source, name=name, digest=digest[:32])
        entry = DatasetInput(data._to_mlflow_entity(), [InputTag("mlflow.data.context", context)])
        self._record(lambda: self._client.log_inputs(self.id, datasets=[entry]))

    def model(self, path: Path, manifest: Manifest, metrics: Mapping[str, float]) -> None:
        """Record the model at `path`: its weights stay with DVC, MLflow knows the digests, the path and the metrics."""
        if self._client is None:
            return
        import mlflow

        digests = {"aecore.weights": manifest.digest} | {
            f"aecore.{kind}": digest for kind, digest in manifest.sources.items()
        }
        self.tags(digests)
        created: list[str] = []
        data = self._datasets.get(manifest.sources.get("data", ""))

        def create() -> None:
            model = mlflow.create_external_model(
                name=path.name,
                source_run_id=self.id,
                experiment_id=self._experiment_id,
                tags=digests | {"aecore.path": path.as_posix()},
                model_type=manifest.kind,
            )
            created.append(model.model_id)

        def measure(key: str, value: float) -> None:
            named = {"dataset_name": data.name, "dataset_digest": data.digest} if data else {}
            self._client.log_metric(self.id, key, value, model_id=created[0], **named)

        self._record(create)
        for key, value in metrics.items():
            self._record(functools.partial(measure, key, float(value)))

    def end(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED; say what could not be recorded."""
        if self._client is None:
            return
        self._not_before = 0.0
        self._record(lambda: self._client.set_terminated(self.id, status=status))
        if self._waiting:
            print(
                f"MLflow: {counted(len(self._waiting), 'record')} of run {self.id} could not be kept.", file=sys.stderr
            )

    def _record(self, call: Callable[[], object]) -> None:
        """Do `call`, or keep it, in order, until the store answers; what the store refuses outright is dropped."""
        from mlflow.exceptions import MlflowException

        self._waiting.append(call)
        meanwhile = sys.exception()
        while self._waiting and time.monotonic() >= self._not_before:
            try:
                self._waiting[0]()
            except (MlflowException, OSError) as error:
                if not self._warned:
                    print(f"MLflow: {_reason(error, meanwhile)} (the work goes on; said once)", file=sys.stderr)
                self._warned = True
                status = error.get_http_status_code() if isinstance(error, MlflowException) else 503
                if status >= 500 or status in (408, 429):
                    self._not_before = time.monotonic() + PAUSE
                    return
            self._waiting.pop(0)


@contextlib.contextmanager
def run(stage: str, parameters: Mapping[str, Any], tags: Mapping[str, str], config: TrackingConfig) -> Iterator[Run]:
    """Record the work inside the block: its resolved `parameters` (JSON values), flattened, and `tags`.

    It ends FINISHED; FAILED by an exception; KILLED by SIGTERM (the process then exits with status 143) and Ctrl-C.
    Raises WorkFailed before the work begins where the store does not answer.
    """
    if not (config.mlflow and _installed()):
        yield Run()
        return
    from mlflow.entities import Param

    digest = sha256_json(parameters)
    all_tags = _origin() | {"aecore.stage": stage, "aecore.params": digest, **tags}
    params = [Param(key, legible(value)) for key, value in _flatten(parameters).items()]
    with _terminable():
        with _answering(), _lock():
            client, experiment_id = _open(config.experiment)
            _reap(client, experiment_id)
            started = client.create_run(experiment_id, tags=all_tags, run_name=f"{stage} {digest[:8]}")
            for first in range(0, len(params), 100):
                client.log_batch(started.info.run_id, params=params[first : first + 100])
        record = Run(client, experiment_id, started.info.run_id)
        try:
            yield record
        except BaseException as error:
            killed = isinstance(error, KeyboardInterrupt) or getattr(error, "code", None) == TERMINATED
            record.end("KILLED" if killed else "FAILED")
            raise
        record.end("FINISHED")


def commit() -> str:
    """The checkout's commit, with "-dirty" where what git tracks has changed beside it; "" where there is none."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock", ":!reports")
    return _git("rev-parse", "HEAD") + ("-dirty" if changed else "")


def reap(config: TrackingConfig) -> list[str]:
    """End, as KILLED, the runs still RUNNING whose process on this host is gone; returns their ids."""
    if not (config.mlflow and _installed()):
        return []
    with _answering(), _lock():
        return _reap(*_open(config.experiment))


def serve_pages(port: int) -> NoReturn:
    """Become MLflow's server of the pages of every run, on `port` of 127.0.0.1. Raises UserError where it cannot be."""
    if importlib.util.find_spec("mlflow") is None:
        raise UserError("MLflow is not installed, and the pages are its own: `python -m pip install mlflow`.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will
        try:
            probe.bind((HOST, port))
        except PermissionError as error:
            raise UserError(f"port {port} is not for everybody: name one above 1023 by --port.") from error
        except OSError as error:
            raise UserError(
                f"port {port} of {HOST} is taken (are the pages open there already?): name another by --port "
                "(`make ui PORT=…`)."
            ) from error
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    if alias := _alias():
        os.environ["PYTHONPATH"] = os.pathsep.join([str(alias), *filter(None, [os.environ.get("PYTHONPATH")])])
    server = ["mlflow", "ui", "--backend-store-uri", store(), "--host", HOST, "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", *server])


def store() -> str:
    """The tracking URI: the user's, else SQLite in the project's folder, also seen from an experiment's workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or database_url(_home() / "mlflow.db")


def database_url(path: Path) -> str:
    """The URL of the SQLite database at `path`, for SQLAlchemy and MLflow.

    They take a path as it is, but for a question mark, which ends it: then as a file: URI, which SQLite itself reads.
    (Written `sqlite:`, MLflow would make a folder of that URI's name.)
    """
    if "?" not in str(path):
        return f"sqlite:///{path}"
    return f"sqlite+pysqlite:///file:{urllib.parse.quote(str(path))}?uri=true"


def database_path(url: str) -> Path | None:
    """Where the SQLite database of this URL lies; None for one in memory and for other stores."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except ArgumentError:  # a folder, http …
        return None
    if parsed.get_backend_name() != "sqlite" or not parsed.database or ":memory:" in parsed.database:
        return None
    if parsed.database.startswith("file:"):
        return Path(urllib.parse.unquote(urllib.parse.urlparse(parsed.database).path))
    return Path(parsed.database)


def _home() -> Path:
    here = Path.cwd()
    workspace = next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), here)
    parts = workspace.parts
    inside = [i for i in range(len(parts)) if parts[i : i + 2] == (".dvc", "tmp")]
    project = Path(*parts[: inside[0]]) / here.relative_to(workspace) if inside else here
    return project / STATE / "mlflow"


def _installed() -> bool:
    """Import MLflow, quiet; say so where it is not there."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    try:
        with _without_percent():
            import mlflow  # noqa: F401
    except ImportError as error:
        print(f"MLflow is not installed ({error}): this run is not recorded.", file=sys.stderr)
        return False
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    return True


@contextlib.contextmanager
def _without_percent() -> Iterator[None]:
    """Import MLflow by a path without a percent sign, if it has one: it hands it to a reader of INI files as it is."""
    alias = _alias()
    if alias is None:
        yield
        return
    sys.path.insert(0, str(alias))
    try:
        yield
    finally:
        sys.path.remove(str(alias))


def _alias() -> Path | None:
    """A link to the folder that MLflow is installed in, where that has a percent sign in its path; else None."""
    found = PathFinder.find_spec("mlflow")
    if found is None or found.origin is None or "%" not in found.origin:
        return None
    site = Path(found.origin).parents[1]
    folder = Path(tempfile.gettempdir()) / f"aecore-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():  # somebody else's: they would choose what we import
        folder = Path(tempfile.mkdtemp(prefix="aecore-"))
    link = folder / sha256_json(str(site))[:16]
    with contextlib.suppress(FileExistsError):
        link.symlink_to(site, target_is_directory=True)
    return link


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Hold a SQLite store alone: several processes that open a new one at once would all crash in its migration."""
    from filelock import FileLock

    path = database_path(store())
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=300):
        yield


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Turn whatever goes wrong with the store before the work begins into one sentence with the ways out."""
    try:
        yield
    except WorkFailed:
        raise
    except Exception as error:
        reason, remedy = _trouble(error)
        elsewhere = "unset MLFLOW_TRACKING_URI" if "MLFLOW_TRACKING_URI" in os.environ else "set MLFLOW_TRACKING_URI"
        raise WorkFailed(
            f"MLflow's store {store()} cannot be used ({reason}): {remedy}, "
            f"{elsewhere}, or set tracking.mlflow: false in params.yaml."
        ) from error


def _trouble(error: Exception) -> tuple[str, str]:
    """What is wrong with the store, and what mends it."""
    import mlflow

    text, said = _reason(error), str(error)
    if schema := re.search(r"database schema \(found version (\w+), but expected (\w+)\)", said):
        migrations = Path(mlflow.__file__).parent / "store/db_migrations/versions"
        reason = f"its tables have schema {schema[1]}, MLflow {mlflow.__version__} has {schema[2]}"
        if any(migrations.glob(f"{schema[1]}*")):
            upgrade = f"`mlflow db upgrade {shlex.quote(store())}`"
            return reason, f"it is of an older MLflow: keep a copy of it and run {upgrade}"
        return reason, "it is of a newer MLflow: install that one"
    if "readonly database" in said or isinstance(error, PermissionError):
        return text, "give yourself the right to write there"
    if "database is locked" in said or type(error).__name__ == "Timeout":
        return text, "another program holds it: end that, or run this again when it is done"
    return text, "mend it"


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM raise SystemExit(143) inside the block, once, unless somebody else handles it already."""

    def terminate(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(TERMINATED)

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _open(experiment: str) -> tuple[MlflowClient, str]:
    """A client of the store, whose tables are made here where it is new, and the id of its `experiment`."""
    import mlflow
    from mlflow.exceptions import MlflowException

    theirs, uri = os.environ.get("MLFLOW_TRACKING_URI"), store()
    mlflow.set_tracking_uri(uri)
    if not theirs:
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow sets it, and it would look like the user's
    client = mlflow.MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        artifacts = None if theirs else (_home() / "artifacts").as_uri()
        try:
            return client, client.create_experiment(experiment, artifact_location=artifacts)
        except MlflowException:  # made by another process meanwhile?
            found = client.get_experiment_by_name(experiment)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        restore = f"mlflow experiments restore --experiment-id {found.experiment_id}"
        raise WorkFailed(
            f"MLflow's experiment {experiment!r} was deleted: bring it back by "
            f"`MLFLOW_TRACKING_URI={shlex.quote(uri)} {restore}`, or name another as "
            "tracking.experiment in params.yaml."
        )
    return client, found.experiment_id


def _reap(client: MlflowClient, experiment_id: str) -> list[str]:
    mine = f"attributes.status = 'RUNNING' and tags.`aecore.host` = '{socket.gethostname()}'"
    dead = []
    for found in client.search_runs([experiment_id], mine):
        tags = found.data.tags
        if _born(int(tags["aecore.pid"])) != tags["aecore.born"]:
            client.set_terminated(found.info.run_id, status="KILLED")
            dead.append(found.info.run_id)
    return dead


def _born(pid: int) -> str:
    """When process `pid` began, in the kernel's ticks (a pid is used again); "alive" where not known; "" if dead."""
    try:
        os.kill(pid, 0)
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except (ProcessLookupError, OverflowError):
        return ""
    except OSError:
        return "alive"


def _origin() -> dict[str, str]:
    """Tags that say where a run comes from: commit, host, process, user, and DVC's experiment where there is one."""
    tags = {
        "aecore.commit": commit() or "unknown",
        "aecore.host": socket.gethostname(),
        "aecore.pid": str(os.getpid()),
        "aecore.born": _born(os.getpid()),
        "aecore.heartbeat": _timestamp(),
    }
    with contextlib.suppress(OSError, KeyError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    if name := os.environ.get("DVC_EXP_NAME"):
        tags["aecore.experiment"] = name
    return tags


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _reason(error: BaseException, meanwhile: BaseException | None = None) -> str:
    """Why the store failed, in a few words: what the system said, which MLflow, requests and urllib3 each tell anew.

    `meanwhile` is what the work itself was failing of, if it was: Python takes that for the error's context.
    """
    cause: BaseException | None = error
    while cause is not None and cause is not meanwhile:
        if isinstance(cause, TimeoutError) or (isinstance(cause, OSError) and cause.strerror):
            return cause.strerror or str(cause) or "timed out"
        cause = cause.__cause__ or cause.__context__
    return textwrap.shorten(next(iter(str(error).splitlines()), ""), 160, placeholder=" …") or type(error).__name__


def _now() -> int:
    return time.time_ns() // 1_000_000


def _timestamp() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
