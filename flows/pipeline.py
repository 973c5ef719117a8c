"""DVC as a subprocess: what the stages are, and one of them run, streamed, and ended whole when we are.

The stages are asked of DVC, never restated. A stage runs in a process group of its own, because SIGTERM to
`dvc repro` alone leaves the stage's process running.
"""

from __future__ import annotations

import collections
import contextlib
import graphlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

DVC = (sys.executable, "-m", "dvc")
GRACE = 20.0
"""Seconds between SIGTERM and SIGKILL: time for a training to record that it was ended."""
TAIL = 30
"""Lines of output that an error shows."""
PIPELINE = "dvc.yaml"
"""Of the project's folder: what bare `dvc repro` runs. Other pipelines in the repository are not ours to run."""
DVC_SAYS = re.compile(
    r"Running stage '.*':$|> |Stage '.*' is cached - |(Stage )?'.*' didn't change, skipping$|Verifying data sources in "
    r"|Data and pipelines are up to date\.$|(Generating|Updating) lock file |To track the changes with git, run:$"
    r"|\tgit add |To enable auto staging, run:$|\tdvc config core\.autostage true$|Use `dvc push` to send your updates "
)
"""Lines of `dvc repro` that are not the stage's own."""

Outcome = Literal["ran", "cached", "unchanged", "done"]
"""`cached`: an earlier run with the same inputs was checked out. `done`: a command that is no stage."""


@dataclass(frozen=True)
class Result:
    """How one stage or command went."""

    name: str
    outcome: Outcome
    seconds: float
    last: str
    """The last line that it wrote itself; empty where it wrote none, or did not run."""


class CommandFailed(RuntimeError):
    """A command failed: deterministically, as far as anybody can tell, so running it again would not help."""

    def __init__(self, name: str, status: int | None, lines: Sequence[str]) -> None:
        self.status = status
        """The exit status of the failing program: aecore's 1 (work failed) or 2 (wrong request), where it is known."""
        shown = "\n".join(f"  {line}" for line in lines)
        super().__init__(f"{name} failed (exit status {'unknown' if status is None else status}):\n{shown}")


class Interrupted(CommandFailed):
    """A signal ended the stage (out of memory, an operator, a machine going down): a second run carries on."""


class Locked(RuntimeError):
    """Another DVC command holds the project's lock: waiting and running again helps."""

    def __init__(self, name: str, lines: Sequence[str]) -> None:
        shown = "\n".join(f"  {line}" for line in lines)
        super().__init__(f"{name} did not start: another DVC command is running in {Path.cwd()}.\n{shown}")


def outside(file: str = "dvc.yaml") -> str:
    """What to say where the `file` that a project's folder holds is not here; "" where it is."""
    if Path(file).is_file():
        return ""
    return f"{file} is not here: run this from the project's folder, the one that holds params.yaml."


def stages() -> list[str]:
    """The stages of PIPELINE, and the stages and tracked data files that they need, each after what it depends on."""
    before: dict[str, set[str]] = {}
    for line in ask("dag", "--dot", PIPELINE).splitlines():
        names = [json.loads(f'"{name}"') for name in re.findall(r'"((?:[^"\\]|\\.)*)"', line)]
        if names:
            before.setdefault(names[-1], set()).update(names[:-1])
    return list(graphlib.TopologicalSorter(before).static_order())


def ask(*arguments: str) -> str:
    """Run a DVC command that only reads; returns its standard output. Raises Locked or CommandFailed."""
    done = subprocess.run([*DVC, *arguments], capture_output=True, text=True, env=_environment(), check=False)
    if done.returncode:
        lines = done.stderr.splitlines()[-TAIL:]
        raise (
            Locked(f"dvc {arguments[0]}", lines)
            if _locked(lines)
            else CommandFailed(f"dvc {arguments[0]}", done.returncode, lines)
        )
    return done.stdout


