"""Which directories are runs of which candidate, and which runs may be compared."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from compared_runs import NOISE, write_run
from synthetic_scores import classifier_scores, make_scores, replaced

from layerscope.artifacts import UNFINISHED, BottleneckScores
from layerscope.errors import ArtifactError, ConfigurationError, LayerscopeError
from layerscope.report.bottleneck import AnalysisSettings
from layerscope.report.comparison.analysis import compare_runs
from layerscope.report.comparison.result import FORCED_FLAG
from layerscope.report.comparison.runs import read_runs

SETTINGS = AnalysisSettings(n_bootstrap=50)
SMALL = make_scores(n=60, steps=(), controls=False)


def candidates(arguments: list[str]) -> list[tuple[str, str, str]]:
    return [(run.candidate, run.name, run.seed) for run in read_runs(arguments)]


def test_candidates_are_named_by_their_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["base_seed1", "base-seed2", "base_seed_everything-3", "base,seed=4", "reseed5", "kl_1e-6", "a=b"]
    for name in (*names, "wide/seed1", "wide/Seed_02", "x/same", "y/same"):
        write_run(tmp_path / name, SMALL)
    monkeypatch.chdir(tmp_path)
    found = candidates([*names[:4], f"{names[4]}/", "./kl_1e-6/.", "a=b", "wide/seed1", "wide/Seed_02"])
    assert found == [
        ("base", "base_seed1", "1"),
        ("base", "base-seed2", "2"),
        ("base", "base_seed_everything-3", "3"),
        ("base", "base,seed=4", "4"),
        ("reseed5", "reseed5", ""),
        ("kl_1e-6", "kl_1e-6", ""),
        ("a=b", "a=b", ""),
        ("wide", "seed1", "1"),
        ("wide", "Seed_02", "2"),
    ]
    # Named: equal directories are seeds of one candidate, called by their paths; names may hold a =.
    assert candidates(["same=x/same", "same=y/same", "c=d=a=b"]) == [
        ("same", os.path.join("x", "same"), ""),
        ("same", os.path.join("y", "same"), ""),
        ("c=d", "a=b", ""),
    ]
    monkeypatch.chdir(tmp_path / "x" / "same")
    assert candidates([".", "../../kl_1e-6"])[0] == ("same", "same", "")


def test_runs_that_cannot_stand_together_are_refused(tmp_path: Path) -> None:
    for name in ("x/same", "y/same", "x/seedless_seed1", "z/seedless_seed1", "other"):
        write_run(tmp_path / name, SMALL)
    write_run(tmp_path / "teacher", classifier_scores())
    write_run(tmp_path / "pairs", SMALL, task="pair_diagnosis")
    write_run(tmp_path / "killed", SMALL)
    (tmp_path / "killed" / UNFINISHED).touch()
    cases: list[tuple[list[str], str, type[LayerscopeError]]] = [
        (["x/same", "y/same", "other"], "same=DIR", ConfigurationError),
        (["x/seedless_seed1", "z/seedless_seed1", "other"], "seedless=DIR", ConfigurationError),
        (["x/same", "x/same/", "other"], "twice", ConfigurationError),
        (["x/seedless_seed1"], "at least two candidates", ConfigurationError),
        ([], "at least two candidates", ConfigurationError),
        (["other", "pairs"], "pair_diagnosis", ConfigurationError),
        (["other", "teacher"], "different tasks", ConfigurationError),
        (["other", "killed"], "unfinished", ArtifactError),
        (["other", "missing"], "does not exist", ArtifactError),
    ]
    for names, words, error in cases:
        with pytest.raises(error, match=words):
            read_runs([str(tmp_path / name) for name in names])
    with pytest.raises(ArtifactError, match="Neither"):
        read_runs([f"a={tmp_path / 'missing'}", str(tmp_path / "other")])
    with pytest.raises(ConfigurationError, match="no name"):
        read_runs([f"={tmp_path / 'other'}", str(tmp_path / "teacher")])


def relabelled(scores: BottleneckScores) -> BottleneckScores:
    """Five images have another first label."""
    target = scores.target.copy()
    target[:5, 0] = 1 - target[:5, 0]
    return replaced(scores, target=target, known=np.ones_like(scores.known))


KNOWN = replaced(SMALL, known=np.ones_like(SMALL.known))
SHIFTED = np.add(KNOWN.threshold_label, [0, 1, 0])
RUNS = {
    "data": (KNOWN, {"data_hash": "e" * 64}, "data hash is dddddddddddd in first and eeeeeeeeeeee in second"),
    "split": (KNOWN, {"split": "val"}, "split is test in first and val in second"),
    "teacher": (KNOWN, {"model_hashes": {"teacher": "u" * 64}}, "teacher is tttttttttttt in first and uuuuuuuuuuuu"),
    "threshold": (replaced(KNOWN, threshold_global=0.3), {}, "threshold is 0.1000 in first and 0.3000 in second"),
    "thresholds": (
        replaced(KNOWN, threshold_label=SHIFTED),
        {},
        "label1 0.1000 and 1.1000",
    ),
    "labels": (replaced(KNOWN, label=np.array(["label0", "label1", "new"])), {}, "only in second: new"),
    "evaluated": (replaced(KNOWN, evaluated=np.array([True, True, False])), {}, "only in first: label2"),
    "images": (replaced(KNOWN, id=np.char.replace(KNOWN.id, "image1", "other")), {}, "49 are in both"),
    "truth": (relabelled(KNOWN), {}, "of 5 of 60 common images differs between first and second, in label0"),
    "groups": (replaced(KNOWN, group=np.repeat(["p", "q"], 30)), {}, "second names groups (patients) and first none"),
}


def test_the_teacher_must_have_seen_the_same_pixels(tmp_path: Path) -> None:
    """Equal hashes of data and teacher, other answers on the real images."""
    error = np.random.default_rng(0).standard_normal(KNOWN.logits[0].shape) * KNOWN.logits[0].std(axis=0)
    first = str(write_run(tmp_path / "first", KNOWN))
    paths = {}
    for name, share in (("rounded", 0.005), ("resized", 0.03)):
        logits = KNOWN.logits.copy()
        logits[0] += (share * error).astype(np.float32)
        paths[name] = str(write_run(tmp_path / name, replaced(KNOWN, logits=logits)))
    assert not compare_runs(read_runs([first, paths["rounded"]]), settings=SETTINGS).mismatches
    with pytest.raises(ConfigurationError, match="teacher's answers on the real images differ between first and resi"):
        compare_runs(read_runs([first, paths["resized"]]), settings=SETTINGS)
    forced = compare_runs(read_runs([first, paths["resized"]]), force=True, settings=SETTINGS)
    assert len(forced.mismatches) == 1


def test_copies_and_other_models_are_no_training_seeds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def trained() -> BottleneckScores:
        return replaced(SMALL, logits=np.concatenate([SMALL.logits[:1], SMALL.logits[1:] + rng.random((1, 60, 3))]))

    one, hashes = trained(), {"teacher": "t" * 64, "autoencoder": "a" * 64}
    first = str(write_run(tmp_path / "a_seed1", one, model_hashes=hashes))
    other = str(write_run(tmp_path / "other", SMALL))
    cases = {
        "copied": (one, {}, "all their logits are equal"),
        "redrawn": (trained(), {"model_hashes": hashes}, "both are of one autoencoder"),
        "wider": (trained(), {"noise": {**NOISE, "latent_shape": [16, 32, 32]}}, "other shapes"),
    }
    for folder, (scores, changes, words) in cases.items():
        second = str(write_run(tmp_path / folder / "a_seed2", scores, **changes))
        with pytest.raises(ConfigurationError, match=words) as refused:
            compare_runs(read_runs([first, second, other]), force=True, settings=SETTINGS)
        assert first in str(refused.value)
        assert second in str(refused.value)
        # Two candidates may be what two seeds may not.
        compare_runs(read_runs([first, f"b={second}"]), settings=SETTINGS)
    teachers = [str(write_run(tmp_path / f"t_seed{k}", classifier_scores())) for k in (1, 2)]
    with pytest.raises(ConfigurationError, match="a copy"):
        compare_runs(read_runs([*teachers, f"u={write_run(tmp_path / 'u', classifier_scores())}"]), settings=SETTINGS)


def test_what_was_not_checked_is_named(tmp_path: Path) -> None:
    first = str(write_run(tmp_path / "first", KNOWN))
    bare = str(write_run(tmp_path / "bare", KNOWN, data_hash=None, model_hashes=None))
    named = {r["what"]: r["reason"] for r in compare_runs(read_runs([first, bare]), settings=SETTINGS).not_measured}
    for what in ("data", "teacher"):
        assert "bare" in named[f"whether the {what} is the same"]
        assert "first" not in named[f"whether the {what} is the same"]
    for name in ("one", "two"):
        write_run(tmp_path / name, classifier_scores())
    found = compare_runs(read_runs([str(tmp_path / name) for name in ("one", "two")]), settings=SETTINGS)
    named = {row["what"]: row["reason"] for row in found.not_measured}
    assert "whether images were preprocessed alike" in named
    assert not any("is the same" in what for what in named)


@pytest.mark.parametrize("what", RUNS)
def test_what_must_be_equal_is_named_and_can_be_forced(tmp_path: Path, what: str) -> None:
    scores, changes, words = RUNS[what]
    paths = [str(write_run(tmp_path / "first", KNOWN)), str(write_run(tmp_path / "second", scores, **changes))]
    with pytest.raises(ConfigurationError) as refused:
        compare_runs(read_runs(paths), settings=SETTINGS)
    assert words in str(refused.value)
    forced = compare_runs(read_runs(paths), force=True, settings=SETTINGS)
    assert any(words in sentence for sentence in forced.mismatches)
    assert all(FORCED_FLAG in row["flag"] for row in (*forced.figures, *forced.pairwise))
    assert forced.n_samples == {"images": 49, "truth": 55}.get(what, 60)
    assert list(forced.labels) == KNOWN.label.tolist()[: 2 if what in ("labels", "evaluated") else 3]
    # The teacher saw the same in both, whatever else differs.
    pair = forced.pair("first", "second", "auroc")
    assert pair is not None
    assert (pair["difference"], pair["p"]) == (0, 1)
    assert any("contradictory" in entry["what"] for entry in forced.not_measured) == (what == "truth")


def test_images_and_labels_are_paired_by_name(tmp_path: Path) -> None:
    """The same images and labels in another order are no mismatch and give the same answer."""
    one = make_scores(n=120, steps=())
    rng = np.random.default_rng(0)
    logits = one.logits.copy()
    logits[1] += rng.standard_normal(logits[1].shape).astype(np.float32)
    other = replaced(one, logits=logits)
    rows, columns = rng.permutation(120), np.array([2, 0, 1])
    by_image = {name: getattr(other, name)[rows] for name in ("id", "quality")}
    cells = {name: getattr(other, name)[np.ix_(rows, columns)] for name in ("target", "known")}
    by_label = {name: getattr(other, name)[columns] for name in ("label", "label_display", "threshold_label")}
    changes = {"logits": logits[:, rows][:, :, columns], "similarity": other.similarity[:, rows]}
    shuffled = replaced(other, **by_image, **cells, **by_label, **changes)
    for name, scores in (("one", one), ("plain", other), ("shuffled", shuffled)):
        write_run(tmp_path / name, scores)
    found = compare_runs(read_runs([str(tmp_path / n) for n in ("one", "plain", "shuffled")]), settings=SETTINGS)
    assert not found.mismatches
    for metric, label in (
        ("auroc", "macro"),
        ("auroc", "label2"),
        ("ap", "macro"),
        ("psnr_db", ""),
        ("flip_rate", "macro"),
    ):
        row = found.pair("plain", "shuffled", metric, label)
        assert row is not None
        assert row["difference"] == row["ci_hi"] == 0


def test_nothing_in_common_is_an_error_even_when_forced(tmp_path: Path) -> None:
    paths = [str(write_run(tmp_path / "first", SMALL))]
    paths.append(str(write_run(tmp_path / "images", replaced(SMALL, id=np.char.add(SMALL.id, "x")))))
    paths.append(str(write_run(tmp_path / "labels", replaced(SMALL, label=np.array(["a", "b", "c"])))))
    for other, words in ((paths[1], "share no image"), (paths[2], "share no evaluated label")):
        with pytest.raises(ConfigurationError, match=words):
            compare_runs(read_runs([paths[0], other]), force=True, settings=SETTINGS)
    with pytest.raises(ConfigurationError, match="baseline 'nobody'"):
        compare_runs(read_runs(paths[:2]), baseline="nobody", force=True)
