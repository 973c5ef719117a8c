"""Ways to train the reference network: contestants of `benchmarks/train.py`."""

from __future__ import annotations

import dataclasses
import logging
import math
import warnings
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from contest import Clock, Contestant
from pile import SIDE, Files, Pile, floats, loader
from torch.utils.data import DataLoader, TensorDataset

from aecore.data.images import Images
from aecore.models.allocator import keep_freed_memory
from aecore.models.autoencoder import Autoencoder
from aecore.models.recipe import Recipe
from aecore.training.engine import Engine, choose_precision
from aecore.training.feed import Feed
from aecore.training.settings import Stepping
from aecore.training.solve import channel_moments

REFERENCE = Recipe("conv", widths=(32, 64, 128), down="strided", up="nearest")
"""`conv_nearest`, wider."""
RATE, DECAY, CLIP, SEED = 1e-3, 1e-4, 1.0, 0
BASE = "PIL + DataLoader"


@dataclasses.dataclass(frozen=True)
class Task:
    """What every contestant is given."""

    pile: Pile
    batch: int
    device: str
    workers: int


def reference(images: Images | None = None) -> Autoencoder:
    """The reference network, always with the same weights, normalised by the moments of `images`."""
    torch.manual_seed(SEED)
    model = Autoencoder(REFERENCE, (1, SIDE, SIDE), 64)
    if images is not None:
        model.normalise_by(*channel_moments(images))
    return model


@torch.no_grad()
def validation_mse(model: Autoencoder, images: Images, device: str) -> float:
    """Mean squared error over the validation images, float32, the model evaluating; it is left training."""
    model.eval()
    errors = []
    for x in floats(images, images.positions("validation")).split(64):  # type: ignore[no-untyped-call]
        errors.append((model(x.to(device)).reconstruction - x.to(device)).square().flatten(1).mean(1))
    model.train()
    return float(torch.cat(errors).mean())


def plain_loop(task: Task, clock: Clock, data: DataLoader[tuple[torch.Tensor, ...]], images: Images) -> None:
    """What a tutorial does: float32, channels first."""
    model = reference(images).to(task.device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    clock.score = partial(validation_mse, model, images, task.device)
    while True:
        for (x,) in data:
            x = x.to(task.device, non_blocking=True)
            loss = F.mse_loss(model(x).reconstruction, x)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            clock.step(len(x))


def pil(task: Task, clock: Clock) -> None:
    """From image files, opened by workers."""
    images = task.pile.images()
    data = loader(Files(task.pile.files(images.positions("train"))), task.batch, task.device, workers=task.workers)
    clock.ahead = 2 * max(1, task.workers)
    plain_loop(task, clock, data, images)


def tensors(task: Task, clock: Clock) -> None:
    """From tensors in main memory."""
    images = task.pile.images()
    data = TensorDataset(floats(images, images.positions("train")))
    plain_loop(task, clock, loader(data, task.batch, task.device), images)


def lightning(task: Task, clock: Clock) -> None:
    """Lightning's Trainer over the same tensors, with nothing that logs or saves."""
    from lightning import LightningModule, Trainer

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    images = task.pile.images()

    class Module(LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = reference(images)

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            return F.mse_loss(self.model(batch[0]).reconstruction, batch[0])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.model.parameters(), lr=RATE, weight_decay=DECAY)

        def on_train_batch_end(self, outputs: Any, batch: list[torch.Tensor], index: int) -> None:
            clock.step(len(batch[0]))

    module = Module()
    clock.score = partial(validation_mse, module.model, images, task.device)
    trainer = Trainer(
        max_epochs=-1, accelerator="gpu" if task.device == "cuda" else "cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    data = TensorDataset(floats(images, images.positions("train")))
    trainer.fit(module, loader(data, task.batch, task.device))


def pythae(task: Task, clock: Clock) -> None:
    """pythae's AE of the same network and its BaseTrainer over the same tensors, without its progress bar."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import AE, AEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback

    logging.disable(logging.INFO)
    images = task.pile.images()
    model, x = reference(images), floats(images, images.positions("train"))

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> Any:
            return ModelOutput(embedding=self.model.encode(x))

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, z: torch.Tensor) -> Any:
            return ModelOutput(reconstruction=self.model.decode(z))

    class Count(TrainingCallback):  # type: ignore[misc]
        steps = 0

        def on_train_step_end(self, *arguments: Any, **options: Any) -> None:
            start = self.steps * task.batch % (math.ceil(len(x) / task.batch) * task.batch)
            self.steps += 1
            clock.step(min(task.batch, len(x) - start))

    class Silent(BaseTrainer):  # type: ignore[misc]
        def _setup_callbacks(self) -> None:
            self.callback_handler = CallbackHandler(self.callbacks, self.model)

    configuration = BaseTrainerConfig(
        output_dir=str(task.pile.folder / "pythae"), num_epochs=10**9, per_device_train_batch_size=task.batch,
        optimizer_cls="AdamW", optimizer_params={"weight_decay": DECAY}, learning_rate=RATE,
        no_cuda=task.device != "cuda",
    )  # fmt: skip
    whole = AE(AEConfig(input_dim=(1, SIDE, SIDE), latent_dim=64), Encoder(), Decoder())
    clock.score = partial(validation_mse, model, images, task.device)
    Silent(whole, BaseDataset(x, torch.zeros(len(x))), None, configuration, [Count()]).train()


def ours(task: Task, clock: Clock, precision: Any = "auto", stepping: Stepping = "compiled", keep: bool = True) -> None:
    """This project, as its stage `train` does it."""
    if keep:
        keep_freed_memory()
    device, images = torch.device(task.device), task.pile.images()
    model = reference(images)
    feed = Feed(images, "train", task.batch, SEED, device)
    engine = Engine(
        model, device, choose_precision(precision, device), RATE, DECAY, CLIP, 0, 10**9, gather=feed.gather,
        stepping=stepping if task.device == "cuda" else "eager",
    )  # fmt: skip
    clock.score = partial(validation_mse, model, images, task.device)
    epoch = 0
    while True:
        for batch in feed.epoch(epoch):
            engine.step(batch)
            clock.step(len(batch.keys))
        epoch += 1


CONTESTANTS = [
    Contestant(BASE, pil),
    Contestant("tensors + DataLoader", tensors),
    Contestant("Lightning", lightning, "lightning"),
    Contestant("pythae BaseTrainer", pythae, "pythae"),
    Contestant("aecore", ours),
]
ABLATED = {
    "cpu": [
        Contestant("aecore, fp32", partial(ours, precision="fp32")),
        Contestant("aecore, freed memory given back", partial(ours, keep=False)),
    ],
    "cuda": [
        Contestant("aecore, fp32", partial(ours, precision="fp32")),
        Contestant("aecore, not compiled", partial(ours, stepping="captured")),
        Contestant("aecore, neither compiled nor captured", partial(ours, stepping="eager")),
    ],
}
