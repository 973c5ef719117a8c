"""The `evaluate` stage: every figure of the model beside PCA and raw pixels, and the pictures, into `reports/`."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from aecore import artifact, config, tracking
from aecore.analysis import baseline, claims, compare, figures, generation, pictures, protocol
from aecore.analysis.case import Case
from aecore.analysis.compare import Comparison
from aecore.analysis.kmeans import threads
from aecore.analysis.learners import COST, TREES
from aecore.analysis.protocol import EvaluateConfig, Sample
from aecore.analysis.space import Space
from aecore.analysis.workspace import Workspace, check_settings
from aecore.config import Runtime
from aecore.counted import counted
from aecore.generate import sample
from aecore.generate.mixture import fit_mixture, fitted_to
from aecore.search.metric import IndexConfig


def draw_codes(work: Workspace, chosen: Sample, count: int, seed: int) -> dict[str, np.ndarray]:
    """`count` new codes each from the `mixture` and, where the bottleneck has one, from its `prior`."""
    mixture = fit_mixture(work.embeddings.rows(fitted_to(chosen.train, work.images.ids())), seed)
    prior = sample.prior_codes(work.encoder, count, seed)
    return {"mixture": mixture.draw(count, seed)} | ({} if prior is None else {"prior": prior})


def measure_generated(work: Workspace, chosen: Sample, drawn: dict[str, np.ndarray]) -> dict[str, Any]:
    """Section `generation` of the metrics: the model's reconstructions and samples beside the floors."""
    images, facts = work.images, work.floors.facts["generation"]
    yardstick = generation.load(config.BASELINE, images)
    sets = {"reconstructions": work.encoder.reconstruct(images.rows(generation.shown_test(images, chosen)))}
    sets |= {origin: work.encoder.decode(codes) for origin, codes in drawn.items()}
    measured = {name: generation.measure(shown, images, facts["unseen"], yardstick) for name, shown in sets.items()}
    return generation.flattened(facts, measured)


def report(
    work: Workspace, chosen: Sample, comparison: Comparison, claimed: list[str], generated: dict[str, Any],
    titles: dict[str, str], k: int,
) -> str:  # fmt: skip
    """The comparison as Markdown: the table, who wins, the recipe's claims, how it was measured, and samples."""
    parts, facts = chosen.facts(), work.index.facts
    how = [
        f"{counted(parts['test'], 'test image')}; in brackets 95 % intervals (bootstrap of the images; NMI and ARI "
        "from halves of them, none twice; paired for differences).",
        f"Find the original: {counted(parts['originals'], 'cropped, shifted, noised test image')}, each among "
        f"{counted(parts['gallery'], 'image')}.",
    ]
    if len(chosen.queries):
        how.append(
            f"kNN, precision and mAP: {counted(parts['queries'], 'labelled test image')} against "
            f"{counted(parts['database'], 'training image')}, metric {facts['metric']}. Clusters: k-means of the "
            "training split, one a label, scored on the test images."
        )
        how.append(
            f"Linear SVM (standardised, C = {COST:g}) and random forest ({TREES} trees) learn from "
            f"{counted(parts['taught'], 'labelled training image')}, the same for every column."
        )
    elif work.images.label_names:
        how.append("The labels measure nothing: no test image has one that a training image has.")
    exact = "exactly" if work.pca.exact else "by a randomised method, so it may be slightly below the best"
    how.append(f"PCA was computed {exact}. Recall of the index ({facts['index']}) at 10: {facts['recall']['10']:.4f}.")
    lines = [*compare.table(comparison, titles, k), ""]
    lines += [f"- {line}" for line in compare.verdicts(comparison, titles, k)]
    if claimed:
        lines += ["", *claimed]
    return "\n".join([*lines, "", *how, "", *generation.table(generated, titles)]) + "\n"


def main() -> None:
    """Measure the model as the floors were measured; write figures, table and pictures, and print the table."""
    runtime, section = config.section(Runtime, "run"), config.section(EvaluateConfig, "evaluate")
    metric = config.section(IndexConfig, "index").metric
    track = config.section(tracking.TrackingConfig, "tracking")
    torch.set_num_threads(runtime.threads)
    work = Workspace.open(runtime)
    images, k = work.images, section.neighbours
    check_settings(work.floors, baseline.settings(work.embeddings.dim, metric, k, runtime.seed))
    titles = {"model": "autoencoder", "pca": f"PCA-{work.embeddings.dim}", "raw": "raw pixels"}
    parameters = {"evaluate": dataclasses.asdict(section), "metric": metric, "seed": runtime.seed}
    tags = {f"aecore.{m.kind}": m.digest for m in (images.manifest, work.embeddings.manifest, work.index)}
    tags["aecore.weights"] = work.encoder.manifest.digest

    with tracking.run("evaluate", parameters, tags, track) as run, threads(runtime.threads):
        chosen = Sample.choose(images)
        space = Space.fit(work.embeddings.rows, chosen.train, metric)
        model = protocol.measure(space, work.encoder.encode, images, chosen, k, runtime.seed)
        model |= protocol.reconstruction(images, chosen, work.encoder.reconstruct)
        labels = images.labels()
        asked = labels[chosen.queries] if labels is not None and len(chosen.queries) else None
        comparison = compare.compare({"model": model, **work.measured}, asked, section.bootstrap, runtime.seed)
        errors = {name: comparison.means[name]["mse"] for name in ("model", "pca")}
        case = Case(images, work.encoder, work.embeddings.rows, work.pca, chosen, errors, runtime.seed)
        claimed = claims.measure(case)
        verdicts = claims.verdicts(claimed, work.encoder.model.recipe)
        codes = draw_codes(work, chosen, work.floors.facts["generation"]["images"], runtime.seed)
        generated = measure_generated(work, chosen, codes)
        text = report(work, chosen, comparison, claims.section(verdicts), generated, titles, k)

        drawn = pictures.draw(work, space, chosen, case, codes, titles)
        metrics: dict[str, Any] = {
            space_name: {name: round(value, 6) for name, value in values.items()}
            for space_name, values in comparison.means.items()
        }
        run.log({f"{space_name}.{name}": v for space_name, values in metrics.items() for name, v in values.items()})
        run.log({f"generation.{figure}.{name}": generated[figure][name] for figure in ("frechet", "closest")
                 if figure in generated for name in ("mixture", "prior") if name in generated[figure]})  # fmt: skip
        run.log({f"{name}.{key}": value for name, values in claimed.items() for key, value in values.items()})
        config.FIGURES.mkdir(parents=True, exist_ok=True)
        for name in pictures.PICTURES:
            path = config.FIGURES / f"{name}.png"
            if name in drawn:
                figures.save(drawn[name], path)
                run.figure(drawn[name], name)
            else:
                path.unlink(missing_ok=True)
        metrics["generation"] = generated
        metrics["index"] = {f"recall_{at}": value for at, value in work.index.facts["recall"].items()}
        metrics["images"] = chosen.facts()
        metrics["claims"] = claimed
        measured = compare.flattened(comparison) | {"measured": {m.kind: m.digest for m in work.manifests}}
        artifact.write_json(config.REPORTS / "intervals.json", measured)
        artifact.write_json(config.REPORTS / "claims.json", verdicts)
        artifact.write_text(config.REPORTS / "comparison.md", text)
        artifact.write_json(config.REPORTS / "metrics.json", metrics)
    print(text)
    print("\n".join(str(config.FIGURES / f"{name}.png") for name in pictures.PICTURES if name in drawn))
