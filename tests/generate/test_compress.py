"""The commands compress and decompress, on the tiny workspace."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from aecore import artifact, cli, config
from aecore.config import UserError, WorkFailed
from aecore.data.images import Images
from aecore.embedding import Encoder
from aecore.generate import compress as room
from aecore.generate.compress import compress, decompress, stored_names
from aecore.search.searcher import Source

SHAPES = Path("data/raw/shapes")
OUT = Path("out.aec")


def pictures() -> list[str]:
    return [str(path) for path in sorted(SHAPES.glob("*/*.png"))[::5]]


def seen(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def answer(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_the_commands_have_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert f"aecore {command}" in capsys.readouterr().out


def test_round_trip_and_every_figure_of_the_summary(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = pictures()
    compress(paths, OUT, as_json=True)
    told = answer(capsys)
    size, pixels = OUT.stat().st_size, len(paths) * 12 * 12
    assert (told["images"], told["bits"], told["shape"], told["bytes"]) == (len(paths), 8, [1, 12, 12], size)
    assert sum(told["parts"].values()) == size
    assert told["bits_per_pixel"] == pytest.approx(8 * size / pixels, abs=1e-6)
    assert told["bits_per_pixel_codes"] == pytest.approx(8 * told["parts"]["codes"] / pixels, abs=1e-6)
    assert told["model"] == artifact.read_manifest(config.MODEL, "model").digest

    decompress(OUT, Path("back"), as_json=True)
    back = answer(capsys)
    assert {key: back[key] for key in ("file", "model", "bits", "images", "shape", "bytes", "bits_per_pixel")} == {
        key: told[key] for key in ("file", "model", "bits", "images", "shape", "bytes", "bits_per_pixel")
    }
    assert back["each"] == [f"back/{each['name']}.png" for each in told["each"]]
    assert sorted(str(p) for p in Path("back").rglob("*.png")) == sorted(back["each"])

    before = np.stack([seen(path) for path in paths])
    after = np.stack([seen(path) for path in back["each"]])
    assert told["psnr"] == pytest.approx(peak_signal_noise_ratio(before, after), abs=0.01)
    for each, path, x, y in zip(told["each"], paths, before, after, strict=True):
        assert (each["path"], each["width"], each["height"]) == (path, 12, 12)
        assert f"{SHAPES}/{each['name']}.png" == path
        assert each["psnr"] == pytest.approx(peak_signal_noise_ratio(x, y), abs=0.05)


def test_what_comes_back_is_the_decoded_integers(workspace: Path) -> None:
    paths = pictures()
    compress(paths, OUT, 5)
    contents = room.container.from_bytes(OUT.read_bytes(), "it")
    encoder = Encoder.load(device="cpu")
    codes = encoder.encode_files(paths)
    np.testing.assert_array_equal(contents.integers, contents.quantiser.quantise(codes))
    decompress(OUT, Path("back"))
    expected = np.rint(encoder.decode(contents.quantiser.restore(contents.integers)) * 255)
    back = np.stack([seen(f"back/{name}.png") for name in contents.names])
    assert np.abs(back - expected[:, 0]).max() <= 1


def test_int8_costs_hardly_any_quality_and_fewer_bits_cost_more(
    workspace: Path, set_params: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(train={"recipe": "pca", "overrides": {}})  # of the quickly trained, the one that reconstructs well
    assert [cli.main([stage]) for stage in ("train", "embed")] == [0, 0]
    capsys.readouterr()
    told = []
    for bits in (8, 4, 2):
        compress(pictures(), OUT, bits, as_json=True)
        told.append(answer(capsys))
    encoder = Encoder.load(device="cpu")
    pixels = np.stack([seen(path) for path in pictures()])
    unquantised = peak_signal_noise_ratio(pixels[:, None] / 255, encoder.reconstruct(pixels[:, None]), data_range=1)
    assert told[0]["psnr_unquantised"] == pytest.approx(unquantised, abs=0.01)
    assert told[0]["psnr"] == pytest.approx(unquantised, abs=0.02)
    assert [t["parts"]["codes"] for t in told] == sorted((t["parts"]["codes"] for t in told), reverse=True)
    assert told[0]["psnr"] > told[1]["psnr"] + 0.05 > told[2]["psnr"] + 1
    assert told[0]["beyond"] < told[2]["beyond"] < 0.2


def test_the_quantiser_knows_the_training_split_alone(workspace: Path) -> None:
    compress(pictures()[:1], OUT)
    one = room.container.from_bytes(OUT.read_bytes(), "it").quantiser
    compress(pictures(), OUT)
    many = room.container.from_bytes(OUT.read_bytes(), "it").quantiser
    images, encoder = Images.open(), Encoder.load(device="cpu")
    training = encoder.encode(images.rows(images.positions("train")))
    np.testing.assert_allclose(one.offset, training.mean(axis=0), rtol=1e-4, atol=1e-4)
    for field in ("offset", "step", "spread"):
        np.testing.assert_array_equal(getattr(one, field), getattr(many, field))


def test_the_same_images_give_the_same_bytes(workspace: Path) -> None:
    compress(pictures(), OUT)
    first = OUT.read_bytes()
    compress(pictures(), OUT)
    assert OUT.read_bytes() == first


def test_from_the_command_line(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save("photo.jpg")
    assert cli.main(["compress", "photo.jpg", *pictures(), "-o", str(OUT), "--bits", "4"]) == 0
    said = capsys.readouterr()
    assert said.err == "aecore compress: by the model of the workspace's artefacts\n"
    assert f"bytes           {OUT.stat().st_size:,} (header 36, table 40, names " in said.out
    assert "int4 codes" in said.out
    assert "Brought to the model's 12 x 12 first, and kept at that size: 1 picture.\n" in said.out
    assert cli.main(["decompress", str(OUT), "-o", "new/back"]) == 0
    assert f"images          {len(pictures()) + 1} of 12 x 12, grey" in capsys.readouterr().out
    assert seen("new/back/photo.png").shape == (12, 12)
    assert seen(f"new/back/{pictures()[0]}").shape == (12, 12)


def test_colour(workspace: Path, set_params: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    set_params(prepare={"channels": 3}, train={"epochs": 1, "warmup_epochs": 0})
    assert [cli.main([stage]) for stage in ("prepare", "train", "embed")] == [0, 0, 0]
    capsys.readouterr()
    compress(pictures()[:3], OUT, as_json=True)
    assert answer(capsys)["shape"] == [3, 12, 12]
    decompress(OUT, Path("back"))
    assert seen("back/000.png").shape == (12, 12, 3)


def test_another_model_is_refused_naming_both(workspace: Path, set_params: Callable[..., None]) -> None:
    compress(pictures()[:2], OUT)
    old = artifact.read_manifest(config.MODEL, "model").digest
    set_params(run={"seed": 1})
    assert cli.main(["train"]) == 0
    new = artifact.read_manifest(config.MODEL, "model").digest
    with pytest.raises(WorkFailed, match=f"by model {old[:12]}, but the model here is {new[:12]}") as caught:
        decompress(OUT, Path("back"))
    assert "compress the images again" in str(caught.value)
    assert not Path("back").exists()
    with pytest.raises(WorkFailed, match=f"made from model {old[:12]}, but the model here is {new[:12]}"):
        compress(pictures()[:2], OUT)


def test_the_published_model_compresses_and_either_decompresses(
    workspace: Path, set_params: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    compress(pictures()[:2], OUT)
    assert cli.main(["publish"]) == 0
    set_params(run={"seed": 1})
    assert cli.main(["train"]) == 0
    decompress(OUT, Path("by_published"))
    compress(pictures()[:2], Path("published.aec"))
    assert Path("published.aec").read_bytes() == OUT.read_bytes()
    assert Source.find().kind == "published"
    assert cli.main(["embed"]) == 0
    shutil.move("serving", "elsewhere")
    compress(pictures()[:2], Path("workspace.aec"))
    shutil.move("elsewhere", "serving")
    decompress(Path("workspace.aec"), Path("by_workspace"))
    assert len(list(Path("by_workspace").iterdir())) == 2


@pytest.mark.parametrize(("bad", "why"), [
    ("a.png", r"its name must end in \.aec"),
    ("missing/a.aec", "missing is not there; make that folder first"),
    ("params.yaml/a.aec", "params.yaml is no folder"),
    ("folder.aec", "it is a folder; name a file in it"),
])  # fmt: skip
def test_a_place_that_cannot_be_written_is_refused(bad: str, why: str, workspace: Path) -> None:
    Path("folder.aec").mkdir()
    with pytest.raises(UserError, match=f"^{bad} cannot be written: {why}"):
        compress(pictures()[:1], Path(bad))


def test_files_that_are_no_images_are_refused_and_nothing_is_written(workspace: Path) -> None:
    Path("text.png").write_text("not an image")
    with pytest.raises(UserError, match=r"text.png cannot be read as an image"):
        compress([*pictures()[:1], "text.png"], OUT)
    with pytest.raises(UserError, match=r"gone.png cannot be opened: No such file"):
        compress(["gone.png"], OUT)
    with pytest.raises(UserError, match="bits is 9; expected 2 to 8"):
        compress(pictures()[:1], OUT, 9)
    assert not OUT.exists()
    for file, said in ((Path("gone.aec"), "cannot be opened"), (Path("text.png"), "is no .aec file")):
        with pytest.raises(UserError, match=said):
            decompress(file, Path("back"))


def test_what_is_in_a_folder_is_never_overwritten(workspace: Path) -> None:
    compress(pictures()[:2], OUT)
    Path("mine").mkdir()
    decompress(OUT, Path("mine"))
    kept = Path("mine/000.png").read_bytes()
    for place in (Path("mine"), OUT, Path()):
        with pytest.raises(UserError, match="give -o a new one"):
            decompress(OUT, place)
    assert Path("mine/000.png").read_bytes() == kept


def test_a_decompression_that_fails_leaves_nothing(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compress(pictures()[:3], OUT)
    real, calls = Image.Image.save, []

    def fails(self: Image.Image, *arguments: Any, **named: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(self, *arguments, **named)

    monkeypatch.setattr(Image.Image, "save", fails)
    before = set(os.listdir())
    with pytest.raises(OSError, match="No space"):
        decompress(OUT, Path("back"))
    assert set(os.listdir()) == before


def test_names_below_the_common_folder(tmp_path: Path) -> None:
    assert stored_names(["a/x.png"]) == ["x"]
    assert stored_names(["a/x.png", "a/y.tar.jpg"]) == ["x", "y.tar"]
    assert stored_names(["a/x.png", str(Path("a/b/x.png").absolute()), "./a/c/../z"]) == ["x", "b/x", "z"]
    with pytest.raises(UserError, match=r"a/x.png and a/x.jpg would both come back as x.png"):
        stored_names(["a/x.png", "a/x.jpg"])
    with pytest.raises(UserError, match="would both come back"):
        stored_names(["x.png", "./x.png"])
