"""`python -m aecore …`: thin, and imports a room only when its command is called."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import os
import sys
from pathlib import Path

from aecore import config, environment, output
from aecore.arguments import Parser, real, whole
from aecore.config import UserError
from aecore.names import legible, tolerate

STAGES = {
    "prepare": ("aecore.data.prepare", "decode, deduplicate and split the images -> data/prepared"),
    "baseline": ("aecore.analysis.baseline", "measure raw pixels and PCA on them -> artifacts/baseline"),
    "train": ("aecore.training.train", "train the chosen autoencoder -> models/autoencoder"),
    "embed": ("aecore.embedding", "encode every image -> artifacts/embeddings"),
    "index": ("aecore.search.index", "build the search index and measure its recall -> artifacts/index"),
    "cluster": ("aecore.analysis.cluster", "group the codes -> artifacts/clusters"),
    "map": ("aecore.analysis.map", "lay the codes out in two dimensions -> artifacts/map"),
    "evaluate": ("aecore.analysis.evaluate", "measure it all beside raw pixels and PCA -> reports"),
    "report": (
        "aecore.analysis.report",
        "tell it all on one page, and of each cluster -> reports/report.html, reports/clusters.html",
    ),
}
"""The pipeline, in order: name -> (module whose `main()` runs it, what it does)."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 the work failed, 2 the request was wrong."""
    for stream in (sys.stdout, sys.stderr):
        tolerate(stream)
    try:
        options, unknown = _parser().parse_known_args(arguments)
        if unknown:
            raise UserError(
                f"aecore {options.command}: there is no {unknown[0]} here; `python -m aecore {options.command} --help` "
                "says what there is."
            )
    except UserError as error:
        print(legible(error), file=sys.stderr)
        return error.exit_status
    environment.settle()
    try:
        if options.command != "ui" or not os.environ.get("MLFLOW_TRACKING_URI"):
            config.check_project()
        with output.reserved() if getattr(options, "json", False) else contextlib.nullcontext():
            _run(options)
        print(end="", flush=True)  # what is held back, unless standard output is closed
    except UserError as error:
        print(f"aecore {options.command}: {legible(error)}", *map(legible, error.details), sep="\n", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stdout.flush()
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO):
            raise
        where = f" at {legible(error.filename)}" if error.filename else ""
        print(f"aecore {options.command}: {error.strerror}{where}: mend that and run it again; "
              "nothing half-written was kept.", file=sys.stderr)  # fmt: skip
        return 1
    except KeyboardInterrupt:
        print(f"aecore {options.command}: interrupted; the same command carries on.", file=sys.stderr)
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.command in STAGES:
        importlib.import_module(STAGES[options.command][0]).main()
    elif options.command == "check":
        from aecore import check

        check.run(options.json)
    elif options.command == "fetch":
        from aecore.data import fetch

        fetch.main()
    elif options.command == "query" and (options.parquet or options.ids or options.all):
        if options.montage or options.percentile:
            raise UserError("--montage and --percentile are for a few queries: leave them out of a batch.")
        from aecore.search import batch

        batch.run(options.images, options.id, options.parquet, options.k, options.where, options.ids, options.all,
                  options.json)  # fmt: skip
    elif options.command == "query":
        from aecore.search import query

        query.run(
            options.images, options.id, options.k, options.json, options.montage, options.where, options.percentile
        )
    elif options.command == "duplicates":
        from aecore.search import duplicates

        duplicates.run(options.distance, options.json, options.montage, options.n, options.percentile)
    elif options.command == "outliers":
        from aecore.search import outliers

        outliers.run(options.n, options.json, options.montage)
    elif options.command == "representatives":
        from aecore.search import representatives

        representatives.run(options.n, options.by, options.where, options.json, options.montage)
    elif options.command == "inspect":
        if options.removed:
            from aecore.serve import forget

            if options.id or options.png:
                raise UserError("--removed lists images that are not there any more: leave out --id and --png.")
            forget.inspect_removed(options.json)
        else:
            from aecore.search import query

            query.inspect(options.id, options.png, options.json)
    elif options.command == "sample":
        from aecore.generate import sample

        sample.run(options.n, options.origin, options.seed, options.output, options.json)
    elif options.command == "interpolate":
        from aecore.generate import interpolate

        interpolate.run(options.a, options.b, options.steps, options.output)
    elif options.command == "compress":
        from aecore.generate import compress

        compress.compress(options.images, options.output, options.bits, options.json)
    elif options.command == "decompress":
        from aecore.generate import compress

        compress.decompress(options.file, options.output, options.json)
    elif options.command == "finetune":
        from aecore.analysis import finetune

        finetune.run(options.labels, options.seeds, options.epochs, options.json)
    elif options.command == "publish":
        from aecore.serve import publish

        publish.publish(leave_behind=options.leave_behind)
    elif options.command == "add":
        from aecore.serve import grow

        grow.add(options.paths, options.json)
    elif options.command == "remove":
        from aecore.serve import grow

        if options.withdraw:
            if options.ids or options.where:
                raise UserError("--withdraw ends earlier removals: remove others in a command of their own.")
            grow.withdraw(options.withdraw, options.json)
        else:
            grow.remove(options.ids, options.where, options.json)
    elif options.command == "rollback":
        from aecore.serve import publish

        publish.rollback()
    elif options.command == "tour":
        from aecore.serve import tour

        tour.tour()
    elif options.command == "ui":
        from aecore import tracking

        tracking.serve_pages(options.port)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m aecore",
        description="From a pile of images to a versioned visual search. `dvc repro` runs the stages; each may also be "
        "run alone. Stages read params.yaml and take no other argument.",
        epilog="Results go to standard output, progress and logs to standard error. "
        "A picture is written as its name says: .png, .jpg or .webp. "
        "Exit status: 0 done, 1 the work failed, 2 the request was wrong.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("fetch", help="bring the data set that params.yaml names to data.path")
    check = commands.add_parser(
        "check", help="say all that is wrong with params.yaml and data.path, before anything runs", description="Read "
        "all of params.yaml, the recipe and its overrides, see whether they fit each other and whether data.path is "
        "there and DVC can watch it, and say what has come or gone since `prepare` read it. Nothing has to have run."
    )  # fmt: skip
    check.add_argument("--json", action="store_true", help="stable JSON instead of sentences")
    for name, (_, text) in STAGES.items():
        commands.add_parser(name, help=text)

    query = commands.add_parser(
        "query", help="find similar images", description="Find the images most similar to given ones: in the published "
        "copy when there is one, else in the workspace (it says which)."
    )  # fmt: skip
    query.add_argument("images", nargs="*", metavar="IMAGE", help="image files to look for")
    query.add_argument("--id", action="append", default=[], help="look for an indexed image instead (may be repeated)")
    query.add_argument("-k", type=whole(1), default=10, help="neighbours each (default: 10)")
    query.add_argument(
        "--where", metavar="CONDITION", help="only among images that meet it, in SQL over their table: \"label = 3\", "
        "\"split = 'test' and width > 100\", \"path like '%%cats%%'\"; a column that is not there lists them all"
    )  # fmt: skip
    query.add_argument("--percentile", action="store_true", help="also how many of 300,000 random pairs of images are "
                       "farther apart, in per cent")  # fmt: skip
    query.add_argument("--json", action="store_true", help="stable JSON instead of a table")
    query.add_argument("--montage", type=Path, metavar="OUT.png", help="also draw queries and neighbours")
    query.add_argument("--parquet", type=Path, metavar="OUT.parquet", help="very many at once: write the neighbours "
                       "there and print counts and speed; IMAGE may then be a folder or an archive too")  # fmt: skip
    query.add_argument("--ids", type=Path, metavar="FILE.parquet", help="with --parquet: look for the indexed images "
                       "that its column `id` names")  # fmt: skip
    query.add_argument("--all", action="store_true", help="with --parquet: look for every indexed image")

    duplicates = commands.add_parser(
        "duplicates", help="find near-duplicates, and those that straddle training and test", description="Group the "
        "images that are the same picture, saved again, scaled, brightened or cropped a little, in the published copy "
        "when there is one, else in the workspace; files with exactly the same pixels apart. Codes propose pairs, "
        "pixels laid over each other confirm them. How much may differ is measured: what changed copies of some of "
        "your images have, and less than what mirrored ones have, which have no copy. With --distance or --percentile "
        "codes alone decide."
    )  # fmt: skip
    duplicates.add_argument("--distance", type=real(lambda x: x >= 0, "0 or more"),
                            help="largest distance of two images' codes, whatever their pixels")  # fmt: skip
    duplicates.add_argument("--percentile", type=real(lambda x: 0 < x < 100, "more than 0 and less than 100"),
                            metavar="PERCENT", help="instead: the distance that so many "
                            "per cent of random pairs of images exceed, such as 99.99")  # fmt: skip
    duplicates.add_argument("-n", type=whole(1), default=20, help="groups shown and drawn (default: 20)")
    duplicates.add_argument("--json", action="store_true", help="all of them, as stable JSON")
    duplicates.add_argument("--montage", type=Path, metavar="OUT.png", help="also draw them, a line a group")

    outliers = commands.add_parser(
        "outliers", help="find the images least like the others, and those the model cannot paint", description="Rank "
        "the images by the mean distance to their ten nearest and by the error of their reconstruction, in the "
        "published copy when there is one, else in the workspace."
    )  # fmt: skip
    outliers.add_argument("-n", type=whole(1), default=10, help="images of each ranking (default: 10)")
    outliers.add_argument("--json", action="store_true", help="stable JSON instead of a table")
    outliers.add_argument("--montage", type=Path, metavar="OUT.png", help="also draw each, its reconstruction and its "
                          "nearest images")  # fmt: skip

    representatives = commands.add_parser(
        "representatives", help="find a few images that stand for all", description="Find different images that each "
        "stand for a group they are typical of, and say how well they cover all images beside random ones: in the "
        "published copy when there is one, else in the workspace."
    )  # fmt: skip
    representatives.add_argument("-n", type=whole(1), default=20, help="how many (default: 20)")
    representatives.add_argument("--by", choices=("typical", "coverage"), default="typical", help="the middles of "
                                 "groups (the default), or images far from each other, odd ones too")  # fmt: skip
    representatives.add_argument("--where", metavar="CONDITION", help="only of images that meet it, as in `query`")
    representatives.add_argument("--json", action="store_true", help="stable JSON instead of a table")
    representatives.add_argument("--montage", type=Path, metavar="OUT.png", help="also draw each, and the images of "
                                 "its group nearest to it")  # fmt: skip

    inspect = commands.add_parser("inspect", help="say what is known of indexed images, or save one as PNG")
    inspect.add_argument("--id", help="the image (without it: how many there are, and the first few)")
    inspect.add_argument("--removed", action="store_true", help="instead: the images that were removed")
    inspect.add_argument("--json", action="store_true", help="stable JSON instead of a table")
    inspect.add_argument("--png", type=Path, metavar="OUT.png", help="write the prepared image there")

    sample = commands.add_parser(
        "sample", help="draw new images, each beside the training images nearest to it", description="Draw new images "
        "and, beside each, the training images nearest to it: learnt, or learnt by heart?"
    )  # fmt: skip
    sample.add_argument("-n", type=whole(1, 2_000), default=24, help="how many (default: 24)")
    sample.add_argument("--from", dest="origin", choices=("mixture", "prior"), default="mixture",
                        help="a Gaussian mixture fitted to the training codes (the default), or the bottleneck's own "
                        "prior, where it has one")  # fmt: skip
    sample.add_argument(
        "--seed", type=whole(0, 2**31 - 1), default=0, help="another number, other samples (default: 0)"
    )
    sample.add_argument("-o", "--output", type=Path, default=Path("samples.png"), metavar="OUT.png",
                        help="the picture (default: samples.png)")  # fmt: skip
    sample.add_argument("--json", action="store_true", help="stable JSON instead of a table")

    way = commands.add_parser(
        "interpolate", help="draw the way from one image to another through the codes", description="Draw what lies "
        "between two images: decoded from the codes between theirs, above a cross-fade of their pixels."
    )  # fmt: skip
    way.add_argument("a", metavar="A", help="an image file, or the id of an indexed image")
    way.add_argument("b", metavar="B", help="another")
    way.add_argument(
        "--steps", type=whole(2, 600), default=9, help="pictures on the way, both ends included (default: 9)"
    )
    way.add_argument("-o", "--output", type=Path, default=Path("interpolation.png"), metavar="OUT.png",
                     help="the picture (default: interpolation.png)")  # fmt: skip

    compress = commands.add_parser(
        "compress", help="store images as quantised codes", description="Store images, as the model sees them, as "
        "quantised codes in one file, and say what that costs."
    )  # fmt: skip
    compress.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    compress.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.aec", help="the file to write")
    compress.add_argument("--bits", type=whole(2, 8), default=8, help="of each number of a code, 2 to 8 (default: 8)")
    compress.add_argument("--json", action="store_true", help="stable JSON instead of a table")

    decompress = commands.add_parser("decompress", help="write the images of such a file as PNG")
    decompress.add_argument("file", type=Path, metavar="FILE.aec", help="what compress wrote")
    decompress.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="a new or empty folder")
    decompress.add_argument("--json", action="store_true", help="stable JSON instead of a table")

    finetune = commands.add_parser(
        "finetune", help="measure the encoder where few images have labels", description="Accuracy of the workspace's "
        "encoder with a classification head on few labels: fine-tuned, frozen, and the same network from scratch, "
        "beside raw pixels and PCA. Writes reports/finetune.json and reports/finetune.png; the model stays as it is."
    )  # fmt: skip
    finetune.add_argument("--labels", nargs="+", type=whole(1), default=[10, 100, 1000], metavar="N",
                          help="labels a class (default: 10 100 1000)")  # fmt: skip
    finetune.add_argument(
        "--seeds", type=whole(1, 100), default=3, help="repetitions, each with other labels (default: 3)"
    )
    finetune.add_argument("--epochs", type=whole(1, 10_000), default=20, help="epochs of a training (default: 20)")
    finetune.add_argument("--json", action="store_true", help="stable JSON instead of a table")

    publish = commands.add_parser(
        "publish", help="verify the workspace's artefacts and serve a copy of them", description="Verify the "
        "workspace's artefacts byte by byte and serve a copy of them. A copy that is served already is verified, too: "
        "what is damaged is mended, and what of its additions is lost is listed. What was added to the copy served "
        "before goes with the new one, and what was removed stays away."
    )  # fmt: skip
    publish.add_argument("--leave-behind", action="store_true", help="publish also where images that had been added "
                         "cannot be encoded anew; they are listed")  # fmt: skip
    commands.add_parser("rollback", help="serve the copy that was served before")
    add = commands.add_parser(
        "add", help="let more images be found, without a rebuild", description="Encode images with the published model "
        "and add them to the published copy. What is there is passed over, so the same command carries on after "
        "an interruption. The model is not trained on them: put them into data.path for the next `dvc repro` too."
    )  # fmt: skip
    add.add_argument("paths", nargs="+", metavar="PATH", help="image files, folders of images, archives")
    add.add_argument("--json", action="store_true", help="stable JSON instead of a sentence")

    remove = commands.add_parser(
        "remove", help="let images not be found any more", description="Take images out of the published copy, by id "
        "(as `query` and `inspect` print them) or by a condition. data/removed.csv keeps that: they stay away from "
        "whatever is published, added or prepared later, until they are withdrawn."
    )  # fmt: skip
    remove.add_argument("ids", nargs="*", metavar="ID", help="ids of images")
    remove.add_argument("--where", metavar="CONDITION", help="all images that meet it, as in `query`")
    remove.add_argument("--withdraw", nargs="+", metavar="ID", help="instead: end the removal of these images "
                        "(`inspect --removed` lists them), and let them be found again")  # fmt: skip
    remove.add_argument("--json", action="store_true", help="stable JSON instead of a sentence")
    commands.add_parser("tour", help="what was found, on one screen, and what to try next")
    ui = commands.add_parser("ui", help="MLflow's pages of every run, on 127.0.0.1")
    ui.add_argument("--port", type=whole(1, 65535), default=5000, help="(default: 5000)")
    return parser
