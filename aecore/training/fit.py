"""The `train` stage: the loop, and the reading and writing around it."""

from __future__ import annotations

import copy
import csv
import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from aecore import artifact, config, tracking
from aecore.config import Runtime, UserError, WorkFailed, require
from aecore.data.corrupt import corrupt
from aecore.data.decode import Preparation
from aecore.data.images import Images
from aecore.models import autoencoder
from aecore.models.autoencoder import Autoencoder
from aecore.models.constraints import constraint_errors, correlation
from aecore.models.device import choose_device
from aecore.models.recipe import read_recipe
from aecore.training.checkpoint import Checkpoint, checkpoint
from aecore.training.engine import Engine, Feed, Precision, choose_precision, pixels, reconstruction_mse
from aecore.training.solve import channel_moments, code_moments, solve_pca, solve_whitening

GRID = 8
"""Images in the grid of reconstructions that is logged while training."""
CELL = 96
"""Pixels: smaller ones are enlarged to about this there."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Section `train`."""

    recipe: str
    """One of `recipes/*.yaml`."""
    overrides: dict[str, Any]
    """Keys of the recipe to change; they win over it."""
    latent_dim: int
    """Numbers in a code."""
    epochs: int
    """Passes over the training images."""
    batch_size: int
    """Images a step."""
    learning_rate: float
    """Peak of the schedule."""
    weight_decay: float
    """AdamW's decoupled decay."""
    warmup_epochs: float
    """Epochs of linear warm-up; a cosine to zero follows."""
    clip_norm: float
    """Largest norm of the gradient."""
    precision: Literal["auto", "fp32", "bf16"]
    """`auto` takes bf16 where the hardware multiplies in it."""

    def __post_init__(self) -> None:
        require(self.latent_dim >= 1, "latent_dim", self.latent_dim, "1 or more")
        require(self.epochs >= 1, "epochs", self.epochs, "1 or more")
        require(self.batch_size >= 2, "batch_size", self.batch_size, "2 or more")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "more than 0")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(self.clip_norm > 0, "clip_norm", self.clip_norm, "more than 0")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise UserError(f"warmup_epochs is {self.warmup_epochs}, but epochs is {self.epochs}: make it smaller.")


@dataclasses.dataclass
class History:
    """What happened, an entry an epoch."""

    train_loss: list[float] = dataclasses.field(default_factory=list)
    validation_mse: list[float] = dataclasses.field(default_factory=list)
    learning_rate: list[float] = dataclasses.field(default_factory=list)
    parts: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    """Parts of the loss without their weights, and how well the constraints hold: by name."""
    seconds: float = 0.0
    """Spent in all epochs so far, whichever process ran them."""

    @property
    def epochs(self) -> int:
        """How many are done."""
        return len(self.train_loss)

    def curves(self) -> dict[str, list[float]]:
        """The lists, by name."""
        return {name: values for name, values in vars(self).items() if isinstance(values, list)} | self.parts

    @property
    def best(self) -> int:
        """The epoch of lowest validation error, from 0."""
        return int(np.argmin(self.validation_mse))


