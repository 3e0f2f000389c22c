"""What was measured of one image's tokens, and the file ``similarities.npz`` that holds it."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerscope.errors import ArtifactError
from layerscope.types import NEIGHBOUR_DIAGONALS, NEIGHBOUR_PAIRS

NEIGHBOURS = (*NEIGHBOUR_PAIRS, *NEIGHBOUR_DIAGONALS)
"""Maps of similarities between neighbouring patches; the diagonal ones only where they were asked for."""

_PER_LAYER = "_per_layer"
_FIGURE = "figure_"


@dataclass(frozen=True)
class ImageTokens:
    """One image's tokens in L layers of one model.

    id: of the image. view: which version of it (``types.TokenView``). model: its source.
    similarity_metric: ``cosine`` or ``dot_product``. norm: ``before`` or ``after`` the model's final norm.
    prefix: what the tokens before the patches are. cls_source: what ``cls_similarity`` compares with, ``cls`` or
        ``pooled``; "" where there is no such map.
    shown: left, top, right and bottom of the part that the patches cover, in pixels of the picture in the file.
    grid_size: (rows, columns) of patches. layers: L names, the last chosen one last.
    maps: name to (L, h, w), see ``types.LayerTokens``: float32, or bool where it marks patches.
    prefix_norms: float32 (L, P). figures: name to float64 (L,), NaN where undefined.
    """

    id: str
    view: str
    model: str
    similarity_metric: str
    norm: str
    prefix: tuple[str, ...]
    cls_source: str
    shown: tuple[float, float, float, float]
    grid_size: tuple[int, int]
    layers: tuple[str, ...]
    maps: dict[str, NDArray]
    prefix_norms: NDArray[np.float32]
    figures: dict[str, NDArray[np.float64]]

    def arrays(self) -> dict[str, NDArray]:
        """The content of ``similarities.npz``, for ``numpy.load`` without pickle.

        Each map by its name (h, w), of the last layer; with several layers also ``NAME_per_layer`` (L, h, w);
        ``figure_NAME`` (L,); texts as arrays of no dimension.
        """
        arrays: dict[str, NDArray] = {name: values[-1] for name, values in self.maps.items()}
        if len(self.layers) > 1:
            arrays |= {f"{name}{_PER_LAYER}": values for name, values in self.maps.items()}
        arrays |= {f"{_FIGURE}{name}": values for name, values in self.figures.items()}
        texts = ("id", "view", "model", "similarity_metric", "norm", "cls_source")
        return arrays | {
            "shown": np.array(self.shown, dtype=np.float64),
            "grid_size": np.array(self.grid_size, dtype=np.int64),
            "layers": np.array(self.layers),
            "prefix": np.array(self.prefix, dtype=np.str_),
            "prefix_norms": self.prefix_norms,
            **{name: np.array(getattr(self, name)) for name in texts},
        }


def read_image_tokens(path: str | Path) -> ImageTokens:
    """What ``ImageTokens.arrays`` gave.

    Raises:
        ArtifactError: the file is missing or is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = {name: file[name] for name in file.files}
        layers = tuple(stored["layers"].tolist())
        own = {"grid_size", "layers", "prefix", "prefix_norms"}
        names = [name for name, values in stored.items() if values.ndim == 2 and name not in own]
        maps = {name: stored[f"{name}{_PER_LAYER}"] if len(layers) > 1 else stored[name][None] for name in names}
        texts = {name: str(stored[name]) for name in ("id", "view", "model", "similarity_metric", "norm", "cls_source")}
        rows, columns = stored["grid_size"].tolist()
        left, top, right, bottom = stored["shown"].tolist()
        return ImageTokens(
            prefix=tuple(stored["prefix"].tolist()),
            shown=(left, top, right, bottom),
            grid_size=(rows, columns),
            layers=layers,
            maps=maps,
            prefix_norms=stored["prefix_norms"],
            figures={name.removeprefix(_FIGURE): values for name, values in stored.items() if name.startswith(_FIGURE)},
            **texts,
        )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            f"{path} could not be read as the token similarities of an image: {error}. It is expected to be a "
            "similarities.npz that layerscope wrote; run the command that writes it again."
        ) from error
