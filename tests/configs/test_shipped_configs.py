"""Every shipped configuration runs through the command line: its own settings, on a few samples, with local weights.

Found by glob, so that a new configuration is tested or fails here.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from original_layout import as_original, inference_yaml, tiny_original, write
from small_architectures import SMALL_KL

from layerscope.artifacts import Thresholds, read_csv, read_history, read_summary
from layerscope.artifacts.layer_scores import POINTS
from layerscope.artifacts.token_maps import read_image_tokens
from layerscope.cli import main
from layerscope.cli.lightning import shipped
from layerscope.data.hashing import weights_hash
from layerscope.data.phantom.write import write_phantom
from layerscope.data.schema import load_label_schema
from layerscope.functional.controls import CONTROLS
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.models.teachers import TimmTeacher
from layerscope.models.transformers_backbone import TransformersBackbone

CONFIGS = shipped("configs")
# What each folder's configurations are for.
VERBS = {"classifier/train": "fit", "classifier/eval": "test", "vae/train": "fit", "vae/diagnostic": "test"}
VERBS |= {"vae/reconstruct": "predict", "pairs": "test", "tokens": "test", "classifier/mixing": "fit"}
# Folders of configurations that change another one, and the one they are tried with.
OVERLAYS = {"classifier/mixing": "classifier/train/phantom.yaml"}
NO_RUNS = ("labels", "recipes", "vae/architectures")

ALL = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))
RUNS = [path for path in ALL if str(path.parent) not in NO_RUNS]
LABELS = [path for path in ALL if str(path.parent) == "labels"]
STEPS = 2
PAIRS = 8
IMAGES = 3
TINY_CLIP = {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, "hidden_size": 16}
TINY_CLIP |= {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 8}
_TINY = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
# By a part of the source that a configuration of tokens names; "siglip" ends in "lip" too, not in "clip".
TINY_TOKENS: dict[str, dict[str, Any]] = {
    "siglip": _TINY | {"model_type": "siglip_vision_model", "intermediate_size": 32},
    "dinov2": _TINY | {"model_type": "dinov2_with_registers", "num_register_tokens": 4},
    "clip": TINY_CLIP,
}
# Of the configurations of tokens those whose pictures are drawn for an image.
PICTURED = ("tiny_random", "reconstruction", "two_models")
# What the layers that each configuration of pairs watches are called.
WATCHED = {"timm.yaml": r"blocks\.\d+", "transformers.yaml": r"(vision_model\.)?encoder\.layers\.\d+"}
WATCHED |= {"phantom.yaml": r"(encoder|decoder)\..+"}


def files(path: Path) -> list[Path]:
    """A configuration, after the one it changes if it is no whole one."""
    return [*(Path(base) for folder, base in OVERLAYS.items() if folder == str(path.parent)), path]


def read(path: Path) -> dict[str, Any]:
    """What a configuration says, with the one it changes."""
    *bases, own = (yaml.safe_load((CONFIGS / file).read_text()) for file in files(path))
    return merged(bases[0], own) if bases else own


def merged(base: Any, changes: Any) -> Any:
    """As a second ``--config`` changes the first: a list is replaced whole."""
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return changes
    return base | {key: merged(base.get(key), value) for key, value in changes.items()}


@dataclass(frozen=True)
class StandIns:
    """Local files in the place of those that a configuration would download, train or be given."""

    folder: Path
    phantom: Path

    def teacher(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a teacher with random weights in the place of the one that ``arguments`` describe."""
        local = arguments | {"num_labels": 5}
        if "large" in local["name"]:
            local["name"] = "test_resnet"
        if "pretrained" in local:
            local["pretrained"] = False
        if "checkpoint" in local:
            path = self.folder / f"{local['name']}.safetensors"
            if not path.exists():
                torch.manual_seed(0)
                TimmTeacher(local["name"], 5, model_kwargs=local.get("model_kwargs")).save(path)
            local["checkpoint"] = str(path)
        return local

    def networks(self, value: Any) -> Any:
        """``value``, a part of a configuration, with a stand-in for each teacher and LPIPS network in it."""
        if isinstance(value, list):
            return [self.networks(one) for one in value]
        if not isinstance(value, dict):
            return value
        match value.get("class_path"):
            case "layerscope.models.teachers.TimmTeacher":
                return value | {"init_args": self.teacher(value["init_args"])}
            case "layerscope.losses.LPIPS":
                return value | {
                    "init_args": value["init_args"] | {"network": {"class_path": "stand_ins.PooledDistance"}}
                }
        return {key: self.networks(one) for key, one in value.items()}

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

    @property
    def pairs(self) -> Path:
        """Folders positive, negative and masks."""
        path = self.folder / "pairs"
        return path if path.exists() else write_phantom(path, "pairs", n=PAIRS, size=32, seed=3)

    @property
    def masked(self) -> Path:
        """The same images with masks beside them, named as BUSI names them."""
        path = self.folder / "busi"
        if not path.exists():
            (path / "benign").mkdir(parents=True)
            for number, image in enumerate(sorted((self.pairs / "positive").iterdir()), start=1):
                shutil.copy(image, path / "benign" / f"benign ({number}).png")
                shutil.copy(self.pairs / "masks" / image.name, path / "benign" / f"benign ({number})_mask.png")
        return path

    @property
    def clip(self) -> Path:
        """A transformers folder of a vision tower with random weights."""
        return self.vision_model("clip", TINY_CLIP)

    def vision_model(self, name: str, config: dict[str, Any]) -> Path:
        """The same of any vision transformer for images of 32 px, with the settings of its image processor."""
        path = self.folder / name
        if not path.exists():
            TransformersBackbone(config=config, seed=0).model.save_pretrained(path)  # type: ignore[operator]
            size = {"size": {"height": 32, "width": 32}, "crop_size": {"height": 32, "width": 32}}
            processor = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.3, 0.3, 0.3], **size}
            (path / "preprocessor_config.json").write_text(json.dumps(processor))
        return path

    def tokens(self, encoder: dict[str, Any]) -> dict[str, Any]:
        """A small model of the same family in the place of the one that a configuration names."""
        arguments = encoder["init_args"]
        if "name" in arguments:
            return encoder | {"init_args": arguments | {"name": "test_vit", "pretrained": False}}
        if "config" in arguments:
            return encoder
        family = next(name for name in TINY_TOKENS if name in arguments["source"])
        return encoder | {"init_args": {"source": str(self.vision_model(family, TINY_TOKENS[family]))}}

    @property
    def pair(self) -> dict[str, Path]:
        """The files of one pair, by the options that name them."""
        name = sorted(file.name for file in (self.pairs / "positive").iterdir())[-1]
        folders = {"img1": "positive", "img2": "negative", "mask": "masks"}
        return {option: self.pairs / folder / name for option, folder in folders.items()}


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    folder = tmp_path_factory.mktemp("shipped")
    return StandIns(folder, write_phantom(folder / "phantom", "fundus", n=80, size=32, seed=3))


