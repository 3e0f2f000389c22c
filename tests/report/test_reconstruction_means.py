"""Quality of reconstructions over a split: means, intervals by patient, and figures without a mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm
from synthetic_scores import make_scores

from layerscope.artifacts import to_plain
from layerscope.report.bottleneck import AnalysisSettings, analyse_bottleneck
from layerscope.report.reconstruction import quality_not_measured, reconstruction_means


def test_mean_with_an_interval_over_patients() -> None:
    scores = make_scores(groups=True)
    psnr = scores.quality[:, 0].astype(np.float64)
    found = reconstruction_means(scores, 0.9)["psnr_db"]
    assert found["value"] == pytest.approx(psnr.mean())
    assert found["std"] == pytest.approx(psnr.std(ddof=1))
    # 60 patients of four images each: the spread of their sums.
    half = norm.ppf(0.95) * np.sqrt(np.square((psnr - psnr.mean()).reshape(60, 4).sum(axis=1)).sum()) / len(psnr)
    assert (found["ci_lo"], found["ci_hi"]) == pytest.approx((psnr.mean() - half, psnr.mean() + half))
    assert [entry["what"] for entry in quality_not_measured(scores)] == ["LPIPS"]


def test_intervals_stay_in_range() -> None:
    quality = np.array([[1.0, 0.0]] * 8 + [[0.9, 0.1]], np.float32)
    scores = make_scores(9, quality=quality, quality_name=np.array(["ssim", "lpips"]))
    found = reconstruction_means(scores, 0.999)
    assert found["ssim"]["ci_hi"] == 1
    assert found["lpips"]["ci_lo"] == 0


@pytest.mark.parametrize(
    ("odd", "reason"), [([np.inf] * 2, "2 of 240 images came back exactly"), ([np.inf, np.nan], "for 2 of 240")]
)
def test_figures_that_are_not_finite_have_no_mean_and_say_so(odd: list[float], reason: str) -> None:
    quality = make_scores().quality.copy()
    quality[:2, 0] = odd
    summary = to_plain(analyse_bottleneck(make_scores(quality=quality), AnalysisSettings(n_bootstrap=5)).summary())
    assert summary["reconstruction"]["psnr_db"] == dict.fromkeys(("value", "ci_lo", "ci_hi", "std"))
    assert summary["reconstruction"]["ssim"]["value"] == pytest.approx(quality[:, 1].mean())
    [told] = [entry["reason"] for entry in summary["not_measured"] if entry["what"] == "mean PSNR"]
    assert reason in told


def test_scores_without_figures_and_a_single_image() -> None:
    nothing = make_scores(quality_name=np.zeros(0, "U1"), quality=np.zeros((240, 0), np.float32))
    assert reconstruction_means(nothing, 0.95) == {}
    assert [entry["what"] for entry in quality_not_measured(nothing)] == ["PSNR", "SSIM", "LPIPS"]
    one = reconstruction_means(make_scores(1), 0.95)["psnr_db"]
    assert math.isfinite(one["value"])
    assert all(math.isnan(one[key]) for key in ("ci_lo", "ci_hi", "std"))
