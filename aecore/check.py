"""The command `check`: all that is wrong with a request, told before anything runs, and nothing has to have run.

It reads every section of params.yaml, the recipe with its overrides, whether they fit each other, and whether
`data.path` is there and DVC can watch it. What a section refuses stands beside its stage; what is said here is what
only two of them together, or the data, refuse. Nothing heavy is imported, unless a GPU or a torchvision set is asked
for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aecore import artifact, config
from aecore.analysis.cluster import ClusterConfig
from aecore.analysis.map import MapConfig
from aecore.analysis.protocol import EvaluateConfig
from aecore.config import PARAMS, Runtime, UserError, gathering
from aecore.counted import counted
from aecore.data.arrays import torchvision_class
from aecore.data.listing import Change
from aecore.data.place import compared, misplaced, not_there, unwatchable
from aecore.data.prepare import PrepareConfig
from aecore.data.removed import HEAD, Removals
from aecore.data.sources import SourceConfig, open_source
from aecore.models.recipe import Recipe, recipe_values
from aecore.names import legible
from aecore.output import tell
from aecore.search.metric import IndexConfig
from aecore.tracking import TrackingConfig
from aecore.training.settings import TrainConfig
from aecore.vectors import EmbedConfig

SECTIONS: dict[str, type] = {
    "run": Runtime, "data": SourceConfig, "prepare": PrepareConfig, "train": TrainConfig, "embed": EmbedConfig,
    "index": IndexConfig, "cluster": ClusterConfig, "map": MapConfig, "evaluate": EvaluateConfig,
    "tracking": TrackingConfig,
}  # fmt: skip


@dataclasses.dataclass
class Report:
    """What was found."""

    faults: list[str] = dataclasses.field(default_factory=list)
    """All that is wrong, a sentence each."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """What is worth knowing, a sentence each."""
    data: str = ""
    """`data.path`."""
    files: int | None = None
    """Files there that `prepare` would read; None where that is not known."""
    since: Change | None = None
    """What has become of the files that `prepare` saw; None where it has not run, or nothing can be compared."""

    def __str__(self) -> str:
        files = "" if self.files is None else f" ({counted(self.files, 'file')})"
        said = [f"{PARAMS}, its recipe and {self.data}{files} are in order", *self.notes]
        return "\n".join(map(legible, said))


def run(as_json: bool) -> None:
    """Print what was found. Raises UserError with all faults where there is one."""
    found = check()
    if as_json:
        since = found.since and found.since._asdict()
        tell({"ok": not found.faults, **dataclasses.asdict(found), "since": since})
    elif not found.faults:
        print(found)
    if found.faults:
        if len(found.faults) == 1:
            raise UserError(found.faults[0])
        error = UserError(f"{len(found.faults)} things are wrong:")
        error.details = tuple(found.faults)
        raise error


def check() -> Report:
    """Look at everything. Raises UserError only where there is no params.yaml, or none that can be read as YAML."""
    report = Report()
    values = sections(config.load_yaml(PARAMS), report.faults)
    read = {name: config.read(SECTIONS[name], *found, report.faults) for name, found in values.items()}
    made: dict[str, Any] = {name: section for name, section in read.items() if section is not None}
    recipe = read_recipe(values, made.get("train"), report.faults)
    report.faults += misfits(made, recipe)
    report.faults += missing_gpus(made, recipe)
    place = made["data"].path if "data" in made else _value(values, "data", "path", str)
    if place:
        report.data = place
        look_at_data(Path(place), made, report)
    look_at_removals(report)
    report.faults[:] = dict.fromkeys(report.faults)
    return report


def sections(values: Mapping[Any, Any], faults: list[str]) -> dict[str, tuple[Any, str]]:
    """What stands in each section, and what an error calls its place; which are missing or not known: to `faults`."""
    given, missing = config.spelled(values, SECTIONS, SECTIONS)
    for key in values:
        if key not in SECTIONS:
            faults.append(f"{PARAMS}: section {str(key)!r} is not known{config.did_you_mean(key, SECTIONS)}.")
    faults += [f"{PARAMS}: section {name!r} is missing." for name in missing]
    return {name: (values[key], f"{PARAMS}: {key}") for name, key in given.items()}


def read_recipe(values: Mapping[str, tuple[Any, str]], train: TrainConfig | None, faults: list[str]) -> Recipe | None:
    """The recipe that the section `train` names, with its overrides, whatever else is wrong with that section."""
    name = train.recipe if train else _value(values, "train", "recipe", str)
    overrides = train.overrides if train else _value(values, "train", "overrides", Mapping)
    if name is None:
        return None
    try:
        recipe, where = recipe_values(name, dict(overrides or {}))
    except UserError as error:
        faults.append(f"{PARAMS}: {error}")
        return None
    return config.read(Recipe, recipe, where, faults)


def misfits(made: Mapping[str, Any], recipe: Recipe | None) -> list[str]:
    """What the sections refuse of each other."""
    prepare, train = made.get("prepare"), made.get("train")
    if prepare is None or train is None or recipe is None:
        return []
    with gathering() as refused:
        recipe.check_fits(prepare.preparation.shape, train.latent_dim)
    return [f"{PARAMS}: {sentence}" for sentence in refused]


def missing_gpus(made: Mapping[str, Any], recipe: Recipe | None) -> list[str]:
    """What the request asks of GPUs that are not there; torch and FAISS are asked only where it needs one."""
    runtime, train = made.get("run"), made.get("train")
    devices = 1 if train is None or (recipe is not None and recipe.architecture == "pca") else train.devices
    if runtime is None or not (runtime.device == "cuda" or (devices > 1 and runtime.device == "auto")):
        return []
    from aecore.models.device import choose_device, require_devices
    from aecore.search.gpu import wanted

    faults = []
    try:
        device = choose_device(runtime.device)
        require_devices(devices, device)
        wanted(runtime.device, 0)
    except UserError as error:
        faults.append(f"{PARAMS}: {error}")
    return faults


def look_at_data(place: Path, made: Mapping[str, Any], report: Report) -> None:
    """Whether `data.path` can be read and watched, and what has become of it since `prepare` read it."""
    source: SourceConfig | None = made.get("data")
    refused = misplaced(place) or not_there(place, source)
    if refused:
        report.faults.append(f"{PARAMS}: {refused}")
        return
    for fault, sentence in unwatchable(place):
        (report.faults if fault else report.notes).append(f"{PARAMS}: {sentence}" if fault else sentence)
    if source is None:
        return
    try:
        if source.torchvision:
            torchvision_class(source.torchvision)
            return
        stream = open_source(source, limit=0)
    except UserError as error:
        report.faults.append(f"{PARAMS}: {error}")
        return
    except OSError as error:
        if not any(str(place) in fault for fault in report.faults):  # else that is told already
            report.faults.append(f"{PARAMS}: data.path {place} cannot be read ({error.strerror}: {error.filename}).")
        return
    report.files = len(stream.files)
    report.faults += too_few(made, stream.total)
    report.since, note = compared(stream.files, place)
    report.notes += note


def look_at_removals(report: Report) -> None:
    """Whether the list of removed images can be read, and whether `prepare` has read it as it is."""
    if not config.REMOVED.is_file() and Path("dvc.yaml").is_file():
        report.faults.append(
            f"{config.REMOVED} is not there; DVC stops without it: `git checkout {config.REMOVED}` brings it. Where "
            f"nobody was removed it holds the line {','.join(HEAD)} alone."
        )
    try:
        removals = Removals.read(config.REMOVED)
    except UserError as error:
        report.faults.append(str(error))
        return
    try:
        prepared = artifact.load_manifest(config.PREPARED, "data").facts
    except UserError:
        return  # there are none, or their stage makes them anew
    if "removals" in prepared and prepared["removals"] != removals.digest:
        report.notes.append(
            f"{config.REMOVED} has changed since `prepare` read it: what is served keeps to it already, the next "
            "`dvc repro` trains accordingly (`dvc repro --force prepare` first, if that finds nothing to do)."
        )


def too_few(made: Mapping[str, Any], files: int | None) -> Iterator[str]:
    """What cannot be made of so many images, of which some more may turn out to be none; None: not known."""
    train, cluster = made.get("train"), made.get("cluster")
    wanted: list[tuple[str, Any]] = [("train.latent_dim", train and train.latent_dim)]
    if cluster is not None and cluster.method == "hdbscan":
        wanted.append(("cluster.min_size", cluster.min_size))
    elif cluster is not None:
        wanted.append(("cluster.clusters", cluster.clusters))
    for key, value in wanted:
        if files is not None and isinstance(value, int) and value > files:
            yield f"{PARAMS}: {key} is {value:,}, but data.path holds {counted(files, 'image')} at most: lower it."


def _value(values: Mapping[str, tuple[Any, str]], section: str, key: str, kind: type) -> Any:
    """A value of a section that may hold anything; None where it is not there or not of that kind."""
    content, _ = values.get(section, (None, ""))
    value = content.get(key) if isinstance(content, Mapping) else None
    return value if isinstance(value, kind) else None
