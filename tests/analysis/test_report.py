"""The report of the tiny workspace: what stands on it is what the files say, and it refuses what does not fit."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from aecore import artifact, cli, config
from aecore.analysis import cluster_page, compare, generation, report
from aecore.analysis.captions import AXES, GENERATED, LATER, MEANING, PICTURES
from aecore.analysis.findings import SECTIONS, Findings, comment
from aecore.models.recipe import Recipe
from tests.analysis.markup import Page

Set = Callable[..., None]
SPACES = ("model", "pca", "raw")
HOSTILE = '<img src=http://evil.example/x onerror="x()">'


def read() -> Page:
    return Page(report.PAGE.read_text(encoding="utf-8"))


def number(text: str) -> float:
    return float(text.split("\n")[0].replace("−", "-").replace(",", ""))


def differing(found: Findings, **sides: dict[str, int]) -> Findings:
    """`found` where the model wins (1), loses (-1) or is level (0) as `sides` says: floor -> figure -> side."""
    differences = {
        f"model-{floor}": {
            name: {"mean": side * better, "interval": sorted([side * better * 0.5, side * better * 2 or 1])}
            for name, side in figures.items()
            for better in [compare.FIGURES[name].better]
        }
        for floor, figures in sides.items()
    }
    return dataclasses.replace(found, intervals=found.intervals | {"differences": differences})


def test_the_stage_prints_where_and_writes_the_same_bytes_twice(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = (cluster_page.PAGE, report.PAGE)
    before = [path.read_bytes() for path in pages]
    assert cli.main(["report"]) == 0
    told = "".join(rf"wrote reports/{path.stem}\.html: one file of \d+\.\d MB\n" for path in pages)
    assert re.fullmatch(told, capsys.readouterr().out)
    assert [path.read_bytes() for path in pages] == before
    assert not list(config.REPORTS.glob(".*.tmp"))


def test_every_number_is_the_json_s(workspace: Path) -> None:
    metrics = json.loads((config.REPORTS / "metrics.json").read_text())
    intervals = json.loads((config.REPORTS / "intervals.json").read_text())["intervals"]
    trained = json.loads((config.REPORTS / "train.json").read_text())
    page = read()
    rows = {row[0].split("\n")[0]: row[1:] for row in page.rows() if row}
    for name, (title, _, digits) in compare.FIGURES.items():
        cells = rows[title.format(k=10)]
        for space, cell in zip(("model", "pca", "raw"), cells, strict=False):
            if name not in metrics[space]:
                assert cell.strip() == "–"
                continue
            value, interval, *_ = cell.split("\n")
            assert number(value) == round(metrics[space][name], digits)
            assert [number(bound) for bound in interval.split(" to ")] == [
                round(bound, digits) for bound in intervals[space][name]
            ]
    values = [number(text) for text in re.findall(r'<p class="value">(.*?)</p>', report.PAGE.read_text())]
    assert values == [round(metrics["model"]["knn"], 3), round(metrics["model"]["mse"], 5), 150, 4]
    assert number(rows["parameters"][0]) == trained["parameters"]
    assert rows["epochs"][0].strip() == f"2; best: {trained['best_epoch']}"
    assert f"{trained['seconds']:,.3g} s" in rows["time"][0]
    splits = artifact.read_manifest(config.PREPARED, "data").facts["splits"]
    assert {split: number(rows[f"… {split}"][0]) for split in splits} == splits
    for kind, path in (("data", config.PREPARED), ("model", config.MODEL), ("index", config.INDEX)):
        assert artifact.read_manifest(path, kind).digest in page.text


def test_it_shows_the_pictures_that_are_there_in_order_and_no_others(workspace: Path) -> None:
    page, drawn = read(), {path.read_bytes(): path.stem for path in config.FIGURES.glob("*.png")}
    shown = [drawn[base64.b64decode(given["src"].partition(",")[2])] for given in page.all("img")]
    assert shown == [*PICTURES]
    titles = ["Samples", "Interpolations", "Lineage", "Run it again"]
    assert page.texts("h2")[-5:] == [LATER["claim"].title, *titles]
    picture = (config.FIGURES / "map.png").read_bytes()
    for name in ("claim", "unknown"):
        (config.FIGURES / f"{name}.png").write_bytes(picture)
    assert cli.main(["report"]) == 0
    assert len(read().all("img")) == len(shown) + 1
    assert read().texts("h2")[-5:] == [LATER["claim"].title, *titles]
    shutil.rmtree(config.FIGURES)
    assert cli.main(["report"]) == 0
    bare = read()
    assert bare.texts("h2") == [
        "What was trained on what", "Clusters", "Beside PCA and raw pixels", "What the recipe claims", "Lineage",
        "Run it again",
    ]  # fmt: skip
    assert not bare.all("img")
    assert {given["class"] for given in bare.all("figure")} == {"code"}


def test_what_a_command_drew_is_shown_for_the_same_model_only(workspace: Path) -> None:
    shutil.copy(config.FIGURES / "training.png", config.REPORTS / "finetune.png")
    shutil.copy(config.FIGURES / "training.png", config.REPORTS / "compression.png")
    digest = artifact.read_manifest(config.MODEL, "model").digest
    claim = LATER["claim"].title
    for model, told in ((digest, [claim, "With few labels"]), ("another", [claim])):
        artifact.write_json(config.REPORTS / "finetune.json", {"model": model})
        assert cli.main(["report"]) == 0
        titles = {LATER[name].title for name in LATER}
        assert [title for title in read().texts("h2") if title in titles] == told


def test_generated_images_and_claims_are_told_as_they_were_measured(workspace: Path) -> None:
    found = Findings.read()
    generated = found.metrics["generation"]
    rows = {row[0].strip(): row[1:] for row in read().rows() if len(row) == 3}
    for kind, name in GENERATED.items():
        if kind in generated["closest"]:
            expected = [round(generated[figure][kind], 2) for figure in ("frechet", "closest")]
            assert [number(cell) for cell in rows[name.format(pca="PCA-4")]] == expected
    silent = dataclasses.replace(found, claims={})
    assert "What the recipe claims" not in Page(report.write(silent)).text
    page = Page(report.write(dataclasses.replace(found, claims={"checkerboard": "**more than** the images"})))
    assert "Checkerboard: more than the images." in page.texts("p")
    unjudged = {key: value for key, value in generated.items() if key not in ("frechet", "judge")}
    bare = Page(report.write(dataclasses.replace(found, metrics=found.metrics | {"generation": unjudged})))
    assert "Fréchet" not in bare.text
    assert ["images", "nearest training image"] in bare.rows()


def test_what_a_user_named_is_never_markup(workspace: Path) -> None:
    found = Findings.read()
    data = found.manifests["data"]
    names = [HOSTILE, "`b`", '"&amp;']
    hostile = dataclasses.replace(
        found,
        manifests=found.manifests | {"data": dataclasses.replace(data, facts=data.facts | {"labels": names})},
        clusters=[{**row, "label_name": HOSTILE} for row in found.clusters],
        params=found.params | {"data": {"source": HOSTILE, "path": HOSTILE}},
        model={**found.model, "training": {**found.model["training"], "recipe": HOSTILE}},
        why=HOSTILE,
        commit=HOSTILE,
    )
    page, harmless = Page(report.write(hostile)), Page(report.write(found))
    assert page.text.count(HOSTILE) > 8
    assert [given["alt"] for given in page.all("img")] == [given["alt"] for given in harmless.all("img")]
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in harmless.tags}


def test_who_wins_is_said_in_plain_words(workspace: Path) -> None:
    found = Findings.read()
    mixed = differing(found, pca={"knn": 1, "mse": 1, "acc": -1, "psnr": 0}, raw={"knn": 0, "acc": -1, "ari": -1})
    assert report.standing(mixed, "knn") == "better than PCA-4, level with raw pixels"
    assert report.standing(mixed, "acc") == "worse than PCA-4 and raw pixels"
    assert report.losses(mixed) == (
        "PCA-4 wins in clustering ACC. Raw pixels win in clustering ACC and clustering ARI."
    )
    assert report.wins(mixed, "pca") == [
        "Against PCA-4 the autoencoder wins in kNN@10 accuracy +1.000 and reconstruction MSE −1.00000."
    ]
    assert report.wins(mixed, "raw") == []
    both = differing(found, pca={"knn": -1}, raw={"knn": -1})
    assert report.losses(both) == "Both PCA-4 and raw pixels win in kNN@10 accuracy."
    ahead = differing(found, pca={"knn": 1, "mse": 0}, raw={"knn": 1})
    assert report.losses(ahead) == "Neither of the two is ahead in any figure."
    cells = {row[0].split("\n")[0]: row[-1].strip() for row in Page(report.write(mixed)).rows() if len(row) == 5}
    assert cells["reconstruction MSE"] == "better than PCA-4"
    assert cells["kNN@10 accuracy"] == "better than PCA-4, level with raw pixels"


def test_what_a_run_measured_is_marked(workspace: Path) -> None:
    found = Findings.read()
    again = dataclasses.replace(found, commit="ff" * 20 + "-dirty", trained=found.trained | {"seconds": 1e4})
    first, second = report.write(dataclasses.replace(found, commit="ee" * 20)), report.write(again)
    assert first != second
    marked = re.compile(r'<span class="measured">[^<]*</span>')
    assert len(marked.findall(second)) == 4  # the time, the commit, its state, the checkout
    assert marked.sub("", first) == marked.sub("", second)
    assert "git checkout" not in report.write(dataclasses.replace(found, commit=""))


def test_without_labels_it_tells_of_originals(workspace: Path) -> None:
    found = Findings.read()
    data = found.manifests["data"]
    labels = {"knn", "precision", "map", "acc", "nmi", "ari"}
    bare = dataclasses.replace(
        found,
        manifests=found.manifests | {"data": dataclasses.replace(data, facts=data.facts | {"labels": None})},
        metrics={
            key: {name: value for name, value in values.items() if key not in SPACES or name not in labels}
            for key, values in found.metrics.items()
        },
        clusters=[{key: row[key] for key in ("cluster", "size", "medoid")} for row in found.clusters],
    )
    page = Page(report.write(bare))
    assert "kNN" not in page.text
    assert "green" not in page.text
    assert page.texts("li")[0].startswith("original found first")
    assert ["cluster", "images", "id of the most typical"] in page.rows()


def test_a_solved_recipe_tells_of_no_epochs(workspace: Path) -> None:
    found = Findings.read()
    solved = dataclasses.replace(found, model={**found.model, "recipe": {"architecture": "pca", "new_axis": {"a": 1}}})
    page = Page(report.write(solved))
    rows = {row[0].strip(): row[1].strip() for row in page.rows() if len(row) == 2}
    assert "closed form" in page.text
    assert "epochs" not in rows
    assert rows["new_axis"] == "a 1"


def test_a_model_of_other_parameters_is_refused(set_params: Set, capsys: pytest.CaptureFixture[str]) -> None:
    before = report.PAGE.read_bytes()
    set_params(train={"epochs": 3})
    assert cli.main(["report"]) == 1
    assert "the model was trained with epochs 2, params.yaml says 3: run `dvc repro`" in capsys.readouterr().err
    assert report.PAGE.read_bytes() == before


def test_reports_of_other_artefacts_are_refused(set_params: Set, capsys: pytest.CaptureFixture[str]) -> None:
    set_params(cluster={"clusters": 2})
    assert cli.main(["cluster"]) == 0
    assert cli.main(["report"]) == 1
    assert "the reports were measured on clusters" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "stage"), [("train", "train"), ("metrics", "evaluate"), ("intervals", "evaluate"), ("claims", "evaluate")]
)
def test_a_report_that_is_missing_or_damaged_names_the_stage(
    name: str, stage: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config.REPORTS / f"{name}.json"
    path.write_text("{")
    assert cli.main(["report"]) == 1
    assert f"{path} is damaged" in capsys.readouterr().err
    path.unlink()
    assert cli.main(["report"]) == 2
    assert f"{path} is not here: run `python -m aecore {stage}`" in capsys.readouterr().err


def test_every_axis_and_every_figure_has_its_words() -> None:
    assert [*AXES] == [field.name for field in dataclasses.fields(Recipe)]
    assert MEANING.keys() == compare.FIGURES.keys()
    assert GENERATED.keys() == generation.SETS.keys()
    assert all(told.alt and told.caption for told in (PICTURES | LATER).values())
    assert all(told.title and told.prose for told in LATER.values())


def test_dvc_watches_the_parameters_that_are_told() -> None:
    stages: dict[str, Any] = YAML(typ="safe").load(Path(__file__).parents[2] / "dvc.yaml")["stages"]
    assert stages["report"]["params"] == [*SECTIONS]


def test_a_recipe_s_comment_is_its_why() -> None:
    assert comment("# One line,\n#  and another.\narchitecture: conv\n# not this\n") == "One line, and another."
    assert comment("architecture: conv\n") == ""
