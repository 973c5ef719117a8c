"""Pictures: drawn for grey and colour, with labels and without, and the same bytes twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from aecore.analysis import figures

RNG = np.random.default_rng(0)


def drawn(figure: Figure, path: Path) -> np.ndarray:
    """Save twice, compare the bytes, and return the pixels, which must not be blank."""
    figures.save(figure, path)
    first = path.read_bytes()
    figures.save(figure, path)
    assert path.read_bytes() == first
    assert b"Creation" not in first
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert min(pixels.shape[:2]) > 150
    assert pixels.std() > 5
    return pixels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labelled", [True, False])
def test_images_in_rows(channels: int, labelled: bool, tmp_path: Path) -> None:
    x = RNG.random((4, channels, 8, 10), np.float32)
    names = ["a", "a very long name of a label", "c", "d"] if labelled else None
    drawn(figures.reconstructions(x, [("model", x * 0.5), ("PCA-2", x)], names), tmp_path / "r.png")
    found = RNG.integers(0, 255, (4, 5, channels, 8, 10), dtype=np.uint8)
    right = RNG.random((4, 5)) < 0.5 if labelled else None
    picture = drawn(figures.neighbours(found[:, 0], found, names, right), tmp_path / "n.png").astype(int)
    green = (np.abs(picture - (0x1A, 0x98, 0x50)).sum(axis=2) < 12).sum()
    assert (green > 200) == labelled
    drawn(
        figures.clusters([found[0], found[1][:2]], [["5 images"], ["2 images", "50% a"]], "Two clusters"),
        tmp_path / "c.png",
    )


@pytest.mark.parametrize("groups", [1, 10, 30])
def test_a_map_with_few_and_many_groups(groups: int, tmp_path: Path) -> None:
    places, group = RNG.normal(size=(300, 2)), RNG.integers(-1 if groups > 1 else 0, groups, 300)
    figure = figures.scatter(places, group, [f"group {i}" for i in range(groups)], "A map")
    drawn(figure, tmp_path / "m.png")
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == min(groups, 20) + (groups > 1)


@pytest.mark.parametrize("epochs", [1, 12])
def test_curves(epochs: int, tmp_path: Path) -> None:
    steps = np.arange(1, epochs + 1, dtype=float)
    curves = {"epoch": steps, "train_loss": 1 / steps, "validation_mse": 1.1 / steps, "learning_rate": 0 * steps}
    drawn(figures.training(curves), tmp_path / "t.png")


@pytest.mark.parametrize("labels", [[10], [10, 100, 1000]])
def test_few_labels(labels: list[int], tmp_path: Path) -> None:
    lines = {name: [(0.5, 0.02)] * len(labels) for name in ("fine-tuned", "frozen", "from scratch", "PCA-4", "raw")}
    figure = figures.few_labels(labels, lines, "Few labels")
    drawn(figure, tmp_path / "f.png")
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == [f"{count:,}" for count in labels]
