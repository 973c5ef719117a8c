"""Claims: who makes which, and what each measures when the answer is known."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from aecore import artifact, cli, config
from aecore.analysis import checkerboard, claims, colour, constraints, denoising, inpainting, linear, sparsity, usage
from aecore.analysis.case import Case, compared, scaled
from aecore.analysis.protocol import Sample, flat
from aecore.data.decode import Preparation
from aecore.data.images import Images
from aecore.embedding import Encoder
from aecore.models.autoencoder import Autoencoder
from aecore.models.pca import fit_images
from aecore.models.recipe import Recipe

ROOT = Path(__file__).parents[2]
RECIPES = {
    path.stem: config.build(Recipe, config.load_yaml(path), path.stem)
    for path in sorted((ROOT / "recipes").glob("*.yaml"))
}
DIM = 8
MADE = {
    "pca": {"linear"},
    "linear": {"linear", "constraints"},
    "mlp": set(),
    "tied": {"constraints"},
    "orthogonal": {"linear", "constraints"},
    "uncorrelated": {"linear", "constraints"},
    "unit_norm": {"linear", "constraints"},
    "well_posed": {"linear", "constraints"},
    "conv_nearest": {"checkerboard"},
    "conv_bilinear": {"checkerboard"},
    "conv_transposed": {"checkerboard"},
    "conv_unpool": {"checkerboard"},
    "conv_padding": {"checkerboard"},
    "conv_shuffle": {"checkerboard"},
    "denoising_gaussian": {"checkerboard", "denoising"},
    "denoising_dropout": {"checkerboard", "denoising"},
    "denoising_salt_pepper": {"checkerboard", "denoising"},
    "sparse": {"checkerboard", "sparsity"},
    "context_encoder": {"checkerboard", "inpainting"},
    "context_encoder_blocks": {"checkerboard", "inpainting"},
    "colourise": {"checkerboard", "colour"},
    "vae": {"checkerboard", "variational"},
    "wae": {"checkerboard", "wasserstein"},
    "vq": {"checkerboard", "quantised"},
}
"""The table of the lecture's systems: recipe -> the claims by which it is judged."""

Make = Callable[..., Case]


def prepared(folder: Path, channels: int) -> Images:
    """80 images by hand: smooth, of one dominant colour each, half to train."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:12, :12] / 12
    waves = np.stack([np.sin(6 * a * x + 6 * b * y + c) for a, b, c in rng.random((80, 3))])
    tint = rng.random((80, channels, 1, 1))
    pixels = np.rint(255 * (0.5 + 0.4 * waves[:, None]) * (0.4 + 0.6 * tint)).astype(np.uint8)
    split = np.where(np.arange(80) < 40, "train", "test")
    facts = {"count": 80, "channels": channels, "height": 12, "width": 12, "shards": [80], "labels": None}
    with artifact.writing(folder, "data", {}, facts) as directory:
        np.save(directory / "images-00000.npy", pixels)
        columns = {"id": rng.choice(2**62, 80, replace=False), "split": split, "label": pa.nulls(80, pa.int32())}
        pq.write_table(pa.table(columns), directory / "items.parquet")
    return Images.open(folder)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Give the Case of a fresh model: `make(recipe, channels=1)`."""

    def case(recipe: Recipe, channels: int = 1) -> Case:
        folder = tmp_path / f"data-{channels}"
        images = Images.open(folder) if folder.exists() else prepared(folder, channels)
        small = dataclasses.replace(recipe, widths=tuple([4, 8][: len(recipe.widths)]))
        torch.manual_seed(0)
        model = Autoencoder(small, images.shape, DIM).eval()
        preparation = Preparation(12, 12, channels, "crop", 10_000)
        encoder = Encoder(model, preparation, images.manifest, torch.device("cpu"), 16)
        pca, chosen = fit_images(images, DIM, 0), Sample.choose(images)
        errors = {"model": 0.02, "pca": 0.01}
        return Case(images, encoder, lambda p: encoder.encode(images.rows(p)), pca, chosen, errors, 3)

    return case


