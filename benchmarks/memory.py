"""Peak memory of the stages against the size of the data set: it should not grow with it.

    python benchmarks/memory.py prepare                    10,000 and 60,000 colour images of 64x64, as JPEG files
    python benchmarks/memory.py prepare embed index        these need a trained model: each workspace trains one epoch
    python benchmarks/memory.py prepare --counts 2000 8000 --suffix png

Each stage runs as `python -m aecore STAGE` in a workspace of its own; its peak is the kernel's count for that process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

PROJECT = Path(__file__).resolve().parent.parent
STAGES = ("prepare", "train", "embed", "index")
SIDE = 64

CHILD = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
status = subprocess.run([sys.executable, "-m", "aecore", sys.argv[1]], stdout=sys.stderr).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(json.dumps({"status": status, "peak": peak, "seconds": time.perf_counter() - started}))
"""


def make_images(folder: Path, count: int, suffix: str) -> None:
    """Write `count` different smooth colour images into `folder`, a hundred sub-folders deep in labels."""
    generator = np.random.default_rng(0)
    for i in range(count):
        if i % 100 == 0:
            (folder / f"{i // 100 % 100:02d}").mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.save(folder / f"{i // 100 % 100:02d}" / f"{i:06d}.{suffix}")


def make_workspace(folder: Path, count: int, suffix: str, threads: int) -> None:
    """Make a workspace of the project's parameters over generated images."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    parameters = yaml.load((PROJECT / "params.yaml").read_text())
    parameters["run"] |= {"threads": threads, "device": "cpu"}
    parameters["data"] = {"source": "folder", "path": "images", "batches": False, "split_folders": "auto"}
    parameters["prepare"] |= {"size": SIDE, "channels": 3}
    parameters["train"] |= {"epochs": 1, "warmup_epochs": 0}
    parameters["tracking"]["mlflow"] = False
    make_images(folder / "images", count, suffix)
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(parameters, file)
    (folder / "recipes").symlink_to(PROJECT / "recipes")


def run_stage(stage: str, workspace: Path) -> dict[str, float]:
    """Run one stage; return its peak memory in MB and its seconds."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", CHILD, stage], cwd=workspace, env=environment, check=True,
                          stdout=subprocess.PIPE, text=True)  # fmt: skip
    measured: dict[str, float] = json.loads(done.stdout)
    if measured["status"]:
        raise SystemExit(f"stage {stage} failed")
    return measured


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", choices=STAGES)
    parser.add_argument("--counts", nargs="+", type=int, default=[10_000, 60_000])
    parser.add_argument("--suffix", choices=("jpg", "png"), default="jpg")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    last = max(map(STAGES.index, arguments.stages))
    print(f"{'stage':10}{'images':>10}{'MB peak':>10}{'seconds':>10}")
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as name:
            started = time.perf_counter()
            make_workspace(Path(name), count, arguments.suffix, arguments.threads)
            print(f"{'(make)':10}{count:10,}{'':>10}{time.perf_counter() - started:10.1f}", flush=True)
            for stage in STAGES[: last + 1]:
                measured = run_stage(stage, Path(name))
                if stage in arguments.stages:
                    print(f"{stage:10}{count:10,}{measured['peak']:10.0f}{measured['seconds']:10.1f}", flush=True)


if __name__ == "__main__":
    main()