def fit(
    model: Autoencoder, images: Images, train: TrainConfig, seed: int, device: torch.device, precision: Precision,
    saved: Checkpoint, run: tracking.Run,
) -> History:  # fmt: skip
    """Train `model` in place and leave it with the weights of its best epoch; carry on from `saved` if it holds any.

    Killed and carried on, it ends with the weights it would have had (on a CPU, bit for bit).
    Raises WorkFailed when the loss is no longer finite.
    """
    feed = Feed(images, "train", train.batch_size, seed, device)
    warmup, steps = round(train.warmup_epochs * feed.steps), train.epochs * feed.steps
    engine = Engine(model, device, precision, train.learning_rate, train.weight_decay, train.clip_norm, warmup, steps)
    history, best = History(), copy.deepcopy(model.state_dict())
    if state := saved.load():
        history, best = _restore(engine, state)
        tqdm.write(f"carrying on after epoch {history.epochs} of {train.epochs}", file=sys.stderr)
    else:
        run.image(reconstruction_grid(model, images, device), "reconstructions", step=0)  # where a slider begins

    label = f"train {train.recipe} ({device.type}, {precision})"
    with _bar(history.epochs, train.epochs, len(feed.positions), label) as bar:
        for epoch in range(history.epochs, train.epochs):
            started = time.perf_counter()
            model.train()
            torch.manual_seed(_epoch_seed(seed, epoch))  # noise and corruption: carried on, they are drawn again
            totals, seen = dict[str, torch.Tensor](), 0
            for x in feed.epoch(epoch):
                for name, scalar in engine.step(x).items():
                    totals[name] = totals.get(name, 0) + scalar.double() * len(x)
                seen += len(x)
                bar.update(len(x))
            means = {name: float(total) / seen for name, total in totals.items()}
            history.train_loss.append(means.pop("loss"))
            with engine.autocast:
                history.validation_mse.append(reconstruction_mse(model, images, "validation", device))
                means |= _constraints(model, images, device)
            for name, value in means.items():
                history.parts.setdefault(name, []).append(value)
            history.learning_rate.append(float(engine.schedule.get_last_lr()[0]))
            history.seconds += time.perf_counter() - started
            if not math.isfinite(history.train_loss[-1] + history.validation_mse[-1]):
                raise WorkFailed(
                    f"training stopped in epoch {epoch + 1}: the loss is {history.train_loss[-1]}. "
                    f"Lower train.learning_rate (it is {train.learning_rate}) or train.clip_norm ({train.clip_norm})."
                )
            if history.best == epoch:
                best = copy.deepcopy(model.state_dict())
            saved.save(_state(engine, history, best))
            bar.set_postfix_str(f"epoch {epoch + 1}/{train.epochs}, validation MSE {history.validation_mse[-1]:.5f}")
            run.log({name: values[-1] for name, values in history.curves().items()}, step=epoch + 1)
            if epoch % 10 == 9 or epoch + 1 == train.epochs:
                run.image(reconstruction_grid(model, images, device), "reconstructions", step=epoch + 1)
    model.load_state_dict(best)
    return history