def drawing(case: Case, reconstruct: Callable[[np.ndarray], np.ndarray]) -> Case:
    """The case with a model that draws what `reconstruct` makes of the uint8 it is given."""
    encoder: Any = SimpleNamespace(model=case.model, reconstruct=reconstruct)
    return dataclasses.replace(case, encoder=encoder)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_judged_by_its_claims(name: str, make: Make) -> None:
    case = make(RECIPES[name], channels=3 if name == "colourise" else 1)
    before = [p.clone() for p in case.model.state_dict().values()]
    measured = claims.measure(case)
    assert MADE.get(name, set(measured)) == set(measured)
    told = claims.verdicts(measured, case.recipe)
    assert set(told) == set(measured)
    for key, values in measured.items():
        numbers = list(values.values())
        assert numbers
        assert np.isfinite(numbers).all()
        assert not re.search(r"nan|inf\b", told[key])
    assert claims.measure(case) == measured  # seeded, and nothing left changed
    assert not any(module.training for module in case.model.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, case.model.state_dict().values(), strict=True))
    assert len(claims.section(measured)) == (2 + len(measured) if measured else 0)
    drawn = claims.draw(case, case.test[:3], None)
    assert (drawn is not None) == bool({"denoising", "inpainting", "colour"} & set(measured))
    json.dumps(measured, allow_nan=False)


def test_every_system_of_the_lecture_is_there() -> None:
    assert set(MADE) <= set(RECIPES)


def test_a_verdict_says_what_is_gained_lost_and_equal() -> None:
    text = compared({"a": 6.14, "b": -0.26, "c": 2.0, "d": 0.04, "e": -0.04}, " dB", 1)
    assert text == "gains 6.1 dB over a, 2.0 dB over c; loses 0.3 dB to b; equals d, e"


def test_noise_is_the_runs_and_the_recipes_alone(make: Make) -> None:
    plain, sparse = make(Recipe("linear", corruption="gaussian")), make(Recipe("mlp", (9,), corruption="gaussian"))
    pixels = plain.images.rows(plain.test)
    noisy, hidden = plain.spoil(pixels)
    assert hidden is None
    assert np.array_equal(noisy, sparse.spoil(pixels)[0])
    assert not np.array_equal(noisy, dataclasses.replace(plain, seed=4).spoil(pixels)[0])
    inside = (pixels > 150) & (pixels < 180)
    assert (noisy.astype(float) - pixels)[inside].std() / 255 == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize("kind", ["gaussian", "dropout", "salt_pepper"])
def test_denoising_by_the_truth_by_nothing_and_by_the_median(kind: Any, make: Make) -> None:
    case = make(Recipe("linear", corruption=kind))
    clean = case.images.rows(case.test)
    perfect = denoising.measure(drawing(case, lambda noisy: scaled(clean)))
    assert perfect["psnr"] == 100
    nothing = denoising.measure(drawing(case, scaled))
    assert nothing["gain_noisy"] == 0
    assert nothing["psnr_median"] > nothing["psnr_noisy"] + 1 or kind == "dropout"  # half are black: so is the median
    assert "loses" in denoising.verdict(nothing, case.recipe)
    middle = denoising.measure(drawing(case, lambda noisy: scaled(denoising.median(noisy))))
    assert middle["gain_median"] == 0
    assert ("psnr_told" in middle) == (kind == "dropout")
    assert middle.get("psnr_told", 100) > middle["psnr_median"] + 5
    assert re.search("equals .*a median filter", denoising.verdict(middle, case.recipe))


