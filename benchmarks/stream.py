"""Training on a set twice the size of the memory it is allowed, beside the same training on a set that fits.

    python benchmarks/stream.py                     3 GB of 64x64 colour images within 1.5 GB
    python benchmarks/stream.py --limit 2 --side 32

The set is streamed window by window (`aecore.training.feed`) by a process in a memory cgroup of that limit, page
cache included; where none can be made (it takes root, on Linux), the limit is only Feed's own, and the output says so.
The other process keeps a small set of the same images in RAM. They take turns; before each, the page cache drops the
shards.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from aecore import environment

PROJECT = Path(__file__).resolve().parent.parent
SHARD = 4096
BATCH = 64


def make_set(folder: Path, count: int, side: int) -> None:
    """Write `count` prepared colour images, smooth noise, 70 % of them for training, as `prepare` splits them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from aecore import artifact
    from aecore.data.images import shard_name

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (SHARD, 3, side // 8, side // 8), dtype=np.uint8)
    pool = coarse.repeat(8, axis=2).repeat(8, axis=3)
    sizes = [min(SHARD, count - start) for start in range(0, count, SHARD)]
    facts = {"count": count, "channels": 3, "height": side, "width": side, "shards": sizes, "labels": None}
    with artifact.writing(folder, "data", facts=facts) as temporary:
        for number, size in enumerate(sizes):
            np.save(temporary / shard_name(number), np.roll(pool, number, axis=0)[:size] ^ np.uint8(number))
        split = rng.choice(["train", "validation", "test"], count, p=[0.7, 0.1, 0.2])
        pq.write_table(pa.table({"id": np.arange(count), "split": split}), temporary / "items.parquet")


def forget(folder: Path) -> None:
    """Have the kernel drop what it caches of the shards."""
    for path in folder.glob("*.npy"):
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def confined(limit: float) -> Path | None:
    """A new memory cgroup of `limit` bytes, version 2 or 1, or None where it cannot be made."""
    v2, v1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")
    for parent, key in ((v2, "memory.max"), (v1, "memory.limit_in_bytes")):
        group = parent / f"aecore-{os.getpid()}"
        try:
            group.mkdir()
            with (group / key).open("r+") as file:  # a controller that is not there has no such file
                file.write(str(int(limit)))
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        return group
    return None


def train(folder: Path, shuffle_bytes: float, seconds: float, threads: int) -> dict[str, float]:
    """Train the default recipe for `seconds`, from the first window on; in a process of its own."""
    import torch

    from aecore.data.images import Images
    from aecore.models.allocator import keep_freed_memory
    from aecore.models.autoencoder import Autoencoder
    from aecore.models.recipe import Recipe
    from aecore.training.engine import Engine, choose_precision
    from aecore.training.feed import Feed

    torch.set_num_threads(threads)
    keep_freed_memory()
    cpu, images = torch.device("cpu"), Images.open(folder)
    torch.manual_seed(0)
    model = Autoencoder(Recipe("conv", (16, 32, 64), down="strided", up="nearest"), images.shape, 32).train()
    feed = Feed(images, "train", BATCH, 0, cpu, shuffle_bytes)
    engine = Engine(model, cpu, choose_precision("auto", cpu), 1e-3, 1e-4, 1.0, 0, 10**9, gather=feed.gather)
    seen, begun, waited, held = 0, time.perf_counter(), 0.0, list[int]()
    for epoch in range(10**9):
        for step, batch in enumerate(feed.epoch(epoch)):
            if epoch == 0 and step == 10:  # warm
                seen, begun, waited = 0, time.perf_counter(), feed.waited
            engine.step(batch)
            seen += len(batch.keys)
            if step % 100 == 50:
                held.append(_resident_bytes())
            took = time.perf_counter() - begun
            if took > seconds and step > 10:
                windows = seen / feed.window if feed.window else 0
                share = (feed.waited - waited) / took
                return {"rate": seen / took, "waited": share, "first": held[0], "last": held[-1], "windows": windows}
    raise AssertionError


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def turn(folder: Path, shuffle_bytes: float, seconds: float, threads: int, group: Path | None) -> dict[str, float]:
    """Run `train` in a process of its own, inside `group`."""
    call = f"stream.train(Path({str(folder)!r}), float({str(shuffle_bytes)!r}), {seconds}, {threads})"
    enter = f"Path({str(group / 'cgroup.procs')!r}).write_text(str(os.getpid()))" if group else "pass"
    code = f"import os, json; from pathlib import Path; {enter}; import stream; print(json.dumps({call}))"
    path = os.pathsep.join([str(PROJECT), str(PROJECT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"the process ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=1.5, help="GB that the process may use (default: 1.5)")
    parser.add_argument("--shuffle", type=float, default=0.3, help="GB, `train.shuffle_gb` (default: 0.3)")
    parser.add_argument("--side", type=int, default=64, help="of an image, in pixels (default: 64)")
    parser.add_argument("--seconds", type=float, default=30, help="of a turn (default: 30)")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, help="on the disk to be read from (default: a temporary one)")
    options = parser.parse_args()
    environment.settle()  # for the processes to come
    each = 3 * options.side**2
    count = int(2 * options.limit * 1e9 / each / 0.7)  # 70 % of them are for training
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        large, small = Path(name) / "large", Path(name) / "small"
        make_set(large, count, options.side)
        make_set(small, min(count, int(100e6 / each)), options.side)
        group = confined(options.limit * 1e9)
        runs: dict[str, list[dict[str, float]]] = {"resident": [], "streamed": []}
        try:
            for _ in range(options.turns):
                forget(large)
                runs["resident"].append(turn(small, np.inf, options.seconds, options.threads, None))
                runs["streamed"].append(turn(large, options.shuffle * 1e9, options.seconds, options.threads, group))
        finally:
            if group is not None:
                group.rmdir()
    fits = "a memory cgroup" if group else "no cgroup could be made: Feed's own limit"
    training = f"{0.7 * count * each / 1e9:.1f} GB for training"
    size = f"{count:,} images of 3x{options.side}x{options.side}, {training}"
    print(f"{size}, within {options.limit} GB ({fits}), shuffled within {options.shuffle} GB\n")
    print("| fed | images/s | of resident | waited | resident MB, first and last | windows |")
    print("| --- " * 6 + "|")
    base = statistics.median(run["rate"] for run in runs["resident"])
    for name, turns in runs.items():
        rates = sorted(run["rate"] for run in turns)
        middle = next(run for run in turns if run["rate"] == rates[len(rates) // 2])
        spread = (rates[-1] - rates[0]) / 2 / middle["rate"]
        held = f"{middle['first'] / 1e6:,.0f}, {middle['last'] / 1e6:,.0f}"
        speed = f"{middle['rate']:,.0f} ± {spread:.0%} | {middle['rate'] / base:.0%} | {middle['waited']:.1%}"
        print(f"| {name} | {speed} | {held} | {middle['windows']:.1f} |")


if __name__ == "__main__":
    main()
