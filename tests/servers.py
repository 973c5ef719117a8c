"""Real servers for slow tests, each on a free port and ended whole: Prefect's and its workers, MLflow's."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
"""States of a flow run that nothing follows."""


def wait(what: Callable[[], Any], seconds: float) -> Any:
    """Return the first true value of `what()`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := what():
            return value
        time.sleep(0.5)
    raise AssertionError(f"not within {seconds} s")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def started(
    arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m …`, in a group of its own that is ended with the block; what it writes goes to `log`."""
    with log.open("wb") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdout=told,
            stderr=told,
            start_new_session=True,
            env=environment,
            cwd=cwd,
        )
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)


@contextlib.contextmanager
def prefect_server(log: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """A Prefect server; yields its API's URL."""
    port = free_port()
    with started(["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)], log, environment):
        wait(lambda: answers(port), 150)
        yield f"http://127.0.0.1:{port}/api"


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int | None = None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """An MLflow server that keeps everything in `folder`; yields its URL and its process."""
    port = port or free_port()
    folder.mkdir(exist_ok=True)
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *store]
    with started(command, folder / "log", cwd=folder) as process:
        wait(lambda: answers(port), 150)
        yield f"http://127.0.0.1:{port}", process


def post(server: str, path: str, body: dict[str, Any]) -> Any:
    """Ask a Prefect server."""
    return httpx.post(f"{server}/{path}", json=body, timeout=60).raise_for_status().json()


def flow_runs(server: str) -> list[dict[str, Any]]:
    """All flow runs that a Prefect server knows."""
    return list(post(server, "flow_runs/filter", {}))
