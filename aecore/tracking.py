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
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aecore.artifact import Manifest, sha256_json
from aecore.config import STATE, WorkFailed
from aecore.names import legible

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

PAUSE = 60.0
"""Seconds without a new attempt after the store failed, and between heartbeats."""

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a process that SIGTERM ended, by the shells' convention."""

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_PRINT_MODEL_URLS_ON_CREATION": "false",
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
            print(f"MLflow: the last {len(self._waiting)} records of run {self.id} are lost.", file=sys.stderr)

    def _record(self, call: Callable[[], object]) -> None:
        """Do `call`, or keep it, in order, until the store answers; what the store refuses outright is dropped."""
        from mlflow.exceptions import MlflowException

        self._waiting.append(call)
        while self._waiting and time.monotonic() >= self._not_before:
            try:
                self._waiting[0]()
            except (MlflowException, OSError) as error:
                if not self._warned:
                    print(f"MLflow: {_first_line(error)} (the work goes on; said once)", file=sys.stderr)
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


def store() -> str:
    """The tracking URI: the user's, else SQLite in the project's folder, also seen from an experiment's workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_home() / 'mlflow.db'}"


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
        import mlflow  # noqa: F401
    except ImportError as error:
        print(f"MLflow is not installed ({error}): this run is not recorded.", file=sys.stderr)
        return False
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    return True


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Hold a SQLite store alone: several processes that open a new one at once would all crash in its migration."""
    from filelock import FileLock

    scheme, _, path = store().partition(":///")
    if scheme != "sqlite":
        yield
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=300):
        yield


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Turn whatever goes wrong with the store before the work begins into one sentence with the ways out."""
    try:
        yield
    except Exception as error:
        raise WorkFailed(
            f"MLflow's store {store()} cannot be used ({_first_line(error)}): mend it, "
            "unset MLFLOW_TRACKING_URI, or set tracking.mlflow: false in params.yaml."
        ) from error


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


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _now() -> int:
    return time.time_ns() // 1_000_000


def _timestamp() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
