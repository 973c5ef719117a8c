"""`Encoder`, the only way from an image to a vector, and the `embed` stage that takes every image through it."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from aecore import artifact, config
from aecore.artifact import Manifest
from aecore.config import Runtime, UserError
from aecore.counted import counted
from aecore.data.decode import Preparation, Undecodable, decode
from aecore.data.images import Images
from aecore.models import autoencoder
from aecore.models.allocator import keep_freed_memory
from aecore.models.autoencoder import Autoencoder
from aecore.models.device import choose_device
from aecore.models.layers import folded
from aecore.vectors import EmbedConfig, vectors_name


class Encoder:
    """A trained model with its preprocessing: what embeds the corpus embeds the query.

    Works in float32 on every device, so that a code does not depend on how many images share its batch (to rounding,
    relative 1e-5).
    """

    def __init__(
        self, model: Autoencoder, preparation: Preparation, manifest: Manifest, device: torch.device, batch_size: int
    ) -> None:
        self.model: Autoencoder = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._quick = folded(self.model).to(memory_format=torch.channels_last)
        self.preparation, self.manifest, self.device, self.batch_size = preparation, manifest, device, batch_size

    @classmethod
    def load(cls, directory: Path = config.MODEL, device: str = "auto", batch_size: int = 256) -> Encoder:
        """Load a model directory. Raises as `artifact.read_manifest` does, and where 'cuda' is asked but not there."""
        manifest = artifact.read_manifest(directory, "model")
        model, configuration = autoencoder.load(directory)
        return cls(model, Preparation(**configuration["preparation"]), manifest, choose_device(device), batch_size)

    @property
    def dim(self) -> int:
        """Numbers in a code."""
        return self.model.latent_dim

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a prepared image."""
        return self.model.shape

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (n, C, H, W) -> codes float32 (n, dim)."""
        return self._in_batches(lambda x: self._quick.encode(_scaled(x)), pixels, (self.dim,))

    def reconstruct(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (n, C, H, W) -> float32 (n, C, H, W), clipped to [0, 1]."""
        return self._in_batches(lambda x: self._quick(_scaled(x)).reconstruction.clamp(0, 1), pixels, self.shape)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes float32 (n, dim) -> images float32 (n, C, H, W), clipped to [0, 1]."""
        return self._in_batches(lambda z: self._quick.decode(z).clamp(0, 1), codes, self.shape)

    def encode_files(self, paths: Sequence[str | Path]) -> np.ndarray:
        """Codes float32 (n, dim) of image files. Raises UserError naming a file that is missing or no image."""
        codes = np.empty((len(paths), self.dim), np.float32)
        done = 0
        for block in self.encode_stream(self._decoded(paths)):
            codes[done : done + len(block)] = block
            done += len(block)
        return codes

    def encode_stream(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the codes, float32 (n, dim), of each block uint8 (n, C, H, W), while the next one is under way."""
        return self._stream(lambda x: self._quick.encode(_scaled(x)), blocks)

    def _decoded(self, paths: Sequence[str | Path]) -> Iterator[np.ndarray]:
        """Prepared images uint8 (at most batch_size, C, H, W) of files: the next ones are decoded meanwhile."""
        with ThreadPoolExecutor(threads := torch.get_num_threads()) as pool:
            coming: list[Future[list[np.ndarray]]] = []
            for start in [*range(0, len(paths), self.batch_size), len(paths)]:
                ready, block = coming, paths[start : start + self.batch_size]
                each = max(1, math.ceil(len(block) / threads))  # files a thread
                coming = [pool.submit(self._decode, block[i : i + each]) for i in range(0, len(block), each)]
                if ready:
                    yield np.stack([pixels for future in ready for pixels in future.result()])

    def _decode(self, paths: Sequence[str | Path]) -> list[np.ndarray]:
        decoded = []
        for path in paths:
            try:
                decoded.append(decode(Path(path).read_bytes(), self.preparation).pixels)
            except Undecodable as error:
                raise UserError(f"{path} cannot be read as an image: {error}.") from error
            except OSError as error:
                raise UserError(f"{path} cannot be opened: {error.strerror}.") from error
        return decoded

    def _in_batches(
        self, function: Callable[[torch.Tensor], torch.Tensor], values: np.ndarray, shape: tuple[int, ...]
    ) -> np.ndarray:
        result = np.empty((len(values), *shape), np.float32)
        starts = range(0, len(values), self.batch_size)
        made = self._stream(function, (values[start : start + self.batch_size] for start in starts))
        for start, block in zip(starts, made, strict=True):
            result[start : start + len(block)] = block
        return result

    def _stream(
        self, function: Callable[[torch.Tensor], torch.Tensor], blocks: Iterable[np.ndarray]
    ) -> Iterator[np.ndarray]:
        """Yield `function` of each block; a GPU works on the next block while the caller uses this one."""
        copied: deque[tuple[torch.Tensor, torch.cuda.Event | None]] = deque()
        for block in blocks:
            copied.append(self._computed(function, block))
            if len(copied) > 1 or self.device.type == "cpu":
                yield _arrived(*copied.popleft())
        while copied:
            yield _arrived(*copied.popleft())

    @torch.inference_mode()
    def _computed(
        self, function: Callable[[torch.Tensor], torch.Tensor], block: np.ndarray
    ) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        # TF32 would keep ten bits of a GPU's convolutions.
        given = torch.from_numpy(np.array(block))
        given = given.pin_memory() if self.device.type == "cuda" else given  # else the copy would wait for the GPU
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            made = function(given.to(self.device, non_blocking=True)).float()
        if self.device.type == "cpu":
            return made, None
        host = torch.empty(made.shape, pin_memory=True).copy_(made, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return host, event


def embed(images: Images, encoder: Encoder, path: Path) -> Manifest:
    """Write the codes of all prepared images, shard by shard, as the artefact at `path`."""
    facts = {"count": images.count, "dim": encoder.dim, "shards": images.shard_sizes}
    sources = {"data": images.manifest, "model": encoder.manifest}
    with artifact.writing(path, "embeddings", sources, facts) as directory, _bar(images.count) as bar:
        for number, (_, shard) in enumerate(images.shards()):
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(shard), encoder.dim)}
            with (directory / vectors_name(number)).open("wb") as file:  # not a memory map: a full disk would kill us
                np.lib.format.write_array_header_1_0(file, header)
                starts = range(0, len(shard), encoder.batch_size)
                for codes in encoder.encode_stream(shard[start : start + encoder.batch_size] for start in starts):
                    file.write(codes.tobytes())
                    bar.update(len(codes))
    return artifact.read_manifest(path, "embeddings")


