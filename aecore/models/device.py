"""Where a model runs."""

from __future__ import annotations

import torch

from aecore.config import UserError


def choose_device(device: str) -> torch.device:
    """The device of `run.device`: auto, cpu or cuda. Raises UserError where a GPU is asked for and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("run.device is 'cuda', but torch sees no GPU here: set it to 'auto' or 'cpu'.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def require_devices(count: int, device: torch.device) -> None:
    """Raise UserError where `count` processes (train.devices) have fewer GPUs, and are to have one each."""
    if device.type == "cuda" and count > torch.cuda.device_count():
        raise UserError(f"train.devices is {count}, but there are {torch.cuda.device_count()} GPUs.")
