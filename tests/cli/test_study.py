"""``layerscope study``: a miniature of the shipped study, and what is refused before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from layerscope.artifacts import read_csv, read_summary
from layerscope.cli import main
from layerscope.cli.launching import check_runs
from layerscope.launch.job import Job
from layerscope.launch.recipe import read_recipe
from layerscope.report.markdown import escaped
from layerscope.report.study import comparison_sentences, study_document
from layerscope.shipped import shipped

PHANTOM = "configs/recipes/phantom_study.yaml"
SMALL = {"images": 80, "teacher_epochs": 1, "vae_steps": 2}


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """The shipped study with few and small images, steps and runs; its own commands, one after another in this process.

    Diagnoses have two conditions and few resamples, and draw no worst samples.
    """
    folder = tmp_path_factory.mktemp("study")
    recipe = yaml.safe_load(shipped(PHANTOM).read_text())
    for step, kept in {"vae": ("feat_4ch", "base_8ch"), "mixed": ("mix_50",)}.items():
        recipe["steps"][step]["runs"] = {name: recipe["steps"][step]["runs"][name] for name in kept}
    recipe["steps"]["data"]["arguments"] += ["--size", 64]
    recipe["steps"]["diagnosis"]["set"] |= {
        "trainer.callbacks": [
            {"class_path": "layerscope.callbacks.bottleneck_report.BottleneckReport", "init_args": {"n_bootstrap": 50}}
        ],
        "model.init_args.noise": {"timesteps": [0, 330], "draws": 1},
        "model.init_args.controls": [],
    }
    recipe["steps"]["mixed"]["seeds"] = [1]
    recipe["steps"]["comparison"]["arguments"] = ["--baseline", "pretrained"]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    jobs = read_recipe(folder / "recipe.yaml", folder / "out", SMALL).jobs()
    for job in jobs:
        assert main(["--debug", job.verb, *job.arguments]) == 0, job.command
        assert job.mark.is_file()
    return {job.name: job for job in jobs}


def comparison(job: Job) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return json.loads((job.run / "comparison.json").read_text()), read_csv(job.run / "comparison.csv")


def test_candidates_are_compared_by_the_judge_on_val(miniature: dict[str, Job]) -> None:
    found, rows = comparison(miniature["comparison"])
    assert found["candidates"] == ["feat_4ch", "base_8ch", "pretrained"]
    assert found["baseline"] == "pretrained"
    elements = {row["candidate"]: row["value"] for row in rows if row["metric"] == "latent_elements"}
    assert elements == {"feat_4ch": 1024, "base_8ch": 2048, "pretrained": 1024}
    for name in found["candidates"]:
        summary = read_summary(miniature[f"diagnosis/{name}"].run)
        (drop,) = (
            row
            for row in rows
            if (row["candidate"], row["metric"], row["label"], row["condition"])
            == (name, "delta_auroc", "macro", "recon")
        )
        verdict = summary["verdict"]["overall"]
        assert [drop[key] for key in ("value", "ci_lo", "ci_hi")] == pytest.approx(
            [verdict[key] for key in ("delta_auroc", "ci_lo", "ci_hi")]
        )
        assert summary["split"] == "val"


def test_every_vae_starts_from_the_pretrained_one(miniature: dict[str, Job]) -> None:
    for name in ("feat_4ch", "base_8ch"):
        config = yaml.safe_load((miniature[f"vae/{name}"].run / "config_used.yaml").read_text())
        autoencoder = config["model"]["init_args"]["autoencoder"]["init_args"]
        assert autoencoder["source"] == "checkpoints/demo_vae"
        assert autoencoder["architecture"] is None
        assert read_summary(miniature[f"vae/{name}"].run)["steps"] == SMALL["vae_steps"]


def test_the_last_word_is_on_real_images_of_test(miniature: dict[str, Job]) -> None:
    found, _ = comparison(miniature["final"])
    assert found["kind"] == "classifier"
    assert found["runs"] == {"real": ["real_seed-1", "real_seed-2"], "mix_50": ["mix_50_seed-1"]}
    mixed = read_summary(miniature["mixed/mix_50_seed-1"].run)["mixing"]
    assert mixed["fractions"]["image"] == 0.5
    vae = read_summary(miniature["diagnosis/feat_4ch"].run)["model_hashes"]["autoencoder"]
    assert mixed["autoencoder_weights"] == vae
    assert {read_summary(job.run)["split"] for name, job in miniature.items() if name.startswith("evaluation/")} == {
        "test"
    }


def test_every_command_of_the_study_of_sdxl_is_accepted() -> None:
    """The other shipped recipe, which needs weights and images that do not ship; one run for each form of command."""
    jobs = read_recipe(shipped("configs/recipes/bottleneck_study.yaml")).jobs()
    forms = {(job.verb, *sorted(one.partition("=")[0] for one in job.arguments)): job for job in jobs}
    check_runs(list(forms.values()), ())
    assert len(forms) > 8


def test_a_dry_run_shows_commands_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {"steps": {"data": {"verb": "phantom", "arguments": ["${here}"]}}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    out = tmp_path / "o"
    assert main(["study", "--config", str(tmp_path / "r.yaml"), "--output", str(out), "--dry-run"]) == 0
    assert f"# data: not started\nlayerscope phantom {out / 'data'}\n" in capsys.readouterr().out
    assert not out.exists()


def test_one_page_says_what_came_out(miniature: dict[str, Job]) -> None:
    out = miniature["data"].run.parent
    runs = {name: job.run for name, job in miniature.items() if name != "mixed/mix_50_seed-1"}
    page = study_document("phantom_study", out, runs, ["mixed/mix_50_seed-1"])
    assert "Not finished: mixed." in page
    for name in ("diagnosis/feat_4ch", "diagnosis/pretrained"):
        verdict = read_summary(miniature[name].run)["verdict"]["overall"]["verdict"]
        assert f"| {escaped(name)} | val | {verdict} |" in page
    assert [link in page for link in ("(comparison/comparison.png)", "(final/comparison.md)")] == [True, True]
    said = comparison_sentences(runs)
    assert said
    assert all(escaped(sentence.partition(": ")[2]) in page for sentence in said)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "image=3"], "no variable 'image' (did you mean images?)"),
        (["--set", "images"], "expected NAME=VALUE"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--config", "no.yaml"], "no.yaml does not exist, neither here"),
    ],
)
def test_wrong_options_are_told(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["study", "--config", PHANTOM, "--output", str(tmp_path / "o"), *arguments]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "o").exists()


def test_a_misspelt_setting_names_its_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = yaml.safe_load(shipped(PHANTOM).read_text())
    recipe["steps"]["vae"]["runs"]["base_8ch"] = {"model.init_args.autoencoder.init_args.latent_chanels": 8}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert main(["study", "--config", str(tmp_path / "r.yaml"), "--output", str(tmp_path / "o")]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "The run vae/base_8ch cannot start" in told
    assert "Did you mean latent_channels?" in told
    assert not (tmp_path / "o").exists()