def reconstruction_grid(model: Autoencoder, images: Images, device: torch.device) -> np.ndarray:
    """Validation images, what the model was given where that differs, and what it made of it, row by row.

    uint8 (2 or 3 rows of H, GRID * W, C), enlarged by a whole factor.
    """
    model.eval()
    x = pixels(images.rows(images.positions("validation")[:GRID]), device)
    recipe = model.recipe
    given, _ = corrupt(x, recipe.corruption, recipe.amount, torch.Generator(device).manual_seed(0))
    with torch.inference_mode():
        made = model(given).reconstruction.clamp(0, 1)
    rows = torch.stack([x, made] if recipe.corruption == "none" else [x, given, made])  # (2 or 3, n, C, H, W)
    r, n, c, h, w = rows.shape
    grid = rows.permute(0, 3, 1, 4, 2).reshape(r * h, n * w, c)
    enlarged = max(1, CELL // h)
    return np.asarray((grid * 255).round().byte().cpu().numpy()).repeat(enlarged, axis=0).repeat(enlarged, axis=1)


def main() -> None:
    """Read `params.yaml` and the prepared data; write the model, its curves and its speed; record the run."""
    runtime = config.section(Runtime, "run")
    train = config.section(TrainConfig, "train")
    track = config.section(tracking.TrackingConfig, "tracking")
    recipe = read_recipe(train.recipe, train.overrides)
    images = Images.open()
    if len(images.positions("train")) < 2:
        raise UserError(
            "there is one training image, and training needs two: add images, or raise prepare.split.train."
        )
    torch.manual_seed(runtime.seed)
    torch.set_num_threads(runtime.threads)
    device = choose_device("cpu" if recipe.architecture == "pca" else runtime.device)
    precision = choose_precision(train.precision, device)
    model = Autoencoder(recipe, images.shape, train.latent_dim)
    training = dataclasses.asdict(train) | {"precision": precision, "device": device.type}
    training |= {"seed": runtime.seed, "threads": runtime.threads}
    data = {"digest": images.manifest.digest, **images.manifest.facts["splits"]}
    parameters = {"train": training, "recipe": dataclasses.asdict(recipe), "data": data}

    with (
        threadpool_limits(runtime.threads),
        checkpoint({**parameters, "code": _code(), "torch": torch.__version__}) as saved,
        tracking.run("train", parameters, {"aecore.data": images.manifest.digest}, track) as run,
    ):
        run.dataset("prepared", images.manifest.digest, "training")
        if recipe.architecture == "pca":
            started = time.perf_counter()
            training["exact"] = solve_pca(model, images, runtime.seed)
            errors = [reconstruction_mse(model, images, split, device) for split in ("train", "validation")]
            history = History([errors[0]], [errors[1]], [0.0], seconds=time.perf_counter() - started)
            run.image(reconstruction_grid(model, images, device), "reconstructions", step=1)
        else:
            model.normalise_by(*channel_moments(images))
            try:
                history = fit(model, images, train, runtime.seed, device, precision, saved, run)
            except torch.OutOfMemoryError as error:
                raise WorkFailed(
                    f"the GPU's memory is too small: lower train.batch_size ({train.batch_size})."
                ) from error
        if model.whitening is not None:
            solve_whitening(model, model.whitening, images, device)

        preparation = {field.name: images.manifest.facts[field.name] for field in dataclasses.fields(Preparation)}
        with artifact.writing(config.MODEL, "model", {"data": images.manifest}) as directory:
            autoencoder.save(model, directory, preparation, training)
        manifest = artifact.read_manifest(config.MODEL, "model")
        summary = {
            "best_epoch": history.best + 1,
            "validation_mse": history.validation_mse[history.best],
            "parameters": sum(p.numel() for p in model.parameters()),
            "seconds": history.seconds,
            "images_per_second": history.epochs * len(images.positions("train")) / history.seconds,
        }
        _write_reports(history, summary)
        best = {"best_validation_mse": summary.pop("validation_mse")}  # `validation_mse` names the curve
        run.log({key: float(value) for key, value in summary.items()})
        run.model(config.MODEL, manifest, best)
        saved.discard()
    print(
        f"trained {train.recipe} ({summary['parameters']:,} parameters) in {history.seconds:.0f} s: validation MSE "
        f"{best['best_validation_mse']:.5f} at epoch {summary['best_epoch']}; weights {manifest.digest[:12]}"
    )


def _code() -> dict[str, str]:
    """sha256 of the files that determine a training: a checkpoint of other code is not carried on."""
    ours = ("aecore.training", "aecore.models", "aecore.data.images", "aecore.data.corrupt")
    files = {name: module.__file__ for name, module in sys.modules.items() if name.startswith(ours)}
    return {name: artifact.sha256_file(Path(file)) for name, file in sorted(files.items()) if file}


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


def _constraints(model: Autoencoder, images: Images, device: torch.device) -> dict[str, float]:
    """How well what the recipe asks of weights and code holds, on validation images; empty where it asks nothing."""
    errors = constraint_errors(model.encoder) if model.recipe.weights else {}
    if model.recipe.weights or "decorrelation" in model.recipe.penalties:
        errors["correlation"] = correlation(code_moments(model, images, "validation", device)[1])
    return errors


def _state(engine: Engine, history: History, best: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {
        "model": engine.model.state_dict(),
        "helpers": engine.helpers.state_dict(),
        "optimiser": engine.optimiser.state_dict(),
        "schedule": engine.schedule.state_dict(),
        "best": best,
        "history": dataclasses.asdict(history),
    }


def _restore(engine: Engine, state: dict[str, Any]) -> tuple[History, dict[str, torch.Tensor]]:
    engine.model.load_state_dict(state["model"])
    engine.helpers.load_state_dict(state["helpers"])
    engine.optimiser.load_state_dict(state["optimiser"])
    engine.schedule.load_state_dict(state["schedule"])
    return History(**state["history"]), state["best"]


def _bar(first: int, epochs: int, images: int, description: str) -> tqdm[Any]:
    return tqdm(
        total=epochs * images, initial=first * images, desc=description, unit=" images", unit_scale=True,
        mininterval=0.5 if sys.stderr.isatty() else 10, dynamic_ncols=True,
    )  # fmt: skip


def _write_reports(history: History, summary: dict[str, Any]) -> None:
    config.REPORTS.mkdir(exist_ok=True)
    with Path(config.REPORTS / "training.csv").open("w", newline="") as file:
        table = csv.writer(file)
        curves = history.curves()
        table.writerow(["epoch", *curves])
        table.writerows([epoch, *row] for epoch, row in enumerate(zip(*curves.values(), strict=True), start=1))
    artifact.write_json(config.REPORTS / "train.json", summary)
