"""Training, side by side in one run: a tutorial's loop, a loop over tensors, Lightning, pythae, and this project.

    python benchmarks/train.py --quick                  batch 128, less than a minute on two cores
    python benchmarks/train.py --output FOLDER          batches 256, 1024 and 4096; FOLDER/train.md and train.json
    python benchmarks/train.py --batches 256 --ablate   and this project with one thing taken away at a time

The same network (recipe `conv_nearest` with widths 32, 64, 128 on 1x32x32 pixels, 64-d code: 459,073 parameters) from
the same weights, the same images, the same AdamW (`trainers`). Every contestant has a process of its own, and they take
turns (`contest`). All are judged once after equally many steps: the same error on validation images, but for rounding
and the order of images, is what makes their speeds comparable. Lightning and pythae take part where they are installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import tempfile
from pathlib import Path

import torch
from contest import Result, compete, markdown, write
from floor import Machine, Work, machine, training
from pile import SIDE, make_pile
from trainers import ABLATED, BASE, CONTESTANTS, Task, reference

from aecore.models.device import choose_device

TOLERANCE = 0.1
"""Relative difference of validation errors after equally many steps that the order of the images explains."""
COLUMNS = ("batch", "contestant", "images/s", f"times {BASE}", "of the bytes' floor", "of the operations' floor",
           "peak MB", "validation MSE")  # fmt: skip


def rows(batch: int, results: list[Result], base: float, floors: tuple[float, float]) -> list[list[str]]:
    """Lines of the table; `base` images/s is one, `floors` are images/s too."""
    lines = []
    for result in results:
        line = [f"{batch:,}", result.name, result.failure]
        if not result.failure:
            speed = f"{result.rate:,.0f} ± {result.spread:.0%}"
            shares = [f"{result.rate / most:.1%}" for most in floors]
            ratio = "–" if math.isnan(base) else f"{result.rate / base:.2f}"
            line[2:] = [speed, ratio, *shares, f"{result.peak / 2**20:,.0f}", f"{result.score:.5f}"]
        lines.append(line)
    return lines


def disagreeing(results: list[Result]) -> list[str]:
    """Who is further than TOLERANCE from the median error of all that were judged."""
    scores = sorted(result.score for result in results if not result.failure)
    middle = scores[len(scores) // 2] if scores else math.nan
    return [r.name for r in results if not r.failure and not abs(r.score / middle - 1) <= TOLERANCE]


def base_rate(measured: dict[int, list[Result]], batch: int, device: str) -> float:
    """Images/s that count as one: of PIL + DataLoader at the same batch; on a GPU at the smallest batch of the run."""
    return measured[min(measured) if device == "cuda" else batch][0].rate


def notes(able: Machine, work: Work, measured: dict[int, list[Result]], steps: dict[int, int]) -> str:
    """What stands below the table."""
    by_bytes, by_operations = able.floors(work)
    lines = [
        f"{able.name}: {able.bandwidth / 1e9:,.0f} GB/s and {able.operations / 1e12:,.2f} TFLOP/s ({able.source}). The "
        f"network needs {work.bytes / 1e3:,.0f} kB in bf16 and {work.operations / 1e6:,.1f} MFLOP an image: at most "
        f"{by_bytes:,.0f} and {by_operations:,.0f} images/s. ± is half the range of the turns."
    ]
    for batch, results in measured.items():
        odd = disagreeing(results)
        verdict = f"except {', '.join(odd)}" if odd else "all"
        lines.append(f"Batch {batch:,}: validation MSE after {steps[batch]} steps, {verdict} within {TOLERANCE:.0%}.")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images, one small batch, short turns")
    parser.add_argument("--batches", nargs="+", type=int, help="default: 256 1024 4096; with --quick 128")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--seconds", type=float, help="of a turn (default: 3; with --quick 0.5)")
    parser.add_argument("--turns", type=int, help="of each contestant (default: 5; with --quick 3)")
    parser.add_argument("--steps", type=int, help="before all are judged (default: as many as make 25,600 images)")
    parser.add_argument("--images", type=int, help="default: 10,000; on a GPU 60,000; with --quick 4,000")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--ablate", action="store_true", help="also this project with one thing taken away")
    parser.add_argument("--output", type=Path, help="folder for train.md and train.json")
    options = parser.parse_args()
    device = choose_device(options.device).type
    batches = options.batches or ([128] if options.quick else [256, 1024, 4096])
    count = options.images or (4_000 if options.quick else 60_000 if device == "cuda" else 10_000)
    wanted = 2_560 if options.quick else 25_600
    steps = {batch: options.steps or max(10, wanted // batch) for batch in sorted(batches)}
    contestants = CONTESTANTS + (ABLATED[device] if options.ablate else [])

    torch.set_num_threads(options.threads)
    work = training(reference(), torch.zeros(1, 1, SIDE, SIDE))
    able = machine(device)
    measured: dict[int, list[Result]] = {}
    with tempfile.TemporaryDirectory() as folder:
        pile = make_pile(Path(folder), count, options.threads)
        for batch in steps:
            task = Task(pile, batch, device, 8 if device == "cuda" else options.threads)
            measured[batch] = compete(
                contestants, task, warm=steps[batch], seconds=options.seconds or (0.5 if options.quick else 3.0),
                turns=options.turns or (3 if options.quick else 5), device=device, threads=options.threads,
            )  # fmt: skip
    able = able.at_best(machine(device))
    lines = [
        line
        for batch, results in measured.items()
        for line in rows(batch, results, base_rate(measured, batch, device), able.floors(work))
    ]
    text = markdown(COLUMNS, lines) + "\n" + notes(able, work, measured, steps)
    print(text, end="")
    if options.output is not None:
        results = {b: [dataclasses.asdict(r) | {"rate": r.rate} for r in rs] for b, rs in measured.items()}
        record = {"machine": able._asdict(), "work": work._asdict(), "images": count, "steps": steps}
        write(options.output, "train", text, record | {"torch": torch.__version__, "batches": results})


if __name__ == "__main__":
    main()