def main() -> None:
    """Read the prepared images and the model; write their codes."""
    runtime, section = config.section(Runtime, "run"), config.section(EmbedConfig, "embed")
    torch.set_num_threads(runtime.threads)
    keep_freed_memory()
    images = Images.open()
    encoder = Encoder.load(config.MODEL, runtime.device, section.batch_size)
    artifact.check_chain(images.manifest, encoder.manifest)
    if encoder.shape != images.shape:
        raise UserError(f"the model takes images of shape {encoder.shape}, the prepared ones have {images.shape}.")
    manifest = embed(images, encoder, config.EMBEDDINGS)
    sizes = f"{counted(images.count, 'image')} into {counted(encoder.dim, 'dimension')}"
    print(f"embedded {sizes}; embeddings {manifest.digest[:12]}")


def _arrived(host: torch.Tensor, event: torch.cuda.Event | None) -> np.ndarray:
    if event is not None:
        event.synchronize()
    return host.numpy()


def _scaled(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels.float() / 255).contiguous(memory_format=torch.channels_last)


def _bar(total: int) -> tqdm:  # type: ignore[type-arg]
    quick = sys.stderr.isatty()
    return tqdm(total=total, desc="embed", unit=" images", unit_scale=True, mininterval=0.5 if quick else 10)
