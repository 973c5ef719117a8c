"""What the report says of each axis, each figure and each picture."""

from __future__ import annotations

from typing import NamedTuple

AXES = {
    "architecture": "architecture", "widths": "widths", "weights": "weights", "down": "way down", "up": "way up",
    "bottleneck": "bottleneck", "bottleneck_weight": "bottleneck's weight", "corruption": "corruption of the input",
    "corruption_amount": "amount of corruption", "penalties": "penalties", "loss": "reconstruction loss",
    "whiten": "whitened code",
}  # fmt: skip
"""How the axes of the grid are called; another key stands as it is."""

MEANING = {
    "knn": "the {k} nearest training images vote on the label; more is better",
    "precision": "share of the {k} nearest with the same label; more is better",
    "map": "every image of the same label ahead of every other would be 1; more is better",
    "svm": "test images that a linear classifier of labelled training images gets right; more is better",
    "forest": "the same of a hundred decision trees; more is better",
    "found_1": "a cropped, shifted, noised copy finds its original before anything else; more is better",
    "found_10": "… or within the first ten; more is better",
    "mse": "squared error of a pixel between 0 and 1; less is better",
    "psnr": "the same error in decibels; more is better",
    "ssim": "likeness of local structure, 1 is identical; more is better",
    "acc": "share right when each cluster is given its own label; more is better",
    "nmi": "what clusters and labels say of each other, 0 to 1; more is better",
    "ari": "pairs grouped as the labels group them, beyond chance; more is better",
}
"""What each figure of the comparison means."""


class Picture(NamedTuple):
    """How a figure of `reports/figures/` is told, where it is there."""

    alt: str
    """What it shows, for who cannot see it."""
    caption: str
    """How to read it."""
    title: str = ""
    """Of its section; empty where it stands in another's."""
    prose: str = ""
    """What one sees."""
    labelled: str = ""
    """Added to the caption where images have labels."""
    chart: bool = False


PICTURES = {
    "reconstructions": Picture(
        alt="Test images in the top row, below them the autoencoder's reconstructions and then PCA's, with errors.",
        caption="Test images, which the model never saw, drawn again from their codes alone. Read a column downwards: "
        "original, autoencoder, PCA with as many numbers; what is blurred did not fit into the code.",
    ),
    "training": Picture(
        alt="Three curves over the epochs: training loss, validation error and learning rate.",
        caption="One point an epoch. Validation images are never trained on; their error chooses which epoch is kept.",
        chart=True,
    ),
    "neighbours": Picture(
        alt="Rows of images: a test image on the left, its nearest training images to the right of it.",
        caption="Look for rows whose images share more than their brightness.",
        title="Neighbours",
        prose="A row begins with a test image. What follows are the training images whose codes lie nearest to its "
        "own, the nearest first: this is what a search returns.",
        labelled="A green frame: the neighbour has the query's label; a red one: it has another.",
    ),
    "map": Picture(
        alt="A scatter of dots, one an image, with a legend of the colours.",
        caption="The title says what the colours stand for.",
        title="Map",
        prose="Every dot is an image, placed by laying its code out in two dimensions: images with alike codes come to "
        "lie together. Two dimensions cannot hold all of a code, so dots that are near are a hint and no proof.",
        labelled="One that keeps to itself is a kind of image that the codes tell apart; those that mix, they do not.",
        chart=True,
    ),
    "map_clusters": Picture(
        alt="The same scatter, each dot coloured by the cluster it was put in.",
        caption="The same dots, coloured by the clusters that were made of the codes without seeing a label; after a "
        "cluster's number stands its commonest label.",
        chart=True,
    ),
    "clusters": Picture(
        alt="A row of images for each cluster: its most typical image first, then the next nearest to its centre.",
        caption="Framed: the most typical image of each cluster, followed by the next nearest to its centre.",
        title="Clusters",
        prose="A good cluster can be named at a glance.",
    ),
    "samples": Picture(
        alt="Generated images, framed, each beside the training image nearest by code and the one nearest by pixels.",
        caption="Framed: a sample. Beside it stand the training images nearest to it by code and by pixels; one that "
        "equals its neighbour would have been learned by heart.",
        title="Samples",
        prose="Images that nobody took: new codes were drawn at random, and the decoder drew what they stand for. "
        "Believable ones show that the codes fill their space without gaps.",
    ),
    "interpolations": Picture(
        alt="Rows of images that change step by step from one test image into another, by codes and by cross-fading.",
        caption="The row of codes should pass through things that could be; the row of pixels under it is what a "
        "cross-fade does, one image shining through the other.",
        title="Interpolations",
        prose="Between two test images, framed, the code is moved in equal steps, and each step is decoded. Read a row "
        "from left to right.",
    ),
}
"""Pictures that `evaluate` draws of every model."""

GENERATED = {
    "test": "test images",
    "reconstructions": "their reconstructions",
    "mixture": "samples: a Gaussian mixture of the codes",
    "prior": "samples: the bottleneck's prior",
    "pca": "samples: a Gaussian mixture of {pca} codes",
    "raw": "samples: one Gaussian of raw pixels",
}
"""The sets of images that are measured as generated ones."""

LATER = {
    "claim": Picture(
        alt="Rows of images: the originals, the same corrupted, then restored by simple means and by the autoencoder.",
        caption="Compare the last row with the first, and with the rows between: simple means are what it has to beat.",
        title="What the recipe claims",
        prose="Test images, what was done to them, and what undoes it: simple means first, the autoencoder last.",
    ),
    "compression": Picture(
        alt="Curves of quality (PSNR) against bits a pixel for the autoencoder, JPEG and WebP.",
        caption="Higher and further left is better: where another curve lies above, that codec is the better choice.",
        title="As a compression",
        prose="The code as a file format: how many bits a pixel it takes and how near the picture comes, beside JPEG "
        "and WebP.",
        chart=True,
    ),
    "finetune": Picture(
        alt="Curves of accuracy against labels a class: fine-tuned, frozen, from scratch, and on PCA and raw pixels.",
        caption="The distance between the curves at the left is what learning without labels was worth.",
        title="With few labels",
        prose="The encoder gets a classification head and a few labels of each class, beside the same network trained "
        "from scratch on those labels alone.",
        chart=True,
    ),
}
"""Pictures that only some workspaces have, in the order of the page; one that is not there leaves no gap."""
