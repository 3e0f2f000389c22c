"""A token diagnosis that cannot be made says why and what to do, and leaves nothing behind."""

from __future__ import annotations

import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from image_files import write_noise
from pair_runs import write
from small_architectures import SMALL_KL
from stand_ins import Witness
from token_batches import batch_of
from token_families import FAMILIES, TINY_CLIP
from token_runs import ENCODER, TASK, clip, settings, write_images
from transformers import CLIPVisionConfig, CLIPVisionModel

from layerscope.artifacts import read_summary
from layerscope.callbacks.token_files import TokenArrays, write_image_files
from layerscope.cli import main
from layerscope.errors import ConfigurationError, DataError
from layerscope.models.timm_backbone import TimmBackbone
from layerscope.models.transformers_tokens import TransformersTokens
from layerscope.report.token_style import TokenPictures
from layerscope.token_similarity import TokenSimilarityAnalyzer

ALLOWED = ("--allow-import=pair_stand_ins", "--allow-import=stand_ins")
VAE = {
    "class_path": "layerscope.models.autoencoders.DiffusersAutoencoder",
    "init_args": {"architecture": SMALL_KL, "seed": 0},
}
Change = Callable[[dict[str, Any]], Any]


class Bench:
    """Five images of one's own, a diagnosis of them, and what the command said."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.images = write_images(folder / "images", 5)
        self.config = settings(self.images)
        self.run = folder / "outputs" / "run"
        self._capsys = capsys

    def diagnose(self, *overrides: str) -> int:
        path = write(self.folder, "config", self.config)
        return main(["test", "--config", str(path), "--experiment_name=run", *ALLOWED, *overrides])

    def refused(self, *overrides: str, status: int) -> str:
        """The message of a command that must fail with ``status`` and leave nothing behind."""
        before = content(self.run)
        self._capsys.readouterr()
        assert self.diagnose(*overrides) == status
        printed = self._capsys.readouterr().err
        assert "Traceback" not in printed
        assert content(self.run) == before
        assert self.run.exists() == bool(before)
        assert printed.count("layerscope: error:") == 1
        message = printed[printed.index("layerscope: error:") :]
        assert "\n\n" not in message.strip()
        return " ".join(message.split())


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path, capsys)


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Names cannot be looked up, and no cache helps; what was asked for."""
    asked: list[Any] = []

    def refuse(*where: Any, **options: Any) -> None:
        asked.append(where)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return asked


