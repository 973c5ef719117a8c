"""The `finetune` command: what the trained encoder is worth where few images have labels.

For each number of labels a class and each seed, the same images teach five ways, and each is asked for the test images:

    finetuned   the trained encoder and a linear head, trained together
    frozen      the trained encoder as it is, logistic regression on its codes
    scratch     the same network with fresh weights, trained in the same way
    pca, raw    logistic regression on PCA codes of the same dimension and on raw pixels: the floors

`finetune --json` prints, and `reports/finetune.json` holds, one object, stable for other programs:

    {"data": digest, "model": digest, "recipe": …, "dim": …, "classes": K, "epochs": …, "seeds": [seed, …],
     "images": {"validation": labelled images that choose, "test": labelled images that are asked},
     "rows": [{"labels": a class, "images": in all,
               "accuracy": {way: {"mean": …, "spread": deviation over seeds or null, "seeds": [one a seed]}},
               "chosen": {way: [one a seed: {"C": …} or {"learning_rate": …, "epoch": …}]},
               "differences": {way: {"mean": finetuned minus it, "interval": [low, high], "verdict": 1 | 0 | -1}}}],
     "left_out": [{"labels": a class, "reason": text}]}

The interval is 95 % by a paired bootstrap of the test images. Verdict 1, finetuned is better: it leaves zero out, and
every seed agrees; -1: worse, likewise.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from aecore import artifact, config, tracking
from aecore.analysis import figures
from aecore.analysis.head import RATES, Measured, Part, draw, measure
from aecore.analysis.intervals import bootstrap_means, interval
from aecore.analysis.kmeans import threads
from aecore.analysis.protocol import QUERIES, EvaluateConfig
from aecore.analysis.space import smallest
from aecore.config import Runtime, UserError
from aecore.counted import counted
from aecore.data.images import Images
from aecore.embedding import Encoder
from aecore.models.pca import fit_images
from aecore.output import tell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
"""One of `rows`, as above."""

WAYS = {
    "finetuned": "pretrained, fine-tuned",
    "frozen": "frozen + linear",
    "scratch": "from scratch",
    "pca": "PCA-{dim} + linear",
    "raw": "raw pixels + linear",
}
HELD = 2**28
"""Pixels of the labelled images at most, for logistic regression holds them (1 GiB of float32); of the validation
images and of the test images a quarter of it, each."""


def summarise(labels: int, images: int, found: Sequence[Mapping[str, Measured]], times: int, seed: int) -> Row:
    """One row of the result from what each seed found, as the module says."""
    right = np.stack([[one[way].correct for way in WAYS] for one in found]).astype(np.float64)  # (seeds, ways, q)
    drawn = bootstrap_means(right.mean(axis=0).T, times, seed)  # (times, ways)
    means = right.mean(axis=2)  # (seeds, ways)
    row: Row = {"labels": labels, "images": images, "accuracy": {}, "chosen": {}, "differences": {}}
    for number, way in enumerate(WAYS):
        each = means[:, number]
        row["accuracy"][way] = {
            "mean": round(float(each.mean()), 6),
            "spread": round(float(each.std(ddof=1)), 6) if len(each) > 1 else None,
            "seeds": [round(float(value), 6) for value in each],
        }
        row["chosen"][way] = [one[way].chosen for one in found]
        if number:
            gaps, (low, high) = means[:, 0] - each, interval(drawn[:, 0] - drawn[:, number])
            verdict = 1 if low > 0 and (gaps > 0).all() else -1 if high < 0 and (gaps < 0).all() else 0
            row["differences"][way] = {
                "mean": round(float(gaps.mean()), 6),
                "interval": [round(low, 6), round(high, 6)],
                "verdict": verdict,
            }
    return row


def table(result: Mapping[str, Any]) -> list[str]:
    """Markdown lines: labels a class | images | a column a way."""
    titles = [title.format(dim=result["dim"]) for title in WAYS.values()]
    lines = ["| labels a class | images | " + " | ".join(titles) + " |", "| --- |" + " --- |" * (1 + len(titles))]
    for row in result["rows"]:
        cells = [f"{a['mean']:.3f}" + ("" if a["spread"] is None else f" ± {a['spread']:.3f}")
                 for a in row["accuracy"].values()]  # fmt: skip
        lines.append(f"| {row['labels']:,} | {row['images']:,} | " + " | ".join(cells) + " |")
    return lines


def verdicts(result: Mapping[str, Any]) -> list[str]:
    """Plain sentences: whether pretraining helps, and what else fine-tuning beats or loses to."""
    lines = []
    for row in result["rows"]:
        sides: dict[int, list[str]] = {1: [], 0: [], -1: []}
        for way, gap in row["differences"].items():
            low, high = gap["interval"]
            title = WAYS[way].format(dim=result["dim"])
            sides[gap["verdict"]].append(f"{title} ({gap['mean']:+.3f} [{low:+.3f}, {high:+.3f}])")
        helps = {1: "Pretraining helps", 0: "**Pretraining makes no difference that can be told**",
                 -1: "**Pretraining harms**"}[row["differences"]["scratch"]["verdict"]]  # fmt: skip
        parts = [f"{verb} {'; '.join(sides[side])}" for side, verb in
                 ((1, "beats"), (0, "cannot be told apart from"), (-1, "**loses to**")) if sides[side]]  # fmt: skip
        lines.append(f"{helps} at {counted(row['labels'], 'label')} a class: fine-tuned, it {', '.join(parts)}.")
    return lines


def text(result: Mapping[str, Any]) -> str:
    """The result for a person."""
    seeds, images = len(result["seeds"]), result["images"]
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    left = [
        f"- {counted(row['labels'], 'label')} a class: left out, for {row['reason']}." for row in result["left_out"]
    ]
    return "\n".join([
        f"Accuracy on {counted(images['test'], 'test image')}, {over}; in brackets 95 % intervals (paired bootstrap of "
        "the images).",
        f"C, the learning rate and the epoch (of {result['epochs']}) are chosen for every way alike, on "
        f"{counted(images['validation'], 'labelled validation image')} beyond the labels counted here. PCA and the "
        "encoder saw the training images without labels.",
        "", *table(result), "", *(f"- {line}" for line in verdicts(result)), *left,
    ])  # fmt: skip


def run(labels: Sequence[int], seeds: int, epochs: int, as_json: bool = False) -> None:
    """Measure the workspace's model at each number of `labels` a class, print it and write it under `reports/`.

    Raises UserError for numbers below 1 and for images whose labels do not suffice; WorkFailed for artefacts that do
    not belong together.
    """
    for name, values in (("--labels", labels), ("--seeds", [seeds]), ("--epochs", [epochs])):
        if min(values) < 1:
            raise UserError(f"{name} is {min(values)}; expected 1 or more.")
    runtime = config.section(Runtime, "run")
    track = config.section(tracking.TrackingConfig, "tracking")
    times = config.section(EvaluateConfig, "evaluate").bootstrap
    torch.set_num_threads(runtime.threads)
    images, encoder = Images.open(), Encoder.load(config.MODEL, runtime.device)
    artifact.check_chain(images.manifest, encoder.manifest)
    positions, classes, validation, test = _parts(images)
    counts, left_out = _affordable(sorted(set(labels)), images, positions, classes)

    result: dict[str, Any] = {
        "data": images.manifest.digest, "model": encoder.manifest.digest,
        "recipe": dataclasses.asdict(encoder.model.recipe), "dim": encoder.dim, "classes": len(classes),
        "epochs": epochs, "seeds": [runtime.seed + number for number in range(seeds)],
        "images": {"validation": len(validation.labels), "test": len(test.labels)}, "rows": [], "left_out": left_out,
    }  # fmt: skip
    parameters = {key: value for key, value in result.items() if key not in ("rows", "left_out")} | {"labels": counts}
    tags = {"aecore.data": images.manifest.digest, "aecore.weights": encoder.manifest.digest}
    total = len(counts) * seeds * 2 * len(RATES) * epochs
    with (
        tracking.run("finetune", parameters, tags, track) as record,
        threads(runtime.threads),
        tqdm(total=total, desc="finetune", unit=" epochs", mininterval=0.5 if sys.stderr.isatty() else 10) as bar,
    ):
        record.dataset("prepared", images.manifest.digest, "fine-tuning")
        pca = fit_images(images, encoder.dim, runtime.seed)
        for each in counts:
            found = []
            for seed in result["seeds"]:
                chosen = draw(positions, np.asarray(images.labels())[positions], each, seed)
                taught, device = _part(images, chosen, classes), encoder.device
                found.append(measure(encoder.model, pca, taught, validation, test, epochs, seed, device, bar.update))
            result["rows"].append(row := summarise(each, each * len(classes), found, times, runtime.seed))
            record.log({f"accuracy.{way}": value["mean"] for way, value in row["accuracy"].items()}, step=each)
        drawn = _figure(result)
        record.figure(drawn, "finetune")
    config.REPORTS.mkdir(exist_ok=True)
    artifact.write_json(config.REPORTS / "finetune.json", result)
    figures.save(drawn, config.REPORTS / "finetune.png")
    if as_json:
        tell(result)
    else:
        print(f"{text(result)}\n\n{config.REPORTS / 'finetune.json'}\n{config.REPORTS / 'finetune.png'}")


def _parts(images: Images) -> tuple[np.ndarray, np.ndarray, Part, Part]:
    """Labelled training images' positions, their labels in order, and the labelled validation and test images.

    Raises UserError where one of them has nothing to show.
    """
    labels = images.labels()
    if labels is None:
        raise UserError(
            f"the images in {config.PREPARED} have no labels, and finetune measures with them: sort them into "
            "sub-folders of data.path named after what they show, and run `dvc repro`."
        )
    split = {name: images.positions(name) for name in ("train", "validation", "test")}
    split = {name: positions[labels[positions] >= 0] for name, positions in split.items()}
    for name, positions in split.items():
        if len(positions) == 0:
            raise UserError(f"no image of the {name} split has a label: raise prepare.split.{name}, or label more.")
    classes = np.unique(labels[split["train"]])
    if len(classes) < 2:
        raise UserError("all labelled training images show the same: there is nothing to tell apart.")
    for name in ("validation", "test"):
        if not np.isin(labels[split[name]], classes).any():
            raise UserError(f"no image of the {name} split has a label that a training image has: there is nothing to "
                            "measure. Let images share labels.")  # fmt: skip
    most = min(QUERIES, HELD // 4 // math.prod(images.shape))
    validation, test = (
        _part(images, smallest(split[name], images.ids(), most), classes) for name in ("validation", "test")
    )
    return split["train"], classes, validation, test


def _part(images: Images, positions: np.ndarray, classes: np.ndarray) -> Part:
    labels = np.asarray(images.labels())[positions]
    number = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return Part(images.rows(positions), np.where(classes[number] == labels, number, -1).astype(np.int64))


def _affordable(
    asked: list[int], images: Images, positions: np.ndarray, classes: np.ndarray
) -> tuple[list[int], list[dict[str, Any]]]:
    """The numbers of labels a class that can be had, and the others with the reason. Raises UserError if none can."""
    counts = np.bincount(np.asarray(images.labels())[positions])[classes]
    few, names = int(counts.argmin()), images.label_names or []
    shows = "image shows" if counts[few] == 1 else "images show"
    most = HELD // (math.prod(images.shape) * len(classes))
    reasons = {
        each: f"only {counts[few]:,} labelled training {shows} {names[classes[few]]!r}"
        if each > counts[few]
        else f"its pixels would take more than {HELD * 4 / 2**30:g} GiB"
        for each in asked
        if each > min(counts[few], most)
    }
    if len(reasons) == len(asked):
        raise UserError(
            f"{counted(asked[0], 'label')} a class cannot be had, for {reasons[asked[0]]}: ask for fewer by --labels."
        )
    return [each for each in asked if each not in reasons], [{"labels": k, "reason": v} for k, v in reasons.items()]


def _labels(count: int) -> str:
    return f"{count:,} label{'s' * (count != 1)}"


def _figure(result: Mapping[str, Any]) -> Figure:
    lines = {
        title.format(dim=result["dim"]): [(row["accuracy"][way]["mean"], row["accuracy"][way]["spread"] or 0.0)
                                          for row in result["rows"]]
        for way, title in WAYS.items()
    }  # fmt: skip
    seeds = f", mean and deviation of {len(result['seeds'])} seeds" if len(result["seeds"]) > 1 else ""
    return figures.few_labels([row["labels"] for row in result["rows"]], lines, f"Few labels{seeds}")
