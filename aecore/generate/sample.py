"""The `sample` command: new images from any model, each beside the training images it comes closest to.

`sample --json` prints one object, stable for other programs:

    {"source": {"kind": "published" | "workspace", "path": …}, "from": "mixture" | "prior", "seed": number,
     "components": Gaussians in the mixture, or null for the prior, "picture": the file drawn,
     "unseen": median distance in pixels of a test image from the nearest training image,
     "samples": [{"by_code": {"id": …, "path": …, "label_name": text or null, "distance": as the index has it},
                  "by_pixels": {"id": …, "path": …, "label_name": …, "distance": root mean square of [0, 1]}}, …]}
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from aecore.config import UserError
from aecore.data.images import Images
from aecore.embedding import Encoder
from aecore.generate import sheet
from aecore.generate.closest import closest, closest_in_pixels, unseen_distance
from aecore.generate.mixture import fit_mixture, fitted_to
from aecore.generate.sheet import ACCENT, GREY, INK, Sheet
from aecore.names import aligned, legible
from aecore.output import tell
from aecore.search.metric import Metric, codes
from aecore.search.montage import check_writable
from aecore.search.searcher import Searcher, Source
from aecore.vectors import Embeddings

ACROSS = 4
"""Samples in a row of the picture."""

Origin = Literal["mixture", "prior"]


class Samples(NamedTuple):
    """Generated images and the training images closest to them."""

    pictures: np.ndarray
    """float32 (n, C, H, W) in [0, 1]."""
    by_code: np.ndarray
    """Position (n,) of the training image whose code is nearest, by the index's metric."""
    code_distance: np.ndarray
    """(n,): 1 - cosine of centred codes, or the Euclidean distance."""
    by_pixels: np.ndarray
    """Position (n,) of the training image whose pixels are nearest."""
    pixel_distance: np.ndarray
    """(n,): root mean square difference of the pixels in [0, 1]."""


def prior_codes(encoder: Encoder, count: int, seed: int) -> np.ndarray | None:
    """Codes drawn from the bottleneck's prior, float32 (count, d); None where it has none."""
    drawn = encoder.model.prior(count, torch.Generator().manual_seed(seed))
    return None if drawn is None else np.asarray(drawn.cpu().numpy(), np.float32)


def beside_nearest(
    drawn: np.ndarray, encoder: Encoder, images: Images, embeddings: Embeddings, center: np.ndarray, metric: Metric
) -> Samples:
    """Decode the `drawn` codes (n, d) and look for what is closest in the training split."""
    pictures = encoder.decode(drawn)
    train = images.positions("train")
    by_code, apart = closest(
        codes(drawn, center, metric), lambda rows: codes(embeddings.rows(rows), center, metric), train
    )
    by_pixels, difference = closest_in_pixels(pictures, images)
    return Samples(pictures, by_code, apart**2 / 2 if metric == "cosine" else apart, by_pixels, difference)


