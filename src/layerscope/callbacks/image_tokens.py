"""From a batch's output to what is kept of each image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerscope.artifacts.token_maps import ImageTokens
from layerscope.artifacts.token_scores import MASK_FIGURES
from layerscope.functional.controls import to_uint8
from layerscope.types import TokenOutput, TokenView


def image_tokens(output: TokenOutput, place: int) -> list[ImageTokens]:
    """Every view of the image at ``place`` in the batch, the image itself first.

    Figures of a mask are left out where it has none.
    """
    has_mask = bool(output.has_mask[place])
    return [
        ImageTokens(
            id=view.id[place],
            view=view.name,
            model=view.model,
            similarity_metric=output.metric,
            norm=output.norm,
            prefix=view.layout.prefix,
            cls_source=view.cls_source,
            shown=tuple(view.shown[place].tolist()),
            grid_size=(view.layout.rows, view.layout.columns),
            layers=tuple(view.layers),
            maps={name: _over_layers(view, "maps", name, place) for name in next(iter(view.layers.values())).maps},
            prefix_norms=np.stack([_array(layer.prefix_norms[place]) for layer in view.layers.values()]),
            figures={
                name: _over_layers(view, "figures", name, place).astype(np.float64)
                for name in next(iter(view.layers.values())).figures
                if has_mask or name not in MASK_FIGURES
            },
        )
        for view in output.views
    ]


def picture_of(view: TokenView, place: int) -> NDArray[np.uint8]:
    """What the model saw, uint8 (H, W, 3)."""
    picture: NDArray[np.uint8] = to_uint8(view.image[place]).permute(1, 2, 0).cpu().numpy()
    return picture


def _over_layers(view: TokenView, kind: str, name: str, place: int) -> NDArray[Any]:
    return np.stack([_array(getattr(layer, kind)[name][place]) for layer in view.layers.values()])


def _array(values: Tensor) -> NDArray[Any]:
    # NumPy knows no bfloat16.
    array: NDArray[Any] = (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).cpu().numpy()
    return array
