"""Autoencoders whose loss is known go through the real command line: the verdict must be the known one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.special import ndtr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from layerscope.artifacts import BottleneckScores, read_csv, read_summary
from layerscope.data.phantom.exact import auroc_noise, noise_gain, read_record, retained_energy
from layerscope.functional.noise import DDPMSchedule

Diagnose = Callable[..., Path]
AUTOENCODER = "--model.init_args.autoencoder"
HEADLINE = "delta_auroc (macro, recon)"


def labels_of(run: Path) -> dict[str, dict[str, Any]]:
    return {entry["label"]: entry for entry in read_summary(run)["verdict"]["per_label"]}


def test_identity_is_not_a_bottleneck_with_exact_zeros(diagnose: Diagnose) -> None:
    run = diagnose()
    summary = read_summary(run)
    assert summary["verdict"]["overall"]["verdict"] == "not a bottleneck"
    recon = [row for row in read_csv(run / "per_label.csv") if row["condition"] == "recon" and row["metric"] == "auroc"]
    assert len(recon) == 4
    for row in recon:
        assert (row["delta"], row["delta_ci_lo"], row["delta_ci_hi"], row["p"]) == (0, 0, 0, 1)
    agreement = summary["agreement_recon_t0"]
    assert agreement["flip_rate"]["value"] == 0
    assert agreement["mean_abs_delta_p"]["value"] == 0
    assert summary["headline"] == {"figure": HEADLINE, "value": 0, "ci_lo": 0, "ci_hi": 0}
    assert summary["reconstruction"]["ssim"] == pytest.approx({"value": 1, "ci_lo": 1, "ci_hi": 1, "std": 0}, abs=1e-6)
    assert summary["reconstruction"]["psnr_db"]["value"] is None
    [reason] = [entry["reason"] for entry in summary["not_measured"] if entry["what"] == "mean PSNR"]
    assert "came back exactly" in reason


@pytest.mark.parametrize("k", [4, 8])
def test_block_mean_loses_the_small_first_and_matches_the_closed_form(
    diagnose: Diagnose, exact_phantom: Path, k: int
) -> None:
    run = diagnose(f"{AUTOENCODER}=oracles.BlockMean", f"{AUTOENCODER}.init_args.k={k}")
    found = labels_of(run)
    record = read_record(exact_phantom)
    for label, shape in zip(record.settings.labels, record.templates()):
        expected = ndtr(record.settings.d_prime * np.sqrt(retained_energy(shape, k)) / np.sqrt(2))
        entry = found[label]
        # Four standard errors of the reconstruction's own AUROC, as DeLong gives it.
        row = next(
            r
            for r in read_csv(run / "per_label.csv")
            if (r["condition"], r["label"], r["metric"]) == ("recon", label, "auroc")
        )
        tolerance = 2 * (row["ci_hi"] - row["ci_lo"]) / 2 + 1e-4
        assert entry["auroc_real"] + entry["delta_auroc"] == pytest.approx(expected, abs=tolerance)
    drops = [found[label]["delta_auroc"] for label in record.settings.labels]
    assert drops == sorted(drops)
    assert found["disk_03px"]["verdict"] == "bottleneck"
    assert found["disk_24px"]["verdict"] == "not a bottleneck"
    assert read_summary(run)["verdict"]["overall"]["verdict"] == "bottleneck"


def test_an_erased_label_is_the_only_bottleneck(diagnose: Diagnose, exact_phantom: Path) -> None:
    run = diagnose(
        f"{AUTOENCODER}=oracles.EraseLabel",
        f"{AUTOENCODER}.init_args.root={exact_phantom}",
        f"{AUTOENCODER}.init_args.label=disk_06px",
    )
    verdicts = {label: entry["verdict"] for label, entry in labels_of(run).items()}
    assert verdicts.pop("disk_06px") == "bottleneck"
    assert set(verdicts.values()) == {"not a bottleneck"}
    erased = labels_of(run)["disk_06px"]
    assert erased["auroc_real"] + erased["delta_auroc"] == pytest.approx(0.5, abs=0.1)


def test_lower_contrast_is_a_score_shift_and_no_loss(diagnose: Diagnose) -> None:
    run = diagnose(f"{AUTOENCODER}=oracles.Contrast", f"{AUTOENCODER}.init_args.factor=0.7")
    overall = read_summary(run)["verdict"]["overall"]
    assert overall["verdict"] == "not a bottleneck"
    assert overall["score_shift"] is True
    assert overall["delta_auroc"] == pytest.approx(0, abs=1e-9)
    assert overall["delta_f1_fixed"] < -0.05
    assert overall["delta_f1_reopt"] == pytest.approx(0, abs=1e-9)
    assert overall["flip_rate"] > 0.02


def test_latent_scale_moves_the_collapse_in_t_but_not_in_effective_log_snr(diagnose: Diagnose) -> None:
    found = {}
    for g in (0.5, 1.0, 2.0):
        run = diagnose(
            f"{AUTOENCODER}=oracles.LatentScale",
            f"{AUTOENCODER}.init_args.g={g}",
            f"{AUTOENCODER}.init_args.inner=oracles.BlockMean",
            f"{AUTOENCODER}.init_args.inner.init_args.k=2",
            "--model.init_args.noise.timesteps=log_snr(12)",
            "--model.init_args.noise.latent_normalisation=config",
            name=f"g{g}",
        )
        found[g] = next(row for row in read_csv(run / "collapse.csv") if row["label"] == "macro")
    assert {row["state"] for row in found.values()} == {"collapsed"}
    # Louder latents survive more noise: four times the power each, ln 4 in log-SNR.
    assert found[0.5]["collapse_t"] < found[1.0]["collapse_t"] < found[2.0]["collapse_t"]
    effective = [row["collapse_log_snr_eff"] for row in found.values()]
    assert max(effective) - min(effective) < 0.15
    assert found[0.5]["collapse_log_snr"] - found[2.0]["collapse_log_snr"] == pytest.approx(2 * np.log(4), abs=0.15)


def test_noise_sweep_matches_the_closed_form(diagnose: Diagnose, exact_phantom: Path) -> None:
    steps = [330, 538, 724]
    run = diagnose(
        f"{AUTOENCODER}=oracles.BlockMean",
        f"{AUTOENCODER}.init_args.k=4",
        f"--model.init_args.noise.timesteps={steps}",
    )
    record = read_record(exact_phantom)
    gain = noise_gain(4, float(np.mean(read_summary(run)["noise"]["latent_std"])))
    rows = {
        (row["condition"], row["label"]): row
        for row in read_csv(run / "per_label.csv")
        if row["metric"] == "auroc" and row["draw"] != "mean"
    }
    for t in steps:
        alpha, sigma = DDPMSchedule().alpha_sigma(t)
        for disk, shape in zip(record.disks, record.templates()):
            expected = auroc_noise(disk, shape, 4, noise=record.settings.noise, gain=gain, alpha=alpha, sigma=sigma)
            row = rows[f"t{t}", disk.label]
            # 282 positives against 678 negatives: one standard error is at most .021.
            assert row["value"] == pytest.approx(expected, abs=4 * 0.021), (t, disk.label)


def test_statistics_can_be_redone_from_the_stored_scores(diagnose: Diagnose, exact_phantom: Path) -> None:
    run = diagnose(f"{AUTOENCODER}=oracles.BlockMean", f"{AUTOENCODER}.init_args.k=4")
    scores = BottleneckScores.load(run / "scores.npz")
    from sklearn.metrics import roc_auc_score

    again = [roc_auc_score(scores.target[:, i], scores.logits[scores.recon_row, :, i]) for i in range(4)]
    written = [
        row["value"]
        for row in read_csv(run / "per_label.csv")
        if (row["condition"], row["metric"]) == ("recon", "auroc")
    ]
    np.testing.assert_allclose(written, again, atol=1e-9)
    check_quality_and_cost(run, scores, exact_phantom)


def check_quality_and_cost(run: Path, scores: BottleneckScores, phantom: Path) -> None:
    """Figures of single images as scikit-image has them, over the block means of the files."""
    summary = read_summary(run)
    names = scores.quality_name.tolist()
    assert names[:2] == ["psnr_db", "ssim"]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    for name, (psnr, ssim, *_) in list(zip(scores.id, scores.quality))[::300]:
        grey = np.asarray(Image.open(phantom / "images" / f"{name}.png")) / 65535
        mean = grey.reshape(16, 4, 16, 4).mean(axis=(1, 3)).repeat(4, axis=0).repeat(4, axis=1)
        assert psnr == pytest.approx(peak_signal_noise_ratio(grey, mean, data_range=1.0), rel=1e-4)
        _, full = structural_similarity(grey, mean, full=True, **options)
        # scikit-image mirrors the border about the edge instead of the outermost pixel.
        assert ssim == pytest.approx(full.mean(), abs=0.01)
    means = {name: summary["reconstruction"][name]["value"] for name in names}
    assert means == pytest.approx(dict(zip(names, scores.quality.mean(axis=0, dtype=np.float64).tolist())))
    cost = summary["cost"]
    assert (cost["latent_elements"], cost["latent_bits"], cost["rate_bits"]) == (3 * 16 * 16, 3 * 16 * 16 * 16, None)
    assert {"rate_bits"} <= {entry["what"] for entry in summary["not_measured"]}
    assert cost["encode_seconds"] > 0
    assert cost["decode_seconds"] > 0
    assert 0 < cost["timed_images"] <= len(scores.id)
    assert cost["device"] == summary["device"]
    overall = summary["verdict"]["overall"]
    shown = {"value": overall["delta_auroc"], "ci_lo": overall["ci_lo"], "ci_hi": overall["ci_hi"]}
    assert summary["headline"] == {"figure": HEADLINE, **shown}
