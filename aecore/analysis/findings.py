"""Findings: all that the report tells of, read from the artefacts and reports, which must belong together."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from aecore import artifact, config, tracking
from aecore.analysis import compare
from aecore.artifact import Manifest
from aecore.config import UserError, WorkFailed

KINDS = {
    "data": ("images", config.PREPARED), "model": ("weights", config.MODEL),
    "embeddings": ("embeddings", config.EMBEDDINGS), "index": ("index", config.INDEX),
    "clusters": ("clusters", config.CLUSTERS), "map": ("map", config.MAP), "baseline": ("baseline", config.BASELINE),
}  # fmt: skip
"""Every artefact, in the order they are made: kind -> (how the report calls it, where it lies)."""
FLOORS = ("pca", "raw")
SECTIONS = ("run", "data", "prepare", "train", "embed", "index", "cluster", "map", "evaluate")
"""Of params.yaml, those that determine what is told."""


@dataclasses.dataclass(frozen=True)
class Findings:
    """What the stages found."""

    manifests: dict[str, Manifest]
    """By kind."""
    model: dict[str, Any]
    """The model's `config.json`."""
    params: dict[str, dict[str, Any]]
    """SECTIONS of params.yaml."""
    why: str
    """What the recipe's file says of it."""
    trained: dict[str, Any]
    """`reports/train.json`."""
    metrics: dict[str, Any]
    """`reports/metrics.json`."""
    intervals: dict[str, Any]
    """`reports/intervals.json`."""
    claims: dict[str, str]
    """`reports/claims.json`: what the recipe's source claims, and what came of it, in a sentence each."""
    clusters: list[dict[str, Any]]
    """A row a cluster, the largest first."""
    figures: dict[str, bytes]
    """PNG files by name: those of `reports/figures/`, and what a command drew of this model."""
    commit: str
    """As `tracking.commit` says."""

    @classmethod
    def read(cls) -> Findings:
        """Read the workspace. Raises UserError where something is missing, WorkFailed where it does not fit."""
        import pyarrow.parquet as pq

        params = read_parameters()
        manifests = {kind: artifact.read_manifest(path, kind) for kind, (_, path) in KINDS.items()}
        artifact.check_chain(*manifests.values())
        model = _json(config.MODEL / "config.json", "train")
        intervals = _json(config.REPORTS / "intervals.json", "evaluate")
        check_parameters(model["training"], params)
        check_measured(intervals["measured"], manifests)
        recipe = config.RECIPES / f"{model['training']['recipe']}.yaml"
        return cls(
            manifests=manifests,
            model=model,
            params=params,
            why=comment(recipe.read_text(encoding="utf-8")) if recipe.is_file() else "",
            trained=_json(config.REPORTS / "train.json", "train"),
            metrics=_json(config.REPORTS / "metrics.json", "evaluate"),
            intervals=intervals,
            claims=_json(config.REPORTS / "claims.json", "evaluate"),
            clusters=pq.read_table(config.CLUSTERS / "clusters.parquet").to_pylist(),
            figures={path.stem: path.read_bytes() for path in sorted(config.FIGURES.glob("*.png"))}
            | commanded(manifests["model"].digest),
            commit=tracking.commit(),
        )

    @property
    def k(self) -> int:
        """Neighbours asked."""
        return int(self.manifests["baseline"].facts["neighbours"])

    @property
    def dim(self) -> int:
        """Numbers in a code."""
        return int(self.model["latent_dim"])

    @property
    def spaces(self) -> dict[str, str]:
        """What is compared, and how it is called."""
        return {"model": "autoencoder", "pca": f"PCA-{self.dim}", "raw": "raw pixels"}

    @property
    def measured(self) -> list[str]:
        """The figures that there are, in the comparison's order."""
        return [name for name in compare.FIGURES if name in self.metrics["model"]]

    @property
    def search(self) -> str:
        """The figure that judges the search: with labels kNN accuracy, else how often a copy finds its original."""
        return "knn" if "knn" in self.metrics["model"] else "found_1"

    def difference(self, name: str, floor: str) -> float:
        """The model's figure `name` minus that of a floor."""
        return float(self.intervals["differences"][f"model-{floor}"][name]["mean"])

    def winner(self, name: str, floor: str) -> int | None:
        """1, -1 or 0 as `compare.winner` says; None where the floor has no such figure."""
        found = self.intervals["differences"][f"model-{floor}"].get(name)
        return None if found is None else compare.winner(name, found["mean"], *found["interval"])


def read_parameters() -> dict[str, dict[str, Any]]:
    """SECTIONS of params.yaml as they stand; their own stages have read them strictly."""
    values = config.load_yaml(config.PARAMS)
    for name in SECTIONS:
        if not isinstance(values.get(name), dict):
            raise UserError(f"{config.PARAMS}: section {name!r} is missing.")
    return {name: values[name] for name in SECTIONS}


def check_parameters(training: dict[str, Any], params: dict[str, dict[str, Any]]) -> None:
    """Raise WorkFailed unless the model was trained as params.yaml says; `auto` was resolved while training.

    The device is not compared: PCA is solved on the processor wherever the rest runs.
    """
    wanted = {**params["run"], **params["train"]}
    for key, value in training.items():
        if key in wanted and key != "device" and wanted[key] not in (value, "auto"):
            raise WorkFailed(
                f"the model was trained with {key} {value!r}, {config.PARAMS} says {wanted[key]!r}: run `dvc repro` "
                "(or `python -m aecore train` and what follows it)."
            )


def check_measured(measured: dict[str, str], manifests: dict[str, Manifest]) -> None:
    """Raise WorkFailed unless the reports were measured on these very artefacts."""
    for kind, manifest in manifests.items():
        if measured[kind] != manifest.digest:
            raise WorkFailed(
                f"the reports were measured on {kind} {measured[kind][:12]}, but the {kind} here is "
                f"{manifest.digest[:12]}: run `dvc repro` (or `python -m aecore evaluate`)."
            )


def commanded(model: str) -> dict[str, bytes]:
    """PNG files of `reports/` that a command drew (such as `finetune`), where the JSON beside it names this model."""
    beside = {path: path.with_suffix(".json") for path in sorted(config.REPORTS.glob("*.png"))}
    return {
        path.stem: path.read_bytes()
        for path, told in beside.items()
        if told.is_file() and _json(told, path.stem).get("model") == model
    }


def comment(text: str) -> str:
    """The comment that a YAML file begins with, as one line."""
    lines = text.splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.lstrip("#").strip() for line in lines[:end])


def _json(path: Path, stage: str) -> dict[str, Any]:
    again = f"run `python -m aecore {stage}` (or `dvc repro`)"
    if not path.is_file():
        raise UserError(f"{path} is not here: {again} first.")
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WorkFailed(f"{path} is damaged ({error}): {again}.") from error
    return values