def every_epoch(callback: dict[str, Any]) -> dict[str, Any]:
    """The callback, each epoch instead of every few, and with few images to measure."""
    arguments = callback.get("init_args", {})
    less = {key: value for key, value in {"every_n_epochs": 1, "images": 4}.items() if key in arguments}
    return callback | {"init_args": arguments | less}


def overrides(config: dict[str, Any], verb: str, local: StandIns) -> Iterator[str]:
    """Small data, few steps, and a stand-in for every file that is not shipped; all else stays as configured."""
    data, model, trainer = config["data"]["init_args"], config["model"]["init_args"], config["trainer"]
    yield from ("--trainer.accelerator=cpu", "--trainer.devices=1")
    if verb == "fit":
        wanted = {"accumulate_grad_batches": 1, "val_check_interval": STEPS}
        yield f"--trainer.max_steps={STEPS}"
        yield from (f"--trainer.{key}={value}" for key, value in wanted.items() if key in trainer)
        yield f"--trainer.callbacks={json.dumps([every_epoch(callback) for callback in trainer['callbacks']])}"

    labelled = config["data"]["class_path"] == "layerscope.data.multilabel.MultilabelImages"
    wanted = {"root": local.phantom if labelled else local.phantom / "images", "batch_size": 4, "limit": 4 * STEPS}
    always = [*wanted, *(("table", "schema") if labelled else ())]
    wanted |= {"table": "labels.csv", "schema": "schema.yaml", "split_file": "null"}
    wanted |= {"num_workers": 0, "image_size": 32, "center_crop_size": "null"}
    yield from (f"--data.init_args.{key}={value}" for key, value in wanted.items() if key in data or key in always)

    for key in ("teacher", "diagnosis", "losses"):
        if key in model:
            yield f"--model.init_args.{key}={json.dumps(local.networks(model[key]))}"
    if "crop_size" in model:
        yield "--model.init_args.crop_size=16"
    if "adversarial" in model:
        yield "--model.init_args.adversarial.start_batches=1"
    autoencoder = model.get("autoencoder", {}).get("init_args", {})
    source, original_config = local.original_vae
    stand_ins = {
        "source": source if "original_config" in autoencoder else local.vae,
        "original_config": original_config,
    }
    yield from (
        f"--model.init_args.autoencoder.init_args.{key}={value}"
        for key, value in stand_ins.items()
        if key in autoencoder
    )
    if "mixing" in model:
        yield f"--model.init_args.mixing.autoencoder.init_args.source={local.vae}"
    if "file" in model.get("thresholds", {}):
        yield f"--model.init_args.thresholds.file={local.thresholds}"


