"""Two trainings at once on the same two cores, beside one alone: as PyTorch has it, and as aecore has it.

aecore sets how OpenMP's threads wait (`aecore/environment.py`), and has steps take turns (`aecore/training/turns.py`).

    python benchmarks/together.py                                   two to four minutes
    python benchmarks/together.py --also OMP_WAIT_POLICY=PASSIVE    a further row, with these variables and no turns

The reference network and batch of `benchmarks/train.py --quick`, stepped as the stage `train` steps it, in a process of
its own. Two of them begin to be timed at the same moment and both go on until both have been. The ways take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from typing import NamedTuple

import torch
from contest import markdown, write
from pile import Pile, make_pile
from trainers import CLIP, DECAY, RATE, SEED, reference

from aecore.environment import WAITING
from aecore.models.allocator import keep_freed_memory
from aecore.training.engine import Engine, choose_precision
from aecore.training.feed import Feed
from aecore.training.turns import Turns

BATCH, IMAGES = 128, 4_000
PATIENCE = 300.0
"""Seconds until the other training must have begun too."""
COLUMNS = ("training", "alone, images/s", "of the first row's", "two at once, images/s each", "both, of one alone",
           "others' share of the cores")  # fmt: skip


class Timed(NamedTuple):
    """What one training did while it was timed."""

    rate: float
    """Images a second."""
    busy: float
    """Seconds of processor time that it took, a second."""


class Turn(NamedTuple):
    """One or two trainings, timed at the same time."""

    rates: list[float]
    others: float
    """Share of the machine's processors that everybody else took meanwhile; not a number where it is not known."""


def work(pile: Pile, threads: int, seconds: float, turns: bool, together: Barrier, told: Connection) -> None:
    """Train without end; time it once, when all that are `together` have warmed up."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    device, images = torch.device("cpu"), pile.images()
    feed = Feed(images, "train", BATCH, SEED, device)
    engine = Engine(
        reference(images), device, choose_precision("auto", device), RATE, DECAY, CLIP, 0, 10**9, gather=feed.gather,
        stepping="eager",
    )  # fmt: skip
    if not turns:
        engine.turns = Turns(None)
    steps = (len(batch.keys) for epoch in range(10**9) for batch in feed.epoch(epoch) if engine.step(batch))
    for _ in range(10):
        next(steps)
    together.wait(PATIENCE)
    started, processor, seen = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - started < seconds:
        seen += next(steps)
    took = time.perf_counter() - started
    told.send(Timed(seen / took, (time.process_time() - processor) / took))
    for _ in steps:  # the other one may still be timed: whoever started us ends us
        pass


def turn(
    pile: Pile, count: int, threads: int, seconds: float, environment: Mapping[str, str], turns: bool = True
) -> Turn:
    """Have `count` trainings run at once, each a process with these variables, whose steps take turns if they shall.

    Raises RuntimeError if one fails.
    """
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(count + 1)
    lines = [context.Pipe() for _ in range(count)]
    with changed(environment):
        processes = [
            context.Process(target=work, args=(pile, threads, seconds, turns, together, theirs), daemon=True)
            for _, theirs in lines
        ]
        for process in processes:
            process.start()
    for _, theirs in lines:
        theirs.close()
    try:
        together.wait(PATIENCE)
        before, started = busy(), time.perf_counter()
        timed: list[Timed] = [ours.recv() for ours, _ in lines]
        taken = (busy() - before) / (time.perf_counter() - started)
    except (EOFError, BrokenBarrierError) as error:
        raise RuntimeError("a training ended before it had been timed") from error
    finally:
        for process in processes:
            process.kill()
            process.join()
    return Turn([one.rate for one in timed], max(0.0, taken - sum(one.busy for one in timed)) / (os.cpu_count() or 1))


@contextlib.contextmanager
def changed(environment: Mapping[str, str]) -> Iterator[None]:
    """Let processes that are started inside begin with these variables, and no others that say how threads wait."""
    told = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", *WAITING, *environment}
    kept = {name: os.environ.pop(name) for name in told if name in os.environ}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name in told:
            os.environ.pop(name, None)
        os.environ.update(kept)


def busy() -> float:
    """Seconds of processor time that everything on this machine has taken so far."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except OSError:
        return float("nan")
    user, nice, system, _, _, irq, softirq, *_ = fields
    return float(user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def rows(measured: Mapping[str, Mapping[int, Sequence[Turn]]]) -> list[list[str]]:
    """Lines of the table: medians; ± is half the range."""
    lines, base = [], 0.0
    for name, turns in measured.items():
        alone = [rate for one in turns[1] for rate in one.rates]
        both = [sum(one.rates) for one in turns[2]]
        each = [rate for one in turns[2] for rate in one.rates]
        middle = statistics.median(alone)
        base = base or middle
        others = statistics.median(one.others for counted in turns.values() for one in counted)
        lines.append([name, shown(alone), f"{middle / base:.0%}", shown(each),
                      f"{statistics.median(both) / middle:.0%}", f"{others:.0%}"])  # fmt: skip
    return lines


def shown(rates: Sequence[float]) -> str:
    """Their median, and half their range as a share of it."""
    middle = statistics.median(rates)
    return f"{middle:,.0f} ± {(max(rates) - min(rates)) / 2 / middle:.0%}"


def assignment(text: str) -> dict[str, str]:
    """`NAME=VALUE[,NAME=VALUE…]` of the command line."""
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(name and equals for name, equals, _ in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return {name: value for name, _, value in pairs}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, help="of each way, alone and together (default: 3)")
    parser.add_argument("--seconds", type=float, default=5, help="of a turn (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="of each training, as run.threads (default: 2)")
    parser.add_argument("--cores", type=int, default=2, help="that they share (default: 2)")
    parser.add_argument("--also", action="append", default=[], type=assignment, metavar="NAME=VALUE[,…]",
                        help="a further row with these variables; may be given more than once")  # fmt: skip
    parser.add_argument("--output", type=Path, help="folder for together.md and together.json")
    options = parser.parse_args()
    ways = {"as PyTorch has it": (dict[str, str](), False), "as aecore has it": (WAITING, True)}
    for environment in options.also:
        ways[", ".join(f"{name}={value}" for name, value in environment.items())] = environment, False
    cores = sorted(os.sched_getaffinity(0))[: options.cores]
    load = os.getloadavg()[0]
    os.sched_setaffinity(0, cores)
    measured: dict[str, dict[int, list[Turn]]] = {name: {1: [], 2: []} for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        pile = make_pile(Path(folder), IMAGES, options.threads)
        for _ in range(options.turns):
            for name, (environment, turns) in ways.items():
                for count in (1, 2):
                    done = turn(pile, count, options.threads, options.seconds, environment, turns)
                    measured[name][count].append(done)
                    print(f"{name}, {count} at once: {[round(rate) for rate in done.rates]}", file=sys.stderr)
    text = markdown(COLUMNS, rows(measured)) + (
        f"\n{len(cores)} cores, {options.threads} threads each, batch {BATCH}; {options.turns} turns of "
        f"{options.seconds:g} s. Load before: {load:.1f}. ± is half the range.\n"
    )
    print(text, end="")
    if options.output is not None:
        kept = {
            name: {str(n): [one._asdict() for one in done] for n, done in one.items()} for name, one in measured.items()
        }
        write(options.output, "together", text, {"load": load, "torch": torch.__version__, "turns": kept})


if __name__ == "__main__":
    main()
