"""``layerscope pair``: two images through a VAE, and in which layer they differ. A short form of ``test``."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layerscope.errors import ConfigurationError
from layerscope.shipped import shipped

CONFIG = "configs/pairs/single.yaml"


def main(arguments: list[str], allow_import: Sequence[str] = ()) -> int:
    """The verb, from its command line."""
    parser = argparse.ArgumentParser(
        prog="layerscope pair",
        description="Runs an image with a finding and the same image without it through a VAE and tells in which layer "
        f"they differ. A short form of `layerscope test --config {CONFIG}`, whose overrides may follow "
        "(--model.layers=..., --trainer.precision=...). For research only; not for clinical use.",
        allow_abbrev=False,
    )
    parser.add_argument("--img1", required=True, metavar="FILE", help="the image with the finding (tumor.jpg)")
    parser.add_argument("--img2", required=True, metavar="FILE", help="the same image without it (masked_tumor.jpg)")
    parser.add_argument("--mask", metavar="FILE", help="where the finding is: asks whether the difference is there")
    parser.add_argument(
        "--method", choices=("l2", "cosine", "both"), default="both", help="differences to report (default both)"
    )
    parser.add_argument(
        "--vae",
        metavar="SOURCE",
        help="diffusers folder, hub id or single checkpoint (default: the configuration's, checkpoints/sd-vae-ft-mse)",
    )
    parser.add_argument("--original_config", metavar="YAML", help="the original YAML of a single checkpoint file")
    parser.add_argument("--image_size", type=int, metavar="PX", help="side that images are resized to (default 512)")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, mps, cuda, cuda:1 or a GPU's number (default auto)"
    )
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="results go to OUTPUT/single/NAME")
    parser.add_argument("--name", help="of the result's directory (default: the name of img1)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result of the same name")
    options, overrides = parser.parse_known_args(arguments)
    for argument in overrides:
        if not argument.startswith(("--model.", "--data.", "--trainer.", "--seed_everything")):
            parser.error(f"unrecognized argument: {argument} (overrides are --model..., --data..., --trainer...=value)")

    from layerscope.cli.lightning import run_lightning

    with tempfile.TemporaryDirectory() as folder:
        # A configuration of its own, in JSON, which is YAML with all text in quotes: on the command line a file called
        # "x: y.png" would be read as a mapping, and one called "1e3" as a number.
        own = Path(folder) / "pair.yaml"
        own.write_text(json.dumps(_configuration(options)), encoding="utf-8")
        return run_lightning(
            "test",
            [
                *("--config", str(shipped(CONFIG)), "--config", str(own)),
                *device_settings(options.device),
                # The report is the last callback of the configuration, whose arguments can be set so.
                f"--trainer.callbacks.method={options.method}",
                *(["--overwrite"] if options.overwrite else []),
                *overrides,
            ],
            allow_import,
        )


def _configuration(options: argparse.Namespace) -> dict[str, Any]:
    """The options as they stand in a configuration; what was not given stays as shipped."""
    from layerscope.artifacts.names import safe_file_name

    data = {name: getattr(options, name) for name in ("img1", "img2", "mask", "image_size")}
    subject = {"source": options.vae, "original_config": options.original_config}
    configuration: dict[str, Any] = {
        "experiment_name": options.name or safe_file_name(Path(options.img1).stem),
        "output_root": str(options.output / "single"),
        "data": {"init_args": {name: value for name, value in data.items() if value is not None}},
    }
    if given := {name: value for name, value in subject.items() if value is not None}:
        configuration["model"] = {"init_args": {"subject": {"init_args": given}}}
    return configuration


def device_settings(device: str) -> list[str]:
    """A device as users write it, as overrides of the trainer.

    >>> device_settings("cuda:5"), device_settings("cpu"), device_settings("auto")
    (['--trainer.accelerator=cuda', '--trainer.devices=[5]'], ['--trainer.accelerator=cpu', '--trainer.devices=1'], \
['--trainer.accelerator=auto', '--trainer.devices=1'])

    Raises:
        ConfigurationError: it is none of these forms.
    """
    kind, _, number = device.partition(":")
    if device.isdecimal():
        kind, number = "cuda", device
    if kind not in ("auto", "cpu", "cuda", "gpu", "mps") or (number and not number.isdecimal()) or device.endswith(":"):
        raise ConfigurationError(
            f"--device is {device!r}: expected auto, cpu, mps, cuda, cuda:1 or the number of a GPU."
        )
    if number and kind in ("auto", "cpu"):
        raise ConfigurationError(f"--device is {device!r}: only GPUs have numbers; write {kind}.")
    return [f"--trainer.accelerator={kind}", f"--trainer.devices={f'[{number}]' if number else 1}"]
