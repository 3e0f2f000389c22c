"""A recipe becomes the runs that it says, and says which step is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from layerscope.errors import ConfigurationError
from layerscope.launch.job import Job
from layerscope.launch.recipe import read_recipe
from layerscope.shipped import shipped

RECIPE: dict[str, Any] = {
    "output": "out",
    "variables": {"images": 40, "steps": 5, "chosen": "${vae.feat}/vae_final", "limit": None},
    "steps": {
        "data": {"verb": "phantom", "arguments": ["${here}", "--n", "${images}"]},
        "teacher": {"verb": "fit", "config": "a.yaml", "runs": {"real": {"data.seed": "${seed}"}}, "seeds": [1, 2]},
        "vae": {
            "verb": "fit",
            "config": ["b.yaml", "c.yaml"],
            "set": {"data": {"root": "${data}", "limit": "${limit}"}, "trainer.max_steps": "${steps}"},
            "runs": {"base": {}, "feat": {"config": "d.yaml", "model.teacher": "${teacher.real_seed-2}/best.ckpt"}},
        },
        "diagnosis": {
            "verb": "test",
            "config": "e.yaml",
            "each": "vae",
            "runs": {"pretrained": {"source": "${oc.env:SDXL}"}},
            "set": {"source": "${each}/vae_final"},
        },
        "comparison": {"verb": "compare", "of": "diagnosis", "arguments": ["--baseline", "base"]},
        "mixed": {"verb": "fit", "config": "a.yaml", "set": {"vae": "${chosen}"}},
    },
}


def write(path: Path, recipe: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@pytest.fixture
def jobs(tmp_path: Path) -> dict[str, Job]:
    return {job.name: job for job in read_recipe(write(tmp_path / "r.yaml", RECIPE)).jobs()}


def test_every_run_is_named_placed_and_ordered(jobs: dict[str, Job]) -> None:
    assert list(jobs) == [
        *("data", "teacher/real_seed-1", "teacher/real_seed-2", "vae/base", "vae/feat"),
        *("diagnosis/base", "diagnosis/feat", "diagnosis/pretrained", "comparison", "mixed"),
    ]
    assert {name: str(job.run) for name, job in jobs.items()} == {name: f"out/{name}" for name in jobs}
    assert jobs["data"].arguments == ("out/data", "--n", "40")
    assert jobs["teacher/real_seed-2"].arguments[2:] == (
        *("--output_root=out/teacher", "--experiment_name=real_seed-2", "--data.seed=2", "--seed_everything=2"),
    )


def test_values_keep_their_types_and_runs_their_own_settings(jobs: dict[str, Job]) -> None:
    base, feat = jobs["vae/base"].arguments, jobs["vae/feat"].arguments
    assert base[:4] == ("--config", "b.yaml", "--config", "c.yaml")
    assert feat[:2] == ("--config", "d.yaml")
    (data,) = (json.loads(one.partition("=")[2]) for one in base if one.startswith("--data="))
    assert data == {"root": "out/data", "limit": None}
    assert "--trainer.max_steps=5" in base
    assert "--model.teacher=out/teacher/real_seed-2/best.ckpt" in feat


def test_a_run_needs_what_it_names_and_nothing_else(jobs: dict[str, Job]) -> None:
    needs = {name: set(job.needs) for name, job in jobs.items()}
    assert needs["data"] == needs["teacher/real_seed-1"] == needs["diagnosis/pretrained"] == set()
    assert needs["vae/base"] == {"data"}
    assert needs["vae/feat"] == {"data", "teacher/real_seed-2"}
    assert needs["diagnosis/feat"] == {"vae/feat"}
    assert needs["comparison"] == {"diagnosis/base", "diagnosis/feat", "diagnosis/pretrained"}
    assert needs["mixed"] == {"vae/feat"}
    assert "--source=${oc.env:SDXL}" in jobs["diagnosis/pretrained"].arguments
    expected = ("out/diagnosis/base", "out/diagnosis/feat", "out/diagnosis/pretrained", "--output", "out/comparison")
    assert jobs["comparison"].arguments == (*expected, "--baseline", "base")


def test_output_and_variables_are_set_from_outside(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", RECIPE)
    data, *_ = read_recipe(path, Path("else"), {"images": 7}).jobs()
    assert data.arguments == ("else/data", "--n", "7")
    with pytest.raises(ConfigurationError, match=r"no variable 'image' \(did you mean images"):
        read_recipe(path, variables={"image": 7})


@pytest.mark.parametrize(
    ("step", "change", "told"),
    [
        ("vae", {"verb": "fti"}, "'vae' has the verb 'fti'"),
        ("vae", {"verb": "predict"}, "expected fit, test, phantom, compare"),
        ("vae", {"sets": {}}, r"'sets' \(did you mean set\?\)"),
        ("vae", {"of": "teacher"}, "of, which does not go with the verb fit"),
        ("comparison", {"config": "a.yaml"}, "config, which does not go with the verb compare"),
        ("vae", {"set": {"x": "${dta}"}}, r"\$\{dta\} \(did you mean data\?\)"),
        ("vae", {"set": {"x": "${teacher}"}}, "the runs of teacher are real_seed-1, real_seed-2"),
        ("vae", {"set": {"x": "${diagnosis.base}"}}, "before it there are"),
        ("diagnosis", {"each": "vea"}, r"the step 'vea' \(did you mean vae\?\)"),
        ("diagnosis", {"runs": {"base": {}}}, "two runs called 'base'"),
        ("vae", {"runs": {"../up": {}}}, "no plain name"),
        ("vae", {"config": None}, "names no config"),
        ("vae", {"set": "x"}, "`set` that is no mapping"),
    ],
)
def test_a_wrong_step_is_named(step: str, change: dict[str, Any], told: str, tmp_path: Path) -> None:
    steps = {**RECIPE["steps"], step: {**RECIPE["steps"][step], **change}}
    with pytest.raises(ConfigurationError, match=told) as error:
        read_recipe(write(tmp_path / "r.yaml", {**RECIPE, "steps": steps})).jobs()
    assert f"the step {step!r}" in str(error.value)


def test_a_variable_that_refers_to_itself_ends(tmp_path: Path) -> None:
    recipe = {**RECIPE, "variables": {**RECIPE["variables"], "images": "${steps}", "steps": "${images}"}}
    with pytest.raises(ConfigurationError, match="refers to itself"):
        read_recipe(write(tmp_path / "r.yaml", recipe)).jobs()


@pytest.mark.parametrize("text", ["steps: [", "[]", "steps: {}", "steps: {a: {verb: phantom}}\nmore: 1"])
def test_what_is_no_recipe_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match="recipe"):
        read_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize("name", ["phantom_study", "bottleneck_study"])
def test_variants_share_start_data_and_steps(name: str) -> None:
    """The trainings of VAEs differ in what the recipe says they differ in, and in nothing else."""
    jobs = read_recipe(shipped(f"configs/recipes/{name}.yaml")).jobs()
    own = ("losses", "latent_noise", "latent_channels", "experiment_name")
    shared = {
        tuple(one for one in job.arguments if not any(part in one.partition("=")[0] for part in own))
        for job in jobs
        if job.name.startswith("vae/")
    }
    assert len(shared) == 1
    splits = {one for job in jobs if job.name.startswith("diagnosis/") for one in job.arguments if "eval_split" in one}
    assert all("val" in one and "test" not in one for one in splits)
    assert splits
