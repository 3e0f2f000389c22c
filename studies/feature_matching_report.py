"""results.md, results.json and contrasts.png of the feature matching study, from the runs on disk alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import yaml

from layerscope.artifacts import BottleneckScores, read_history, read_summary, write_file, write_json_file
from layerscope.functional.contrasts import MARGIN, Contrast, outcome
from layerscope.functional.intervals import holm
from layerscope.report.sentences import short
from studies.contrasts import Judged, auroc_contrast, shift_contrast
from studies.feature_matching import ARMS, DRAWS, PHANTOM_SEED, TEACHERS, TRAINING, Study
from studies.feature_matching_figure import contrast_figure

Question = tuple[str, str, str, str]
"""Judge, condition, arm, and the arm it is held against; ``real`` for the real images."""

PAIRS = (("feat", "base"), ("feat_noisy", "base"), ("feat_noisy", "feat"))
TRAINED_NOISE = "t153"
"""The strongest noise judged that feat_noisy is trained on: its own reaches to about t = 170."""
ASKED: tuple[Question, ...] = (("B", "recon", "feat", "base"), ("B", TRAINED_NOISE, "feat_noisy", "feat"))
"""Named before anything was run; all other contrasts are exploratory."""

_TEXT = """\
# Feature matching on the fundus phantom

Base against feat against feat_noisy with seeds {seeds} each, at {steps} steps. One command, which goes on where it was
interrupted:

```
{command}
```

## What came out

{reading}

![Differences of macro AUROC with intervals](contrasts.png)

## Setting

- Fundus phantom of 128 px, seed {phantom_seed}, {images} images. The test split, {n_test} images of {n_patients}
  patients, was shown to no teacher and no VAE in training.
- VAEs by `{training}`. Weights of the losses: {losses}. {pairing}
- Two judges of one architecture, trained on the same images with different seeds: macro AUROC {real_a} (A) and {real_b}
  (B) on the real test images. **feat and feat_noisy match features of A, which is therefore judge in its own case. B
  never met a VAE in training.** Still, B is a near relative of A: an improvement that B sees need not be one for a
  network of another kind.
- Latent noise: DDPM's schedule on latents normalised by channel, {draws} draws a step, the same for all, no denoiser.
  It tells how robust decoder and judge are together, not what a diffusion model would make of it.

## Reconstruction

Validation split after the last step, mean over seeds (lowest to highest). Seconds: training without validation, beside
whatever else ran.

{quality}

## What the judges lose

Against real images, mean over seeds with the standard deviation between them: change of macro AUROC with its 95 %
interval over images and seeds, and mean size of the change of probability.

{levels}

## Contrasts of macro AUROC

Asked in advance: {asked} (bold below). The other rows are exploratory, their p-values not adjusted. The outcome is
that of the interval over both; {margin} would matter. In the last column, below 0 is less harm.

{macro}

## Contrasts by label

Judged by B: AUROC differences with intervals over both; p after Holm over the labels, for each condition and contrast.

{labels}

## Intervals