def draw(groups: Mapping[str, Samples], images: Images, unseen: float, across: int = ACROSS) -> Figure:
    """Samples, framed, each with the training image nearest to it by code and by pixels; a group begins a row.

    `groups`: where from -> its samples; `unseen` is what a difference in pixels is given in.
    """
    first = next(iter(groups.values()))
    across = min(across, max(len(samples.pictures) for samples in groups.values()))
    rows = sum(-(-len(samples.pictures) // across) for samples in groups.values())
    title = (
        "Samples, framed, and the nearest training images by code and by pixels\n"
        "the number: distance in pixels; 0 is a copy, 1 is usual for an unseen image"
    )
    shown = Sheet(rows, np.repeat(first.pictures[:1], 3 * across, axis=0), title, 0.8, 0.2, together=(0, 3))
    for column in range(across):
        for number, (text, colour) in enumerate((("sample", INK), ("nearest code", GREY), ("nearest pixels", GREY))):
            shown.heading(3 * column + number, text, colour)
    row = 0
    for origin, samples in groups.items():
        shown.name(row, origin)
        seen = images.rows(np.r_[samples.by_code, samples.by_pixels])
        by_code, by_pixels = np.split(seen, 2)
        names = _names(images, samples.by_code)
        for number, picture in enumerate(samples.pictures):
            place = row + number // across, 3 * (number % across)
            shown.image(*place, picture, ACCENT)
            shown.image(place[0], place[1] + 1, by_code[number])
            shown.image(place[0], place[1] + 2, by_pixels[number])
            shown.caption(place[0], place[1] + 1, names[number])
            shown.caption(place[0], place[1] + 2, f"{samples.pixel_distance[number] / unseen:.2f}")
        row += -(-len(samples.pictures) // across)
    return shown.figure


def run(count: int, origin: Origin, seed: int, picture: Path, as_json: bool, root: Path = Path()) -> None:
    """Draw `count` samples into the file `picture`, and print what each comes closest to.

    Raises UserError for a count below 1, a picture that is a folder, and a prior asked of a bottleneck without one;
    WorkFailed for artefacts that do not belong together.
    """
    if count < 1:
        raise UserError(f"-n is {count}; expected 1 or more.")
    check_writable(picture)
    source = Source.find(root)
    print(f"aecore sample: asking {source}", file=sys.stderr)
    encoder = Encoder.load(source.path("model"), "cpu")
    searcher = Searcher.open(source, encoder.manifest)
    images, embeddings = searcher.base.images, searcher.base.embeddings
    components = None
    if origin == "prior":
        drawn = prior_codes(encoder, count, seed)
        if drawn is None:
            raise UserError(
                f"the bottleneck of the model at {source.path('model')} is plain, which has no prior: "
                "leave out --from prior to sample from a mixture fitted to its codes."
            )
    else:
        mixture = fit_mixture(embeddings.rows(fitted_to(images.positions("train"), images.ids())), seed)
        components, drawn = len(mixture.weights), mixture.draw(count, seed)
    samples = beside_nearest(drawn, encoder, images, embeddings, searcher.base.center, searcher.metric)
    unseen = unseen_distance(images)
    sheet.save(draw({origin: samples}, images, unseen), picture)
    print(f"aecore sample: drew {legible(picture)}", file=sys.stderr)
    found = [
        {"by_code": _item(images, code, far), "by_pixels": _item(images, near, apart)}
        for code, far, near, apart in zip(*samples[1:], strict=True)
    ]
    if as_json:
        answer = {
            "source": {"kind": source.kind, "path": str(source.directory)}, "from": origin, "seed": seed,
            "components": components, "picture": str(picture), "unseen": round(unseen, 6), "samples": found,
        }  # fmt: skip
        tell(answer)
    else:
        print("\n".join(table(found, unseen)))


def table(found: Sequence[Mapping[str, Mapping[str, Any]]], unseen: float) -> list[str]:
    """Aligned lines: each sample's nearest training images, and how far in pixels in units of `unseen`."""
    lines = [["sample", "nearest by code", "distance", "nearest by pixels", "of an unseen image's"]]
    for number, sample in enumerate(found, start=1):
        code, near = sample["by_code"], sample["by_pixels"]
        called = [f"{item['id']} {legible(item['label_name'] or item['path'])}" for item in (code, near)]
        lines.append([
            str(number), called[0], f"{code['distance']:.4f}", called[1], f"{near['distance'] / unseen:.2f}"
        ])  # fmt: skip
    return aligned(lines)


def _item(images: Images, position: int, distance: float) -> dict[str, Any]:
    item = images.items.slice(int(position), 1).to_pylist()[0]
    known = {"id": str(item["id"]), "path": item["path"], "label_name": item["label_name"]}
    return known | {"distance": round(float(distance), 6)}


def _names(images: Images, positions: np.ndarray) -> list[str]:
    labels, names = images.labels(), images.label_names
    if labels is None or names is None:
        return [""] * len(positions)
    return [names[label] if label >= 0 else "unlabelled" for label in labels[positions]]
