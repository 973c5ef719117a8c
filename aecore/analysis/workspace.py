"""Every artefact of a workspace, opened, and made from one another: what `evaluate` measures and draws."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from aecore import artifact, config
from aecore.analysis import baseline
from aecore.artifact import Manifest
from aecore.config import Runtime, WorkFailed
from aecore.data.images import Images
from aecore.embedding import Encoder
from aecore.models.pca import Pca
from aecore.vectors import Embeddings


@dataclasses.dataclass(frozen=True)
class Workspace:
    """Every artefact, opened, and made from one another."""

    images: Images
    encoder: Encoder
    embeddings: Embeddings
    index: Manifest
    floors: Manifest
    manifests: tuple[Manifest, ...]
    """Of them all."""
    measured: dict[str, dict[str, np.ndarray]]
    pca: Pca

    @classmethod
    def open(cls, runtime: Runtime) -> Workspace:
        """Open all. Raises as `artifact.read_manifest` does, and WorkFailed where they do not fit together."""
        images, embeddings = Images.open(), Embeddings.open()
        encoder = Encoder.load(config.MODEL, runtime.device)
        index = artifact.read_manifest(config.INDEX, "index")
        floors, measured, pca = baseline.read(config.BASELINE)
        clusters = artifact.read_manifest(config.CLUSTERS, "clusters")
        places = artifact.read_manifest(config.MAP, "map")
        all_of_them = (images.manifest, encoder.manifest, embeddings.manifest, index, floors, clusters, places)
        artifact.check_chain(*all_of_them)
        return cls(images, encoder, embeddings, index, floors, all_of_them, measured, pca)


def check_settings(floors: Manifest, wanted: dict[str, Any]) -> None:
    """Raise WorkFailed unless the floors were measured with the `wanted` settings."""
    for key, value in wanted.items():
        if floors.facts[key] != value:
            raise WorkFailed(
                f"the baseline was measured with {key} {floors.facts[key]!r}, the model with {value!r}: "
                "run `dvc repro` (or `python -m aecore baseline`)."
            )