def pair_overrides(config: dict[str, Any], local: StandIns) -> Iterator[str]:
    """Few pairs and pictures, and a model without weights; all else stays as configured."""
    subject = config["model"]["init_args"]["subject"]["init_args"]
    yield from ("--trainer.accelerator=cpu", "--trainer.devices=1")
    callbacks = [
        callback | ({"init_args": {"first": 0, "top": 1}} if callback["class_path"].endswith(".PairPictures") else {})
        for callback in config["trainer"]["callbacks"]
    ]
    yield f"--trainer.callbacks={json.dumps(callbacks)}"
    data = config["data"]["init_args"]
    wanted: dict[str, Any] = {"num_workers": 0} if "num_workers" in data else {}
    match config["data"]["class_path"].rpartition(".")[2]:
        case "ImagePair":
            wanted |= local.pair
        case "MaskedImages":
            wanted["root"] = local.masked
        case _:
            wanted["root"] = local.pairs
    wanted |= {"batch_size": 4} if "batch_size" in data else {}
    wanted |= {"image_size": 32} if data["image_size"] else {}
    yield from (f"--data.init_args.{key}={value}" for key, value in wanted.items())
    stand_in: dict[str, Any] = {"source": local.vae}
    if "name" in subject:
        stand_in = {"name": "test_vit", "pretrained": "false"}
    elif "clip" in subject["source"]:
        stand_in = {"source": local.clip}
    yield from (f"--model.init_args.subject.init_args.{key}={value}" for key, value in stand_in.items())


def token_overrides(config: dict[str, Any], local: StandIns) -> Iterator[str]:
    """Few images, pictures of one of them, and models without weights; all else stays as configured."""
    model = config["model"]["init_args"]
    pictured = int(config["experiment_name"] in PICTURED)
    yield from ("--trainer.accelerator=cpu", "--trainer.devices=1")
    yield f"--trainer.callbacks.visualization.limit={pictured}"
    yield from (f"--data.{key}={value}" for key, value in {"limit": IMAGES, "batch_size": 2, "num_workers": 0}.items())
    yield from (f"--data.path={local.pairs / 'positive'}", f"--data.masks={local.pairs / 'masks'}")
    for key in ("encoder", "other_encoder"):
        if key in model:
            yield f"--model.{key}={json.dumps(local.tokens(model[key]))}"
    if "autoencoder" in model:
        yield f"--model.autoencoder.source={local.vae}"


