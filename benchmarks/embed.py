"""Embedding, side by side in one run: a tutorial's loop, a loop over tensors, and this project, from shards and files.

    python benchmarks/embed.py --quick              2,000 images, less than a minute on two cores
    python benchmarks/embed.py --output FOLDER      10,000 images, on a GPU 60,000; FOLDER/embed.md and embed.json

The reference network of `benchmarks/train.py`, in float32. Its floors are measured beside it: decoding the files alone,
on one thread, and reading the shards alone. Every contestant has a process of its own, and they take turns (`contest`),
each over all images. All vectors are compared with those of a plain forward pass on the CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import trainers
from contest import Clock, Contestant, Result, compete, markdown, write
from pile import Files, floats, loader, make_pile
from torch.utils.data import DataLoader, TensorDataset
from trainers import BASE, reference

from aecore import artifact
from aecore.data.decode import Preparation, decode
from aecore.embedding import Encoder, embed
from aecore.models import autoencoder
from aecore.models.allocator import keep_freed_memory
from aecore.models.device import choose_device
from aecore.vectors import Embeddings

TOLERANCE = 0.01
"""Largest difference of two numbers of a code, as a share of the largest number: TF32 has three digits."""
READING, DECODING = "reading shards alone", "decoding files alone"
COLUMNS = ("contestant", "images/s", f"times {BASE}", "of its floor", "peak MB", "largest difference")


class Task(trainers.Task):
    """What every contestant is given: also where the model and its vectors lie."""

    @property
    def model(self) -> Path:
        """The artefact of the model."""
        return self.pile.folder / "models/model"

    @property
    def expected(self) -> Path:
        """The vectors, float32 (n, 64), of a plain forward pass."""
        return self.pile.folder / "expected.npy"

    @property
    def preparation(self) -> Preparation:
        """How the images were prepared."""
        facts = self.pile.images().manifest.facts
        return Preparation(**{field.name: facts[field.name] for field in dataclasses.fields(Preparation)})

    def encoder(self) -> Encoder:
        """This project's, of the model, as its commands load it."""
        keep_freed_memory()
        return Encoder.load(self.model, self.device, self.batch)


def make_model(task: Task) -> None:
    """Write the reference network, untrained but for its normalisation, and the vectors it gives on the CPU."""
    images = task.pile.images()
    model = reference(images)
    with torch.no_grad():
        for x in floats(images, np.arange(min(images.count, 2048))).split(128):  # type: ignore[no-untyped-call]
            model(x)
        with artifact.writing(task.model, "model", {"data": images.manifest}) as directory:
            autoencoder.save(model, directory, dataclasses.asdict(task.preparation), {})
        model.eval()
        codes = [model.encode(x) for x in floats(images, np.arange(images.count)).split(256)]  # type: ignore[no-untyped-call]
    np.save(task.expected, torch.cat(codes).numpy())


def repeat(
    task: Task, clock: Clock, once: Callable[[], object], written: Callable[[], np.ndarray] | None = None
) -> None:
    """Pass over all images again and again; the vectors that the first pass gave, or has `written`, are judged."""
    clock.ahead = 0
    expected: np.ndarray = np.load(task.expected)
    given = once()
    codes = written() if written is not None else given
    if isinstance(codes, np.ndarray):
        difference = float(np.abs(codes - expected).max())
        clock.score = lambda: difference
    while True:
        clock.step(len(expected))
        once()


def plain_loop(task: Task, clock: Clock, data: DataLoader[tuple[torch.Tensor, ...]]) -> None:
    """What a tutorial does: float32, channels first."""
    model, _ = autoencoder.load(task.model)
    model = model.to(task.device).eval()

    def once() -> np.ndarray:
        with torch.no_grad():
            codes = [model.encode(x.to(task.device, non_blocking=True)).cpu() for (x,) in data]
        vectors: np.ndarray = torch.cat(codes).numpy()
        return vectors

    repeat(task, clock, once)


def pil(task: Task, clock: Clock) -> None:
    """From image files, opened by workers."""
    files = Files(task.pile.files())
    plain_loop(task, clock, loader(files, task.batch, task.device, workers=task.workers, shuffle=False))


def tensors(task: Task, clock: Clock) -> None:
    """From tensors in main memory."""
    images = task.pile.images()
    data = TensorDataset(floats(images, np.arange(images.count)))
    plain_loop(task, clock, loader(data, task.batch, task.device, shuffle=False))


