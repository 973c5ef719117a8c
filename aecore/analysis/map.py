"""The `map` stage: two coordinates for each image, to look at."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Literal

import numpy as np

from aecore import artifact, config
from aecore.analysis.space import Space
from aecore.config import Runtime, UserError, pick, require
from aecore.counted import counted
from aecore.data.images import Images
from aecore.models.pca import fit_pca


@dataclasses.dataclass(frozen=True)
class MapConfig:
    """Section `map`."""

    method: Literal["pca", "tsne", "umap"]
    """How many dimensions become two."""
    images: int
    """Points at most; of more images, those with the smallest ids (a draw, since ids are hashes)."""

    def __post_init__(self) -> None:
        least = 3 if self.method == "umap" else 2
        require(self.images >= least, "images", self.images, f"{least} or more for {self.method}")
        if self.method == "umap" and importlib.util.find_spec("umap") is None:
            raise UserError(
                "method is 'umap', which is not installed: `pip install 'aecore[umap]'`, or take pca or tsne."
            )


def pca(vectors: np.ndarray, seed: int) -> np.ndarray:
    """The first two principal components of (n, d), float32 (n, 2); what a single one cannot fill is 0."""
    found = fit_pca(lambda: iter([vectors]), len(vectors), min(2, *vectors.shape), seed).encode(vectors)
    return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))


def tsne(vectors: np.ndarray, seed: int) -> np.ndarray:
    """T-SNE (van der Maaten & Hinton 2008) from PCA, perplexity 30 or what so few images allow: float32 (n, 2)."""
    from sklearn.manifold import TSNE

    start = pca(vectors, seed)
    start *= 1e-4 / max(float(start[:, 0].std()), 1e-12)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(vectors), np.float32)


def umap(vectors: np.ndarray, seed: int) -> np.ndarray:
    """UMAP (McInnes, Healy & Melville 2018), one thread so that the seed decides: float32 (n, 2)."""
    from umap import UMAP

    neighbours = min(15, len(vectors) - 1)
    model = UMAP(n_neighbors=neighbours, init=pca(vectors, seed), random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(vectors), np.float32)


METHODS = {"pca": pca, "tsne": tsne, "umap": umap}


def lay_out(vectors: np.ndarray, method: str, seed: int) -> np.ndarray:
    """Comparable codes (n, d) -> coordinates float32 (n, 2)."""
    return np.ascontiguousarray(pick(METHODS, method, "map.method")(vectors, seed), dtype=np.float32)


def main() -> None:
    """Read the embeddings; write the map of up to `map.images` of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from threadpoolctl import threadpool_limits

    from aecore.search.metric import IndexConfig
    from aecore.vectors import Embeddings

    runtime, section = config.section(Runtime, "run"), config.section(MapConfig, "map")
    metric = config.section(IndexConfig, "index").metric
    images, embeddings = Images.open(), Embeddings.open()
    artifact.check_chain(images.manifest, embeddings.manifest)
    ids = images.ids()
    shown = np.sort(np.argsort(ids, kind="stable")[: section.images])
    with threadpool_limits(runtime.threads):
        space = Space.fit(embeddings.rows, images.positions("train"), metric)
        places = lay_out(space.read(shown), section.method, runtime.seed)
    facts = {"method": section.method, "count": len(shown)}
    sources = {"data": images.manifest, "embeddings": embeddings.manifest}
    with artifact.writing(config.MAP, "map", sources, facts) as directory:
        table = pa.table({"id": ids[shown], "x": places[:, 0], "y": places[:, 1]})
        pq.write_table(table, directory / "map.parquet")
    manifest = artifact.read_manifest(config.MAP, "map")
    print(f"mapped {len(shown):,} of {counted(images.count, 'image')} by {section.method}; map {manifest.digest[:12]}")
