"""The model beside PCA and raw pixels: means, 95 % intervals, paired differences, and the table that says who wins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from aecore.analysis.intervals import bootstrap_means, half_sampled_agreement, interval, interval_around
from aecore.analysis.scores import agreement, matched

Measured = Mapping[str, Mapping[str, np.ndarray]]
"""Space (model, pca, raw) -> figure -> a value per image."""


class Figure(NamedTuple):
    """How a figure is called and read."""

    title: str
    better: int
    """1 where more is better, -1 where less is."""
    digits: int


FIGURES = {
    "knn": Figure("kNN@{k} accuracy", 1, 3),
    "precision": Figure("precision@{k}", 1, 3),
    "map": Figure("mAP (whole ranking)", 1, 3),
    "svm": Figure("linear SVM accuracy", 1, 3),
    "forest": Figure("random forest accuracy", 1, 3),
    "found_1": Figure("original found first", 1, 3),
    "found_10": Figure("original found in the first 10", 1, 3),
    "mse": Figure("reconstruction MSE", -1, 5),
    "psnr": Figure("reconstruction PSNR, dB", 1, 2),
    "ssim": Figure("reconstruction SSIM", 1, 3),
    "acc": Figure("clustering ACC", 1, 3),
    "nmi": Figure("clustering NMI", 1, 3),
    "ari": Figure("clustering ARI", 1, 3),
}
"""Every figure, in the order of the table."""

AGREEMENT = {"nmi": (0.0, 1.0), "ari": (-0.5, 1.0)}
"""Those that are no means over images, and their least and largest value."""


class Comparison(NamedTuple):
    """What the table holds."""

    means: dict[str, dict[str, float]]
    """Space -> figure -> value on the test images."""
    intervals: dict[str, dict[str, tuple[float, float]]]
    """The same -> 95 % interval."""
    differences: dict[str, dict[str, tuple[float, float, float]]]
    """Floor (pca, raw) -> figure -> (model minus floor, its 95 % interval)."""


def compare(measured: Measured, labels: np.ndarray | None, times: int, seed: int) -> Comparison:
    """Resample every figure, pairing the spaces by image; `labels` int (q,) of the queries, where there are any.

    Means are bootstrapped, AGREEMENT is half-sampled (see `aecore.analysis.intervals`). ACC keeps the matching of
    clusters to labels found on all queries; k-means itself is not repeated.
    """
    values: dict[tuple[str, str], float] = {}
    draws: dict[tuple[str, str], np.ndarray] = {}
    for columns in _populations(measured, labels).values():
        stacked = np.stack(list(columns.values()), axis=1)
        means, drawn = stacked.mean(axis=0), bootstrap_means(stacked, times, seed)
        for number, key in enumerate(columns):
            values[key], draws[key] = float(means[number]), drawn[:, number]
    for space, figures in measured.items():
        if labels is not None and "cluster" in figures:
            once = agreement(figures["cluster"], labels, np.ones((1, len(labels)), np.float32))
            drawn = half_sampled_agreement(figures["cluster"], labels, times, seed)
            for number, name in enumerate(AGREEMENT):
                values[space, name], draws[space, name] = float(once[number][0]), drawn[:, number]

    order = [(space, name) for space in measured for name in FIGURES if (space, name) in values]
    means_of: dict[str, dict[str, float]] = {space: {} for space in measured}
    intervals: dict[str, dict[str, tuple[float, float]]] = {space: {} for space in measured}
    differences: dict[str, dict[str, tuple[float, float, float]]] = {s: {} for s in measured if s != "model"}
    for space, name in order:
        means_of[space][name] = values[space, name]
        low, high = _interval(name, values[space, name], draws[space, name])
        least, most = AGREEMENT.get(name, (-np.inf, np.inf))
        intervals[space][name] = (max(low, least), min(high, most))
        if space != "model":
            gap = values["model", name] - values[space, name]
            differences[space][name] = (gap, *_interval(name, gap, draws["model", name] - draws[space, name]))
    return Comparison(means_of, intervals, differences)


def table(comparison: Comparison, titles: Mapping[str, str], k: int) -> list[str]:
    """Markdown lines: figure | a column a space, each with its 95 % interval; `titles` names the spaces."""
    lines = ["| figure | " + " | ".join(titles.values()) + " |", "| --- |" + " --- |" * len(titles)]
    for name, figure in FIGURES.items():
        if name in comparison.means["model"]:
            cells = [_cell(comparison, space, name, figure.digits) for space in titles]
            lines.append(f"| {_titled(name, k)} | " + " | ".join(cells) + " |")
    return lines


def winner(name: str, gap: float, low: float, high: float) -> int:
    """1 where the model is better in the figure `name`, -1 where the floor is, 0 where neither can be told.

    Better is a paired difference, `gap`, whose 95 % interval, `low` to `high`, leaves zero out and that the digits
    shown can show.
    """
    figure = FIGURES[name]
    seen = round(abs(gap), figure.digits) > 0
    return figure.better if seen and low > 0 else -figure.better if seen and high < 0 else 0


def verdicts(comparison: Comparison, titles: Mapping[str, str], k: int) -> list[str]:
    """Plain sentences: where the model, where the floor is better, where neither can be told."""
    model, lines = titles["model"], []
    for floor, differences in comparison.differences.items():
        sides: dict[int, list[str]] = {1: [], -1: [], 0: []}
        for name, (gap, low, high) in differences.items():
            digits, side = FIGURES[name].digits, winner(name, gap, low, high)
            change = f"{gap:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
            sides[side].append(f"{_titled(name, k)} ({change})" if side else _titled(name, k))
        other = titles[floor]
        lost = f"**The {model} loses to {other}** in {'; '.join(sides[-1])}."
        lines.append(lost if sides[-1] else f"The {model} loses to {other} in no figure.")
        if sides[1]:
            lines.append(f"The {model} beats {other} in {'; '.join(sides[1])}.")
        if sides[0]:
            lines.append(f"The {model} and {other} cannot be told apart in {'; '.join(sides[0])}.")
    return lines


def flattened(comparison: Comparison) -> dict[str, Any]:
    """The intervals and differences as JSON values, rounded to six digits."""
    named = {f"model-{floor}": values for floor, values in comparison.differences.items()}
    return {
        "intervals": {
            space: {name: [round(value, 6) for value in pair] for name, pair in figures.items()}
            for space, figures in comparison.intervals.items()
        },
        "differences": {
            pair: {
                name: {"mean": round(gap, 6), "interval": [round(low, 6), round(high, 6)]}
                for name, (gap, low, high) in figures.items()
            }
            for pair, figures in named.items()
        },
    }


def _populations(measured: Measured, labels: np.ndarray | None) -> dict[int, dict[tuple[str, str], np.ndarray]]:
    """Columns of values of equally many images, which are paired: images are in the same order in all of them."""
    found: dict[int, dict[tuple[str, str], np.ndarray]] = {}
    for space, figures in measured.items():
        columns = {name: values for name, values in figures.items() if name != "cluster"}
        if labels is not None and "cluster" in figures:
            columns["acc"] = matched(figures["cluster"], labels)
        for name, values in columns.items():
            found.setdefault(len(values), {})[space, name] = values.astype(np.float64)
    return found


def _interval(name: str, value: float, draws: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the figure `name`, or of a difference in it."""
    return interval_around(value, draws) if name in AGREEMENT else interval(draws)


def _cell(comparison: Comparison, space: str, name: str, digits: int) -> str:
    if name not in comparison.means[space]:
        return "–"
    low, high = comparison.intervals[space][name]
    return f"{comparison.means[space][name]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _titled(name: str, k: int) -> str:
    return FIGURES[name].title.format(k=k)
