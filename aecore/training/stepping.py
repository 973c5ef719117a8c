"""Ways to take the same step faster: compiled, and captured as one CUDA graph. Both fall back by themselves."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from tqdm import tqdm

from aecore.training.settings import Stepping

Scalars = dict[str, torch.Tensor]
Step = Callable[[torch.Tensor, float], Scalars]

COMPILE_PAYS = 15e9
"""Pixel values (images x channels x height x width) from which `auto` compiles: what it gains on one H100 at batch 256
(168,000 to 203,000 images/s of 1x32x32) is a second per million images, and it costs some fifteen."""


def choose_stepping(stepping: Stepping, device: torch.device, values: float, ranks: int) -> Stepping:
    """What `auto` means for a training of so many pixel `values` in all.

    On CPUs eager: compiled, the default recipe's step took 1.4 times as long on two cores. On one GPU captured, long
    trainings compiled too. On many GPUs eager, because nobody has measured the others there.
    """
    if stepping != "auto":
        return stepping if device.type == "cuda" or stepping == "compiled" else "eager"
    if device.type != "cuda" or ranks > 1:
        return "eager"
    return "compiled" if values >= COMPILE_PAYS else "captured"


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` through torch.compile, or as it is where that fails; random draws are torch's own either way."""
    quick = torch.compile(function, dynamic=False, options={"fallback_random": True})
    both = torch._functorch.config.patch(force_non_lazy_backward_lowering=True)  # backward too, here and not later

    def call(*arguments: Any) -> Any:
        nonlocal quick
        if quick is not function:
            try:
                with both:
                    return quick(*arguments)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # a compiler fails in ways of its own, before anything is computed
                _say("compiled", error)
                quick = function
        return function(*arguments)

    return call


class Captured:
    """A step as one CUDA graph: replayed, it costs the host one launch instead of some hundred.

    The first steps are taken on a side stream, as capturing wants it; they are steps of the training like all others.
    What it returns is overwritten by the next call.
    """

    WARM_UP = 3

    def __init__(self, step: Step) -> None:
        self.step, self.taken = step, 0
        self.side: torch.cuda.Stream | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.failed = False

    def __call__(self, keys: torch.Tensor, share: float) -> Scalars:
        """Take the step."""
        if self.failed:
            return self.step(keys, share)
        if self.taken < self.WARM_UP:
            self.taken += 1
            self.side = self.side or torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self.side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.side):
                scalars = self.step(keys, share)
            torch.cuda.current_stream().wait_stream(self.side)
            return scalars
        if self.graph is None:
            try:
                self._capture(keys, share)
            except RuntimeError as error:
                _say("captured", error)
                self.failed = True
                return self.step(keys, share)
        assert self.graph is not None
        self.keys.copy_(keys, non_blocking=True)
        self.graph.replay()
        return self.scalars

    def _capture(self, keys: torch.Tensor, share: float) -> None:
        self.keys = keys.clone()
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph):
                self.scalars = self.step(self.keys, share)
        finally:
            torch.cuda.set_stream(before)  # where capturing fails, torch leaves its own stream behind
        self.graph = graph


def _say(how: str, error: Exception) -> None:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    tqdm.write(f"the step cannot be {how} here, so it is taken eagerly: {reason}", file=sys.stderr)
