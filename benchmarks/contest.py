"""A contest: the same work done in several ways, each in a process of its own, taking turns; and the table of it.

All contestants stay alive and wait, idle, for their turn, so that whatever else the machine does in the course of a run
falls on all of them alike.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import math
import multiprocessing
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from aecore import environment

PATIENCE = 900.0
"""Seconds that a contestant may be silent."""


class Over(Exception):
    """The contest has seen enough of this contestant; raised by `Clock.step`."""


class Clock:
    """What a contestant calls after each step; it warms up, is scored once, and waits for its turns to be timed."""

    def __init__(self, turns: Connection, warm: int, seconds: float, device: str) -> None:
        """The first `warm` steps are not timed; a turn then takes as many steps as fit in about `seconds`."""
        self.ahead = 1
        """Batches that lie ready when a turn begins, made while others had theirs: not timed."""
        self.score: Callable[[], float] = lambda: math.nan
        """Judges the contestant after exactly `warm` steps."""
        self._device = device
        self._course = self._run(turns, warm, seconds)
        next(self._course)

    def step(self, images: int) -> None:
        """One more step, over so many images, is under way or done. Raises Over at the end."""
        self._course.send(images)

    def _run(self, turns: Connection, warm: int, seconds: float) -> Generator[None, int, None]:
        for _ in range(warm // 2):
            yield
        started = self._now()
        for _ in range(warm - warm // 2):
            yield
        steps = max(1, round(seconds * (warm - warm // 2) / (self._now() - started)))
        turns.send(self.score())
        while turns.recv():
            for _ in range(self.ahead):
                yield
            started, images = self._now(), 0
            for _ in range(steps):
                images += yield
            turns.send(images / (self._now() - started))
        raise Over

    def _now(self) -> float:
        """Seconds, when the device has done all it was told."""
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A way to do the work."""

    name: str
    run: Callable[[Any, Clock], None]
    """Given the task and a clock, works until `Clock.step` raises Over; a function of a module, as it is pickled."""
    needs: str = ""
    """A package without which it does not take part."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured of a contestant."""

    name: str
    rates: Sequence[float] = ()
    """Images a second, of each turn."""
    score: float = math.nan
    peak: int = 0
    """Bytes: see `peak_memory`, by how much it grew once everything had been imported."""
    failure: str = ""
    """Why there is nothing else."""

    @property
    def rate(self) -> float:
        """Median of the turns; not a number where there were none."""
        return statistics.median(self.rates) if self.rates else math.nan

    @property
    def spread(self) -> float:
        """Half the range of the turns as a share of their median."""
        return (max(self.rates) - min(self.rates)) / 2 / self.rate if self.rates else math.nan


class _Child:
    """A contestant's process, and the line to it."""

    def __init__(self, contestant: Contestant, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.name, self.failure, self.score, self.rates = contestant.name, "", math.nan, list[float]()
        self.turns, theirs = context.Pipe()
        self.process = context.Process(target=_attend, args=(theirs, contestant, *arguments))
        self.process.start()
        theirs.close()

    def hear(self) -> float:
        """What it says next; not a number once it has failed."""
        try:
            said = self.turns.recv() if self.turns.poll(PATIENCE) else f"silent for {PATIENCE:.0f} s"
        except (EOFError, ConnectionResetError):
            self.process.join()
            said = f"died with exit status {self.process.exitcode}"
        if isinstance(said, str):
            self.failure = said
            return math.nan
        return float(said)

    def end(self) -> None:
        """Leave no process behind."""
        if self.failure:
            self.process.kill()
        self.process.join()
        self.turns.close()


def compete(
    contestants: Sequence[Contestant], task: Any, *, warm: int, seconds: float, turns: int, device: str, threads: int
) -> list[Result]:
    """Have each contestant warm up, one after the other; then `turns` rounds of one turn each of about `seconds`."""
    environment.settle()  # for the processes to come: as the command line has it, whoever takes part
    children: dict[str, _Child] = {}
    peaks: dict[str, int] = {}
    missing = {c.name: c.needs for c in contestants if c.needs and importlib.util.find_spec(c.needs) is None}
    try:
        for contestant in contestants:
            if contestant.name not in missing:
                child = children[contestant.name] = _Child(contestant, task, warm, seconds, device, threads)
                child.score = child.hear()
        for turn in range(turns + 1):
            for name, child in children.items():
                if child.failure:
                    continue
                child.turns.send(turn < turns)
                said = child.hear()
                if turn < turns:
                    child.rates.append(said)
                elif not child.failure:
                    peaks[name] = int(said)
    except BaseException:
        for child in children.values():
            child.failure = child.failure or "interrupted"
        raise
    finally:
        for child in children.values():
            child.end()
    results = {name: Result(name, failure=f"{package} is not installed") for name, package in missing.items()}
    for name, child in children.items():
        measured = Result(name, tuple(child.rates), child.score, peaks.get(name, 0))
        results[name] = Result(name, failure=child.failure) if child.failure else measured
    return [results[contestant.name] for contestant in contestants]


def peak_memory(device: str) -> int:
    """Bytes held at most so far: by tensors on the GPU; on a CPU by this process, its workers not counted.

    Linux hands a process the peak of the one that started it (`ru_maxrss`), so VmHWM is read where there is one.
    """
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a row that is too short ends in dashes."""
    lines = [columns, ["---"] * len(columns), *([*row, *["–"] * (len(columns) - len(row))] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def write(folder: Path, name: str, text: str, measured: dict[str, Any]) -> None:
    """Write `name`.md and `name`.json into the folder; what is not a number is null there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text)
    (folder / f"{name}.json").write_text(json.dumps(_plain(measured), indent=2) + "\n")


def _attend(
    turns: Connection, contestant: Contestant, task: Any, warm: int, seconds: float, device: str, threads: int
) -> None:
    """The whole life of a contestant's process."""
    try:
        torch.set_num_threads(threads)
        if contestant.needs:
            importlib.import_module(contestant.needs)
        before = peak_memory(device)
        contestant.run(task, Clock(turns, warm, seconds, device))
        raise RuntimeError("stopped before the contest was over")
    except Over:
        turns.send(peak_memory(device) - before)
    except Exception as error:
        traceback.print_exc()
        turns.send(" ".join(f"{type(error).__name__}: {error}".split())[:200])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
