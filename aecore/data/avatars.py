"""Drawn faces: colour images of which every attribute is known, for tests, examples and edits with an exact answer.

The drawings are DiceBear's style Lorelei, by Lisa Wischofsky, CC0 1.0. A face is a choice for each key of CHOICES; all
are drawn independently of each other, half of the faces smile and half wear glasses. The same face with one attribute
changed can be drawn too (`pair`). Needs the extra `avatars`; what is drawn is a folder that is read without it.
"""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Iterator, Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aecore.artifact import replacing
from aecore.config import UserError, pick, require

STYLE = "lorelei"
COUNT = 5_000
"""Faces that `fetch` draws, all different; they take about 16 MB."""
SIDE = 64
"""Pixels."""
SEED = 0
LABEL = "hair"
"""The attribute that names the sub-folder of a face, and so its label: the one that most of the picture shows."""
TABLE = "attributes.csv"
PACKAGES = ("dicebear-core", "dicebear-styles", "resvg-py")

Face = dict[str, str]
"""Attribute -> choice, for every key of CHOICES."""

NONE = "none"
CHOICES: dict[str, dict[str, str | float]] = {
    "hair": {
        "crop": "variant02", "parted": "variant07", "quiff": "variant08", "curly": "variant05", "mohawk": "variant27",
        "spiky": "variant20", "bob": "variant19", "ponytail": "variant31", "long": "variant15", "wavy": "variant35",
    },
    "hair_color": {
        "black": "2c222b", "brown": "5a3825", "chestnut": "a0603a", "blond": "e3c284", "red": "c2452d",
        "purple": "6d5acf",
    },
    "skin": {"light": "f5d0b0", "tan": "dda878", "brown": "b07347", "dark": "7d4a26"},
    "background": {"sky": "b6e3f4", "lilac": "c0aede", "pink": "ffd5dc", "mint": "bfe8cf", "sand": "f3ead2"},
    "eyes": {
        "round": "variant04", "wide": "variant09", "dots": "variant16", "sleepy": "variant03", "wink": "variant15",
        "closed": "variant19",
    },
    "eyebrows": {
        "arched": "variant07", "flat": "variant10", "thick": "variant03", "short": "variant08", "worried": "variant01",
        "angry": "variant13",
    },
    "nose": {"long": "variant01", "small": "variant02", "round": "variant03", "hooked": "variant05"},
    "frames": {NONE: "", "round": "variant01", "square": "variant04", "half": "variant05", "sun": "variant02"},
    "mouth": {
        "smile": "happy01", "laugh": "happy05", "grin": "happy16", "flat": "sad05", "frown": "sad04", "gasp": "sad01",
    },
    "facing": {"right": "none", "left": "horizontal"},
    "tilt": {"left": -9, "upright": 0, "right": 9},
    "size": {"small": 1.14, "medium": 1.22, "large": 1.34},
    "across": {"left": -6, "middle": 0, "right": 6},
    "down": {"high": 0, "middle": 4, "low": 8},
}  # fmt: skip
"""Attribute -> name of a choice -> what DiceBear calls it; `tilt` in degrees, `across` and `down` in per cent."""

OPTIONS = {
    "hair": "hairVariant", "hair_color": "hairColor", "skin": "skinColor", "background": "backgroundColor",
    "eyes": "eyesVariant", "eyebrows": "eyebrowsVariant", "nose": "noseVariant", "frames": "glassesVariant",
    "mouth": "mouthVariant", "facing": "flip", "tilt": "rotate", "size": "scale", "across": "translateX",
    "down": "translateY",
}  # fmt: skip
"""DiceBear's option behind each attribute."""

SWITCHES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "smiling": ("mouth", ("smile", "laugh", "grin"), ("flat", "frown", "gasp")),
    "glasses": ("frames", ("round", "square", "half", "sun"), (NONE,)),
}
"""What a face has or has not -> the attribute that decides it, its choices that mean yes, and those that mean no."""

FIXED = {
    "headVariant": "variant01", "mouthColor": "c81e3c", "beardProbability": 0, "earringsProbability": 0,
    "frecklesProbability": 0, "hairAccessoriesProbability": 0,
}  # fmt: skip
"""The same in every face. The lips are red since black lines are hard to see on dark skin at 64 pixels."""


def faces(count: int, seed: int = SEED) -> Iterator[Face]:
    """Yield `count` faces, all different; fewer of the same seed are the first of more."""
    generator = np.random.default_rng(seed)
    pools = {attribute: list(choices) for attribute, choices in CHOICES.items()}
    worn = SWITCHES["glasses"][1]
    pools["frames"] = [*worn, *(NONE for _ in worn)]
    seen = set[tuple[str, ...]]()
    while len(seen) < count:
        face = {attribute: pool[generator.integers(len(pool))] for attribute, pool in pools.items()}
        if tuple(face.values()) not in seen:
            seen.add(tuple(face.values()))
            yield face


def describe(face: Face) -> dict[str, str | bool]:
    """Everything that is known of a face: its choices, and whether it has each of SWITCHES."""
    return face | {name: face[attribute] in yes for name, (attribute, yes, _) in SWITCHES.items()}


