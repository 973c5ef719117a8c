"""The training loop and what it tells."""

from __future__ import annotations

import copy
import dataclasses
import math
import sys
import time
from contextlib import closing
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from aecore import tracking
from aecore.config import WorkFailed
from aecore.data.corrupt import corrupt
from aecore.data.images import Images
from aecore.models.autoencoder import Autoencoder
from aecore.models.constraints import constraint_errors, correlation
from aecore.training.checkpoint import Checkpoint
from aecore.training.engine import Engine, Precision, pixels, reconstruction_mse
from aecore.training.feed import Feed
from aecore.training.ranks import ALONE, Ranks
from aecore.training.settings import TrainConfig
from aecore.training.solve import code_moments
from aecore.training.stepping import choose_stepping

GRID = 8
"""Images in the grid of reconstructions that is logged while training."""
CELL = 96
"""Pixels: smaller ones are enlarged to about this there."""
GROWN = 10
"""A loss that ends at so many times its lowest has not been minimised."""
GREY = 1
"""More than any reconstruction loss of plain grey images, a mean over pixels in [0, 1]: BCE gives 0.69, MSE 0.25."""


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
    waited: float = 0.0
    """Of these, until images had been read."""

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
    saved: Checkpoint, run: tracking.Run, ranks: Ranks = ALONE,
) -> History:  # fmt: skip
    """Train `model` in place and leave it with the weights of its best epoch; carry on from `saved` if it holds any.

    Killed and carried on, it ends with the weights it would have had (on a CPU, bit for bit).
    Raises WorkFailed when the loss is no longer finite.
    """
    feed = Feed(images, "train", train.batch_size, seed, device, train.shuffle_gb * 1e9, ranks)
    engine = make_engine(model, feed, train, device, precision)
    history, best = History(), copy.deepcopy(model.state_dict())
    if state := saved.load():
        history, best = _restore(engine, state)
        _say(f"carrying on after epoch {history.epochs} of {train.epochs}", ranks)
    elif ranks.first:
        run.image(reconstruction_grid(model, images, device), "reconstructions", step=0)  # where a slider begins

    label = f"train {train.recipe} ({device.type}, {precision})"
    images_an_epoch = min(len(feed.positions), feed.steps * train.batch_size)
    with closing(feed), _bar(history.epochs, train.epochs, images_an_epoch, label, ranks) as bar:
        for epoch in range(history.epochs, train.epochs):
            started, waited = time.perf_counter(), feed.waited
            model.train()
            torch.manual_seed(_epoch_seed(seed, epoch, ranks))  # noise and corruption: carried on, drawn again
            totals, seen = dict[str, torch.Tensor](), 0.0
            for batch in feed.epoch(epoch, last=epoch + 1 == train.epochs):
                size = len(batch.keys)
                for name, scalar in engine.step(batch).items():
                    totals[name] = totals.get(name, 0) + scalar.double() * size
                seen += size
                bar.update(round(size / batch.share))
            ranks.agree(model)
            _record(history, engine, images, totals, seen)
            history.seconds += time.perf_counter() - started
            history.waited += feed.waited - waited
            if told := diverged(history):
                raise WorkFailed(
                    f"training diverged in epoch {epoch + 1} of {train.epochs}: {told}. Lower train.learning_rate (it "
                    f"is {train.learning_rate:g}) or train.clip_norm ({train.clip_norm:g})"
                    + (", or set train.precision: fp32." if precision == "bf16" else ".")
                )
            if history.best == epoch:
                best = copy.deepcopy(model.state_dict())
            if ranks.first:
                saved.save(_state(engine, history, best))
                run.log({name: values[-1] for name, values in history.curves().items()}, step=epoch + 1)
                if epoch % 10 == 9 or epoch + 1 == train.epochs:
                    run.image(reconstruction_grid(model, images, device), "reconstructions", step=epoch + 1)
            mse = f"validation MSE {history.validation_mse[-1]:.5f}"
            postfix = f"epoch {epoch + 1}/{train.epochs}, {mse}, waited {history.waited:.1f} s for images"
            bar.set_postfix_str(postfix, refresh=sys.stderr.isatty())
    if told := grown(history):
        _say(f"{told}: lower train.learning_rate (it is {train.learning_rate:g}).", ranks)
    model.load_state_dict(best)
    return history