All 95 %, paired on the same images and seeds; AUROC of each noise draw first, then their mean. Over images: influence
values averaged over seeds, patients as units, seeds fixed. Over seeds: Student's t with {seed_df} degrees of freedom on
the seeds' differences, images fixed; so few seeds make it wide. Over both: the sum of both variances, Student's t with
Satterthwaite's degrees of freedom (`layerscope.functional.contrasts` says how well that holds). Intervals of labels
with fewer than about 10 positive patients are too narrow: they hold in 79 to 90 % instead of 95 with 5.
"""

_PAIRED = (
    "In all else the runs' own configurations are equal (compared), so of one seed all arms start from the same "
    "weights and see the same images and posterior draws in the same order."
)
_UNPAIRED = "**The runs' own configurations differ in more than that, or between seeds: they are no fair comparison.**"


def write_report(study: Study) -> str:
    """Writes the three files; returns the reading."""
    judged = {
        judge: {
            arm: Judged([BottleneckScores.load(study.diagnosis(arm, s, judge) / "scores.npz") for s in study.seeds])
            for arm in ARMS
        }
        for judge in TEACHERS
    }
    report = _Report(study, judged)
    write_file(study.root / "contrasts.png", report.figure())
    write_json_file(study.root / "results.json", report.record())
    write_file(study.root / "results.md", report.markdown().encode())
    return f"{report.reading()}\n\nResults: {study.root / 'results.md'}"


class _Report:
    def __init__(self, study: Study, judged: dict[str, dict[str, Judged]]) -> None:
        self.study, self.judged = study, judged
        self.first = judged["B"]["base"]
        self.runs = {(arm, seed): _run(study, arm, seed) for arm in ARMS for seed in study.seeds}
        self.auroc: dict[Question, Contrast] = {}
        self.shift: dict[Question, Contrast] = {}
        for judge, arms in judged.items():
            for condition in self.first.conditions:
                for arm, other in (*PAIRS, *((arm, "real") for arm in ARMS)):
                    reference, against = (arms[arm], "real") if other == "real" else (arms[other], condition)
                    question = (judge, condition, arm, other)
                    self.auroc[question] = auroc_contrast(arms[arm], reference, condition, against)
                    self.shift[question] = shift_contrast(arms[arm], reference, condition, against)
        adjusted = holm([self.auroc[question].p[-1] for question in ASKED])
        self.asked = [(q, float(p), outcome(*self.auroc[q].both[:, -1], float(p))) for q, p in zip(ASKED, adjusted)]

    def reading(self) -> str:
        """The outcome in sentences, by rule."""
        lines = [
            f"**{_in_words(question)} (asked in advance): {words}.** Macro AUROC {_interval(self.auroc[question])}, "
            f"{_p(p)} after Holm over the {len(ASKED)} questions asked in advance."
            for question, p, words in self.asked
        ]
        for judge in self.judged:
            for arm, other in PAIRS:
                found: dict[str, list[str]] = {}
                for condition in self.first.conditions:
                    one = self.auroc[judge, condition, arm, other]
                    found.setdefault(outcome(*one.both[:, -1], one.p[-1]), []).append(_step(condition))
                each = "; ".join(f"{words} ({', '.join(where)})" for words, where in found.items())
                lines.append(f"{arm} against {other}, judged by {judge}, each condition by itself: {each}.")
        return "\n".join(f"- {line}" for line in lines)

    def markdown(self) -> str:
        study = self.study
        seeds = [str(seed) for seed in study.seeds]
        command = f"python -m studies.feature_matching --seeds {' '.join(seeds)} --images {study.images}"
        first = study.seeds[0]
        paired = all(
            run["rest"] == self.runs["base", seed]["rest"] and run["losses"] == self.runs[arm, first]["losses"]
            for (arm, seed), run in self.runs.items()
        )
        real = {judge: arms["base"].auroc["real"][0].value for judge, arms in self.judged.items()}
        return _TEXT.format(
            seeds=", ".join(seeds),
            steps=" or ".join(f"{steps:,}" for steps in sorted({run["batches"] for run in self.runs.values()})),
            command=command + ("" if study.max_steps is None else f" --max-steps {study.max_steps}"),
            reading=self.reading(),
            phantom_seed=PHANTOM_SEED,
            images=f"{study.images:,}",
            n_test=len(self.first.group),
            n_patients=self.first.units,
            training=TRAINING.format("*"),
            losses="; ".join(self.weights(arm) for arm in ARMS),
            pairing=_PAIRED if paired else _UNPAIRED,
            real_a=short(float(np.nanmean(real["A"]))),
            real_b=short(float(np.nanmean(real["B"]))),
            draws=DRAWS,
            quality=self.quality(),
            levels=self.levels(),
            asked="; ".join(_in_words(question) for question in ASKED),
            margin=f"a difference of {short(MARGIN, 2)}",
            macro=self.macro(),
            labels=self.labels(),
            seed_df=len(study.seeds) - 1,
        )

    def weights(self, arm: str) -> str:
        losses = self.runs[arm, self.study.seeds[0]]["losses"]
        return f"{arm} {', '.join(f'{name} {weight:g}' for name, weight in losses.items())}"

    def quality(self) -> str:
        rows = []
        for arm in ARMS:
            cells = [arm]
            for name, digits in (("psnr", 2), ("ssim", 3), ("l1", 4), ("train_seconds", 0)):
                values = [self.runs[arm, seed][name] for seed in self.study.seeds]
                cells.append(f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})")
            rows.append(cells)
        return _table(["arm", "PSNR in dB", "SSIM", "L1 of [−1, 1]", "seconds"], rows)

    def levels(self) -> str:
        rows = []
        for (judge, condition, arm, other), area in self.auroc.items():
            if other == "real":
                shift = self.shift[judge, condition, arm, other]
                spread = [short(one.per_seed[:, -1].std(ddof=1)) for one in (area, shift)]
                rows.append(
                    [judge, _step(condition), arm, _interval(area), spread[0], short(shift.delta[0]), spread[1]]
                )
        return _table(["judge", "condition", "arm", "ΔAUROC", "sd", "mean \\|Δp\\|", "sd"], rows)

    def macro(self) -> str:
        rows = []
        for question, one in self.auroc.items():
            judge, condition, arm, other = question
            if other != "real":
                mark = "**" if question in ASKED else ""
                bounds = [_bounds(getattr(one, kind)[:, -1]) for kind in ("images", "seeds", "both")]
                words = outcome(*one.both[:, -1], one.p[-1])
                cells = [
                    judge,
                    _step(condition),
                    f"{mark}{arm} − {other}{mark}",
                    short(one.delta[-1], sign=True),
                    *bounds,
                ]
                rows.append(
                    [
                        *cells,
                        f"{one.df[-1]:.1f}",
                        _p(one.p[-1]).removeprefix("p = ").removeprefix("p "),
                        words,
                        _interval(self.shift[question]),
                    ]
                )
        header = ["judge", "condition", "contrast", "ΔAUROC", "over images", "over seeds", "over both", "df", "p"]
        return _table([*header, "outcome", "mean \\|Δp\\|, over both"], rows)

    def labels(self) -> str:
        rows = []
        for condition in ("recon", TRAINED_NOISE):
            contrasts = [self.auroc["B", condition, arm, other] for arm, other in PAIRS]
            adjusted = [holm(one.p[:-1]) for one in contrasts]
            for k, label in enumerate(self.first.labels):
                cells = [
                    f"{_interval(one, k)}, {_p(p[k])}: {outcome(*one.both[:, k], p[k], margin=None)}"
                    for one, p in zip(contrasts, adjusted)
                ]
                rows.append([_step(condition), label, str(self.first.positives[k]), *cells])
        return _table(["condition", "label", "positives", *(f"{arm} − {other}" for arm, other in PAIRS)], rows)

    def figure(self) -> bytes:
        headings = {"A": "Judge A: its features are matched", "B": "Judge B: never met a VAE"}
        return contrast_figure(
            {
                headings[judge]: {
                    f"{arm} − {other}": {_step(c): self.auroc[judge, c, arm, other] for c in self.first.conditions}
                    for arm, other in PAIRS
                }
                for judge in self.judged
            }
        )

    def record(self) -> dict[str, Any]:
        columns = {"auroc": [*self.first.labels, "macro"], "mean_abs_delta_p": ["macro"]}
        return {
            "seeds": self.study.seeds,
            "images": self.study.images,
            "max_steps": self.study.max_steps,
            "asked_in_advance": [{**_named(q), "p_holm": p, "outcome": words} for q, p, words in self.asked],
            "runs": [{"arm": arm, "seed": seed, **run, "rest": None} for (arm, seed), run in self.runs.items()],
            "teachers": {name: read_summary(self.study.root / "teachers" / name)["metrics"] for name in TEACHERS},
            "contrasts": [
                {"metric": metric, **_named(question), "columns": columns[metric], **vars(one)}
                for metric, contrasts in (("auroc", self.auroc), ("mean_abs_delta_p", self.shift))
                for question, one in contrasts.items()
            ],
        }


def _run(study: Study, arm: str, seed: int) -> dict[str, Any]:
    """What a training left: figures of its last validation, and its own configuration in two parts.

    ``losses``: terms with their weights, and latent noise. ``rest``: all else but the name, the same for all arms.
    """
    path = study.training(arm, seed)
    rows = read_history(path)
    last = [row for row in rows if "val/psnr" in row][-1]
    rest = yaml.safe_load((path / "config_used.yaml").read_text(encoding="utf-8"))
    rest.pop("experiment_name")
    task = rest["model"]["init_args"]
    noise = task.pop("latent_noise")
    terms = {term["class_path"].split(".")[-1]: term["init_args"]["weight"] for term in task.pop("losses")}
    return {
        **{name: last[f"val/{name}"] for name in ("psnr", "ssim", "l1")},
        "batches": rows[-1]["batches"],
        "train_seconds": sum(row["train_seconds"] for row in rows),
        "losses": terms if noise is None else terms | {f"latent noise, {noise['mode']}, tau": noise["tau"]},
        "rest": rest,
    }


def _named(question: Question) -> dict[str, str]:
    return dict(zip(("judge", "condition", "arm", "against"), question))


def _in_words(question: Question) -> str:
    judge, condition, arm, other = question
    where = "on clean reconstructions" if condition == "recon" else f"under latent noise at {_step(condition)}"
    return f"{arm} against {other} {where}, judged by {judge}"


def _step(condition: str) -> str:
    return condition if condition == "recon" else f"t = {condition[1:]}"


def _interval(one: Contrast, column: int = -1) -> str:
    return f"{short(one.delta[column], sign=True)} {_bounds(one.both[:, column])}"


def _p(value: float) -> str:
    return "p < .001" if value < 0.001 else f"p = {short(value)}"


def _bounds(ends: np.ndarray) -> str:
    return f"[{short(ends[0], sign=True)}, {short(ends[1], sign=True)}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows))
