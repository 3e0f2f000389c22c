"""``layerscope phantom``: writes a phantom data set."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's options."""
    parser.add_argument("out", type=Path, metavar="OUT", help="new directory for the data set")
    parser.add_argument(
        "--kind",
        choices=("exact", "fundus", "pairs"),
        default="fundus",
        help="exact: disks in white noise with a closed-form answer; fundus: like photographs of the retina (default); "
        "pairs: the same with lesions and without, and their masks",
    )
    parser.add_argument("--n", type=int, help="images (default 2000, at least 12) or pairs (default 100)")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels (default 128)")
    parser.add_argument(
        "--lesion-sizes",
        type=_sizes,
        metavar="PX,PX,...",
        help="diameters in pixels; default 3,6,12,24,48 (exact) or 2,4,8,16,32 (fundus, pairs) at 128 px, else in "
        "proportion",
    )
    parser.add_argument(
        "--lesions",
        type=_names,
        metavar="KIND,KIND,...",
        help="of pairs: the kinds of lesion they take turns with, one in an image; default all: microaneurysm, "
        "hard_exudate, haemorrhage, cotton_wool_spot, atrophy",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same data set (default 0)")
    parser.add_argument(
        "--um-per-px", type=float, help="micrometres per pixel, for the records (default: a 12 mm field)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier phantom in OUT")


def main(arguments: list[str]) -> int:
    """The verb, from its command line."""
    return run(_parser().parse_args(arguments))


def check(arguments: list[str]) -> None:
    """Reads arguments and writes nothing. Raises SystemExit for wrong usage, told on stderr."""
    _parser().parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="layerscope phantom",
        description="Writes a synthetic data set whose right answer is known: images, labels.csv, lesions.csv, "
        "schema.yaml; of pairs the folders positive, negative and masks, and lesions.csv. Image i depends on the seed "
        "only, not on --n.",
    )
    add_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Writes the data set and says how to use it."""
    from layerscope.data.phantom.write import write_phantom

    out = write_phantom(
        args.out,
        args.kind,
        n=args.n,
        size=args.size,
        lesion_sizes=args.lesion_sizes,
        seed=args.seed,
        um_per_px=args.um_per_px,
        lesions=args.lesions,
        overwrite=args.overwrite,
        progress=_progress if sys.stderr.isatty() else None,
    )
    pairs = args.kind == "pairs"
    what, folder = ("pairs", "positive") if pairs else ("images", "images")
    inside = "positive, negative, masks" if pairs else "labels.csv, schema.yaml"
    written = len(list((out / folder).iterdir()))
    print(f"Wrote {written} {what} to {out}. Use it with --data.init_args.root={out} ({inside} inside).")
    return 0


def _progress(done: int, total: int) -> None:
    if done % 50 == 0 or done == total:
        print(f"\r{done}/{total} images", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _sizes(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers separated by commas, got {text!r}") from None
