"""``layerscope export``: a trained autoencoder as a diffusers folder, from a checkpoint of its training."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from layerscope.errors import ConfigurationError, DataError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from layerscope.functional.latent_scaling import LatentMoments
    from layerscope.models.autoencoders import DiffusersAutoencoder
    from layerscope.types import AutoencoderRecord

BATCH_SIZE = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's options."""
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="checkpoint of `layerscope fit` (.ckpt)")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write: weights, config.json, model card")
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        help="export the averaged weights, or the current ones (default: averaged where the checkpoint has them)",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="ROOT",
        help="folder of images, searched with its subfolders, on which latents and activations are measured; best "
        "those of the training",
    )
    parser.add_argument("--num-images", type=int, default=256, help="how many of them, chosen by name (default 256)")
    parser.add_argument(
        "--image-size", type=int, default=256, help="side in pixels; the central square is resized (default 256)"
    )
    parser.add_argument(
        "--start", metavar="SOURCE", help="the starting autoencoder (folder or hub id), to tell the drift against it"
    )
    parser.add_argument(
        "--ldm",
        type=Path,
        metavar="FILE",
        help="also write the original latent-diffusion layout: FILE.safetensors and its FILE.yaml",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")


def main(arguments: list[str]) -> int:
    """The verb, from its command line."""
    parser = argparse.ArgumentParser(
        prog="layerscope export",
        description="Writes the autoencoder of a training's checkpoint as a diffusers folder, which "
        "AutoencoderKL.from_pretrained reads. Where the encoder was trained, the latent's scaling factors are measured "
        "again on --images.",
    )
    add_arguments(parser)
    return run(parser.parse_args(arguments))


def run(args: argparse.Namespace) -> int:
    """Exports, and says what was measured."""
    for name in ("num_images", "image_size"):
        if getattr(args, name) < 1:
            raise ConfigurationError(f"--{name.replace('_', '-')} is {getattr(args, name)}: expected at least 1.")
    if args.start is not None and args.images is None:
        raise ConfigurationError("--start needs --images: the drift is measured on images. Give both, or neither.")
    files = None if args.images is None else find_images(args.images, args.num_images)
    import torch

    from layerscope.callbacks.vae_export import check_export_folder, export_autoencoder
    from layerscope.models.ldm_layout import check_has_ldm_layout, write_ldm
    from layerscope.models.trained_checkpoint import read_trained_autoencoder
    from layerscope.report.model_card import export_lines

    check_export_folder(args.out, args.overwrite)
    if args.ldm is not None:
        _check_ldm_file(args.ldm, args.out, args.overwrite)
    trained = read_trained_autoencoder(args.checkpoint, averaged=args.ema)
    autoencoder = trained.autoencoder
    if args.ldm is not None:
        check_has_ldm_layout(autoencoder.model)
    if files is not None and args.image_size % autoencoder.downsampling:
        raise ConfigurationError(
            f"--image-size is {args.image_size}: expected a multiple of {autoencoder.downsampling}, the autoencoder's "
            "downsampling."
        )
    autoencoder.to("cuda" if torch.cuda.is_available() else "cpu")
    start: LatentMoments | str = "it was not given (--start)"
    if args.start is not None and files is not None:
        start = _starting_moments(args.start, trained.record, autoencoder, files, args.image_size)
    images = "no images were given (--images)" if files is None else _batches(files, args.image_size)
    export = export_autoencoder(
        autoencoder, args.out, trained.record, trained.weights, images, start, overwrite=args.overwrite
    )
    print("\n".join(export_lines(export)))
    print(f"Wrote {args.out}. Use it with --model.init_args.autoencoder.init_args.source={args.out}")
    if args.ldm is not None:
        print(f"Wrote {args.ldm} and {write_ldm(autoencoder.model, args.ldm)}.")
    return 0


def find_images(root: Path, count: int) -> list[Path]:
    """At most ``count`` image files of a folder and its subfolders, chosen and ordered by a hash of their names.

    So the choice is spread over subfolders and does not depend on the order of the disk; hidden files are left out.

    Raises:
        DataError: the folder does not exist or holds no images.
    """
    from layerscope.data.images import SUFFIXES

    if not root.is_dir():
        raise DataError(f"--images {root} is no folder (relative to {Path.cwd()}). Give a folder of image files.")
    names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix.lower() in SUFFIXES]
    visible = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    if not visible:
        raise DataError(
            f"--images {root} holds no images: looked in it and its subfolders for {', '.join(SUFFIXES)}. Give the "
            "folder of the training images."
        )
    visible.sort(key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())
    return [root / name for name in visible[:count]]


def _batches(files: Sequence[Path], image_size: int) -> Iterator[Tensor]:
    import torch

    from layerscope.data.images import read_image

    for first in range(0, len(files), BATCH_SIZE):
        if sys.stderr.isatty():
            print(f"\r{first}/{len(files)} images", end="", file=sys.stderr, flush=True)
        yield torch.stack([read_image(file, image_size=image_size) for file in files[first : first + BATCH_SIZE]])
    if sys.stderr.isatty():
        print(f"\r{len(files)}/{len(files)} images", file=sys.stderr)


def _starting_moments(
    source: str, record: AutoencoderRecord, trained: DiffusersAutoencoder, files: Sequence[Path], image_size: int
) -> LatentMoments:
    """The latent moments of the starting autoencoder, if ``source`` is the one that the training began with."""
    from layerscope.data.hashing import weights_hash
    from layerscope.metrics.latent_statistics import latent_statistics
    from layerscope.models.autoencoders import DiffusersAutoencoder

    start = DiffusersAutoencoder(source=source)
    expected = record["start_hash"]
    if expected is not None and expected != weights_hash(start):
        raise WeightsError(
            f"--start {source} is not what the training began with: the SHA-256 of its weights is "
            f"{weights_hash(start)}, and the checkpoint says {expected}. Give the starting autoencoder, or leave "
            "--start out."
        )
    start.to(next(trained.parameters()).device)
    return latent_statistics(start, _batches(files, image_size))


def _check_ldm_file(file: Path, out: Path, overwrite: bool) -> None:
    from layerscope.models.ldm_layout import ldm_yaml_path

    for path in (file, ldm_yaml_path(file)):
        if path.exists() and not overwrite:
            raise ConfigurationError(f"--ldm: {path} exists. Choose another name, or pass --overwrite to replace it.")
    if out.resolve() in file.resolve().parents:
        raise ConfigurationError(f"--ldm {file} lies inside OUT, which is a diffusers folder. Give it another place.")