@pytest.fixture(autouse=True)
def keep_ctrl_c() -> Iterator[None]:
    """Lightning ignores SIGINT for the rest of the process once it was interrupted."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- settings ----------------------------------------------------------------------------------------------------------


WRONG_SETTINGS: dict[str, tuple[list[str], list[str]]] = {
    "metric": ([f"{TASK}.similarity_metric=cosin"], ["'cosin'", "did you mean cosine?", "dot_product"]),
    "layer": ([f"{TASK}.layers=encoder.layer.1"], ["'encoder.layer.1'", "Did you mean encoder.layers.1", "last, all"]),
    "layer number": ([f"{TASK}.layers=[0, 9]"], ["layers has 9", "2 blocks: 0 to 1"]),
    "no layer": ([f"{TASK}.layers=[]"], ["layers names none", "Write last, all"]),
    "norm": ([f"{TASK}.norm=befor"], ["'before', 'after'", "befor"]),
    "box without area": ([f"{TASK}.box=[20, 20, 10, 10]"], ["no area", "left below right"]),
    "box of three": ([f"{TASK}.box=[20, 20, 10]"], ["expected 4 numbers"]),
    "box outside": ([f"{TASK}.box=[90, 90, 99, 99]"], ["'a0', [1.1, 0.0, 37.7, 36.0]", "fit to stretch or whole"]),
    "seed patch": ([f"{TASK}.seed_patch=[4, 0]"], ["[4, 0]", "4 rows and 4 columns", "counted from 0"]),
    "text": ([f"{TASK}.text=a lesion"], ["no text tower", "openai/clip-vit-base-patch16"]),
    "controls": ([f"{TASK}.controls=[jpeg_q75]"], ["there is no autoencoder", "leave controls out"]),
    "colour map": (
        ["--trainer.callbacks.visualization.cmap=virids"],
        ["'virids'", "Names like it: viridis"],
    ),
    "format": (["--trainer.callbacks.visualization.format=jpg"], ["'png', 'pdf', 'svg'", "jpg"]),
    "device on a CPU": (["--trainer.devices=[7]"], ["trainer.devices is [7]", "accelerator is cpu", "processes"]),
    "accelerator": (["--trainer.accelerator=gpuu"], ["'gpuu'", "expected auto, gpu"]),
    "device": (["--trainer.accelerator=auto", "--trainer.devices=gpu:1"], ["'gpu:1'", "such as [0]"]),
}


@pytest.mark.parametrize("wrong", list(WRONG_SETTINGS))
def test_a_wrong_setting(wrong: str, bench: Bench) -> None:
    overrides, told = WRONG_SETTINGS[wrong]
    message = bench.refused(*overrides, status=2)
    for part in told:
        assert part in message, message


def siglip_without_head() -> dict[str, Any]:
    return clip(config=FAMILIES["siglip"].config | {"image_size": 32, "vision_use_head": False})


WRONG_MODELS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no tokens": (
        {"encoder": {"class_path": "layerscope.models.timm_backbone.TimmBackbone", "init_args": {"name": "resnet18"}}},
        ["encoder is a TimmBackbone", "TokenEncoder", "Use layerscope.models.transformers_tokens"],
    ),
    "no transformer": (
        {"encoder": {"class_path": "layerscope.models.timm_tokens.TimmTokens", "init_args": {"name": "resnet18"}}},
        ["resnet18 is a ResNet", "`layerscope pair`"],
    ),
    "nothing pools": ({"encoder": siglip_without_head(), "pooled": True}, ["no pooled token", "Leave pooled out"]),
    "control": ({"autoencoder": VAE, "controls": ["jpeg75"]}, ["['jpeg75']", "Known:", "jpeg_q75"]),
    "model and autoencoder": ({"other_encoder": clip(), "autoencoder": VAE}, ["Give one of them"]),
    "no autoencoder": ({"autoencoder": clip()}, ["autoencoder is a TransformersTokens", "Autoencoder"]),
    "no folder": (
        {"encoder": clip(source="checkpoints/none", config=None, seed=None)},
        ["checkpoints/none does not exist", "config.json and model.safetensors"],
    ),
}


@pytest.mark.parametrize("wrong", list(WRONG_MODELS))
def test_a_wrong_model(wrong: str, bench: Bench) -> None:
    model, told = WRONG_MODELS[wrong]
    bench.config["model"]["init_args"] |= model
    message = bench.refused(status=2)
    for part in told:
        assert part in message, message


def test_other_images_and_another_model_at_once(bench: Bench) -> None:
    bench.config["model"]["init_args"]["other_encoder"] = clip()
    assert "Leave one of them out" in bench.refused(f"--data.other={bench.images}", status=2)


@pytest.mark.parametrize(
    ("encoder", "told"),
    [
        (clip(source="nobody/no-such-clip", config=None, seed=None), ["hf download", "set source to checkpoints/NAME"]),
        (
            {
                "class_path": "layerscope.models.timm_tokens.TimmTokens",
                "init_args": {"name": "vit_tiny_patch16_224", "pretrained": True},
            },
            ["timm's weights of vit_tiny_patch16_224", "give it as checkpoint"],
        ),
    ],
    ids=["transformers", "timm"],
)
def test_a_hub_id_without_network_is_told_at_once(
    encoder: dict[str, Any], told: list[str], bench: Bench, no_network: list[Any]
) -> None:
    bench.config["model"]["init_args"]["encoder"] = encoder
    message = bench.refused(status=1)
    for part in ["cannot be looked up", "Without network", *told]:
        assert part in message, message
    # The look-up that says so, and no try of the hub's client.
    assert len(no_network) == 1


def test_a_gpu_that_is_not_there(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus, has in ((0, "no GPU"), (2, "2 GPUs, numbered 0 to 1")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        for accelerator in ("gpu", "auto"):
            message = bench.refused(f"--trainer.accelerator={accelerator}", "--trainer.devices=[7]", status=2)
            assert f"this machine has {has}" in message
            assert "--trainer.accelerator=cpu --trainer.devices=1" in message


# -- images ------------------------------------------------------------------------------------------------------------


def test_no_image_matches(bench: Bench) -> None:
    message = bench.refused("--data.path=images/*.jpg", status=1)
    for part in (f"no image below {bench.images} matches *.jpg", "it holds 5 .png", "Correct the pattern"):
        assert part in message
    assert "There is no" in bench.refused("--data.path=nowhere/*.jpg", status=1)


def test_a_text_file_with_the_name_of_an_image(bench: Bench) -> None:
    (bench.images / "text.jpg").write_text("no image")
    message = bench.refused(status=1)
    assert f"{bench.images / 'text.jpg'} is not an image" in message
    assert "on_bad_image: skip" in message
    assert "on_bad_image" not in bench.refused("--data.path=images/text.jpg", status=1)


def test_an_image_smaller_than_a_patch(bench: Bench) -> None:
    write_noise(bench.images / "small.png", size=(40, 7))
    message = bench.refused(status=1)
    for part in ("small.png has 40×7 pixels", "a patch of the model, which has 8×8", "smaller patches"):
        assert part in message


def test_images_of_different_sizes_in_a_batch(bench: Bench) -> None:
    write_noise(bench.images / "a2.png", size=(50, 90))
    message = bench.refused(f"{ENCODER}.init_args.fit=whole", status=1)
    assert "'a2' (32×56 pixels) and 'a3' (32×32)" in message
    assert "batch_size: 1" in message
    assert bench.diagnose(f"{ENCODER}.init_args.fit=whole", "--data.batch_size=1") == 0
    shapes = {}
    for name in ("a0", "a2"):
        with np.load(bench.run / "images" / name / "similarities.npz") as arrays:
            shapes[name] = arrays["horizontal_right"].shape
    assert shapes == {"a0": (4, 3), "a2": (7, 3)}


def test_every_image_is_broken(bench: Bench) -> None:
    for path in bench.images.iterdir():
        path.write_bytes(b"no image")
    message = bench.refused("--data.on_bad_image=skip", status=1)
    assert "None of the 5 images was measured" in message
    assert "a0" in message


# -- failures while it runs --------------------------------------------------------------------------------------------


def failing(how: str) -> Change:
    vae = {"class_path": "pair_stand_ins.FailingVae", "init_args": {"how": how, "after": 1}}
    return lambda config: config["model"]["init_args"].update(autoencoder=vae)


def in_a_callback(config: dict[str, Any]) -> None:
    config["trainer"]["callbacks"].append({"class_path": "pair_stand_ins.FailingCallback"})


def in_the_dataloader(config: dict[str, Any]) -> None:
    (Path(config["data"]["init_args"]["path"]) / "a3.png").write_bytes(b"no image")


FAILURES: dict[str, tuple[Change, int, list[str]]] = {
    "step": (failing("raise"), 1, ["the decoder broke"]),
    "ctrl-c": (failing("sigint"), 130, ["Stopped by Ctrl-C"]),
    "nan": (failing("nan"), 1, ["'a3' (reconstruction)", "encoder.layers.0", "not all finite"]),
    "memory": (failing("memory"), 1, ["2 images of 32 × 32", "batch_size", "image_size", "bf16-mixed", "2.00 GiB"]),
    "callback": (in_a_callback, 1, ["the callback broke"]),
    "dataloader": (in_the_dataloader, 1, ["a3.png is not an image"]),
}


@pytest.mark.parametrize("place", list(FAILURES))
def test_a_run_that_fails_leaves_nothing(place: str, bench: Bench) -> None:
    change, status, told = FAILURES[place]
    witness = {"class_path": "stand_ins.Witness"}
    bench.config["trainer"]["callbacks"].append(witness)
    assert bench.diagnose() == 0
    finished = content(bench.run)
    shutil.move(bench.run, bench.folder / "kept")
    change(bench.config)
    # In a place of its own, and over a result that stays, so that no clearing away of the directory hides a remnant.
    for restored in (False, True):
        if restored:
            shutil.move(bench.folder / "kept", bench.run)
        message = bench.refused("--overwrite", status=status)
        for part in told:
            assert part in message, message
        assert not any(module._forward_hooks for module in Witness.task.modules())
    assert content(bench.run) == finished
    assert [path.name for path in bench.run.rglob(".*")] == []


def test_broken_weights_name_image_and_layer(bench: Bench) -> None:
    model = CLIPVisionModel(CLIPVisionConfig(**{key: value for key, value in TINY_CLIP.items() if key != "model_type"}))
    with torch.no_grad():
        model.get_parameter("encoder.layers.1.mlp.fc2.bias")[3] = torch.nan
    model.save_pretrained(bench.folder / "weights")
    bench.config["model"]["init_args"]["encoder"] = clip(source=str(bench.folder / "weights"), config=None, seed=None)
    message = bench.refused(status=1)
    assert "The tokens of 'a0' (image) after encoder.layers.1 are not all finite" in message
    assert "bf16-true" in message


def test_a_finished_result_stays_unless_it_is_to_be_replaced(bench: Bench) -> None:
    assert bench.diagnose() == 0
    message = bench.refused(f"{TASK}.layers=last", status=2)
    assert "--overwrite" in message
    assert bench.diagnose(f"{TASK}.layers=last", "--overwrite", "--data.limit=2") == 0
    assert read_summary(bench.run)["tokens"]["layers"] == ["encoder.layers.1"]
    assert sorted(path.name for path in (bench.run / "images").iterdir()) == ["a0", "a4"]


# -- from Python -------------------------------------------------------------------------------------------------------


def tiny() -> TransformersTokens:
    return TransformersTokens(config=TINY_CLIP, seed=0)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"device": "cuda:7"}, "this machine has 0 GPUs"),
        ({"device": 7}, "this machine has 0 GPUs"),
        ({"device": "gpu0"}, "expected cpu, mps, cuda"),
        ({"similarity_metric": "cosin"}, "did you mean cosine"),
        ({"layers": "encoder.layers.7"}, "Did you mean encoder.layers"),
        ({"text": "a lesion"}, "no text tower"),
        ({"image_size": 64}, "image_size and fit are for a model by its name"),
    ],
    ids=str,
)
def test_an_analyzer_that_cannot_be_made(arguments: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigurationError, match=told):
        TokenSimilarityAnalyzer(tiny(), **({"device": "cpu"} | arguments))


def test_an_analyzer_of_a_model_without_tokens() -> None:
    with pytest.raises(ConfigurationError, match="TokenEncoder"):
        TokenSimilarityAnalyzer(TimmBackbone("resnet18"), device="cpu")


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (np.full((40, 40, 3), 200.0), r"floats from 200 to 200: expected \[0, 1\]"),
        (torch.full((3, 40, 40), -1.0), r"\(x \+ 1\) / 2"),
        (np.zeros((40, 40, 3), np.int64), "holds int64"),
        (np.full((40, 40), np.nan), "floats from nan"),
        (torch.zeros(2, 3, 40, 40), "Give several pictures as a list"),
        (torch.zeros(40, 40, 3), "expected"),
        (np.zeros((7, 40)), "fewer along a side than a patch"),
        (3, "A int is no picture"),
        (None, "A NoneType is no picture"),
        ("nowhere.png", "nowhere.png"),
    ],
    ids=["large", "negative", "integers", "nan", "batch", "channels last", "small", "number", "nothing", "no file"],
)
def test_what_is_no_picture(picture: Any, told: str) -> None:
    analyzer = TokenSimilarityAnalyzer(tiny(), device="cpu")
    with pytest.raises(DataError, match=told):
        analyzer.analyze(picture)
    with pytest.raises(DataError, match=told):
        analyzer.analyze([np.zeros((40, 40)), picture])


def test_files_of_a_process_do_not_come_back_after_the_folder_is_gone(tmp_path: Path) -> None:
    """The first process has failed and cleared the run directory, and the second writes on until it learns of it."""
    analyzer = TokenSimilarityAnalyzer(tiny(), device="cpu")
    output = analyzer.task.test_step(batch_of(torch.zeros(1, 3, 32, 32)), 0)
    for images in (1, 2):
        with pytest.raises(FileNotFoundError):
            write_image_files(tmp_path / "run" / "staging", output, 0, images, TokenPictures(limit=0), TokenArrays())
    assert list(tmp_path.iterdir()) == []
