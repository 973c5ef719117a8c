"""The `train` stage: the reading and writing around the loop, alone or as one of several ranks."""

from __future__ import annotations

import csv
import dataclasses
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from aecore import artifact, config, tracking
from aecore.config import Runtime, UserError, WorkFailed
from aecore.data.decode import Preparation
from aecore.data.images import Images
from aecore.models import autoencoder
from aecore.models.allocator import keep_freed_memory
from aecore.models.autoencoder import Autoencoder
from aecore.models.device import choose_device, require_devices
from aecore.models.recipe import read_recipe
from aecore.training.checkpoint import checkpoint
from aecore.training.engine import choose_precision, reconstruction_mse
from aecore.training.fit import History, fit, reconstruction_grid
from aecore.training.ranks import Ranks, joined, leaving_a_verdict, start, started_by_torchrun
from aecore.training.settings import TrainConfig
from aecore.training.solve import channel_moments, solve_pca, solve_whitening


def main() -> None:
    """Read `params.yaml` and the prepared data; write the model, its curves and its speed; record the run.

    Where `train.devices` asks for several processes, this one only starts them and waits.
    """
    begun = time.perf_counter()
    runtime, train = config.section(Runtime, "run"), config.section(TrainConfig, "train")
    recipe = read_recipe(train.recipe, train.overrides)
    images = Images.open()
    if len(images.positions("train")) < 2:
        raise UserError(
            "there is one training image, and training needs two: add images, or raise prepare.split.train."
        )
    torch.manual_seed(runtime.seed)
    model = Autoencoder(recipe, images.shape, train.latent_dim)
    device = choose_device("cpu" if recipe.architecture == "pca" else runtime.device)
    if train.devices > 1 and recipe.architecture != "pca" and not started_by_torchrun():
        require_devices(train.devices, device)
        start(train.devices, max(1, runtime.threads // train.devices), ["train"])
    else:
        with joined(device) as (ranks, own), leaving_a_verdict():
            _train(model, images, train, runtime, own, ranks, begun)


def _train(
    model: Autoencoder, images: Images, train: TrainConfig, runtime: Runtime, device: torch.device, ranks: Ranks,
    begun: float,
) -> None:  # fmt: skip
    threads = max(1, runtime.threads // ranks.size)
    torch.set_num_threads(threads)
    keep_freed_memory()
    precision = choose_precision(train.precision, device)
    recipe = model.recipe
    training = dataclasses.asdict(train) | {"precision": precision, "device": device.type, "devices": ranks.size}
    training |= {"seed": runtime.seed, "threads": runtime.threads}
    data = {"digest": images.manifest.digest, **images.manifest.facts["splits"]}
    parameters = {"train": training, "recipe": dataclasses.asdict(recipe), "data": data}
    tags, track = {"aecore.data": images.manifest.digest}, config.section(tracking.TrackingConfig, "tracking")
    recorded = tracking.run("train", parameters, tags, track) if ranks.first else nullcontext(tracking.Run())

    with (
        threadpool_limits(threads),
        checkpoint({**parameters, "code": _code(), "torch": torch.__version__}, owned=ranks.first) as saved,
        recorded as run,
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
                history = fit(model, images, train, runtime.seed, device, precision, saved, run, ranks)
            except torch.OutOfMemoryError as error:
                raise WorkFailed(
                    f"the GPU's memory is too small: lower train.batch_size ({train.batch_size})."
                ) from error
        if not ranks.first:
            return
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
            "waited_seconds": history.waited,
            "images_per_second": history.epochs * len(images.positions("train")) / history.seconds,
        }
        _write_reports(history, summary)
        best = {"best_validation_mse": summary.pop("validation_mse")}  # `validation_mse` names the curve
        run.log({key: float(value) for key, value in summary.items()})
        run.model(config.MODEL, manifest, best)
        saved.discard()
    took = f"{history.seconds:.0f} s of {time.perf_counter() - begun:.0f} in all"
    print(
        f"trained {train.recipe} ({summary['parameters']:,} parameters) in {took}: validation MSE "
        f"{best['best_validation_mse']:.5f} at epoch {summary['best_epoch']}; weights {manifest.digest[:12]}"
    )


def _code() -> dict[str, str]:
    """sha256 of the files that determine a training: a checkpoint of other code is not carried on."""
    ours = ("aecore.training", "aecore.models", "aecore.data.images", "aecore.data.corrupt")
    files = {name: module.__file__ for name, module in sys.modules.items() if name.startswith(ours)}
    return {name: artifact.sha256_file(Path(file)) for name, file in sorted(files.items()) if file}


def _write_reports(history: History, summary: dict[str, Any]) -> None:
    config.REPORTS.mkdir(exist_ok=True)
    with Path(config.REPORTS / "training.csv").open("w", newline="") as file:
        table = csv.writer(file)
        curves = history.curves()
        table.writerow(["epoch", *curves])
        table.writerows([epoch, *row] for epoch, row in enumerate(zip(*curves.values(), strict=True), start=1))
    artifact.write_json(config.REPORTS / "train.json", summary)