@pytest.mark.parametrize("kind", ["hole", "blocks"])
def test_inpainting_by_the_truth_and_by_the_mean(kind: Any, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make(Recipe("linear", corruption=kind), channels=3)
    clean = case.images.rows(case.test)
    made, hidden = inpainting.rows(case, clean)
    for name, filled in made.items():
        assert np.array_equal(np.where(hidden, 0, filled), np.where(hidden, 0, scaled(clean))), name
    perfect = inpainting.measure(drawing(case, lambda seen: scaled(clean)))
    assert perfect["psnr"] == 100
    mean = scaled(case.images.rows(case.chosen.train)).mean(axis=0, keepdims=True)
    average = inpainting.measure(drawing(case, lambda seen: np.broadcast_to(mean, seen.shape)))
    assert average["gain_mean"] == pytest.approx(0, abs=1e-4)
    assert average["psnr_biharmonic"] > average["psnr_mean"]  # smooth images
    monkeypatch.setattr(inpainting, "available", lambda: ["biharmonic"])
    alone = inpainting.measure(case)
    assert "gain_telea" not in alone
    assert inpainting.verdict(alone, case.recipe).endswith("(cv2 not installed: `pip install 'aecore[inpainting]'`)")


def test_colours_by_the_truth_by_grey_and_by_the_mean(make: Make) -> None:
    case = make(Recipe("linear", corruption="grey"), channels=3)
    perfect = colour.measure(drawing(case, scaled))
    assert perfect["ab_error"] == 0
    assert perfect["colourfulness"] == pytest.approx(perfect["colourfulness_images"], rel=1e-4)
    assert perfect["colourfulness"] > 10
    grey = colour.measure(drawing(case, lambda x: scaled(x).mean(axis=1, keepdims=True).repeat(3, axis=1)))
    assert grey["ab_error"] == pytest.approx(grey["ab_error_grey"], rel=1e-3)
    assert grey["colourfulness"] < 0.1
    mean = colour.mean_ab(case)
    expected = colour.rgb_to_lab(scaled(case.images.rows(case.chosen.train)))[:, 1:].mean(axis=0, keepdims=True)
    np.testing.assert_allclose(mean, expected, atol=1e-9)
    painted = colour.measure(drawing(case, lambda x: colour.lab_to_rgb(colour.guesses(case, x, mean)["mean"])))
    assert painted["ab_error"] == pytest.approx(painted["ab_error_mean"], rel=0.02)  # but for what sRGB lacks
    assert painted["ab_error_mean"] < painted["ab_error_grey"]


def test_constraints_are_read_off_the_weights(make: Make) -> None:
    free = make(Recipe("linear"))
    weight = free.model.encoder[0].weight.detach().double().numpy()  # type: ignore[index,union-attr,operator]
    figures = constraints.measure(free)
    assert figures["unit_norm"] == pytest.approx(np.abs(np.linalg.norm(weight, axis=1) - 1).max(), abs=1e-6)
    assert figures["orthogonality"] >= np.linalg.norm(weight @ weight.T - np.eye(DIM)) - 1e-5
    assert figures["correlation"] == constraints.off_diagonal(free.codes(free.chosen.test))
    held = make(RECIPES["well_posed"])
    good = constraints.measure(held)
    assert max(good["orthogonality"], good["unit_norm"], good["tied"]) < 1e-5
    assert constraints.verdict(good, held.recipe).count(", held") == 3
    with torch.no_grad():
        held.model.encoder[0].parametrizations.weight[0] = torch.nn.Identity()  # type: ignore[index,union-attr,operator]
    assert "**not held**" in constraints.verdict(constraints.measure(held), held.recipe)


def test_a_convolutional_recipe_may_ask_for_uncorrelated_codes_alone(make: Make) -> None:
    case = make(dataclasses.replace(RECIPES["conv_nearest"], penalties={"decorrelation": 1.0}))
    assert set(constraints.measure(case)) == {"correlation", "correlation_pca", "correlation_chance"}


def test_principal_components_in_the_decoder_span_their_own_subspace(make: Make) -> None:
    case = make(Recipe("linear"), channels=3)
    case.model.normalise_by(torch.tensor([0.2, 0.3, 0.4]), torch.tensor([0.5, 1.0, 2.0]))
    assert linear.measure(case) == {"mse_ratio": 2.0, "angle": pytest.approx(90, abs=15)}
    scale = case.model.scale.expand(case.images.shape).reshape(-1, 1)
    with torch.no_grad():
        mixed = torch.from_numpy(case.pca.components).T @ torch.randn(DIM, DIM)
        case.model.decoder[0].weight.copy_(mixed / scale)  # type: ignore[index,union-attr,operator]
    assert linear.measure(case)["angle"] < 0.01
    assert "**not within 1 % of PCA's** (+100.00 %)" in linear.verdict(linear.measure(case), case.recipe)


def test_sparsity_reads_the_scale_off_training_codes(make: Make) -> None:
    case = make(RECIPES["sparse"])
    figures = sparsity.measure(case)
    train = case.pca.encode(flat(case.images.rows(case.chosen.train)))
    test = case.pca.encode(flat(case.images.rows(case.chosen.test)))
    assert figures["active_pca"] == pytest.approx((np.abs(test) > 0.1 * np.sqrt((train**2).mean(axis=0))).mean())
    one = dataclasses.replace(case, codes=lambda positions: np.eye(DIM, dtype=np.float32)[positions % DIM])
    alone = sparsity.measure(one)
    assert (alone["hoyer"], alone["active"], alone["zeros"]) == (1, 1 / DIM, 1 - 1 / DIM)
    assert sparsity.verdict(alone, case.recipe).startswith("sparser than PCA")


def test_the_parts_of_the_bound_are_torchs_and_a_collapsed_posterior_gains_nothing(make: Make) -> None:
    case = make(RECIPES["vae"])
    x = torch.from_numpy(scaled(case.images.rows(case.test)))
    with torch.no_grad():
        mean, log_variance = case.model.encoder(x)[0].chunk(2, dim=1)
    posterior = Independent(Normal(mean, (log_variance / 2).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    figures = usage.variational(case)
    assert figures["kl"] == pytest.approx(float(kl_divergence(posterior, prior).mean()), rel=1e-4)
    assert figures["bound"] == pytest.approx(figures["sse"] + case.recipe.beta * figures["kl"])
    collapsed = ((x.numpy() - case.pca.mean.reshape(1, 1, 12, 12)) ** 2).sum(axis=(1, 2, 3)).mean()
    assert figures["bound_collapsed"] == pytest.approx(collapsed, rel=1e-5)
    with torch.no_grad():  # make it collapse: the code tells nothing and the mean image is drawn
        for body in (case.model.encoder.head, case.model.decoder.paint):
            body.weight.zero_()  # type: ignore[union-attr,operator]
            body.bias.zero_()  # type: ignore[union-attr,operator]
        case.model.normalise_by(torch.tensor([float(x.mean())]), torch.ones(1))
    nothing = usage.variational(case)
    assert (nothing["kl"], nothing["active_units"], nothing["units"]) == (0, 0, DIM)
    assert nothing["bound"] >= nothing["bound_collapsed"]
    assert "loses" in usage.variational_verdict(nothing, case.recipe)


def test_codes_drawn_from_the_prior_cannot_be_told_from_it_and_others_can(make: Make) -> None:
    case = make(RECIPES["wae"])
    normal = np.random.default_rng(7).standard_normal((80, DIM)).astype(np.float32)
    near = [
        usage.wasserstein(dataclasses.replace(case, codes=lambda positions: normal[positions], seed=seed))
        for seed in range(5)
    ]
    assert np.median([each["mmd"] for each in near]) < np.median([each["mmd_chance"] for each in near])
    far = usage.wasserstein(dataclasses.replace(case, codes=lambda positions: 3 + normal[positions]))
    assert far["mmd"] > 10 * far["mmd_chance"]
    assert far["mmd"] > far["mmd_pca"]
    assert "**no nearer to the prior than**" in usage.wasserstein_verdict(far, case.recipe)
    assert "they can be told" in usage.wasserstein_verdict(far, case.recipe)
    assert "they cannot be told" in usage.wasserstein_verdict({**far, "mmd": -0.001}, case.recipe)


@pytest.mark.parametrize("whiten", [False, True])
def test_a_codebook_is_as_used_as_its_codes_say(whiten: bool, make: Make) -> None:
    case = make(dataclasses.replace(RECIPES["vq"], whiten=whiten))
    books = case.model.bottleneck.codebooks.detach()  # (2, 256, 4)
    chosen = torch.stack([torch.arange(80) % 5, torch.zeros(80, dtype=torch.int64)], dim=1)
    codes = torch.cat([books[0][chosen[:, 0]], books[1][chosen[:, 1]]], dim=1)
    if case.model.whitening is not None:
        case.model.whitening.fit(torch.ones(DIM).double(), 2 * torch.eye(DIM).double() + 0.5)
        codes = case.model.whitening(codes)
    figures = usage.quantised(dataclasses.replace(case, codes=lambda positions: codes.numpy()[positions]))
    assert figures == {"perplexity": pytest.approx((5 + 1) / 2), "used": (5 + 1) / 2 / 256, "entries": 256}


def test_images_too_small_for_a_checkerboard_say_so(make: Make) -> None:
    case = make(RECIPES["conv_transposed"])
    tiny: Any = SimpleNamespace(
        rows=lambda p: np.zeros((len(p), 1, 3, 3), np.uint8), shape=(1, 3, 3), ids=case.images.ids
    )
    assert checkerboard.measure(dataclasses.replace(case, images=tiny)) == {}
    assert "too small" in checkerboard.verdict({}, case.recipe)


def test_evaluate_writes_the_claims_and_a_picture_that_goes_when_nothing_is_undone(
    set_params: Callable[..., None], workspace: Path
) -> None:
    picture = config.FIGURES / "claim.png"
    assert set(json.loads((config.REPORTS / "metrics.json").read_text())["claims"]) == {"checkerboard"}
    assert not picture.exists()
    set_params(train={"recipe": "denoising_gaussian"})
    for stage in ("train", "embed", "index", "cluster", "map", "evaluate"):
        assert cli.main([stage]) == 0, stage
    figures = json.loads((config.REPORTS / "metrics.json").read_text())["claims"]
    assert set(figures) == {"checkerboard", "denoising"}
    text = (config.REPORTS / "comparison.md").read_text()
    told = json.loads((config.REPORTS / "claims.json").read_text())
    assert set(told) == set(figures)
    assert f"- Denoising: {told['denoising']}.\n" in text
    assert picture.is_file()
    set_params(train={"recipe": "mlp"})
    for stage in ("train", "embed", "index", "cluster", "map", "evaluate"):
        assert cli.main([stage]) == 0, stage
    assert json.loads((config.REPORTS / "metrics.json").read_text())["claims"] == {}
    assert "source claims" not in (config.REPORTS / "comparison.md").read_text()
    assert not picture.exists()
