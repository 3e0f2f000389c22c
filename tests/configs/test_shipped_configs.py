"""Every shipped configuration runs through the command line: its own settings, on a few samples, with local weights.

Found by glob, so that a new configuration is tested or fails here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from original_layout import as_original, inference_yaml, tiny_original, write
from small_architectures import SMALL_KL

from layerscope.artifacts import Thresholds, read_csv, read_summary
from layerscope.cli import main
from layerscope.cli.lightning import shipped
from layerscope.data.hashing import weights_hash
from layerscope.data.phantom.write import write_phantom
from layerscope.data.schema import load_label_schema
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.models.teachers import TimmTeacher

CONFIGS = shipped("configs")
# What each folder's configurations are for.
VERBS = {"classifier/train": "fit", "classifier/eval": "test", "vae/train": "fit", "vae/diagnostic": "test"}
VERBS |= {"vae/reconstruct": "predict"}
NO_RUNS = ("labels", "vae/architectures")

ALL = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))
RUNS = [path for path in ALL if str(path.parent) not in NO_RUNS]
LABELS = [path for path in ALL if str(path.parent) == "labels"]


@dataclass(frozen=True)
class StandIns:
    """Local files in the place of those that a configuration would download, train or be given."""

    folder: Path
    phantom: Path

    def teacher(self, arguments: dict[str, Any]) -> Path:
        """Random weights of the teacher that ``arguments`` describe."""
        path = self.folder / f"{arguments['name']}.safetensors"
        if not path.exists():
            torch.manual_seed(0)
            TimmTeacher(arguments["name"], 5, model_kwargs=arguments.get("model_kwargs")).save(path)
        return path

    @property
    def vae(self) -> Path:
        path = self.folder / "vae"
        if not path.exists():
            DiffusersAutoencoder(architecture=SMALL_KL, seed=0).save(path)
        return path

    @property
    def original_vae(self) -> tuple[Path, Path]:
        """A small VAE as the original code writes it: one file, and its YAML."""
        path, config = self.folder / "original.safetensors", self.folder / "v1-inference.yaml"
        if not path.exists():
            inference_yaml(config)
            write(path, as_original(tiny_original()))
        return path, config

    @property
    def thresholds(self) -> Path:
        labels = load_label_schema(self.phantom / "schema.yaml").label_set().names
        path = self.folder / "threshold.json"
        path.write_text(json.dumps(Thresholds(labels, 0.0, 0.5, (0.0,) * 5, (0.5,) * 5, "val", "another").as_json()))
        return path


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    folder = tmp_path_factory.mktemp("shipped")
    return StandIns(folder, write_phantom(folder / "phantom", "fundus", n=80, size=32, seed=3))


def overrides(config: dict[str, Any], verb: str, local: StandIns) -> Iterator[str]:
    """Small data, few steps, and a stand-in for every file that is not shipped; all else stays as configured."""
    data, model, trainer = config["data"]["init_args"], config["model"]["init_args"], config["trainer"]
    yield from ("--trainer.accelerator=cpu", "--trainer.devices=1")
    if verb == "fit":
        yield "--trainer.max_steps=2"
        if "accumulate_grad_batches" in trainer:
            yield "--trainer.accumulate_grad_batches=1"

    wanted = {"root": local.phantom, "table": "labels.csv", "schema": "schema.yaml", "batch_size": 4, "limit": 8}
    wanted |= {"split_file": "null", "num_workers": 0, "image_size": 32, "center_crop_size": "null"}
    always = ("root", "table", "schema", "batch_size", "limit")
    yield from (f"--data.init_args.{key}={value}" for key, value in wanted.items() if key in data or key in always)

    if "teacher" in model:
        teacher = dict(model["teacher"]["init_args"])
        prefix = "--model.init_args.teacher.init_args"
        if "large" in teacher["name"]:
            teacher["name"] = "test_resnet"
        yield f"{prefix}.name={teacher['name']}"
        yield f"{prefix}.num_labels=5"
        if "pretrained" in teacher:
            yield f"{prefix}.pretrained=false"
        if "checkpoint" in teacher:
            yield f"{prefix}.checkpoint={local.teacher(teacher)}"
    if "source" in model.get("autoencoder", {}).get("init_args", {}):
        prefix = "--model.init_args.autoencoder.init_args"
        if "original_config" in model["autoencoder"]["init_args"]:
            source, original_config = local.original_vae
            yield from (f"{prefix}.source={source}", f"{prefix}.original_config={original_config}")
        else:
            yield f"{prefix}.source={local.vae}"
    if "file" in model.get("thresholds", {}):
        yield f"--model.init_args.thresholds.file={local.thresholds}"


def test_every_configuration_has_a_purpose() -> None:
    assert RUNS
    assert {str(path.parent) for path in RUNS} <= set(VERBS)
    assert len({path.name for path in RUNS}) > 3


@pytest.mark.parametrize("path", RUNS, ids=str)
def test_it_parses_as_shipped(path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> None:
    """With nothing but the file's own settings; no class is built and nothing is read."""
    monkeypatch.chdir(tmp_path)
    assert main([VERBS[str(path.parent)], "--config", f"configs/{path}", "--print_config"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    written = yaml.safe_load((CONFIGS / path).read_text())
    assert shown["experiment_name"] == written["experiment_name"]
    assert shown["output_root"].startswith("outputs/")
    assert shown["seed_everything"] is not None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", RUNS, ids=str)
def test_it_runs(path: Path, stand_ins: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, verb = yaml.safe_load((CONFIGS / path).read_text()), VERBS[str(path.parent)]
    arguments = list(overrides(config, verb, stand_ins))
    assert main([verb, "--debug", "--config", f"configs/{path}", *arguments]) == 0
    run = tmp_path / config["output_root"] / config["experiment_name"]
    summary = read_summary(run)
    assert (run / "config_used.yaml").is_file()
    match str(path.parent):
        case "vae/diagnostic":
            assert summary["counts"]["images"] == 8
            assert summary["counts"]["conditions"]["control"] == len(config["model"]["init_args"]["controls"])
            if "original_config" in config["model"]["init_args"]["autoencoder"]["init_args"]:
                source, original_config = map(str, stand_ins.original_vae)
                original = DiffusersAutoencoder(source=source, original_config=original_config)
                assert summary["model_hashes"]["autoencoder"] == weights_hash(original)
            assert summary["verdict"]["overall"]["verdict"] in ("bottleneck", "not a bottleneck", "inconclusive")
        case "classifier/eval":
            assert summary["counts"]["images"] == 8
            assert (run / "threshold.json").is_file()
        case "classifier/train":
            assert {"best.ckpt", "last.ckpt"} == {file.name for file in (run / "checkpoints").iterdir()}
            assert "val/mAP" in summary["metrics"]
        case "vae/reconstruct":
            rows = read_csv(run / "reconstruction.csv")
            assert len(rows) == 8 == summary["counts"]["images"]
            assert all((run / row["file"]).is_file() for row in rows)
        case "vae/train":
            assert DiffusersAutoencoder(source=str(run / "vae_final")).latent_channels > 0


@pytest.mark.parametrize("path", LABELS, ids=str)
def test_label_schemas_load(path: Path) -> None:
    labels = load_label_schema(CONFIGS / path).label_set()
    assert len(labels) >= 4
    assert any(labels.evaluated)
    assert all(labels.display_names)
