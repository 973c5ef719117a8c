"""`aecore check`: each kind of fault, many at once, and that it says what the stages would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from aecore import cli, config
from aecore.check import SECTIONS, check
from aecore.config import UserError
from aecore.data.prepare import PrepareConfig
from aecore.models.recipe import read_recipe
from tests.conftest import ROOT, SMALL, draw_shapes, write_params

SHIPPED: dict[str, dict[str, Any]] = YAML(typ="safe").load(ROOT / "params.yaml")
RAW = Path("data/raw/shapes")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}


@pytest.fixture(scope="session")
def _request_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("request")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    write_params(folder, SMALL)
    draw_shapes(folder / RAW, each=10)
    return folder


@pytest.fixture
def asked(_request_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A request that is in order: params.yaml, the recipes and 30 images; nothing has run. The current directory."""
    folder = tmp_path / "asked"
    shutil.copytree(_request_made, folder)
    monkeypatch.chdir(folder)
    return folder


def faults(**changes: dict[str, Any]) -> list[str]:
    write_params(Path(), changes)
    return check().faults


def rewrite(change: Callable[[dict[str, Any]], object]) -> list[str]:
    """What is found once `change` was done to all that params.yaml holds."""
    values = YAML(typ="safe").load(Path("params.yaml"))
    change(values)
    YAML(typ="safe").dump(values, Path("params.yaml"))
    return check().faults


def test_what_is_in_order_needs_no_stage_and_nothing_heavy(asked: Path) -> None:
    code = (
        "import sys; from aecore import cli\nassert cli.main(['check']) == 0\n"
        "print(sorted({'torch', 'faiss', 'sklearn', 'mlflow', 'matplotlib', 'pyarrow', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout.splitlines() == [f"params.yaml, its recipe and {RAW} (30 files) are in order", "[]"], done.stderr


def test_the_shipped_request_is_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert check().faults == []
    assert tuple(SECTIONS) == config.SECTIONS


def places(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    below = [places(value, (*above, key)) for key, value in values.items() if isinstance(value, Mapping)]
    return [(*above, key) for key in values] + [place for found in below for place in found]


@pytest.mark.parametrize("place", places(SHIPPED), ids=".".join)
def test_every_misspelled_key_is_found_with_the_right_one(place: tuple[str, ...], asked: Path) -> None:
    *above, key = place
    wrong = key[:2] + "x" + key[2:]

    def misspell(values: dict[str, Any]) -> None:
        for name in above:
            values = values[name]
        values[wrong] = values.pop(key)

    found = rewrite(misspell)
    assert len(found) == 1, found
    assert ".".join([*above, wrong]) in found[0] if above else f"section '{wrong}'" in found[0]
    assert found[0].startswith("params.yaml: ")
    assert f"did you mean '{key}'?" in found[0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"evaluate": {"neighbors": 10}}, "evaluate.neighbors is not a known key (did you mean 'neighbours'?)."),
        ({"run": {"threads": 0}}, "params.yaml: run.threads is 0; expected 1 or more."),
        ({"run": {"device": "metal"}}, "params.yaml: run.device is 'metal'; choose one of auto, cpu, cuda."),
        ({"train": {"recipe": "conv_neerest"}}, "params.yaml: train.recipe 'conv_neerest' is not known; known: "),
        ({"train": {"overrides": {"widht": [4]}}}, "recipe.widht is not a known key (did you mean 'widths'?)"),
        ({"train": {"overrides": {"down": None}}}, "down is None while architecture is 'conv', which needs a choice"),
        ({"train": {"overrides": []}}, "params.yaml: train.overrides is []; expected keys and values."),
        ({"train": {"latent_dim": 26}, "prepare": {"size": 5}}, "latent_dim is 26, but an image has only 25 values"),
        ({"train": {"recipe": "vq", "latent_dim": 6}}, "params.yaml: train.latent_dim is 6 while the recipe's"),
        ({"train": {"recipe": "colourise"}}, "set prepare.channels to 3."),
        ({"train": {"recipe": "best"}, "prepare": {"size": 3}}, "but prepare.size is 3 x 3: make it larger."),
        ({"train": {"devices": 9}}, "params.yaml: train.batch_size is 16, but devices is 9: each needs two images"),
        ({"train": {"latent_dim": 31}}, "params.yaml: train.latent_dim is 31, but data.path holds 30 images at most"),
        ({"cluster": {"clusters": 31}}, "params.yaml: cluster.clusters is 31, but data.path holds 30 images at most"),
        ({"cluster": {"method": "hdbscan"}}, "params.yaml: cluster.min_size is 50, but data.path holds 30"),
        ({"tracking": {"experiment": " "}}, "params.yaml: tracking.experiment is ' '; expected a name."),
        ({"data": {"source": "fashion_mnist", "batches": True}}, "params.yaml: data.batches is True; expected false"),
        ({"data": {"source": "foldr"}}, "params.yaml: data.source 'foldr' is not known; known: "),
        ({"data": {"source": "archive"}}, "is a folder; source: archive expects one archive"),
        ({"data": {"source": "fashion_mnist"}}, "lacks train-images-idx3-ubyte.gz"),
        pytest.param({"data": {"source": "torchvision:cifar10"}}, "data.source: torchvision has no data set 'cifar10'",
                     marks=pytest.mark.slow),
        ({"data": {"path": "nowhere"}}, "params.yaml: data.path nowhere is not there: put the images there"),
        ({"data": {"path": "nowhere", "source": "avatars"}}, "is not there: run `python -m aecore fetch`."),
        ({"data": {"path": "data"}}, "params.yaml: data.path data holds data/prepared, which the program writes"),
        ({"data": {"path": "artifacts/index/x"}}, "data.path artifacts/index/x lies in artifacts/index, which"),
        ({"data": {"path": "."}}, "data.path . holds data/prepared, which the program writes"),
        ({"data": {"path": 7}}, "params.yaml: data.path is 7; expected a str."),
        ({"prepare": {"split": {"train": 0.5, "validation": 0.1, "test": 0.2}}}, "train + validation + test is 0.8"),
        ({"prepare": {"size": "big"}}, "params.yaml: prepare.size is 'big'; expected a list."),
    ],
)  # fmt: skip
def test_each_kind_of_fault_is_one_sentence(changes: dict[str, Any], sentence: str, asked: Path) -> None:
    found = faults(**changes)
    assert len(found) == 1, found
    assert sentence in found[0]
    assert "\n" not in found[0]