def legible(text: str) -> str:
    """`text` on one line, with codes for what would not look like text: `aecore.names`, which flows do not import."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def repro(stage: str, tell: Callable[[str], None] = print) -> Result:
    """Bring one `stage` up to date, without those before it; each line of its output goes to `tell`.

    Raises Locked, Interrupted or CommandFailed, with the last lines. If the caller is ended, so is the stage.
    """
    return _run(stage, [*DVC, "repro", "--single-item", stage], tell)


def command(name: str, arguments: Sequence[str], tell: Callable[[str], None] = print) -> Result:
    """Run `python -m …` in the project, in the same way. Raises Interrupted or CommandFailed."""
    return _run(name, [sys.executable, "-m", *arguments], tell)


def answer(name: str, arguments: Sequence[str], tell: Callable[[str], None] = print) -> Any:
    """Run such a command that prints JSON, and return that; what it writes to standard error goes to `tell`.

    Raises CommandFailed also where it ended well and what it printed is no JSON.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        _run(name, [sys.executable, "-m", *arguments], tell, output)
        output.seek(0)
        printed = output.read()
    try:
        return json.loads(printed)
    except ValueError:
        lines = printed.splitlines()[:TAIL] or ["nothing"]
        raise CommandFailed(name, 0, ["its answer should be JSON; it printed:", *lines]) from None


def _run(name: str, arguments: Sequence[str], tell: Callable[[str], None], output: IO[str] | None = None) -> Result:
    """Run a command; its standard output goes to the file `output`, or to `tell` with its standard error."""
    started = time.monotonic()
    lines: collections.deque[str] = collections.deque(maxlen=TAIL)
    outcome: Outcome | None = None
    with subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=output or subprocess.PIPE,
        stderr=subprocess.PIPE if output else subprocess.STDOUT, text=True, errors="replace", env=_environment(),
        start_new_session=True,
    ) as process:  # fmt: skip
        told = process.stderr if output else process.stdout
        assert told is not None
        try:
            for line in told:
                if line := line.rstrip():
                    tell(line)
                    lines.append(line)
                    outcome = outcome or _outcome(name, line)
            status = process.wait()
        except BaseException:
            _end(process, told)
            raise
    if status == 0:
        last = next((line for line in reversed(lines) if not DVC_SAYS.match(line)), "")
        return Result(name, outcome or "done", time.monotonic() - started, last)
    if _locked(lines):
        raise Locked(name, lines)
    if exits := re.findall(r"failed to run: .*, exited with (-?\d+)$", "\n".join(lines), re.MULTILINE):
        status = int(exits[-1])
    # A shell reports a signal as 128 + its number; 255 is DVC's own failure.
    raise (Interrupted if status < 0 or 128 < status < 160 else CommandFailed)(name, status, lines)


def _outcome(stage: str, line: str) -> Outcome | None:
    """What a line of `dvc repro` says became of `stage`."""
    if line in (f"Running stage '{stage}':", f"Verifying data sources in stage: '{stage}'"):
        return "ran"  # the latter: a data file is recorded anew
    if line.startswith(f"Stage '{stage}' is cached - "):
        return "cached"
    if line in (f"Stage '{stage}' didn't change, skipping", f"'{stage}' didn't change, skipping"):
        return "unchanged"
    return None


def _locked(lines: Sequence[str]) -> bool:
    return any("Unable to acquire lock" in line or "is busy, it is being blocked by" in line for line in lines)


def _environment() -> dict[str, str]:
    """Ours, with this very Python first on the path (stages say `python`) and output that is not held back."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1"}


def _end(process: subprocess.Popen[str], told: IO[str]) -> None:
    """End the whole group: SIGTERM, then SIGKILL for what still holds `told` open after GRACE seconds."""
    _signal(process.pid, signal.SIGTERM)
    descriptor, deadline = told.fileno(), time.monotonic() + GRACE
    while (left := deadline - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0] and not os.read(descriptor, 65536):
            break
    _signal(process.pid, signal.SIGKILL)
    process.wait()


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
