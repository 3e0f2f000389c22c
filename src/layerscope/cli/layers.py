"""``layerscope layers``: every layer of a configuration's model that can be named, by a dry run."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from layerscope.errors import ConfigurationError, listed

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

    from layerscope.probes.inventory import LayerRecord
    from layerscope.protocols import ProbedTask

IMAGE_SIZE = 256


def main(arguments: list[str], allow_import: Sequence[str] = ()) -> int:
    """The verb, from its command line."""
    parser = argparse.ArgumentParser(
        prog="layerscope layers",
        usage="layerscope layers --config FILE [--image_size N] [overrides as in layerscope test]",
        description="Lists every layer that can be named: class, shape of the output for one image, parameters, calls "
        "per forward; * marks those that the configuration watches. A dry run that needs no data and writes nothing.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--image_size",
        type=int,
        metavar="N",
        help=f"side of the image in pixels (default: the data's image_size where it is one number, else {IMAGE_SIZE})",
    )
    options, rest = parser.parse_known_args(arguments)
    if options.image_size is not None and options.image_size < 1:
        raise ConfigurationError(f"--image_size is {options.image_size}: expected at least 1.")
    from layerscope.cli.lightning import build_model
    from layerscope.probes.selection import choose_layers
    from layerscope.protocols import ProbedTask

    task, config = build_model(rest, allow_import)
    if not isinstance(task, ProbedTask):
        raise ConfigurationError(
            f"A {type(task).__name__} watches no layers. `layerscope layers` is for configurations of a task that does "
            "(layerscope.protocols.ProbedTask), such as those in configs/pairs."
        )
    configured = config.get("data.init_args.image_size")
    side: int = options.image_size or (configured if type(configured) is int else IMAGE_SIZE)
    geometry = getattr(task, "input_geometry", None)  # of a task that says itself in which size it takes images
    size = (side, side) if geometry is None else geometry.size_of((side, side))
    records = dry_run(task, size)
    root, layers, exclude = task.watched_layers()
    wrong_choice = None
    watched: set[str] = set()
    try:
        watched = {name.removesuffix(f"@{layer.path}") for name, layer in choose_layers(root, layers, exclude).items()}
    except ConfigurationError as error:
        wrong_choice = error  # told below the list, which is what helps to mend it
    print(layer_table(records, watched))
    silent = sum(record.calls == 0 for record in records)
    print(
        f"{len(records)} layers can be named, {len(watched)} are watched (*)"
        + (f", {silent} were not called" if silent else "")
        + f". Shapes are for one image of {size[1]} × {size[0]} pixels."
    )
    if wrong_choice is not None:
        raise wrong_choice
    return 0


def dry_run(task: LightningModule, size: tuple[int, int]) -> list[LayerRecord]:
    """The task's layers, as one image of ``size`` (H, W) pixels shows them.

    On the meta device, which computes shapes only; where a model cannot run there, or escapes it, on its own device.
    """
    try:
        records = _look(copy.deepcopy(task).to("meta"), size)
    except Exception:
        records = []
    # A function that the task made of its model still runs the original, not the copy that is watched.
    return records if any(record.calls for record in records) else _look(task, size)


def layer_table(records: Sequence[LayerRecord], watched: set[str]) -> str:
    """One line a layer; the names in ``watched`` are marked."""
    rows = [("", "layer", "class", "output", "parameters", "calls")]
    for record in records:
        mark = "*" if record.name in watched else ""
        output = _shapes(record.shapes) or ("no tensor" if record.calls else "-")
        rows.append((mark, record.name, record.module_class, output, f"{record.parameters:,}", str(record.calls)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        " ".join([f"{row[0]:<1}", *(f"{cell:<{width}} " for cell, width in zip(row[1:4], widths[1:4]))])
        + " ".join(f"{cell:>{width}} " for cell, width in zip(row[4:], widths[4:])).rstrip()
        for row in rows
    )


def _look(task: LightningModule, size: tuple[int, int]) -> list[LayerRecord]:
    import torch

    from layerscope.probes.inventory import list_layers

    probed: ProbedTask = task  # type: ignore[assignment]
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    device = next((parameter.device for parameter in task.parameters()), image.device)
    root, _, _ = probed.watched_layers()
    return list_layers(root, lambda: probed.look(image.to(device)))


def _shapes(shapes: Mapping[str, Sequence[tuple[int, ...]]]) -> str:
    """
    >>> _shapes({"": [(1, 8, 4, 4), (1, 8, 2, 2)]})
    '(1, 8, 4, 4) then (1, 8, 2, 2)'
    >>> _shapes({"0": [(1, 17, 8)], "1": [(1, 2, 17, 17)]})
    '@0 (1, 17, 8), @1 (1, 2, 17, 17)'
    """
    told = [f"{f'@{path} ' if path else ''}{' then '.join(map(str, seen))}" for path, seen in shapes.items()]
    return listed(told, most=3)
