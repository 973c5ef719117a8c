"""What the folders that images lie in mean: their labels, or the split that they come in and then their labels.

The label of an image is the first folder that it lies in (below its batch). Where those first folders are named train
and test or the like, they say which images are for what; the label is then the folder below.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from aecore.config import UserError
from aecore.counted import counted
from aecore.data.entry import SplitFolders, SplitName

NAMES: dict[str, SplitName] = {
    "train": "train", "training": "train", "trn": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "eval": "validation", "evaluation": "validation",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
"""How people call the folder of a split, in any case; with what AROUND it may have, too (`training_set`, `val2017`)."""
AROUND = re.compile(rf"({'|'.join(NAMES)})([ _.-]?(set|data|images|split))?([ _.-]?(19|20)[0-9]{{2}})?", re.IGNORECASE)
ORDER: tuple[SplitName, ...] = ("train", "validation", "test")
SAID = {"train": "training", "validation": "validation", "test": "test"}
NONE = ""
"""Stands for the folder of an image that lies in none."""


@dataclass(frozen=True)
class Layout:
    """What the folders say of each of n images."""

    labels: list[str | None]
    splits: list[SplitName | None]
    told: str
    """A sentence that says what was taken for what; empty where no folder is named like a split."""


def split_of(folder: str) -> SplitName | None:
    """The split that a folder is named after, if any."""
    found = AROUND.fullmatch(folder)
    return NAMES[found[1].lower()] if found else None


def named_like_splits(tops: Iterable[str]) -> bool:
    """Whether there are top folders and every one is named after a split."""
    return all(splits := [split_of(top) for top in tops]) and bool(splits)


def top_folders(paths: Iterable[str], *, batches: bool = False) -> frozenset[str]:
    """The first folders of `paths`, below their batches; NONE is among them where a path has no folder."""
    depth = 1 if batches else 0
    parts = (path.split("/", depth + 1) for path in paths)
    return frozenset(part[depth] if len(part) > depth + 1 else NONE for part in parts)


def taken_for_splits(tops: Iterable[str], split_folders: SplitFolders) -> dict[str, SplitName | None] | None:
    """The split that each top folder holds, NONE among them; None where they are taken for labels.

    Where none is for testing, what is called validation is the test. Where all are for training there is no split to
    keep: None each. Raises UserError where they shall `always` be splits and cannot be.
    """
    splits = {top: split_of(top) for top in sorted(tops)}
    if split_folders == "always":
        for top, split in splits.items():
            if split is None:
                raise UserError(
                    "data.split_folders is always, but "
                    + (f"the top folder {top!r} is named after no split" if top else "images lie in no folder at all")
                    + f" (known: {', '.join(NAMES)}): move or rename them, or choose auto or never."
                )
    named = set(splits.values()) - {None}
    if split_folders == "always" and "train" not in named:
        raise UserError("data.split_folders is always, but no top folder is for training: choose auto or never.")
    if split_folders == "never" or "train" not in named or not named_like_splits(top for top in splits if top):
        return None
    if named == {"train"}:
        return dict.fromkeys(splits)
    if "test" not in named:
        return {top: "test" if split == "validation" else split for top, split in splits.items()}
    return splits


def read_layout(paths: Sequence[str], batches: Sequence[str], *, packed: bool, split_folders: SplitFolders) -> Layout:
    """Say what the folders of the images at `paths` mean; the batch begins the path of an image that has one.

    In an archive (`packed`), one top folder around further folders is packaging and is passed over. Batches are judged
    together. One label for all images says nothing, so there it is None. Raises UserError as `taken_for_splits`.
    """
    inside = [p.removeprefix(f"{b}/") if b else p for p, b in zip(paths, batches, strict=True)]
    folders = [PurePosixPath(p).parts[:-1] for p in inside]
    if packed:
        _unpack(folders, batches, up_to_splits=True)
    tops = Counter(f[0] if f else NONE for f in folders)
    taken = taken_for_splits(tops, split_folders)
    if taken is None and packed:
        _unpack(folders, batches, up_to_splits=False)
    depth = 0 if taken is None else 1
    labels = [f[depth] if len(f) > depth else None for f in folders]
    labels = labels if len(set(labels)) > 1 else [None] * len(labels)
    if taken is None:
        told = _left(tops, split_folders) or ("" if split_folders == "never" else _wrapped(folders))
        return Layout(labels, [None] * len(labels), told)
    splits = [taken[f[0] if f else NONE] for f in folders]
    labelled = {f[0] for f, label in zip(folders, labels, strict=True) if label is not None}
    return Layout(labels, splits, _told(tops, taken, labelled))


def _unpack(folders: list[tuple[str, ...]], batches: Sequence[str], *, up_to_splits: bool) -> None:
    """Take one top folder around further folders away, in each batch for itself."""
    members: dict[str, list[int]] = {}
    for i, batch in enumerate(batches):
        members.setdefault(batch, []).append(i)
    for mine in members.values():
        while len({folders[i][:1] for i in mine}) == 1 and any(len(folders[i]) > 1 for i in mine):
            below = {folders[i][1] for i in mine if len(folders[i]) > 1}
            if up_to_splits and split_of(folders[mine[0]][0]) and taken_for_splits(below, "auto") is None:
                break
            for i in mine:
                folders[i] = folders[i][1:]


def _told(tops: Mapping[str, int], taken: Mapping[str, SplitName | None], labelled: set[str]) -> str:
    """What was taken for what; in the folders `labelled` there are labels."""
    shown = sorted((top for top in tops if top), key=lambda top: (ORDER.index(split_of(top) or "train"), top))
    parts = [f"{top}/ ({counted(tops[top], 'image')})" for top in shown]
    if any(taken.values()):
        parts = [f"{part} as {SAID[taken[top] or 'train']}" for part, top in zip(parts, shown, strict=True)]
        said = f"took {', '.join(parts)}"
        said += "" if "validation" in taken.values() else "; validation is carved from training"
        said += f"; {tops[NONE]:,} in no folder are split by their pixels" if NONE in tops else ""
    else:
        said = f"{', '.join(parts)} is for training, and nothing is for testing: all are split by their pixels"
    bare = ", ".join(f"{top}/" for top in shown if top not in labelled)
    below = "labels from the folders below" + (f" (none in {bare})" if bare else "")
    below = below if labelled else "no labels, since no folders below tell them apart"
    return f"{said}; {below}. data.split_folders: never takes the top folders for labels."


def _left(tops: Mapping[str, int], split_folders: SplitFolders) -> str:
    """That folders named after splits were taken for labels, where they are likely to be splits."""
    splits = {top: split for top in sorted(tops) if (split := split_of(top))}
    others = [top for top in sorted(tops) if top and top not in splits]
    if not splits or (others and len(set(splits.values())) == 1):
        return ""  # a train is a vehicle, too
    named = ", ".join(f"{top}/" for top in splits)
    said = f"{named}: named after splits, and taken for labels"
    if split_folders == "never":
        return f"{said}, since data.split_folders is never."
    if "train" not in splits.values():
        return f"{said}, since none is for training."
    return f"{said}, since {others[0]!r} beside them is none: move it elsewhere if they shall be kept as the split."


def _wrapped(folders: Sequence[tuple[str, ...]]) -> str:
    """That a split lies one folder deeper than where it would be kept."""
    below = {f[1] if len(f) > 1 else NONE for f in folders}
    taken = taken_for_splits(below, "auto")
    if len({f[:1] for f in folders}) != 1 or not taken or not any(taken.values()):
        return ""
    named = ", ".join(f"{top}/" for top in sorted(below - {NONE}))
    return f"{named}: named after splits, but in {folders[0][0]!r}; let data.path lead there if they shall be kept."
