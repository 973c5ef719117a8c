from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from aecore import config
from aecore.config import Runtime, UserError, build


@dataclass(frozen=True)
class Example:
    kind: Literal["round", "square"]
    size: int | tuple[int, ...]
    rate: float
    on: bool
    side: Literal[1, 3]
    extra: dict[str, object]

    def __post_init__(self) -> None:
        config.require(self.rate > 0, "rate", self.rate, "more than 0")


GOOD = {"kind": "round", "size": 3, "rate": 1, "on": True, "side": 3, "extra": {}}


def test_reads_and_converts() -> None:
    assert build(Example, GOOD, "x") == Example("round", 3, 1.0, True, 3, {})
    assert build(Example, {**GOOD, "size": [3, 4]}, "x").size == (3, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"knid": "round"}, ["x.knid", "did you mean 'kind'"]),
        ({"kind": "squre"}, ["x.kind", "round, square", "did you mean 'square'"]),
        ({"size": "big"}, ["x.size", "'big'", "a list"]),
        ({"size": [1, "b"]}, ["x.size[1]"]),
        ({"size": True}, ["x.size"]),
        ({"rate": "fast"}, ["x.rate", "'fast'"]),
        ({"rate": 0}, ["x.rate", "more than 0"]),
        ({"on": 1}, ["x.on", "a bool"]),
        ({"extra": []}, ["x.extra", "keys and values"]),
        ({"side": True}, ["x.side", "choose one of 1, 3"]),
        ({"side": 3.0}, ["x.side", "choose one of 1, 3"]),
    ],
)
def test_a_wrong_key_or_value_is_named(change: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        build(Example, {**GOOD, **change}, "x")
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_missing_key_is_named() -> None:
    with pytest.raises(UserError, match=r"x\.rate is missing"):
        build(Example, {k: v for k, v in GOOD.items() if k != "rate"}, "x")


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_yaml_1_2_numbers_and_strict_sections(tmp_path: Path) -> None:
    assert config.load_yaml(write(tmp_path / "a.yaml", "rate: 1e-3\n"))["rate"] == 0.001
    with pytest.raises(UserError, match=r"section 'trian' is not known \(did you mean 'train'\?\)"):
        config.section(Runtime, "run", write(tmp_path / "b.yaml", "trian: {}\n"))
    with pytest.raises(UserError, match="section 'run' is missing"):
        config.section(Runtime, "run", write(tmp_path / "c.yaml", "train: {}\n"))
    with pytest.raises(UserError, match="not readable as YAML"):
        config.load_yaml(write(tmp_path / "d.yaml", "a: [\n"))
    with pytest.raises(UserError, match="should hold sections"):
        config.load_yaml(write(tmp_path / "e.yaml", "- 1\n"))
    with pytest.raises(UserError, match="is not here"):
        config.load_yaml(tmp_path / "none.yaml")


def test_the_shipped_parameters_name_every_section() -> None:
    assert tuple(config.load_yaml(Path(__file__).parents[1] / "params.yaml")) == config.SECTIONS
