"""Data-parallel training: the processes that share one training, and what they tell each other.

Each rank holds the whole model and takes its share of every batch; gradients are summed before they are clipped, so
every rank takes the same step. There is no wrapper around the model: a step's one collective stands in plain sight.

What is a mean over images is then what one process would have computed. What is not (batch normalisation on CPUs, see
`synchronise`; the loss `masked`; the penalties l1, decorrelation and adversarial; the Wasserstein bottleneck) is taken
of each share by itself and averaged.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from aecore.config import UserError, WorkFailed

RESTARTS = 3
"""How often a training whose process dies is carried on from its last checkpoint before it is given up."""
GRACE = 5
"""Seconds that the other ranks have to end by themselves once one has left its verdict."""
VERDICT = "AECORE_VERDICT"
"""Names the file in which a rank leaves the sentence that ends the training: an error that a restart would repeat."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; alone by default."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes: checkpoints, artefacts, MLflow, the bar."""
        return self.rank == 0

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each of `tensors` (one dtype, one device) by its sum over the ranks."""
        if self.size > 1 and tensors:
            flat = torch.cat([t.reshape(-1) for t in tensors])
            dist.all_reduce(flat)
            parts = [
                part.view(t.shape)
                for part, t in zip(torch.split(flat, [t.numel() for t in tensors]), tensors, strict=True)
            ]
            torch._foreach_copy_(list(tensors), parts)

    def agree(self, model: nn.Module) -> None:
        """Replace running statistics, which each rank gathered from its own share, by their mean over the ranks."""
        if self.size > 1:
            names = ("running_mean", "running_var")
            running = [buffer for name, buffer in model.named_buffers() if name.endswith(names)]
            self.sum(running)
            for buffer in running:
                buffer /= self.size


ALONE = Ranks()


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the processes that torchrun started beside this one; yields this one's place and its device."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE, device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield Ranks(dist.get_rank(), size), device
    dist.destroy_process_group()  # only in peace: after an error it could wait for ranks that wait for this one


@contextmanager
def leaving_a_verdict() -> Iterator[None]:
    """Inside ranks that `start` began: leave the sentence of an error that a restart would repeat, and end quietly."""
    try:
        yield
    except (UserError, OSError) as error:
        if VERDICT not in os.environ or isinstance(error, ConnectionError):  # a rank lost another one
            raise
        where = f" at {error.filename}" if isinstance(error, OSError) and error.filename else ""
        said = f"{error.strerror}{where}" if isinstance(error, OSError) else str(error)
        verdict = Path(os.environ[VERDICT])
        own = verdict.with_suffix(f".{os.getpid()}")
        own.write_text(json.dumps({"status": getattr(error, "exit_status", 1), "sentence": said}))
        own.replace(verdict)
        sys.stderr.flush()
        os._exit(0)  # the other ranks may wait for this one: whoever started us ends them


def started_by_torchrun() -> bool:
    """Whether this process is one of several ranks."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def synchronise(model: nn.Module, device: torch.device, ranks: Ranks) -> None:
    """Have the layers inside `model` normalise over the whole batch where torch can: on GPUs.

    On CPUs (gloo) torch has no synchronised batch normalisation: each rank normalises its share by that share's own
    moments, and the running statistics are averaged once an epoch. One process with the same batch then ends elsewhere.
    """
    if ranks.size > 1 and device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]


def start(devices: int, threads: int, arguments: Sequence[str]) -> None:
    """Run `python -m aecore ARGUMENTS` as `devices` ranks of `threads` threads under torchrun and wait for them.

    A rank that dies takes the others down, and all carry on from the last checkpoint, RESTARTS times at most: under a
    new torchrun, because ranks restarted by the old one now and then wait for each other's dead predecessors (gloo).
    Raises what a rank left as its verdict, and WorkFailed where they kept dying.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}",
               "-m", "aecore", *arguments]  # fmt: skip
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tempfile.TemporaryDirectory() as folder:
            verdict = Path(folder) / "verdict"
            environment = os.environ | {VERDICT: str(verdict), "OMP_NUM_THREADS": str(threads)}
            for left in range(RESTARTS, -1, -1):
                status = _wait(subprocess.Popen(command, env=environment), verdict)
                if verdict.is_file():
                    said = json.loads(verdict.read_text())
                    raise (UserError if said["status"] == UserError.exit_status else WorkFailed)(said["sentence"])
                if not status:
                    return
                print(f"a process of the training died; {left} restarts are left", file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, before)
    raise WorkFailed(f"the {devices} processes kept dying (status {status}, see above); the same command carries on "
                     "from the last checkpoint.")  # fmt: skip


def _wait(torchrun: subprocess.Popen[bytes], verdict: Path) -> int:
    """Its exit status. Where this process is told to stop, or a rank has left its verdict, torchrun ends the ranks."""
    try:
        while not verdict.is_file():
            with suppress(subprocess.TimeoutExpired):
                return torchrun.wait(0.5)
        with suppress(subprocess.TimeoutExpired):
            return torchrun.wait(GRACE)
        return 0
    finally:
        if torchrun.poll() is None:
            torchrun.terminate()
            torchrun.wait()
