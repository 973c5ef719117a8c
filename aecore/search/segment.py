"""`Segment`: a vector index with the images it holds.

A published copy has one segment to begin with, the base; what is added later lies in segments of its own. They share
the base's centre and, where that is an inverted file, its trained quantiser. A row of a segment never changes; a
removed one is passed over (a tombstone).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aecore import artifact
from aecore.artifact import Manifest
from aecore.data.images import Images
from aecore.search import storage
from aecore.search.vector_index import EXACT, NONE, VectorIndex
from aecore.vectors import Embeddings


@dataclass(frozen=True, eq=False)
class Segment(VectorIndex):
    """The three artefacts of a segment, open."""

    embeddings: Embeddings
    images: Images
    manifest: Manifest
    """Of the index."""
    directory: Path
    """Of the index."""
    hold: object = None
    """Whatever keeps its files from being removed while it lives: some are opened only when they are asked for."""

    @classmethod
    def open(
        cls, path: Callable[[str], Path], model: Manifest, removed: np.ndarray = NONE, hold: object = None
    ) -> Segment:
        """Open data, embeddings and index, `path` of each kind, and check that they and the `model` belong together.

        An inverted file is memory-mapped. Raises as `artifact.read_manifest` does, and WorkFailed naming both digests
        where one artefact was not made from the others.
        """
        images, embeddings = Images.open(path("data")), Embeddings.open(path("embeddings"))
        manifest = artifact.read_manifest(path("index"), "index")
        artifact.check_chain(images.manifest, model, embeddings.manifest, manifest)
        files = storage.load(path("index"), mapped=manifest.facts["index"] != EXACT)
        return cls(*files, manifest.facts, embeddings, removed, images, manifest, path("index"), hold)