def diverged(history: History) -> str:
    """What of the last epoch is no finite number, and how the training loss went until then; "" while all are.

    The weights may break at the end of an epoch: then its mean loss is still a number, and the validation error is not.
    """
    last = {name: values[-1] for name, values in history.curves().items()}
    names = {"train_loss": "training loss", "validation_mse": "validation MSE"}
    broken = [f"the {names.get(name, name)} is {value}" for name, value in last.items() if not math.isfinite(value)]
    if not broken:
        return ""
    *before, loss = history.train_loss
    went = {"in this epoch": loss} if math.isfinite(loss) else {}
    if before:
        lowest = int(np.argmin(before))
        went = {f"in epoch {lowest + 1}": before[lowest], f"in epoch {len(before)}": before[-1]} | went
    told = ", ".join(f"{value:.4g} {when}" for when, value in went.items())
    return " and ".join(broken) + (f"; the training loss was {told}" if told else "")


def grown(history: History) -> str:
    """How the training loss grew, where it ended at more than GROWN times its lowest, or above GREY; "" elsewhere."""
    lowest = int(np.argmin(history.train_loss))
    painted = history.parts.get("reconstruction", history.train_loss)[-1]
    if 0 < GROWN * history.train_loss[lowest] < history.train_loss[-1]:
        told = f"grew from {history.train_loss[lowest]:.4g} in epoch {lowest + 1} to {history.train_loss[-1]:.4g}"
    elif painted > GREY:
        told = f"ended at {painted:.4g}"
    else:
        return ""
    beside = "" if painted <= GREY else f", where plain grey images would cost less than {GREY}"
    kept = f"and the model kept is that of epoch {history.best + 1}"
    return f"the training loss {told} in epoch {history.epochs}{beside}, {kept}"


def make_engine(
    model: Autoencoder, feed: Feed, train: TrainConfig, device: torch.device, precision: Precision
) -> Engine:
    """The engine that `train` asks for, over what `feed` brings."""
    warmup, steps = round(train.warmup_epochs * feed.steps), train.epochs * feed.steps
    values = train.epochs * len(feed.positions) * math.prod(feed.images.shape)
    return Engine(
        model, device, precision, train.learning_rate, train.weight_decay, train.clip_norm, warmup, steps,
        gather=feed.gather, ranks=feed.ranks,
        stepping=choose_stepping(train.stepping, device, values, feed.ranks.size),
    )  # fmt: skip


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


def _epoch_seed(seed: int, epoch: int, ranks: Ranks) -> int:
    entropy = (seed, epoch) if ranks.first else (seed, epoch, ranks.rank)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def _record(history: History, engine: Engine, images: Images, totals: dict[str, torch.Tensor], seen: float) -> None:
    """Add an epoch: the means of the training losses, the validation error, and how well the constraints hold."""
    sums = torch.stack([*totals.values(), torch.tensor(seen, dtype=torch.float64, device=engine.device)])
    engine.ranks.sum([sums])
    means = {name: float(total / sums[-1]) for name, total in zip(totals, sums, strict=False)}
    history.train_loss.append(means.pop("loss"))
    with engine.autocast:
        history.validation_mse.append(
            reconstruction_mse(engine.model, images, "validation", engine.device, engine.ranks)
        )
        means |= _constraints(engine.model, images, engine.device)
    for name, value in means.items():
        history.parts.setdefault(name, []).append(value)
    history.learning_rate.append(engine.learning_rate)


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
        "taken": engine.taken,
        "best": best,
        "history": dataclasses.asdict(history),
    }


def _restore(engine: Engine, state: dict[str, Any]) -> tuple[History, dict[str, torch.Tensor]]:
    engine.model.load_state_dict(state["model"])
    engine.helpers.load_state_dict(state["helpers"])
    engine.optimiser.load_state_dict(state["optimiser"])
    engine.taken = state["taken"]
    for group in engine.optimiser.param_groups:
        if isinstance(group["lr"], torch.Tensor):  # loaded on the CPU, where a captured graph would read it only once
            group["lr"] = group["lr"].to(engine.device)
    return History(**state["history"]), state["best"]


def _say(sentence: str, ranks: Ranks) -> None:
    if ranks.first:
        tqdm.write(sentence, file=sys.stderr)


def _bar(first: int, epochs: int, images: int, description: str, ranks: Ranks) -> tqdm[Any]:
    if ranks.size > 1:
        description += f" x {ranks.size}"
    return tqdm(
        total=epochs * images, initial=first * images, desc=description, unit=" images", unit_scale=True,
        disable=not ranks.first,
        mininterval=0.5 if sys.stderr.isatty() else 10, dynamic_ncols=True,
    )  # fmt: skip
