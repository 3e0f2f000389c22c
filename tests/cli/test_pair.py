"""``layerscope pair`` and folders of pairs: what is written where, and input that cannot be used."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pair_runs import read_json, settings, values, write
from PIL import Image

import layerscope.cli.lightning  # noqa: F401 - now: its loggers keep the standard error that they first see
from layerscope.artifacts import read_summary
from layerscope.cli import main
from layerscope.data.hashing import rows_by_hash
from layerscope.data.phantom.write import write_phantom

LAYERS = "--model.init_args.layers"
EXCLUDE = "--model.init_args.exclude"
SOURCE = "--model.init_args.subject.init_args.source"


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("pairs") / "data", "pairs", n=6, size=32, seed=5)


class Bench:
    """Six pairs of one's own, and the commands on them."""

    def __init__(self, folder: Path, phantom: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.root = shutil.copytree(phantom, folder / "data")
        self.outputs = folder / "outputs"
        self._capsys = capsys
        names = [path.stem for path in self.files("positive")]
        # In the order of the rows.
        self.ids = [names[row] for row in rows_by_hash(names)]

    def files(self, side: str) -> list[Path]:
        return sorted((self.root / side).iterdir())

    def file(self, side: str, row: int = 0) -> Path:
        return self.root / side / f"{self.ids[row]}.png"

    def pair(self, *options: str) -> int:
        images = ["--img1", str(self.file("positive")), "--img2", str(self.file("negative"))]
        local = ["--vae", "checkpoints/demo_vae", "--image_size", "32", "--device", "cpu", "--name", "run"]
        local += ["--trainer.callbacks.n_bootstrap=50", f'{LAYERS}=["decoder.conv_in", "decoder.conv_out"]']
        # argparse lets the last of each option win.
        return main(["pair", *images, *local, *options])

    def test(self, *overrides: str, change: Callable[[dict[str, Any]], Any] | None = None) -> int:
        config = settings(self.root)
        if change is not None:
            change(config)
        return main(["test", "--config", str(write(self.folder, "config", config)), *overrides])

    def told(self, status: int, run: Callable[[], int]) -> str:
        """The one paragraph of a command that must fail with ``status`` and leave no result."""
        existed = list(self.outputs.glob("*/run")) + list(self.outputs.glob("default"))
        self._capsys.readouterr()
        assert run() == status
        printed = self._capsys.readouterr().err
        assert "Traceback" not in printed
        assert list(self.outputs.glob("*/run")) + list(self.outputs.glob("default")) == existed
        return " ".join(printed.replace("pair: error:", "layerscope: error:").split("layerscope: error:")[-1].split())


@pytest.fixture
def bench(tmp_path: Path, phantom: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path, phantom, capsys)


# -- what is written -------------------------------------------------------------------------------------------------


def test_files_of_one_pair_and_a_result_that_is_not_overwritten(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.pair("--mask", str(bench.file("masks")), "--method", "l2") == 0
    [heading] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("layer ")]
    assert " ".join(heading.split()) == "layer relative L2 floor SQNR dB RMS L2 AUROC (shifted)"
    directory = bench.outputs / "single" / "run"
    names = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    wanted = {"layer_differences.json", "layer_differences_plot.png", "reconstructed_images.png", "summary.json"}
    wanted |= {"config_used.yaml", "pairs.csv", "localisation.csv", "heatmaps/all_layers.png"}
    assert wanted <= names
    assert not any(name.startswith(("pairs/", "aggregated")) for name in names)
    layer = read_json(directory / "layer_differences.json")["decoder.conv_in"]
    assert layer["l2_value"] == pytest.approx(values(directory)["pair", bench.ids[0], "decoder.conv_in", "l2"])
    assert "cosine_value" not in layer
    assert layer["floor_relative_l2"] >= 0
    assert layer["shape"][0] == 1
    assert len([name for name in names if name.startswith("heatmaps/")]) == 1 + len(
        read_json(directory / "layer_differences.json")
    )
    message = bench.told(2, bench.pair)
    assert "outputs/single/run" in message
    assert "--overwrite" in message
    before = (directory / "summary.json").read_bytes()
    assert bench.pair("--overwrite") == 0
    assert (directory / "summary.json").read_bytes() != before
    assert "cosine_value" in read_json(directory / "layer_differences.json")["decoder.conv_in"]


def test_a_folder_of_one_pair_keeps_the_layout_of_a_folder(bench: Bench) -> None:
    def pictured(config: dict[str, Any]) -> None:
        config["trainer"]["callbacks"][1]["init_args"] = {"first": 1, "top": 0}

    assert bench.test("--data.init_args.limit=1", f'{LAYERS}=["decoder.conv_out"]', change=pictured) == 0
    directory = bench.outputs / "default"
    assert (directory / "aggregated_results.json").exists()
    assert (directory / "pairs" / bench.ids[0] / "layer_differences.json").exists()
    assert read_summary(directory)["counts"]["pairs"] == 1


# -- folders that cannot be used -------------------------------------------------------------------------------------


def test_images_without_a_partner_are_all_listed(bench: Bench) -> None:
    for row in (0, 2):
        bench.file("negative", row).unlink()
    bench.file("positive", 4).unlink()
    message = bench.told(1, bench.test)
    assert all(repr(bench.ids[row]) in message for row in (0, 2, 4))
    assert not any(repr(bench.ids[row]) in message for row in (1, 3, 5))
    assert "only in positive/ (2)" in message
    assert "only in negative/ (1)" in message


def no_positives(bench: Bench) -> None:
    for path in bench.files("positive"):
        path.unlink()


def other_size(bench: Bench) -> None:
    shutil.rmtree(bench.root / "masks")
    Image.open(bench.file("negative")).resize((24, 32)).save(bench.file("negative"))


FOLDERS: dict[str, tuple[Callable[[Bench], Any], list[str]]] = {
    "empty folder": (no_positives, ["No images were found", "data/positive", ".png"]),
    "no folder": (
        lambda bench: shutil.rmtree(bench.root / "negative"),
        ["has no folder negative", "data.init_args.root"],
    ),
    "different sizes": (other_size, ["32×32", "24×32", "negative", "save both at one size"]),
    "grey against RGB": (
        lambda bench: Image.open(bench.file("positive")).convert("L").save(bench.file("positive")),
        ["is a grey image", "Save both grey or both in colour"],
    ),
    "mask without image": (
        lambda bench: shutil.copy(bench.file("masks"), bench.root / "masks" / "other.png"),
        ["'other.png'", "belong to no image", "_mask"],
    ),
    "broken image": (
        lambda bench: bench.file("positive", 5).write_bytes(b"no image"),
        ["is not an image", "copy it again", "data.init_args.on_bad_image: skip"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(FOLDERS))
def test_a_folder_that_cannot_be_used(bench: Bench, case: str) -> None:
    spoil, told = FOLDERS[case]
    spoil(bench)
    message = bench.told(1, bench.test)
    for part in told:
        assert part in message


def test_broken_images_are_skipped_when_asked(bench: Bench) -> None:
    assert bench.test("--experiment_name=whole", "--data.init_args.noise_floor=none") == 0
    bench.file("positive", 1).write_bytes(b"no image")
    skip = ("--data.init_args.on_bad_image=skip", "--data.init_args.noise_floor=none")
    assert bench.test(*skip) == 0
    directory = bench.outputs / "default"
    summary = read_summary(directory)
    assert (summary["counts"]["pairs"], summary["counts"]["skipped"]) == (5, 1)
    [reason] = [row["reason"] for row in summary["not_measured"] if row["what"] == f"pair {bench.ids[1]}"]
    assert "is not an image" in reason
    whole, rest = values(bench.outputs / "whole"), values(directory)
    assert {key[1] for key in rest if key[2]} == set(bench.ids) - {bench.ids[1]}
    for key, value in rest.items():
        if key[2]:
            # In another batch, convolutions may round otherwise.
            assert value == pytest.approx(whole[key], rel=1e-4, nan_ok=True)


@pytest.mark.parametrize("floor", ["none", "negatives"])
def test_nothing_but_broken_images(bench: Bench, floor: str) -> None:
    for path in bench.files("positive"):
        path.write_bytes(b"no image")
    message = bench.told(
        1, lambda: bench.test("--data.init_args.on_bad_image=skip", f"--data.init_args.noise_floor={floor}")
    )
    assert "None of the 6 pairs could be measured" in message
    assert "is not an image" in message


# -- settings that cannot be used ------------------------------------------------------------------------------------

OPTIONS: dict[str, tuple[list[str], list[str]]] = {
    "unknown layer": ([f'{LAYERS}=["decoder.conv_inn"]'], ["'decoder.conv_inn'", "decoder.conv_in,"]),
    "unknown pattern": ([f'{LAYERS}=["decoder.up_block.*.resnets.*"]'], ["decoder.up_blocks.*.resnets.*", "layers --"]),
    "exclude misses": ([f'{EXCLUDE}=["decoder.convout"]'], ["exclude has 'decoder.convout'", "decoder.conv_out"]),
    "nothing is left": (
        [f'{LAYERS}=["decoder.conv_in"]', f'{EXCLUDE}=["decoder.*"]'],
        ["exclude takes away every layer", "decoder.conv_in"],
    ),
    "no layers": ([f"{LAYERS}=[]"], ["No layers are named"]),
    "method": (["--trainer.callbacks.method=l3"], ["l3", "'l2', 'cosine', 'both'"]),
    "rank_by": (["--trainer.callbacks.rank_by=l2"], ["rank_by", "'effect', 'relative_l2'"]),
    "image_size": (["--data.init_args.image_size=33"], ["33 × 33", "downsampling of 2", "32 × 32"]),
    "unknown override": (["--data.init_args.batchsize=3"], ["batchsize", "Did you mean batch_size?"]),
    "noise_floor": (["--data.init_args.noise_floor=zero"], ["noise_floor", "negatives"]),
}


@pytest.mark.parametrize("case", list(OPTIONS))
def test_an_option_that_cannot_be_used(bench: Bench, case: str) -> None:
    overrides, told = OPTIONS[case]
    message = bench.told(2, lambda: bench.test(*overrides))
    for part in told:
        assert part in message


def move(config: dict[str, Any], from_place: int, to_place: int) -> None:
    callbacks = config["trainer"]["callbacks"]
    callbacks.insert(to_place, callbacks.pop(from_place))


def mean_maps_first(config: dict[str, Any]) -> None:
    config["trainer"]["callbacks"].insert(0, {"class_path": "layerscope.callbacks.mean_heat_maps.MeanHeatMaps"})


def another_task(config: dict[str, Any]) -> None:
    config["model"] = {"class_path": "lightning.pytorch.demos.boring_classes.BoringModel"}


CALLBACKS: dict[str, tuple[Callable[[dict[str, Any]], Any], list[str]]] = {
    "nothing measures": (
        lambda config: config["trainer"]["callbacks"].pop(0),
        ["Nothing measures the layers", "layer_differences.LayerDifferences first"],
    ),
    "pictures first": (lambda config: move(config, 1, 0), ["PairPictures stands before LayerDifferences"]),
    "mean heat maps first": (mean_maps_first, ["MeanHeatMaps stands before LayerDifferences"]),
    "another task": (another_task, ["PairDiagnosis", "the model is a BoringModel"]),
}


@pytest.mark.parametrize("case", list(CALLBACKS))
def test_callbacks_that_do_not_go_together(bench: Bench, case: str) -> None:
    change, told = CALLBACKS[case]
    message = bench.told(2, lambda: bench.test(change=change))
    for part in told:
        assert part in message


# -- the short form --------------------------------------------------------------------------------------------------

SHORT: dict[str, tuple[list[str], int, list[str]]] = {
    "device": (["--device", "gpu7"], 2, ["--device is 'gpu7'", "cuda:1"]),
    "no such image": (["--img2", "nothing.png"], 1, ["data.init_args.img2 is nothing.png", "Correct the path"]),
    "method": (["--method", "l3"], 2, ["'l3'", "cosine"]),
    "vae": (["--vae", "checkpoints/nothing"], 2, ["checkpoints/nothing does not exist", "diffusers folder"]),
    "image_size": (["--image_size", "34"], 2, ["34 × 34", "downsampling of 4", "36 × 36"]),
    "option": (["--img3=x"], 2, ["--img3=x", "overrides are"]),
    "override": (["--model.layer=x"], 2, ["'layer' is not accepted", "layers"]),
}


@pytest.mark.parametrize("case", list(SHORT))
def test_a_pair_command_that_cannot_run(bench: Bench, case: str) -> None:
    options, status, told = SHORT[case]
    message = bench.told(status, lambda: bench.pair(*options))
    for part in told:
        assert part in message


def test_a_hub_that_cannot_be_reached_is_not_asked_again_and_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def lookup(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    for name in ("https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    message = bench.told(1, lambda: bench.pair("--vae", "nobody/nothing"))
    assert "nobody/nothing is no folder here" in message
    assert "cannot be looked up (Name or service not known)" in message
    # Once for the configuration, and not six times for each file.
    assert len(asked) <= 2
