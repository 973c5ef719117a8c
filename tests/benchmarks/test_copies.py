"""Copies are planted once each, and what a rule says of them is counted as it was said."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import copies  # noqa: E402


def test_every_kind_is_planted_equally_often_and_no_original_twice(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(19):
        pixels = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02d}.png")
    originals = sorted(path.name for path in tmp_path.glob("*.png"))
    planted = copies.plant(tmp_path, originals, 5)
    kinds = [kind for kind, _ in planted.values()]
    assert {kind: kinds.count(kind) for kind in copies.CHANGES} == dict.fromkeys(copies.CHANGES, 2)
    assert len({original for _, original in planted.values()}) == len(planted)
    for copy, (kind, _) in planted.items():
        with Image.open(tmp_path / copy) as image:
            cut = kind == "cropped by 4 %"
            assert image.size == {"all at once": (24, 19)}.get(kind, (48, 38) if cut else (50, 40))


def test_shares_and_mistakes_are_counted() -> None:
    copied = {f"planted/{n}.jpg": (kind, f"{n}.png") for n, kind in enumerate(copies.CHANGES)}
    answer = {
        "near": [{"images": [{"path": path} for path in ("planted/0.jpg", "0.png", "1.png")]}],
        "exact": [{"path": "9.png", "copies": ["2.png", "planted/2.jpg"]}],
    }
    pairs = copies.grouped(answer)
    assert len(pairs) == 6
    assert copies.mistaken(pairs, copied) == {("0.png", "1.png"), ("2.png", "9.png")}
    cells = copies.table({"a rule": pairs}, copied)[-1].split(" | ")
    assert [cell.strip("| ") for cell in cells] == ["a rule", "100 %", "0 %", "100 %", *["0 %"] * 5, "25 %", "2"]
    near = np.array([[0, 1, 9], [1, 0, 2], [9, 2, 0]])
    assert copies.matrix_pairs(near <= 2, ["c", "b", "a"]) == {("b", "c"), ("a", "b")}


def test_a_hash_forgets_light_and_tells_pictures_apart() -> None:
    y, x = np.mgrid[:32, :32]
    wave = (100 + 60 * np.sin(x / 4) * np.cos(y / 5))[None].astype(np.uint8)
    assert (copies.difference_hash(wave) == copies.difference_hash(wave + 20)).mean() > 0.95
    assert (copies.difference_hash(wave) == copies.difference_hash(wave[..., ::-1])).mean() < 0.8
