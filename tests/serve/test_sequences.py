"""Any additions, removals, publications, rollbacks and retrainings: what ought to answer does, by the right model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aecore.data.images import Images
from aecore.embedding import Encoder
from aecore.search.searcher import Searcher, Source
from aecore.serve import forget
from aecore.serve.grow import add, remove, withdraw
from aecore.serve.publish import publish, rollback
from tests.search.test_searcher import brute
from tests.serve.test_forget import DISC, REBUILD, answering, id_of, run, same_picture
from tests.serve.test_grow import draw

PLACES = ("data/prepared", "models", "artifacts")


class Twin:
    """What ought to answer, kept as plainly as can be: pictures are told apart by their ids."""

    def __init__(self) -> None:
        self.base: dict[str, set[int]] = {}
        self.grown: dict[str, set[int]] = {}
        self.maybe: dict[str, set[int]] = {}
        """Withdrawn after their segment may have been written anew: whether they are there is not said."""
        self.removed: set[int] = set()
        self.line: list[str] = []

    @property
    def now(self) -> str:
        return self.line[-1]

    def publish(self, name: str, base: set[int]) -> None:
        before = self.now if self.line else None
        self.base[name] = base
        grown = self.grown.setdefault(name, set())
        self.maybe.setdefault(name, set())
        if before not in (None, name):
            grown |= self.grown[str(before)] - self.removed - base
        self.line = [*(other for other in self.line if other != name), name]

    def check(self, found: set[int]) -> None:
        sure = (self.base[self.now] | self.grown[self.now]) - self.removed
        assert found - sure <= self.maybe[self.now] - self.removed
        assert sure - found <= self.maybe[self.now]
        self.grown[self.now] = (self.grown[self.now] - self.maybe[self.now]) | (found - self.base[self.now])
        self.maybe[self.now] = set()


def sequence(seed: int, steps: int, workspaces: list[Path]) -> None:
    """Random steps, and after each what answers, as it should and with the model that is served."""
    rng, twin = np.random.default_rng(seed), Twin()
    pool = draw(Path("pool"), 24, seed=100 + seed)
    every = {id_of(path): path for path in [*pool, *Path("data/raw/shapes").rglob("*.png")]}
    twins = [same_picture(pool[i], Path(f"twins/{i}.bmp")) for i in range(6)]
    for step in range(steps):
        what = (
            "publish" if step == 0 else str(rng.choice(["add", "remove", "withdraw", "publish", "rerun", "rollback"]))
        )
        if what == "add":
            some = [pool[i] for i in rng.permutation(len(pool))[:6]]
            add([*some, *rng.permutation(twins)[:2].tolist(), DISC])
            living = {id_of(path) for path in some} - twin.removed
            twin.grown[twin.now] |= (living | set(map(id_of, DISC.glob("*.png")))) - twin.base[twin.now] - twin.removed
            twin.maybe[twin.now] |= {id_of(path) for path in twins} | {id_of(path) for path in pool[:6]}
        elif what == "remove":
            found = sorted(answering())
            gone = rng.permutation(found)[: int(rng.integers(1, 12))].tolist()
            remove(gone)
            twin.removed |= forget.listed(Path()).ids
        elif what == "withdraw" and twin.removed:
            back = int(rng.permutation(sorted(twin.removed))[0])
            withdraw([back])
            ended = twin.removed - forget.listed(Path()).ids
            twin.removed -= ended
            for name, maybe in twin.maybe.items():
                maybe |= ended - twin.base[name]
        elif what in ("publish", "rerun"):
            if what == "rerun":
                run(*REBUILD)
            else:
                workspace = workspaces[int(rng.integers(len(workspaces)))]
                for place in PLACES:
                    shutil.rmtree(place)
                    shutil.copytree(workspace / place, place)
            publish()
            base = set(Images.open().ids().tolist())
            twin.publish(Source.find().directory.name, base)
        elif what == "rollback" and len(twin.line) > 1 and (Path("serving") / twin.line[-2]).is_dir():
            rollback()
            twin.line.pop()
        twin.check(answering())
        searcher = Searcher.open(Source.find())
        assert set(answering()).isdisjoint(forget.listed(Path()).ids)
        collection = searcher.collection
        left = np.concatenate(list(collection.blocks(64)))
        encoder = Encoder.load(Source.find().path("model"), "cpu")
        codes = encoder.encode(collection.pixels(left))
        np.testing.assert_allclose(collection.vectors(left), codes, rtol=1e-3, atol=1e-4)
        train = searcher.base.embeddings.rows(searcher.base.images.positions("train"))
        vectors = np.concatenate([collection.vectors(left), train])
        ids = np.concatenate([collection.ids(left), np.full(len(train), -1)])
        queries = vectors[: len(left) : 9]
        expected = brute(vectors, ids, np.arange(len(left), len(vectors)), queries, 5, "cosine", among=len(left))
        np.testing.assert_allclose(searcher.search(queries, 5).distance, expected.distance, atol=1e-5)
        for path in (every[i] for i in collection.ids(left[-3:]).tolist() if i in every):
            assert path.is_file()


def models(workspace: Path, set_params: Callable[..., None]) -> list[Path]:
    """The workspace's artefacts under two models, each in a folder."""
    made = []
    for seed in (0, 1):
        set_params(run={"seed": seed})
        run(*REBUILD[1:])
        made.append(workspace.with_name(f"{workspace.name}-{seed}"))
        for place in PLACES:
            shutil.copytree(place, made[-1] / place)
    return made


def test_any_adds_removals_publications_rollbacks_and_retrainings(
    workspace: Path, set_params: Callable[..., None]
) -> None:
    sequence(0, 14, models(workspace, set_params))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 13))
def test_more_of_them(seed: int, workspace: Path, set_params: Callable[..., None]) -> None:
    sequence(seed, 25, models(workspace, set_params))
