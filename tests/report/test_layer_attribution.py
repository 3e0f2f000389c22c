"""The sentence names the stage that was made to change the difference, and promises no more than the intervals hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t as student
from synthetic_layers import BUMP, DECODER, changed, layer_scores

from layerscope.artifacts.layer_scores import DIFFERENCES, LOCALISATION, LayerScores
from layerscope.report.attribution import NOTICE, Attribution, attribute
from layerscope.report.layer_effects import PairSettings, analyse_layers

LAYERS = ("input", "latent", *DECODER, "reconstruction")
FLAT = (0.1,) * len(LAYERS)
RELATIVE = DIFFERENCES.index("relative_l2")
AUROC = LOCALISATION.index("auroc")


def told(scores: LayerScores, resamples: int = 200) -> Attribution:
    return attribute(analyse_layers(scores, PairSettings(n_bootstrap=resamples)))


def test_a_bump_grows_where_it_was_put_and_fades_at_the_end() -> None:
    result = told(layer_scores())
    assert "it grows in decoder.up_blocks.1 (× 2." in result.sentence
    assert "decoder.conv_out (× .5" in result.sentence.split(" fades in ")[1]
    for silent in ("mid_block", "up_blocks.0", "conv_in", "conv_norm_out", "reconstruction"):
        assert silent not in result.sentence
    assert result.sentence.count(".") > 0
    assert result.sentence.endswith(".")
    assert "\n" not in result.sentence
    assert result.interpretation.endswith(NOTICE)


def test_a_step_is_the_geometric_mean_of_the_ratios_with_its_paired_interval() -> None:
    scores = layer_scores(n=30, spread=1.0)
    steps = told(scores, resamples=2000).steps
    assert len(steps) == 10
    step = next(step for step in steps if step.stage == "decoder.up_blocks.1")
    assert (step.from_layer, step.to_layer) == ("decoder.up_blocks.0.upsamplers.0", "decoder.up_blocks.1.upsamplers.0")
    start, end = (scores.layer.index(name) for name in (step.from_layer, step.to_layer))
    logs = np.log(scores.values[:, end, RELATIVE] / scores.values[:, start, RELATIVE])
    assert step.factor == pytest.approx(math.exp(logs.mean()))
    # The spread common to all layers of a pair cancels: the interval is that of the layers' own noise. Student's
    # quantile for 30 pairs, shared by the ten steps from the input to the reconstruction.
    half = student.ppf(1 - 0.025 / 10, 29) * logs.std(ddof=1) / math.sqrt(30)
    assert math.log(step.ci_hi / step.ci_lo) / 2 == pytest.approx(half, rel=0.08)
    assert step.n == 30


def test_a_sure_but_small_change_and_a_large_but_unsure_one_are_not_told() -> None:
    small = told(layer_scores((*FLAT[:10], *(0.105,) * 8), noise=0.001))
    assert "no stage changes it surely" in small.sentence
    assert all(step.change == "steady" for step in small.steps)
    assert any(step.ci_lo > 1 for step in small.steps)
    unsure = told(layer_scores((*FLAT[:10], *(0.15,) * 8), noise=2.0, n=6))
    assert "it grows" not in unsure.sentence
    assert "no stage changes it surely" in unsure.sentence
    assert any(step.factor > 1.1 and step.change == "unsure" for step in unsure.steps)


def test_where_nothing_changes_hardly_a_run_claims_a_change() -> None:
    """Nine stages and pairs few or many: any false claim in a run counts; one by one they would be in every second."""
    for n in (5, 40):
        claims = 0
        for seed in range(40):
            result = told(layer_scores(FLAT, n=n, noise=0.8, seed=seed, masks=False, n_floor=0))
            claims += any(step.change in ("grows", "fades") for step in result.steps)
        assert claims <= 5, n


def test_the_encoder_is_judged_from_input_to_latent() -> None:
    weak = told(layer_scores((0.2, *FLAT[1:])))
    assert "enters through the encoder, which weakens it (× .5" in weak.sentence
    assert "behind the latent no stage changes it surely" in weak.sentence
    assert weak.steps[0].stage == "encoder"
    even = told(layer_scores(FLAT, noise=0.01)).sentence
    assert "which passes it on at about its size" in even
    open_one = told(layer_scores(FLAT, noise=1.0)).sentence
    assert "which does not surely change its size" in open_one


def test_with_layers_of_the_encoder_they_are_a_stage_of_their_own() -> None:
    layers = ("input", "encoder.conv_in", "encoder.down_blocks.0", "quant_conv", "latent", "reconstruction")
    result = told(layer_scores((0.1, 0.1, 0.3, 0.3, 0.3, 0.1), layer=layers))
    assert [step.stage for step in result.steps] == ["encoder", "latent", "decoder"]
    assert [step.change for step in result.steps] == ["grows", "steady", "fades"]
    assert "the encoder, which enlarges it (× 3." in result.sentence
    assert "; it fades in decoder (× .3" in result.sentence


def test_a_backbone_is_told_by_its_numbered_blocks() -> None:
    layers = ("input", "patch_embed.proj", "blocks.0.attn", "blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp", "norm")
    result = told(layer_scores((0.1, 0.1, 0.1, 0.1, 0.2, 0.3, 0.1), layer=layers))
    assert [step.stage for step in result.steps] == ["patch_embed.proj", "blocks.0", "blocks.1", "norm"]
    assert "enters with the input" in result.sentence
    assert "it grows in blocks.1 (× 3." in result.sentence
    assert "fades in norm (× .3" in result.sentence
    assert "latent" not in result.sentence + result.interpretation
    assert result.encoder is None


def test_of_one_pair_the_values_are_told_and_no_certainty() -> None:
    result = told(layer_scores(n=1, n_floor=0))
    assert "grows most in decoder.up_blocks.1" in result.sentence
    assert "fades most in decoder.conv_out" in result.sentence
    assert "from one pair no interval can be given" in result.sentence
    assert "CI" not in result.sentence
    assert "surely" not in result.interpretation
    assert "without any interval" in result.interpretation
    assert all(math.isnan(step.ci_lo) for step in result.steps)
    flat = told(layer_scores(FLAT, n=1, noise=0.001)).sentence
    assert "no stage changes it by more than a tenth" in flat
    patient = changed(layer_scores(), group=["p"] * 40)
    assert "from the pairs of one patient no interval can be given" in told(patient).sentence


def test_where_pairs_become_different_or_equal_it_is_said() -> None:
    scores = layer_scores()
    same = changed(scores, values=np.zeros_like(scores.values))
    assert "identical in every watched layer" in told(same).sentence
    late = scores.values.copy()
    late[:, :8] = 0
    assert "enters in decoder.up_blocks.1 (relative L2" in told(changed(scores, values=late)).sentence
    lost = scores.values.copy()
    lost[:, 13:] = 0
    result = told(changed(scores, values=lost))
    assert "vanishes in decoder.up_blocks.3" in result.sentence
    blind = scores.values.copy()
    blind[:, 1:] = 0
    assert "through the encoder, where it is lost" in told(changed(scores, values=blind)).sentence
    assert "No pair was measured" in told(layer_scores(n=0)).sentence


def test_a_layer_called_twice_takes_no_part_in_stages_and_thirds() -> None:
    """Blocks 2 and 4 would be a stage that grows and, with their many calls, the largest third."""
    layers = ("input", *(f"blocks.{place}" for place in range(5)), "blocks.2:2", "blocks.4:2", "blocks.4:3")
    result = told(layer_scores((0.1, 0.1, 0.1, 0.9, 0.3, 0.9, 0.9, 0.9, 0.9), layer=layers))
    assert [(step.from_layer, step.to_layer) for step in result.steps] == [
        ("input", "blocks.0"),
        ("blocks.0", "blocks.1"),
        ("blocks.1", "blocks.3"),
    ]
    assert "it grows in blocks.3 (× 3." in result.sentence
    assert "Of the 3 watched layers that were called once" in result.interpretation
    assert "in the late third (early " in result.interpretation
    assert "2 layers called repeatedly are left out of stages and thirds, since each call" in result.interpretation
    assert "calls of watched layers" in result.interpretation
    assert "left out" not in told(layer_scores()).interpretation
    nothing = told(layer_scores((0.1, 0.1, 0.1), layer=("input", "norm", "norm:2"))).sentence
    assert "no stage behind it was called just once" in nothing


def test_of_a_tiled_decode_the_decoder_is_judged_as_a_whole() -> None:
    """A tile without the lesion is no stage: the whole image's reconstruction follows on the whole image's latent."""
    tiled = ("post_quant_conv", *DECODER)
    calls = [name if not call else f"{name}:{call + 1}" for call in range(4) for name in tiled]
    # The first call, the tile at the top left, lies far from the lesion.
    sizes = (0.1, 0.2, *(0.002,) * len(tiled), *(0.3,) * (3 * len(tiled)), 0.1)
    result = told(layer_scores(sizes, layer=("input", "latent", *calls, "reconstruction")))
    assert [(step.stage, step.from_layer, step.to_layer) for step in result.steps] == [
        ("encoder", "input", "latent"),
        ("decoder", "latent", "reconstruction"),
    ]
    assert "; it fades in decoder (× .5" in result.sentence
    assert "grows" not in result.sentence
    assert "reconstruction" not in result.sentence
    assert f"{len(tiled)} layers called repeatedly are left out" in result.interpretation
    assert "fewer than three watched layers that were called once" in result.interpretation


def test_beside_each_told_step_stands_what_it_does_to_the_floor() -> None:
    scores = layer_scores()
    floor = scores.floor.copy()
    floor[:, :, RELATIVE] = np.exp(np.random.default_rng(1).normal(-3, 0.5, size=floor.shape[:2]))
    result = told(changed(scores, floor=floor))
    means = np.exp(np.log(floor[:, :, RELATIVE]).mean(axis=0))
    for step in (*result.steps, result.encoder):
        assert step is not None
        ratio = means[scores.layer.index(step.to_layer)] / means[scores.layer.index(step.from_layer)]
        assert step.floor_factor == pytest.approx(ratio)
        if step.change in ("grows", "fades"):
            assert f"; floor × {ratio:.2f}".replace(" 0.", " .") in result.sentence
    assert result.sentence.count("floor ×") == 4
    # A geometric mean of 0 has no ratio; neither has a floor that was not measured.
    floor[3, 10, RELATIVE] = 0
    broken = [step for step in told(changed(scores, floor=floor)).steps if math.isnan(step.floor_factor)]
    assert {scores.layer[10]} == {step.to_layer for step in broken} & {step.from_layer for step in broken}
    assert "floor ×" not in told(changed(scores, floor=0 * floor)).sentence
    assert "floor ×" not in told(layer_scores(n_floor=0)).sentence
    alone = told(changed(layer_scores(n=1, n_floor=1), floor_kind="same_image")).sentence
    assert alone.count("; floor × ") == 3


def test_early_middle_or_late_is_hedged_by_the_intervals() -> None:
    middle = told(layer_scores((*FLAT[:7], *(0.3,) * 5, *FLAT[12:]))).interpretation
    assert "is largest in the middle third (early" in middle
    assert "surely above both others" in middle
    assert "shapes" in middle
    late = told(layer_scores((*FLAT[:12], *(0.3,) * 5, 0.1))).interpretation
    assert "is largest in the late third (early" in late
    assert "pixel values" in late
    early = told(layer_scores((*FLAT[:2], *(0.3,) * 5, *FLAT[7:]))).interpretation
    assert "coarse layout" in early
    hedged = told(layer_scores(FLAT)).interpretation
    assert "but not surely: its lead over the" in hedged
    assert "may be carried most" in hedged
    few = told(layer_scores((0.1, 0.1, 0.2), layer=("input", "blocks.0", "blocks.1"))).interpretation
    assert "too few to tell early from late" in few


def test_the_floor_and_the_lesion_are_claimed_only_with_an_interval() -> None:
    scores = layer_scores()
    clear = told(scores).interpretation
    assert "In all 15 watched layers the pairs' relative L2 surely exceeds the noise floor" in clear
    assert "the difference is at the lesion (AUROC" in clear
    drowned = changed(scores, floor=scores.values[:24] * 3, control=scores.localisation)
    text = told(drowned).interpretation
    assert "In no watched layer" in text
    assert "the difference is not surely at the lesion" in text
    partly = told(layer_scores((*FLAT[:10], *BUMP[10:])), 300).interpretation
    assert "the noise floor (pairs of negatives)" in partly
    bare = told(layer_scores(masks=False, n_floor=0)).interpretation
    assert "lesion" not in bare
    assert "noise floor" not in bare
    assert "mean relative L2 is largest" in bare
    one = told(layer_scores(n=1)).interpretation
    assert "stays open without an interval" in one


def test_the_lesion_is_judged_by_pairs_with_a_shifted_mask_alone() -> None:
    scores = layer_scores()
    control, own = scores.control.copy(), scores.localisation.copy()
    control[:15] = np.nan
    own[:15] = 0.01  # would pull the mean down, but has nothing to be compared with
    text = told(changed(scores, control=control, localisation=own)).interpretation
    analysis = analyse_layers(scores, PairSettings(n_bootstrap=20))
    first = analysis.ranking.layers[0]
    values = (scores.localisation[15:, first, AUROC].mean(), scores.control[15:, first, AUROC].mean())
    mask, shifted = (f"{value:.3f}".lstrip("0") for value in values)
    assert f"AUROC {mask}, shifted masks {shifted}, 25 pairs, difference +" in text
    none = told(changed(scores, control=np.full_like(control, np.nan))).interpretation
    assert "at the lesion stays open: every shifted mask overlaps the lesion" in none
