"""From runs to a comparison: what differs, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from layerscope.artifacts.scores import BottleneckScores
from layerscope.errors import ConfigurationError, listed
from layerscope.functional.bootstrap import resample_weights
from layerscope.functional.ranking import AurocInfluence
from layerscope.report.bottleneck import AnalysisSettings
from layerscope.report.comparison.alignment import Aligned, align
from layerscope.report.comparison.candidate_rows import SIZES, TIMES, candidate_rows, cost, rank
from layerscope.report.comparison.common_ground import Candidate, CommonGround, area_of
from layerscope.report.comparison.estimation import Sampling, Side
from layerscope.report.comparison.mismatches import mismatches
from layerscope.report.comparison.noise_curves import common_range
from layerscope.report.comparison.pair_rows import pair_rows
from layerscope.report.comparison.protocol import caveats, device_of_times, unranked_steps
from layerscope.report.comparison.result import FORCED_FLAG, REAL, Comparison
from layerscope.report.comparison.run_figures import QUALITY, Measurer, RunFigures, control_changes
from layerscope.report.comparison.runs import ComparedRun, check_baseline
from layerscope.report.comparison.training_seeds import check_training_seeds
from layerscope.report.estimates import from_influence
from layerscope.report.evaluated import EvaluatedLabels
from layerscope.report.judged_labels import judged_labels, thin_labels, unrecognised
from layerscope.report.rows import Row

_SAME = {
    "bottleneck": "Diagnose all candidates with the same data, teacher and thresholds",
    "classifier": "Evaluate all classifiers on the same data",
}


def compare_runs(
    runs: Sequence[ComparedRun],
    baseline: str | None = None,
    force: bool = False,
    settings: AnalysisSettings | None = None,
) -> Comparison:
    """Candidates side by side, on the same images.

    Rows of diagnoses stand under ``recon``, a noise step, or no condition for what belongs to none (noise curves,
    sizes, times); those of classifiers under ``real``. Macro averages run over the labels that a diagnosis judges:
    those with enough positive and negative units, or all that are defined where none has.

    Args:
        runs: of at least two candidates, as `read_runs` gives them.
        baseline: the candidate that others are held against; its pairs are families of their own.
        force: compare runs of other data, teachers or thresholds all the same, on what they share.
        settings: level, margins, resamples.

    Raises:
        ConfigurationError: the baseline is no candidate, runs of one candidate are no training seeds, the runs differ
            where they must not and ``force`` is false, or they share no image or label.
        ArtifactError: images or labels of a run have no unique names.
        NumericalError: a logit of a known label is not finite.
    """
    settings = settings or AnalysisSettings()
    names = list(dict.fromkeys(run.candidate for run in runs))
    check_baseline(baseline, names)
    check_training_seeds(runs)
    found = mismatches(runs)
    if found and not force:
        raise ConfigurationError(
            "The runs are not comparable: "
            + " ".join(found)
            + f" {_SAME[runs[0].kind]}; --force compares what images and labels they share, if there are any."
        )
    aligned = align(runs)
    first = aligned.runs[0]
    evaluated = EvaluatedLabels.of(first.scores)
    truth = evaluated.truth
    thin = thin_labels(truth)
    judged = judged_labels(truth, thin)
    sampling = Sampling(truth.group, len(truth.target), settings.level)
    measurer = Measurer(
        truth,
        judged,
        resample_weights(sampling.n, settings.n_bootstrap, settings.seed, truth.group),
        resample_weights(sampling.units, settings.n_bootstrap, settings.seed),
    )
    figures = [measurer.measure(run) for run in aligned.runs]
    over = common_range([one.curve for one in figures])
    ground = CommonGround(
        settings,
        sampling,
        truth,
        evaluated.names,
        thin,
        judged,
        _unrecognised(figures[0].auroc[REAL], sampling, settings),
        over,
        {one.run.path: area_of(one, over, sampling) for one in figures if one.run.kind == "bottleneck"},
    )
    candidates = [_candidate(name, figures) for name in names]
    same_device = len({device_of_times(run) for run in aligned.runs}) == 1
    rows: list[Row] = []
    for candidate in candidates:
        rows += candidate_rows(ground, candidate, same_device=same_device)
        if len(candidate.figures) > 1:
            for one, seed in zip(candidate.figures, candidate.side.seeds):
                alone = Candidate(Side(candidate.side.candidate, (seed,)), [one])
                rows += candidate_rows(ground, alone, one.run.name, same_device)
    rank(rows, unranked_steps(aligned.runs))
    pairwise = pair_rows(ground, candidates, baseline)
    if found:
        for row in (*rows, *pairwise):
            row["flag"] = "; ".join(filter(None, [row["flag"], FORCED_FLAG]))
    undefined = {name: reason for k, name in enumerate(evaluated.names) if (reason := truth.reason(k))}
    left_out = {name: why for name, why, used in zip(evaluated.names, thin, judged) if why and not used}
    scores = first.scores
    return Comparison(
        kind=first.kind,
        candidates=names,
        runs={one.side.candidate: [run.run.name for run in one.figures] for one in candidates},
        baseline=baseline,
        labels=evaluated.names,
        display=evaluated.display,
        left_out={**{name: why.removeprefix("undefined: ") for name, why in undefined.items()}, **left_out},
        figures=rows,
        pairwise=pairwise,
        controls=control_changes(scores, truth, judged) if isinstance(scores, BottleneckScores) else {},
        auroc_real=float(figures[0].auroc[REAL].value[-1]),
        margin=settings.margin_macro,
        level=settings.level,
        n_samples=sampling.n,
        n_groups=None if truth.group is None else sampling.units,
        mismatches=found,
        not_measured=_not_measured(runs, aligned, ground, candidates, {**undefined, **left_out}, same_device),
    )


def _candidate(name: str, figures: Sequence[RunFigures]) -> Candidate:
    runs = [one for one in figures if one.run.candidate == name]
    return Candidate(Side(name, tuple(one.run.seed for one in runs)), runs)


def _unrecognised(real: AurocInfluence, sampling: Sampling, settings: AnalysisSettings) -> list[str]:
    """Of the labels, then of the macro average."""
    estimates = from_influence([real], sampling.group, settings.level)
    n_labels = len(real.value) - 1
    labels = [unrecognised(estimates, k, "this label", settings.margin_label) for k in range(n_labels)]
    return [*labels, unrecognised(estimates, n_labels, "the labels", settings.margin_macro)]


def _not_measured(
    runs: Sequence[ComparedRun],
    aligned: Aligned,
    ground: CommonGround,
    candidates: Sequence[Candidate],
    labels: Mapping[str, str],
    same_device: bool,
) -> list[dict[str, str]]:
    missing = [
        {"what": f"label {name} in averages", "reason": why.removeprefix("undefined: ")} for name, why in labels.items()
    ]
    if aligned.n_left_out:
        reason = f"{aligned.n_left_out} of {len(runs[0].scores.id)} images of {runs[0].title} are not in all runs"
        missing.append({"what": "images that not all runs have", "reason": reason})
    if aligned.n_contradictory:
        reason = f"{aligned.n_contradictory} images were left out: their ground truth differs between runs"
        missing.append({"what": "images with contradictory labels", "reason": reason})
    skipped = [str(name) for name, used in zip(runs[0].scores.label, runs[0].scores.evaluated) if not used]
    if skipped:
        missing.append({"what": f"labels {', '.join(skipped)}", "reason": "the label schema says evaluated: false"})
    if ground.truth.group is None:
        reason = "the data names no groups (patients); images are taken as independent, intervals may be too narrow"
        missing.append({"what": "clustered intervals", "reason": reason})
    missing += caveats(aligned.runs)
    if aligned.runs[0].kind == "bottleneck":
        missing += _missing_figures(aligned.runs, ground, same_device)
    alone = [one.side.candidate for one in candidates if len(one.figures) == 1]
    if len(alone) == len(candidates):
        reason = "every candidate has one training seed: intervals cover test samples and noise draws only"
        missing.append({"what": "training seeds", "reason": reason})
    elif alone:
        reason = f"{listed(alone)} with one training seed: intervals of their differences cover test samples only"
        missing.append({"what": "training seeds of all candidates", "reason": reason})
    return missing


def _missing_figures(runs: Sequence[ComparedRun], ground: CommonGround, same_device: bool) -> list[dict[str, str]]:
    missing = []
    if ground.common_range is None:
        reason = "some runs have fewer than two noise steps, or the runs share no range of effective log-SNR"
        missing.append({"what": "retained area, and differences of collapse points", "reason": reason})
    for metric in QUALITY:
        without = [
            run.title
            for run in runs
            if isinstance(run.scores, BottleneckScores) and metric not in run.scores.quality_name
        ]
        if without:
            missing.append({"what": metric, "reason": f"not in the scores of {listed(without)}"})
    for metric in (*SIZES, *TIMES):
        without = [run.title for run in runs if np.isnan(cost(run, metric))]
        if without:
            missing.append({"what": metric, "reason": f"not in the summary of {listed(without)}"})
    if not same_device:
        devices = "; ".join(f"{run.title}: {device_of_times(run) or 'not known'}" for run in runs)
        missing.append({"what": "times on one device", "reason": f"{devices}; times are not ranked"})
    return missing