def shards(task: Task, clock: Clock) -> None:
    """This project's stage `embed`: from prepared shards to the artefact of their vectors."""
    images, encoder, path = task.pile.images(), task.encoder(), task.pile.folder / "artifacts/embeddings"
    repeat(task, clock, lambda: embed(images, encoder, path), lambda: Embeddings.open(path).load())


def files(task: Task, clock: Clock) -> None:
    """This project's `Encoder.encode_files`: what a query does."""
    encoder, paths = task.encoder(), task.pile.files()
    repeat(task, clock, lambda: encoder.encode_files(paths))


def reading(task: Task, clock: Clock) -> None:
    """Every shard, batch by batch, into memory."""
    images = task.pile.images()

    def once() -> None:
        for _, shard in images.shards():
            for start in range(0, len(shard), task.batch):
                np.array(shard[start : start + task.batch])

    repeat(task, clock, once)


def decoding(task: Task, clock: Clock) -> None:
    """Every file, as the program decodes it, on one thread."""
    paths, preparation = task.pile.files(), task.preparation

    def once() -> None:
        for path in paths:
            decode(Path(path).read_bytes(), preparation)

    repeat(task, clock, once)


CONTESTANTS = [
    Contestant(BASE, pil),
    Contestant("tensors + DataLoader", tensors),
    Contestant("aecore, shards", shards),
    Contestant("aecore, files", files),
    Contestant(READING, reading),
    Contestant(DECODING, decoding),
]
FLOORS = {BASE: DECODING, "tensors + DataLoader": READING, "aecore, shards": READING, "aecore, files": DECODING}


def rows(results: list[Result]) -> list[list[str]]:
    """Lines of the table."""
    by_name = {result.name: result for result in results}
    lines = []
    for result in results:
        line = [result.name, result.failure]
        if not result.failure:
            floor = by_name[FLOORS.get(result.name, result.name)]
            speed = f"{result.rate:,.0f} ± {result.spread:.0%}"
            ratio = f"{result.rate / by_name[BASE].rate:.2f}"
            difference = f"{result.score:.1e}" if result.name in FLOORS else "–"
            line[1:] = [speed, ratio, f"{result.rate / floor.rate:.1%}", f"{result.peak / 2**20:,.0f}", difference]
        lines.append(line)
    return lines


def disagreeing(results: list[Result], largest: float) -> list[str]:
    """Whose vectors are too different; `largest` is the largest number in any of them."""
    return [r.name for r in results if r.name in FLOORS and not r.failure and not r.score <= TOLERANCE * largest]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images, short turns")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--seconds", type=float, help="of a turn (default: 3; with --quick 0.5)")
    parser.add_argument("--turns", type=int, help="of each contestant (default: 5; with --quick 3)")
    parser.add_argument("--images", type=int, help="default: 10,000; on a GPU 60,000; with --quick 2,000")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, help="folder for embed.md and embed.json")
    options = parser.parse_args()
    device = choose_device(options.device).type
    count = options.images or (2_000 if options.quick else 60_000 if device == "cuda" else 10_000)
    os.environ["TQDM_DISABLE"] = "1"  # no bar a pass

    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        pile = make_pile(Path(folder), count, options.threads)
        task = Task(pile, options.batch, device, 8 if device == "cuda" else options.threads)
        make_model(task)
        largest = float(np.abs(np.load(task.expected)).max())
        results = compete(
            CONTESTANTS, task, warm=2, seconds=options.seconds or (0.5 if options.quick else 3.0),
            turns=options.turns or (3 if options.quick else 5), device=device, threads=options.threads,
        )  # fmt: skip
    odd = disagreeing(results, largest)
    text = markdown(COLUMNS, rows(results)) + (
        f"\n{count:,} images, batch {options.batch:,}, {device}, {options.threads} threads. ± is half the range of the "
        f"turns. The vectors of all{' but ' + ', '.join(odd) if odd else ''} differ from those of a plain forward pass "
        f"on the CPU by at most {TOLERANCE:.0%} of the largest number, {largest:.2f}.\n"
    )
    print(text, end="")
    if options.output is not None:
        record = {"images": count, "batch": options.batch, "device": device, "threads": options.threads}
        measured = [dataclasses.asdict(result) | {"rate": result.rate} for result in results]
        write(options.output, "embed", text, record | {"torch": torch.__version__, "results": measured})


if __name__ == "__main__":
    main()