def test_every_configuration_has_a_purpose() -> None:
    assert RUNS
    assert {str(path.parent) for path in RUNS} <= set(VERBS)
    assert len({path.name for path in RUNS}) > 3


@pytest.mark.parametrize("path", RUNS, ids=str)
def test_it_parses_as_shipped(path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> None:
    """With nothing but the file's own settings; no class is built and nothing is read."""
    monkeypatch.chdir(tmp_path)
    named = [f"--config=configs/{file}" for file in files(path)]
    assert main([VERBS[str(path.parent)], *named, "--print_config"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    written = read(path)
    assert shown["experiment_name"] == written["experiment_name"]
    assert shown["output_root"].startswith("outputs/")
    assert shown["seed_everything"] is not None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", RUNS, ids=str)
def test_it_runs(path: Path, stand_ins: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, verb = read(path), VERBS[str(path.parent)]
    match path.parts[0]:
        case "pairs":
            arguments = list(pair_overrides(config, stand_ins))
        case "tokens":
            arguments = list(token_overrides(config, stand_ins))
        case _:
            arguments = list(overrides(config, verb, stand_ins))
    named = [f"--config=configs/{file}" for file in files(path)]
    assert main([verb, "--debug", "--allow-import=stand_ins", *named, *arguments]) == 0
    run = tmp_path / config["output_root"] / config["experiment_name"]
    summary = read_summary(run)
    assert summary["headline"].keys() == {"figure", "value", "ci_lo", "ci_hi"}
    assert summary["headline"]["value"] is not None
    assert (run / ("config.yaml" if path.parts[0] == "tokens" else "config_used.yaml")).is_file()
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
            assert summary["headline"]["figure"] == "val/mAP"
            assert summary["headline"]["value"] == pytest.approx(summary["metrics"]["val/mAP"])
        case "classifier/mixing":
            mixing = config["model"]["init_args"]["mixing"]
            said = summary["mixing"]
            assert said["fractions"]["image"] == 1 - mixing["mix"]
            assert said["fractions"]["noisy_reconstruction"] == mixing["mix"] * mixing["noisy"] > 0
            assert said["autoencoder_weights"] == weights_hash(DiffusersAutoencoder(source=str(stand_ins.vae)))
            kept = len(list((tmp_path / mixing["cache"]).rglob("*.npy")))
            assert kept == round(8 * summary["metrics"]["train/mixed_fraction"]) > 0
            assert summary["metrics"]["train/cache_hits"] == 0
        case "vae/reconstruct":
            rows = read_csv(run / "reconstruction.csv")
            assert len(rows) == 8 == summary["counts"]["images"]
            assert all((run / row["file"]).is_file() for row in rows)
        case "vae/train":
            check_trained_vae(run, config, stand_ins)
        case "pairs" if path.name == "single.yaml":
            check_pair_files(run, autoencoder=True)
            assert not {"pairs", "aggregated_results.json"} & {file.name for file in run.iterdir()}
            assert (summary["counts"]["pairs"], summary["counts"]["floor_kind"]) == (1, "same_image")
            check_watched_layers(run, path.name)
            assert summary["headline"]["figure"].startswith("mean relative_l2 in decoder.")
            differences = json.loads((run / "layer_differences.json").read_text())
            largest = max(one["relative_l2"] for name, one in differences.items() if name not in POINTS)
            assert summary["headline"]["value"] == pytest.approx(largest)
        case "pairs":
            check_pair_folder(run, path.name, config)
        case "tokens":
            check_tokens(run, config)


def check_tokens(run: Path, config: dict[str, Any]) -> None:
    """What a configuration of tokens promises."""
    model, summary = config["model"]["init_args"], read_summary(run)
    assert summary["counts"]["images"] == IMAGES
    views = ["image"]
    views += ["reconstruction", *model["controls"]] if "autoencoder" in model else []
    views += ["other_model"] if "other_encoder" in model else []
    assert list(summary["views"]) == views
    shown = {"view": "reconstruction", "figure": "token_change"} if "autoencoder" in model else {"view": "image"}
    shown = {"figure": "neighbour_similarity"} | shown
    of = [row["mean"] for row in read_csv(run / "aggregate.csv") if all(row[key] == shown[key] for key in shown)]
    assert summary["headline"]["value"] == pytest.approx(of[-1])
    folders = sorted((run / "images").iterdir())
    assert len(folders) == IMAGES
    for folder in folders:
        for view in views:
            tokens = read_image_tokens(folder / f"similarities{'' if view == 'image' else f'_{view}'}.npz")
            assert len(tokens.layers) == (1 if model["layers"] == "last" else summary["counts"]["layers"])
            rows, columns = tokens.grid_size
            assert tokens.maps["horizontal_right"].shape[1:] == (rows, columns - 1)
            assert tokens.cls_source == ("pooled" if model.get("pooled") else "cls")
            assert tokens.prefix.count("register") == (4 if "dinov2" in str(model["encoder"]) else 0)
    pictured = [folder for folder in folders if (folder / "similarity_analysis_combined.png").is_file()]
    assert pictured == (folders[:1] if config["experiment_name"] in PICTURED else [])
    for folder in pictured:
        names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
        for name in ("horizontal_similarity", "vertical_similarity", "cls_similarity"):
            assert {f"individual/{name}.png", f"overlays/{name}.png"} <= names
        assert {f"comparison_{view}.png" for view in views[1:] if view not in CONTROLS} <= names
    figures = {row["figure"] for row in read_csv(run / "aggregate.csv")}
    assert {"neighbour_similarity", "cls_similarity", "effective_rank", "border_drop"} <= figures
    assert (run / "figures/layer_curves.png").is_file()
    assert any((run / "tensorboard").iterdir())


def check_pair_files(folder: Path, autoencoder: bool) -> None:
    """What is written for one pair."""
    differences = json.loads((folder / "layer_differences.json").read_text())
    for layer in differences.values():
        assert layer.keys() >= {"l2_value", "cosine_value", "relative_l2", "sqnr_db", "shape", "auroc"}
        assert layer["l2_value"] > 0
    assert (folder / "layer_differences_plot.png").is_file()
    assert (folder / "reconstructed_images.png").is_file() == autoencoder
    maps = sorted(file.name for file in (folder / "heatmaps").iterdir())
    located = [name for name, layer in differences.items() if layer["auroc"] is not None]
    assert maps == [*(f"{place:02d}_{name}.png" for place, name in enumerate(located)), "all_layers.png"]


def check_watched_layers(run: Path, name: str) -> list[str]:
    """The layers of pairs.csv are as many as the summary says and those that the configuration means."""
    layers = list(dict.fromkeys(row["layer"] for row in read_csv(run / "pairs.csv")))
    watched = [layer for layer in layers if layer not in POINTS]
    assert len(watched) == read_summary(run)["counts"]["layers"] > 1
    assert all(re.fullmatch(WATCHED.get(name, r"decoder\..+"), layer) for layer in watched)
    if name not in ("timm.yaml", "transformers.yaml"):
        assert {"input", "latent", "decoder.conv_in", "decoder.conv_out", "reconstruction"} <= set(layers)
    assert ("encoder.conv_in" in watched) == (name == "phantom.yaml")
    return layers


def check_pair_folder(run: Path, name: str, config: dict[str, Any]) -> None:
    """What a configuration of a folder of pairs promises."""
    summary, layers = read_summary(run), check_watched_layers(run, name)
    data = config["data"]["init_args"]
    # Each patient is in one couple of the floor, or each image where no patients are told.
    units = summary["counts"]["patients"] or PAIRS
    counts = {"pairs": PAIRS, "skipped": 0, "floor_pairs": units // 2, "floor_kind": "negatives"}
    counts |= {"localised_pairs": PAIRS, "cka_groups": PAIRS // 4, "cka_groups_lost": 0}
    assert summary["counts"] | counts == summary["counts"]
    assert (summary["data"]["fill"], summary["data"]["masks"]) == (data.get("fill"), PAIRS)
    assert summary["ranking"]["metric"] == "relative_l2"
    assert summary["ranking"]["statistic"] == "effect"
    assert summary["headline"]["figure"] == f"effect of relative_l2 in {summary['ranking']['layers'][0]['layer']}"
    assert summary["headline"]["value"] == summary["ranking"]["layers"][0]["value"]
    results = json.loads((run / "aggregated_results.json").read_text())
    assert list(results) == layers
    for layer_name, layer in results.items():
        assert layer["linear_cka"]["value"] is not None
        assert layer["relative_l2"]["n"] == PAIRS
        assert layer["localisation"]["auroc"]["n"] == PAIRS or layer_name in POINTS
        assert layer["relative_l2"]["ci_lo"] <= layer["relative_l2"]["mean"] <= layer["relative_l2"]["ci_hi"]
        assert layer["relative_l2"]["effect"] is not None
    assert len(read_csv(run / "localisation.csv")) == PAIRS * len(layers)
    files = ["aggregated_differences.png", "figures/localisation.png"]
    # Ultrasound images are not taken alike.
    files += [] if name == "masked.yaml" else ["figures/mean_heat_maps.png", "mean_heat_maps.npz"]
    assert all((run / file).is_file() for file in files)
    assert any((run / "tensorboard").iterdir())
    pictured = list((run / "pairs").iterdir())
    assert len(pictured) == 1
    for folder in pictured:
        check_pair_files(folder, autoencoder=name not in ("timm.yaml", "transformers.yaml"))


def test_the_verb_pair_is_a_short_form(stand_ins: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ``test`` with the configuration of a single pair, to the last digit."""
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((CONFIGS / "pairs/single.yaml").read_text())
    long = list(pair_overrides(config, stand_ins))
    assert main(["test", "--debug", "--config", "configs/pairs/single.yaml", *long]) == 0
    files = [f"--{option}={file}" for option, file in stand_ins.pair.items()]
    chosen = [f"--vae={stand_ins.vae}", "--image_size=32", "--device=cpu", "--output=elsewhere"]
    assert main(["pair", "--debug", *files, *chosen]) == 0
    [short] = (tmp_path / "elsewhere/single").iterdir()
    assert short.name == stand_ins.pair["img1"].stem
    check_pair_files(short, autoencoder=True)
    for file in ("layer_differences.json", "pairs.csv", "localisation.csv"):
        assert (short / file).read_bytes() == (tmp_path / "outputs/single/pair" / file).read_bytes()


@pytest.mark.parametrize("path", [path for path in ALL if str(path.parent) == "pairs"], ids=str)
def test_layers_of_pair_configurations_can_be_listed(
    path: Path, stand_ins: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without any image."""
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((CONFIGS / path).read_text())
    model = [argument for argument in pair_overrides(config, stand_ins) if argument.startswith("--model")]
    assert main(["layers", "--config", f"configs/{path}", *model]) == 0
    *lines, foot = capsys.readouterr().out.splitlines()
    marked = [line.split()[1] for line in lines if line.startswith("*")]
    assert marked
    assert f"{len(marked)} are watched" in foot
    assert all(re.fullmatch(WATCHED.get(path.name, r"decoder\..+"), layer) for layer in marked)


def check_trained_vae(run: Path, config: dict[str, Any], local: StandIns) -> None:
    """What the configuration promises is there: the autoencoder, checkpoints, history and pictures."""
    model = config["model"]["init_args"]
    autoencoder = model["autoencoder"]["init_args"]
    trained = DiffusersAutoencoder(source=str(run / "vae_final"))
    assert trained.latent_channels == autoencoder.get("latent_channels", 4)
    if "source" in autoencoder:
        start = DiffusersAutoencoder(source=str(local.vae)).model.state_dict()
        found = trained.model.state_dict()
        moved = {name.split(".")[0] for name, value in start.items() if not torch.equal(found[name], value)}
        decoder, encoder = {"decoder", "post_quant_conv"}, {"encoder", "quant_conv"}
        assert moved == (decoder if model.get("train") == "decoder" else decoder | encoder)

    callbacks = [
        (one["class_path"].rpartition(".")[2], one.get("init_args", {})) for one in config["trainer"]["callbacks"]
    ]
    checkpoints = {f"{arguments['filename']}.ckpt" for name, arguments in callbacks if name == "ModelCheckpoint"}
    checkpoints |= {"epoch_1.ckpt" for name, _ in callbacks if name == "EpochCheckpoint"}
    assert checkpoints >= {"last.ckpt"}
    assert checkpoints == {file.name for file in (run / "checkpoints").iterdir()}

    [row] = read_history(run)
    terms = [one["class_path"].rpartition(".")[2] for one in model["losses"]]
    terms = [re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in terms]
    terms += ["adversarial"] if "adversarial" in model else []
    monitored = [arguments["monitor"] for _, arguments in callbacks if "monitor" in arguments]
    assert row.keys() >= {"train/loss", "val/psnr", *monitored, *(f"train/{name}" for name in terms)}
    assert (run / "training_curves.png").is_file()
    assert (run / "reconstructions" / "recon_epoch_1.png").is_file()


@pytest.mark.parametrize("family", ["{}_4ch", "{}_8ch", "{}_16ch", "phantom_{}"])
def test_twins_differ_in_their_losses_alone(family: str) -> None:
    """And feature matching has one weight in all, whether a part of it sees noise or not."""
    twins = {kind: read_training(family.format(kind)) for kind in ("base", "feat", "feat_noisy")}
    losses = {kind: twin["model"]["init_args"].pop("losses") for kind, twin in twins.items()}
    noise = {kind: twin["model"]["init_args"].pop("latent_noise", None) for kind, twin in twins.items()}
    assert twins["base"] == twins["feat"] == twins["feat_noisy"]
    assert noise["base"] is noise["feat"] is None is not noise["feat_noisy"]

    shared = len(losses["base"])
    assert losses["base"] == losses["feat"][:shared] == losses["feat_noisy"][:shared]
    features = {kind: [one["init_args"] for one in losses[kind][shared:]] for kind in ("feat", "feat_noisy")}
    total = {kind: sum(arguments.pop("weight") for arguments in terms) for kind, terms in features.items()}
    assert total["feat"] == total["feat_noisy"] > 0
    [settings] = features["feat"]
    assert features["feat_noisy"] == [settings, settings]
    assert settings["teacher"] == twins["feat"]["model"]["init_args"]["diagnosis"]["teacher"]


@pytest.mark.parametrize("kind", ["base", "feat", "feat_noisy"])
def test_widths_differ_in_latent_channels_alone(kind: str) -> None:
    widths = [read_training(f"{kind}_{channels}ch") for channels in (4, 8, 16)]
    found = [width["model"]["init_args"]["autoencoder"]["init_args"].pop("latent_channels") for width in widths]
    assert found == [4, 8, 16]
    assert widths[0] == widths[1] == widths[2]


def read_training(name: str) -> dict[str, Any]:
    """A shipped training, without its name; independent of what aliases in the file share."""
    config: dict[str, Any] = json.loads(
        json.dumps(yaml.safe_load((CONFIGS / "vae/train" / f"{name}.yaml").read_text()))
    )
    assert config.pop("experiment_name") == name
    return config


@pytest.mark.parametrize("path", LABELS, ids=str)
def test_label_schemas_load(path: Path) -> None:
    labels = load_label_schema(CONFIGS / path).label_set()
    assert len(labels) >= 4
    assert any(labels.evaluated)
    assert all(labels.display_names)