def test_all_faults_are_told_at_once(asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (RAW / "b.png").symlink_to("nowhere")
    (RAW / "c.png").symlink_to("c.png")
    os.mkfifo(RAW / "pipe.png")
    Path(os.fsdecode(os.fsencode(RAW) + b"/caf\xe9.png")).touch()
    write_params(Path(), {
        "run": {"seed": -1, "threads": 0},
        "train": {"recipe": "conv_narest", "epoch": 0, "batch_size": 1, "clip_norm": "much"},
        "evaluate": {"neighbors": 5, "bootstrap": 1},
        "cluster": {"clusters": 1_000},
    })  # fmt: skip
    values = Path("params.yaml").read_text().replace("embed:", "embde:")
    Path("params.yaml").write_text(values + "baseline: {}\n")
    assert cli.main(["check"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    head, *lines = shown.err.splitlines()
    expected = [
        "section 'embde' is not known (did you mean 'embed'?)", "section 'baseline' is not known",
        "run.seed is -1", "run.threads is 0", "train.epoch is not a known key (did you mean 'epochs'?)",
        "train.clip_norm is 'much'; expected a float", "evaluate.neighbors is not a known key",
        "evaluate.bootstrap is 1; expected 20 or more",
        "train.recipe 'conv_narest' is not known",
        "holds 1 name that is not UTF-8 (caf\\xe9.png)", "holds 2 links that lead nowhere (b.png, c.png)",
        "holds 1 pipe, socket or device (pipe.png)", "cluster.clusters is 1,000",
    ]  # fmt: skip
    missing = [words for words in expected if not any(words in line for line in lines)]
    assert missing == []
    assert "did you mean 'conv_nearest'?" in shown.err
    unexpected = [line for line in lines if not any(words in line for words in expected)]
    assert unexpected == ["params.yaml: train.epochs is missing."] or unexpected == []
    assert head == f"aecore check: {len(lines)} things are wrong:"
    assert not Path("data/prepared").exists()


def test_rules_of_a_recipe_are_told_all_at_once(asked: Path) -> None:
    found = faults(train={"overrides": {"widths": [], "loss": "masked", "whiten": 2, "penalties": {"l3": 1, "l4": 1}}})
    assert len(found) == 5, found
    assert all(fault.startswith("recipes/conv_nearest.yaml with train.overrides: recipe.") for fault in found)


@pytest.mark.parametrize("recipe", sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml")))
def test_a_recipe_is_refused_exactly_as_training_would(recipe: str, asked: Path) -> None:
    from aecore.models.autoencoder import Autoencoder

    for channels, size, latent_dim in ((1, 28, 32), (3, 28, 32), (1, [3, 5], 7)):
        said = None
        preparation = config.build(
            PrepareConfig, {**SHIPPED["prepare"], "size": size, "channels": channels}, ""
        ).preparation
        try:
            Autoencoder(read_recipe(recipe, {}), preparation.shape, latent_dim)
        except UserError as error:
            said = str(error)
        found = faults(train={**SHIPPED["train"], "recipe": recipe, "latent_dim": latent_dim},
                       prepare={"channels": channels, "size": size})  # fmt: skip
        found = [fault for fault in found if "30 images" not in fault]
        assert found[:1] == ([] if said is None else [f"params.yaml: {said}"])


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_gpus_that_are_not_there(device: str, asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    found = faults(run={"device": device}, train={"devices": 2})
    assert found == [{
        "cuda": "params.yaml: run.device is 'cuda', but torch sees no GPU here: set it to 'auto' or 'cpu'.",
        "auto": "params.yaml: train.devices is 2, but there are 1 GPUs.",
    }[device]]  # fmt: skip
    assert faults(run={"device": "cpu"}) == []


def test_a_params_file_that_is_none(asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content, words in (
        ("run: [", "not readable as YAML"),
        ("- 1\n", "should hold sections"),
        (None, "is not here"),
    ):
        Path("params.yaml").unlink() if content is None else Path("params.yaml").write_text(content)
        assert cli.main(["check"]) == 2
        assert words in capsys.readouterr().err
    Path("params.yaml").write_text("{}\n")
    assert len(check().faults) == len(SECTIONS)
    Path("params.yaml").write_text("".join(f"{name}: 3\n" for name in SECTIONS))
    assert [fault.split(" should")[0] for fault in check().faults] == [f"params.yaml: {name}" for name in SECTIONS]


def test_a_path_that_is_nothing_to_read(asked: Path) -> None:
    os.mkfifo("pipe")
    Path("broken").symlink_to("nowhere")
    Path("tracked.dvc").touch()
    Path("empty").mkdir()
    for place, words in (("pipe", "is a pipe, socket or device"), ("broken", "is a link that leads nowhere"),
                         ("tracked", "`dvc checkout` brings it"), ("empty", "is an empty folder"),
                         ("params.yaml", "is a file; source: folder expects a folder")):  # fmt: skip
        found = faults(data={"path": place})
        assert len(found) == 1, found
        assert words in found[0]


@pytest.mark.slow
def test_what_the_project_hides_from_dvc_is_no_fault(asked: Path) -> None:
    (RAW / "a.lock").symlink_to("nowhere")
    (RAW / "b.png").symlink_to("nowhere")
    (RAW / ".git").mkdir()
    os.mkfifo(RAW / ".git/p")
    assert [fault for fault in check().faults if "a.lock" in fault]
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], check=True)
    Path(".dvcignore").write_text("*.lock\n")
    (fault,) = check().faults
    assert fault.startswith(f"params.yaml: data.path {RAW} holds 1 link that leads nowhere (b.png): ")


def test_a_malformed_table_of_attributes_is_told_too(asked: Path) -> None:
    (RAW / "attributes.csv").write_text("path,round\nnone.png,true\n")
    assert ["names 'none.png', which is not below" in fault for fault in check().faults] == [True]


def test_a_folder_behind_a_link_is_a_note(asked: Path) -> None:
    Path("elsewhere").mkdir()
    shutil.copy(next(RAW.rglob("*.png")), "elsewhere/x.png")
    (RAW / "linked").symlink_to(Path("elsewhere").resolve())
    found = check()
    assert (found.faults, found.files) == ([], 31)
    assert len(found.notes) == 1
    assert "holds 1 link to a folder (linked)" in found.notes[0]


def test_what_has_come_and_gone_since_prepare(asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prepare"]) == 0
    (RAW / ".DS_Store").touch()
    (RAW / "README.md").touch()
    assert (check().since, check().notes) == ((0, 0, 0), [])
    capsys.readouterr()
    for number in range(3):
        shutil.copy(RAW / "disc/000.png", RAW / f"disc/new{number}.png")
    (RAW / "disc/001.png").unlink()
    with (RAW / "disc/002.png").open("ab") as file:
        file.write(b"more")
    assert cli.main(["check"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1].startswith(
        f"since `prepare` read {RAW}, 3 files have come, 1 file has gone, 1 file has another size: "
    )
    assert cli.main(["check", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["files"], found["faults"]) == (True, 32, [])
    assert found["since"] == {"came": 3, "gone": 1, "changed": 1}
    assert cli.main(["prepare"]) == 0
    assert check().since == (0, 0, 0)


def test_json_holds_the_faults(asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_params(Path(), {"run": {"seed": -1}})
    assert cli.main(["check", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], len(found["faults"])) == (False, 1)


def test_an_archive_is_compared_by_its_name_and_size(asked: Path) -> None:
    with tarfile.open("images.tar", "w") as archive:
        archive.add(RAW, "shapes")
    write_params(Path(), {"data": {"source": "archive", "path": "images.tar"}})
    assert cli.main(["prepare"]) == 0
    assert (check().files, check().since) == (1, (0, 0, 0))
    with tarfile.open("images.tar", "a") as archive:
        archive.add(RAW / "disc/000.png", "shapes/again.png")
        archive.add("params.yaml")
    assert check().since == (0, 0, 1)


@pytest.mark.slow
def test_a_file_that_arrives_while_prepare_reads_is_told_and_can_be_read(asked: Path) -> None:
    """DVC hashes the folder after the stage: it has the late file down as seen, and says that nothing changed."""
    shutil.copy(RAW / "disc/000.png", "late.png")
    copied = f"test -e {RAW}/late.png || cp late.png {RAW}/late.png"  # after prepare has read, before DVC looks
    Path("dvc.yaml").write_text(
        f"stages:\n  prepare:\n    cmd: {sys.executable} -m aecore prepare && ({copied})\n"
        f"    deps: [{RAW}]\n    params: [data, prepare]\n    outs: [data/prepared]\n"
    )

    def dvc(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, env=ENVIRONMENT
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    dvc("init", "-q", "--no-scm")
    dvc("repro")
    assert "didn't change" in dvc("repro")
    found = check()
    assert found.since == (1, 0, 0)
    (command,) = (part for part in found.notes[0].split("`") if "--force" in part)
    dvc(*command.split()[1:])
    assert check().since == (0, 0, 0)
    assert "didn't change" in dvc("repro")


def test_a_list_of_removed_images_that_cannot_be_read_is_a_fault_and_a_newer_one_is_told(workspace: Path) -> None:
    assert not check().notes
    row = f"7,7,{'ab' * 32},1x12x12 crop\n"
    config.REMOVED.write_text("image,id,pixel_hash,preparation\n" + row)
    (note,) = check().notes
    assert "data/removed.csv has changed since `prepare` read it" in note
    assert cli.main(["prepare"]) == 0
    assert not check().notes
    config.REMOVED.write_text("<<<<<<< HEAD\n")
    (fault,) = check().faults
    assert "data/removed.csv should begin with" in fault
