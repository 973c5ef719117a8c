"""Checkpoints: outside DVC's outs, keyed by everything that determines a training, locked by their owner."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from aecore.artifact import sha256_json
from aecore.config import STATE, WorkFailed


class Checkpoint:
    """The last whole epoch of one training."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self) -> dict[str, Any] | None:
        """The saved state, tensors on the CPU, or None where nothing was saved."""
        path = self.directory / "state.pt"
        if not path.is_file():
            return None
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state; a kill leaves the old one or the new one."""
        temporary = self.directory / "state.pt.tmp"
        buffer = io.BytesIO()  # torch.save would turn a full disk into a RuntimeError
        torch.save(state, buffer)
        with temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.directory / "state.pt")

    def discard(self) -> None:
        """Remove it: the training is finished and its artefact is whole."""
        shutil.rmtree(self.directory, ignore_errors=True)


@contextmanager
def checkpoint(determinants: dict[str, Any], owned: bool = True) -> Iterator[Checkpoint]:
    """Yield the Checkpoint of the training that `determinants` (JSON values) determine, held by this process alone.

    The lock is the kernel's: it ends with its owner, however that ends. Raises WorkFailed naming a living owner's pid.
    Not `owned`: for a rank beside the owner, which only loads.
    """
    directory = STATE / "checkpoints" / sha256_json(determinants)[:16]
    directory.mkdir(parents=True, exist_ok=True)
    if not owned:
        yield Checkpoint(directory)
        return
    with (directory / "owner").open("a+") as owner:
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner.seek(0)
            pid = owner.read().strip()
            raise WorkFailed(f"this training runs as process {pid} ({directory}): wait for it or end it.") from None
        owner.truncate(0)
        owner.write(str(os.getpid()))
        owner.flush()
        yield Checkpoint(directory)
