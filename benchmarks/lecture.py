"""The lecture on autoencoders, told in order with the measured figures of a compare run, as one HTML page.

    python benchmarks/lecture.py full       after `make compare-full`: benchmarks/runs/lecture-full.html
    python benchmarks/lecture.py quick      after `make compare`: benchmarks/runs/lecture-quick.html

The page is self-contained: open it in a browser, offline.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

from compare import COLUMNS, Columns, cell, cells, results
from trials import PROJECT, RUNS, budgets, folder, set_of

from aecore.analysis.claims import CLAIMS
from aecore.analysis.page import Cell, Code, Figure, Key, Section, Table, page

Results = dict[str, list[dict[str, Any]]]


class Chapter(NamedTuple):
    """A part of the lecture."""

    title: str
    recipes: tuple[str, ...]
    prose: tuple[str, ...]
    pictures: tuple[tuple[str, str, str], ...] = ()
    """Recipe, picture of `evaluate`, caption."""


DENOISED = "Test images, what was given, and what was made of it; the floors between."
CHAPTERS = (
    Chapter(
        "PCA, and the linear autoencoder that equals it", ("pca", "linear"),
        ("One affine map to the code and one back, trained by squared error, can do no better than principal "
         "components (Baldi & Hornik 1989): its error must come down to PCA's. Which directions span "
         "the code is another matter.",),
        (("linear", "reconstructions", "The linear autoencoder beside PCA."),),
    ),
    Chapter(
        "Fully connected, and tied weights", ("mlp", "tied"),
        ("Two hidden layers a side bend the subspace. With tied weights the decoder is the encoder transposed: half "
         "the parameters, and here no loss.",),
        (("mlp", "reconstructions", "Fully connected, beside PCA."),),
    ),
    Chapter(
        "Constraints: what PCA has and an autoencoder has not",
        ("orthogonal", "uncorrelated", "unit_norm", "well_posed"),
        ("Orthogonal weights, unit norm and tying hold by construction; an uncorrelated code is asked for by a "
         "penalty. `well_posed` has all four.",),
    ),
    Chapter(
        "Convolution, and six ways up",
        ("conv_nearest", "conv_bilinear", "conv_transposed", "conv_unpool", "conv_padding", "conv_shuffle", "resnet"),
        ("Strided convolutions down; up again by resizing, transposed convolution, max unpooling, padding or pixel "
         "shuffle. The checkerboard is counted as spectral energy at the stride's own frequencies.",
         "Max unpooling is told where the maxima were, which is more than the code says: its error is not comparable."),
        (("conv_nearest", "reconstructions", "Nearest + convolution, beside PCA."),
         ("conv_transposed", "reconstructions", "Transposed convolution, trained.")),
    ),
    Chapter(
        "Denoising", ("denoising_gaussian", "denoising_dropout", "denoising_salt_pepper"),
        ("A spoilt image goes in, the clean one is asked for. What counts is the gain over the noisy input and over a "
         "median filter. The table's error is of *clean* images.",),
        tuple((f"denoising_{kind}", "claim", DENOISED) for kind in ("gaussian", "dropout", "salt_pepper")),
    ),
    Chapter(
        "Sparse", ("sparse",),
        ("An L1 penalty, relative to the code's own scale, makes few numbers of a code large at a time.",),
    ),
    Chapter(
        "Context encoder", ("context_encoder", "context_encoder_blocks", "context_encoder_adversarial"),
        ("Part of the image is hidden and asked for: inpainting, judged inside what was hidden. An encoder that is "
         "only asked for the middle has no need to know the rest, and its code shows it.",),
        (("context_encoder", "claim", "The hole, and what fills it."),
         ("context_encoder_blocks", "claim", "Random blocks, and what fills them.")),
    ),
    Chapter(
        "Colourisation", ("colourise",),
        ("The encoder sees grey alone and the decoder is asked for the colours, on drawn faces whose colours are "
         "chosen at random: of what grey does not tell, the mean is the best guess.",),
        (("colourise", "claim", "Grey, guesses, the model's colours and the true ones."),),
    ),
    Chapter(
        "Generation: variational, Wasserstein, vector-quantised", ("vae", "wae", "vq"),
        ("Codes can be drawn from the prior that training asked for, or from a Gaussian mixture fitted to the codes of "
         "any autoencoder. Fréchet distance in the features of a small classifier says whose samples "
         "look more like the data.",),
        (("vae", "samples", "Samples of the variational autoencoder beside their nearest training images."),
         ("conv_nearest", "samples", "Samples of a plain autoencoder, from a mixture fitted to its codes."),
         ("vae", "interpolations", "On the way between two test images: through the codes, and by cross-fading.")),
    ),
)  # fmt: skip
"""In the lecture's order."""