def change(face: Face, attribute: str, value: str | bool) -> Face:
    """Return the face with one attribute at `value`: a choice of CHOICES, or True or False for one of SWITCHES.

    A face that has it already comes back as it is; else True and False take the first choice that means them. Raises
    UserError for what is not known.
    """
    _check(face)
    if attribute in SWITCHES:
        require(isinstance(value, bool), attribute, value, "True or False")
        decisive, yes, no = SWITCHES[attribute]
        meant = yes if value else no
        return face if face[decisive] in meant else face | {decisive: meant[0]}
    known: dict[str, Any] = {**CHOICES, **SWITCHES}
    pick(pick(known, attribute, "attribute"), str(value), attribute)
    return face | {attribute: str(value)}


def draw(face: Face, side: int = SIDE) -> np.ndarray:
    """Draw a face, uint8 (side, side, 3). Raises UserError for a choice that is not known, or without the packages."""
    _check(face)
    style = _style()
    import resvg_py
    from dicebear import Avatar

    chosen = {OPTIONS[attribute]: CHOICES[attribute][name] for attribute, name in face.items()}
    bare = face["frames"] == NONE
    options = FIXED | chosen | {"glassesProbability": 0 if bare else 100}
    if bare:
        del options["glassesVariant"]
    svg = Avatar(style, options).to_string()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True)
    with Image.open(io.BytesIO(png)) as picture:
        return np.array(picture.convert("RGB"))  # nothing shines through: the background fills it


def pair(face: Face, attribute: str, value: str | bool, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Draw a face as it is and with one attribute changed, each uint8 (side, side, 3). See `change`."""
    return draw(face, side), draw(change(face, attribute, value), side)


def draw_folder(path: Path, count: int = COUNT, seed: int = SEED) -> None:
    """Write `count` faces, the table of their attributes and a README of their origin to the new folder `path`.

    The same count and seed give the same bytes, with the same versions of the packages. Raises UserError.
    """
    from tqdm import tqdm

    readme = _readme(count, seed)
    with replacing(path) as temporary:
        rows = []
        for name in CHOICES[LABEL]:
            (temporary / name).mkdir()
        bar = tqdm(faces(count, seed), total=count, desc="draw", unit=" images", mininterval=0.5, disable=None)
        for number, face in enumerate(bar):
            name = f"{face[LABEL]}/{number:05d}.png"
            Image.fromarray(draw(face)).save(temporary / name)
            rows.append({"path": name, **_written(describe(face))})
        with (temporary / TABLE).open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, rows[0], lineterminator="\n")
            table.writeheader()
            table.writerows(sorted(rows, key=lambda row: row["path"]))
        (temporary / "README.md").write_text(readme, encoding="utf-8")


def _written(values: Mapping[str, str | bool]) -> dict[str, str]:
    return {name: str(value).lower() if isinstance(value, bool) else value for name, value in values.items()}


def _check(face: Face) -> None:
    require(face.keys() == CHOICES.keys(), "face", dict(face), f"a choice for each of {', '.join(CHOICES)}")
    for attribute, name in face.items():
        pick(CHOICES[attribute], name, attribute)


@functools.cache
def _style() -> Any:
    """DiceBear's style, read and checked once: that takes longer than a hundred faces."""
    _versions()
    from dicebear import Style

    return Style(_definition())


def _definition() -> dict[str, Any]:
    text = resources.files("dicebear_styles").joinpath(f"{STYLE}.json").read_text(encoding="utf-8")
    definition: dict[str, Any] = json.loads(text)
    return definition


def _versions() -> str:
    """Names and versions of what draws. Raises UserError where it is not installed."""
    try:
        return ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    except metadata.PackageNotFoundError as error:
        raise UserError(f"avatars are drawn with {', '.join(PACKAGES)}, and {error.name} is not installed: "
                        "`python -m pip install 'aecore[avatars]'`.") from error  # fmt: skip


def _readme(count: int, seed: int) -> str:
    versions, origin = _versions(), _definition()["meta"]
    attributes = "\n".join(f"- `{name}`: {', '.join(choices)}" for name, choices in CHOICES.items())
    switches = "\n".join(f"- `{name}`: true where `{attribute}` is {', '.join(yes)}"
                         for name, (attribute, yes, _) in SWITCHES.items())  # fmt: skip
    return (
        f"# {count:,} drawn faces\n\n"
        f"{SIDE}x{SIDE} colour, drawn by `python -m aecore fetch` (seed {seed}) with {versions}.\n\n"
        f"- **Drawings**: [{origin['source']['name']}]({origin['source']['url']}) by [{origin['creator']['name']}]"
        f"({origin['creator']['url']}), as DiceBear's style `{STYLE}`; hair, skin, lips and background coloured here.\n"
        f"- **Licence**: [{origin['license']['name']}]({origin['license']['url']}).\n"
        f"- **Label**: `{LABEL}`, the sub-folder.\n\n"
        f"`{TABLE}` says what each one shows:\n\n{attributes}\n{switches}\n"
    )
