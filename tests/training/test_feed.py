from __future__ import annotations

import time
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
import torch

from aecore.config import UserError, WorkFailed
from aecore.data.images import Images, shard_name
from aecore.training.feed import Feed
from aecore.training.ranks import Ranks

CPU = torch.device("cpu")
EACH = 144


def fed(feed: Feed, epoch: int) -> list[np.ndarray]:
    return [feed.gather(batch.keys).numpy() for batch in feed.epoch(epoch)]


@pytest.mark.parametrize("shuffle_bytes", [np.inf, 64 * EACH, EACH], ids=["whole", "windows", "smallest"])
@pytest.mark.parametrize("resident", [True, False], ids=["resident", "read"])
def test_batches_are_the_images_in_the_order_told(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, shuffle_bytes: float, resident: bool
) -> None:
    if not resident:
        monkeypatch.setattr("aecore.training.feed.RESIDENT_BYTES", 0)
    images = Images.open()
    feed = Feed(images, "train", 8, 0, CPU, shuffle_bytes)
    n = len(feed.positions)
    for epoch in (0, 1, 0):  # back to the first: what had been read ahead is not what is asked for
        order = feed.order(epoch)
        assert len(np.unique(order)) == len(order) == (n if n % 8 != 1 else n - 1)
        batches = fed(feed, epoch)
        assert len(batches) == feed.steps
        np.testing.assert_array_equal(np.concatenate(batches), images.rows(feed.positions[order]))
    assert not np.array_equal(feed.order(0), feed.order(1))
    assert np.array_equal(feed.order(0), Feed(images, "train", 8, 0, CPU, shuffle_bytes).order(0))


def test_a_window_holds_half_of_what_is_allowed_and_is_drawn_from_everywhere(workspace: Path) -> None:
    feed = Feed(Images.open(), "train", 8, 0, CPU, 64 * EACH)
    assert feed.window == 32
    assert feed.run == 4
    first, another = (np.sort(feed.order(epoch)[:32]) for epoch in (0, 1))
    assert len(np.unique(first // 4)) <= 9  # eight whole runs; the set's last one may be short
    assert np.ptp(first) > 64  # from far apart
    assert not np.array_equal(first, another)


def test_no_more_is_read_than_two_windows(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Feed(Images.open(), "train", 8, 0, CPU, 64 * EACH)
    read = 0
    rows = feed._rows

    def counted(numbers: np.ndarray) -> np.ndarray:
        nonlocal read
        read += len(numbers)
        assert len(numbers) <= 32
        return rows(numbers)

    monkeypatch.setattr(feed, "_rows", counted)
    used = 0
    for batch in feed.epoch(0):
        assert read - used <= 64
        used += len(batch.keys)


@pytest.mark.parametrize("shuffle_bytes", [np.inf, 64 * EACH])
@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_every_batch(workspace: Path, shuffle_bytes: float, size: int) -> None:
    images = Images.open()
    alone = fed(Feed(images, "train", 10, 0, CPU, shuffle_bytes), 0)
    feeds = [Feed(images, "train", 10, 0, CPU, shuffle_bytes, Ranks(rank, size)) for rank in range(size)]
    shared = [list(feed.epoch(0)) for feed in feeds]
    whole_batches = len(feeds[0].positions) // 10
    assert min(map(len, [alone, *shared])) >= whole_batches > 5
    for whole, *parts in zip(alone[:whole_batches], *[batches[:whole_batches] for batches in shared], strict=True):
        assert sum(part.share for part in parts) == pytest.approx(1)
        for rank, (feed, part) in enumerate(zip(feeds, parts, strict=True)):
            np.testing.assert_array_equal(feed.gather(part.keys).numpy(), whole[rank::size])
            assert part.share == len(part.keys) / len(whole)


def test_a_batch_too_small_for_its_ranks_is_refused(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"train\.batch_size is 5 images for 3 devices"):
        Feed(Images.open(), "train", 5, 0, CPU, ranks=Ranks(0, 3))
    with pytest.raises(UserError, match=r"there are \d+ images for 100 devices"):
        Feed(Images.open(), "train", 1000, 0, CPU, ranks=Ranks(0, 100))


def test_after_the_last_epoch_nothing_is_read_ahead_and_a_closed_feed_stops(workspace: Path) -> None:
    feed = Feed(Images.open(), "train", 8, 0, CPU, 64 * EACH)
    epochs = feed.epoch(0, last=True)
    next(epochs)
    assert feed._coming is not None
    assert feed._coming[0] == 0
    list(epochs)
    assert feed._coming[0] == 0  # not the first window of the next
    feed.close()
    with pytest.raises(CancelledError):
        feed._rows(np.arange(3))
    with pytest.raises(RuntimeError, match="shutdown"):
        next(feed.epoch(1))


@pytest.mark.parametrize("shuffle_bytes", [np.inf, 64 * EACH])
def test_waiting_is_counted_and_a_damaged_shard_is_named(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, shuffle_bytes: float
) -> None:
    monkeypatch.setattr("aecore.training.feed.RESIDENT_BYTES", 0)
    images = Images.open()
    feed = Feed(images, "train", 8, 0, CPU, shuffle_bytes)
    read = images.rows
    monkeypatch.setattr(images, "rows", lambda positions: (time.sleep(0.05), read(positions))[1])
    started = time.perf_counter()
    fed(feed, 0)
    assert 0.05 <= feed.waited <= time.perf_counter() - started
    path = images.directory / shard_name(0)
    path.write_bytes(path.read_bytes()[: -60 * EACH])
    with pytest.raises(WorkFailed, match=r"images-00000\.npy is cut short"):
        fed(Feed(images, "train", 8, 0, CPU, shuffle_bytes), 0)