SHORT = tuple(column for column in COLUMNS if column[0] in (
    "test MSE", "SSIM", "kNN@10", "NMI", "Fréchet, mixture", "Fréchet, prior", "parameters"
))  # fmt: skip
"""What a chapter's table shows; the last one shows all."""


def numbers(recipes: tuple[str, ...], found: Results, caption: str, columns: Columns) -> Table:
    """The figures of some recipes, with the floors of their data set on top."""
    recipes = tuple(recipe for recipe in recipes if recipe in found)
    rows: list[list[str | Cell]] = []
    for images in dict.fromkeys(set_of(recipe) for recipe in recipes):
        runs = next(runs for recipe, runs in found.items() if set_of(recipe) == images)
        for floor, title in (("raw", "raw pixels"), ("pca", "PCA-32")):
            rows.append([Cell(title, images), *cells(runs, columns, floor)])
        rows += [[Cell(recipe, code=True), *cells(found[recipe], columns)]
                 for recipe in recipes if set_of(recipe) == images]  # fmt: skip
    head = ["recipe", *(title for title, _, _ in columns)]
    return Table(caption, head, rows, numbers=range(1, len(head)))


def chapter(told: Chapter, budget: str, found: Results) -> Section:
    """A section: what it is about, what was measured, what it claims and what came of that, and how it looks."""
    prose = list(told.prose)
    for recipe in told.recipes:
        for name, claim in found[recipe][0].get("claims", {}).items() if recipe in found else ():
            prose.append(f"`{recipe}`, {CLAIMS[name].title}: {claim['verdict']}.")
    seed = budgets()[budget]["seeds"][0]
    figures = [
        Figure(path, f"{picture} of {recipe}", f"`{recipe}`: {caption}")
        for recipe, picture, caption in told.pictures
        if (path := folder(budget, recipe, seed) / f"result/figures/{picture}.png").is_file()
    ]
    return Section(
        told.title, prose, figures, [numbers(told.recipes, found, "Test images; mean ± spread over seeds", SHORT)]
    )


def lecture(budget: str, found: Results, picture: Path) -> str:
    """The whole page."""
    settings = budgets()[budget]
    fashion = {recipe: runs for recipe, runs in found.items() if set_of(recipe) == "fashion"}
    floors = next(iter(fashion.values()))

    def best(path: str, sign: int, digits: int, title: str, leave: tuple[str, ...] = ()) -> Key:
        means = {
            r: sum(run["model"][path] for run in runs) / len(runs) for r, runs in fashion.items() if r not in leave
        }
        name = max(means, key=lambda recipe: sign * means[recipe])
        return Key(title, f"{means[name]:.{digits}f}", f"{name}; PCA-32 {cell(floors, f'pca.{path}', digits)}")

    everything = tuple(recipe for told in CHAPTERS for recipe in told.recipes)
    sections = [
        *(chapter(told, budget, found) for told in CHAPTERS if any(recipe in found for recipe in told.recipes)),
        Section("All of them", ["How well each repaints, and how well its code searches."],
                [Figure(picture, "test MSE and kNN accuracy, a dot a recipe and seed",
                        "Left: how well each repaints. Right: how well its code searches.", chart=True)],
                [numbers(everything, found, "Every recipe on the same budget", COLUMNS)]),
        Section("Run it again", ["Each of these is also a run of the experiment `aecore-compare` in MLflow."], (), (),
                [Code("In the project's folder", ["make compare-full" if budget == "full" else "make compare"])]),
    ]  # fmt: skip
    lead = [
        f"{len(found)} autoencoders, {len(settings['seeds'])} seed(s) each, {settings['epochs']} epochs, 32 numbers a "
        "code. Each is one recipe of a few lines, judged beside PCA, raw pixels and by the figure that its own source "
        "claims."
    ]
    keys = [
        best("mse", -1, 5, "least test MSE from the code alone", ("conv_unpool",)),
        best("knn", 1, 3, "best kNN@10 accuracy"),
        best("nmi", 1, 3, "best clustering NMI"),
    ]
    return page("aecore compare", "Autoencoders, measured", lead, keys, [], sections,
                "Written by `python benchmarks/lecture.py`. One file: it loads nothing and runs nothing.")  # fmt: skip


def main() -> None:
    """Write the page of a budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("budget", choices=("quick", "full"))
    budget = parser.parse_args().budget
    picture = PROJECT / "docs/compare-full.png" if budget == "full" else RUNS / "compare.png"
    found = results(budget)
    if not found or not picture.is_file():
        sys.exit(f"the budget {budget} is not measured yet: `make compare{'-full' if budget == 'full' else ''}`.")
    target = RUNS / f"lecture-{budget}.html"
    target.write_text(lecture(budget, found, picture), encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main()
