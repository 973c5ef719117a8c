"""How training images reach a step: in which order, from where, and how long the step waited for them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from itertools import zip_longest
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from aecore.config import UserError
from aecore.counted import counted
from aecore.data.images import Images
from aecore.training.ranks import ALONE, Ranks

Numbers = TypeVar("Numbers", np.ndarray, torch.Tensor)

RESIDENT_SHARE = 0.25
"""A data set that takes at most this share of the GPU's free memory is kept there whole, ..."""
RESIDENT_BYTES = 256 << 20
"""... and without a GPU one of at most so much in RAM: read batch by batch, the default recipe trains 12 % slower."""
RUN_BYTES = 1 << 20
"""Training images that lie together are drawn about this much at a time where the set is too large to shuffle whole."""
READ_BYTES = 64 << 20
"""Read at a time: so soon the reader can be stopped."""


class Batch(NamedTuple):
    """What a step is given."""

    keys: torch.Tensor
    """uint8 (b, C, H, W), or where the set is resident int64 (b,), rows of it: see `Feed.gather`."""
    share: float
    """This rank's part of the whole batch: 1 where it trains alone."""


class Feed:
    """Batches of training images in a fresh order every epoch, which seed and epoch alone determine.

    Up to `shuffle_bytes` the order is a permutation of the whole set. Beyond, runs of RUN_BYTES that lie together are
    put in random order, as many as fill half of `shuffle_bytes` are read at a time (the next half while one is used),
    and the images of that window are permuted: two images may share a batch if their runs share a window.
    `ranks` take every batch in turn, image by image.
    """

    def __init__(
        self, images: Images, split: str, batch_size: int, seed: int, device: torch.device,
        shuffle_bytes: float = math.inf, ranks: Ranks = ALONE,
    ) -> None:  # fmt: skip
        self.images, self.batch_size, self.seed, self.device, self.ranks = images, batch_size, seed, device, ranks
        self.positions = images.positions(split)
        self.waited = 0.0
        """Seconds that steps have waited for images that were not there yet."""
        for what, count in (("train.batch_size is", batch_size), ("there are", len(self.positions))):
            if count < 2 * ranks.size:
                few = f"{what} {counted(count, 'image')} for {counted(ranks.size, 'device')}"
                raise UserError(f"{few}: each needs two images of every batch.")
        each = math.prod(images.shape)
        self.window: int | None = None
        """Images in a window, whole batches; None where the set is shuffled as a whole."""
        if len(self.positions) * each > shuffle_bytes:
            self.window = max(1, int(shuffle_bytes / 2 / each) // batch_size) * batch_size
            self.run = max(1, min(RUN_BYTES // each, self.window // 8))
        self._chunk = max(1, READ_BYTES // each)
        self._closed = False
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._coming: tuple[int, Future[np.ndarray]] | None = None  # an epoch, and the window of it being read
        self._resident: torch.Tensor | None = None
        if device.type == "cuda":
            room = RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
        else:
            room = RESIDENT_BYTES if self.window is None else 0
        if len(self.positions) * each <= room:
            self._resident = self._uploaded(device)

    @property
    def steps(self) -> int:
        """Steps in an epoch; a last batch of less than two images a rank, too few to normalise by, is left out."""
        full, rest = divmod(len(self.positions), self.batch_size)
        return max(1, full + (rest >= 2 * self.ranks.size))

    def order(self, epoch: int) -> np.ndarray:
        """The epoch's order, int64 (at most n,): numbers into `positions`, as many as its steps take."""
        rng = np.random.default_rng((self.seed, epoch))
        n, used = len(self.positions), self.steps * self.batch_size
        if self.window is None:
            return rng.permutation(n)[:used]
        starts = rng.permutation(math.ceil(n / self.run)) * self.run
        lying = (starts[:, None] + np.arange(self.run)).ravel()
        lying = lying[lying < n]
        return np.concatenate([rng.permutation(lying[w : w + self.window]) for w in range(0, n, self.window)])[:used]

    def close(self) -> None:
        """Stop reading ahead and let the reader go."""
        self._closed = True
        self._reader.shutdown(wait=False, cancel_futures=True)

    def epoch(self, epoch: int, last: bool = False) -> Iterator[Batch]:
        """Yield the epoch's batches: this rank's share of each. After the `last` epoch nothing is read ahead."""
        order = self.order(epoch)
        if self._resident is not None:
            for whole in torch.from_numpy(order).to(self.device).split(self.batch_size):  # type: ignore[no-untyped-call]
                yield Batch(self._mine(whole), self._share(whole))
            return
        for rows, share in self._by_batch(order) if self.window is None else self._by_window(epoch, order, last):
            keys = torch.from_numpy(rows)
            keys = keys.pin_memory() if self.device.type == "cuda" else keys
            yield Batch(keys.to(self.device, non_blocking=True), share)

    def gather(self, keys: torch.Tensor) -> torch.Tensor:
        """The images that a batch's `keys` stand for, uint8 (b, C, H, W) on the device."""
        return keys if self._resident is None else self._resident[keys]

    def _mine(self, batch: Numbers) -> Numbers:
        """This rank's share of a whole batch."""
        return batch[self.ranks.rank :: self.ranks.size]

    def _share(self, batch: Numbers) -> float:
        return len(self._mine(batch)) / len(batch)

    def _batches(self, order: np.ndarray) -> list[np.ndarray]:
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def _by_batch(self, order: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
        """Images and share of each batch, from anywhere in the set; the reader is one batch ahead."""
        batches = self._batches(order)
        coming = self._reader.submit(self._rows, self._mine(batches[0]))
        for batch, following in zip_longest(batches, batches[1:]):
            rows = self._awaited(coming)
            if following is not None:
                coming = self._reader.submit(self._rows, self._mine(following))
            yield rows, self._share(batch)

    def _by_window(self, epoch: int, order: np.ndarray, last: bool) -> Iterator[tuple[np.ndarray, float]]:
        """Images and share of each batch; the reader is one window ahead, also from one epoch to the next."""
        assert self.window is not None
        windows = [order[start : start + self.window] for start in range(0, len(order), self.window)]
        if self._coming is None or self._coming[0] != epoch:
            self._coming = epoch, self._reader.submit(self._rows, np.sort(windows[0]))
        for window, following in zip_longest(windows, windows[1:]):
            images, lying = self._awaited(self._coming[1]), np.sort(window)
            if following is not None:
                self._coming = epoch, self._reader.submit(self._rows, np.sort(following))
            elif not last:
                first = self.order(epoch + 1)[: self.window]
                self._coming = epoch + 1, self._reader.submit(self._rows, np.sort(first))
            for batch in self._batches(window):
                yield images[np.searchsorted(lying, self._mine(batch))], self._share(batch)

    def _rows(self, numbers: np.ndarray) -> np.ndarray:
        """Images by their numbers, uint8 (m, C, H, W)."""
        rows = np.empty((len(numbers), *self.images.shape), np.uint8)
        for start in range(0, len(numbers), self._chunk):
            if self._closed:
                raise CancelledError
            chunk = numbers[start : start + self._chunk]
            rows[start : start + len(chunk)] = self.images.rows(self.positions[chunk])
        return rows

    def _awaited(self, future: Future[np.ndarray]) -> np.ndarray:
        started = time.perf_counter()
        result = future.result()
        self.waited += time.perf_counter() - started
        return result

    def _uploaded(self, device: torch.device) -> torch.Tensor:
        resident = torch.empty((len(self.positions), *self.images.shape), dtype=torch.uint8, device=device)
        for start in range(0, len(self.positions), 8192):
            rows = self.images.rows(self.positions[start : start + 8192])
            resident[start : start + len(rows)] = torch.from_numpy(rows)
        return resident
