"""Token similarity from Python, in three lines; the same computation as ``layerscope test`` with configs/tokens.

::

    analyzer = TokenSimilarityAnalyzer("openai/clip-vit-large-patch14")
    result = analyzer.analyze("image.jpg")
    result.plot("out.png")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from layerscope.artifacts import npz_bytes, write_file
from layerscope.artifacts.token_maps import ImageTokens
from layerscope.callbacks.image_tokens import image_tokens, picture_of
from layerscope.data.images import image_tensor, read_pixels
from layerscope.data.in_memory import in_memory_pixels
from layerscope.data.model_input import fit_geometry
from layerscope.errors import ConfigurationError, DataError
from layerscope.report.figure_style import figure_bytes
from layerscope.report.token_comparison import comparison_figure
from layerscope.report.token_figures import combined_figure
from layerscope.report.token_style import TokenPictures
from layerscope.tasks.diagnosis.tokens import TokenSimilarity
from layerscope.types import NormStage, TokenBatch, TokenOutput

Picture = Any
"""The path of a file, a PIL image, an array (H, W, 3) or a tensor (3, H, W); see ``data.in_memory``."""


@dataclass(frozen=True, repr=False)
class TokenSimilarityResult:
    """One image's tokens; ``print`` gives a short summary.

    tokens: everything that was measured, in all chosen layers. picture: what the model saw, uint8 (H, W, 3).
    """

    tokens: ImageTokens
    picture: NDArray[np.uint8]

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows N and columns M of patches."""
        return self.tokens.grid_size

    @property
    def horizontal_right(self) -> NDArray[np.float32]:
        """(N, M−1): each patch and its right neighbour, in the last of the chosen layers."""
        return self.tokens.maps["horizontal_right"][-1]

    @property
    def vertical_down(self) -> NDArray[np.float32]:
        """(N−1, M): each patch and its lower neighbour."""
        return self.tokens.maps["vertical_down"][-1]

    @property
    def cls_similarity(self) -> NDArray[np.float32] | None:
        """(N, M): each patch and the CLS (or pooled) token; None where the model has none."""
        return self.maps.get("cls_similarity")

    @property
    def norms(self) -> NDArray[np.float32]:
        """(N, M): Euclidean norm of each patch token."""
        return self.tokens.maps["norms"][-1]

    @property
    def maps(self) -> dict[str, NDArray]:
        """Every map of the last of the chosen layers, by name (``types.LayerTokens``)."""
        return {name: values[-1] for name, values in self.tokens.maps.items()}

    def plot(self, path: str | Path, **look: Any) -> None:
        """Writes the combined figure; the suffix, png, pdf or svg, is the format.

        look: settings of ``report.token_style.TokenPictures``, such as cmap, figsize and dpi.
        """
        style = _style(path, look)
        figure = combined_figure(self.picture, self.tokens, style)
        write_file(path, figure_bytes(figure, style.format, style.dpi))

    def save(self, path: str | Path) -> None:
        """Writes ``similarities.npz``, which ``numpy.load`` and ``artifacts.token_maps.read_image_tokens`` read."""
        write_file(path, npz_bytes(self.tokens.arrays()))

    def __str__(self) -> str:
        tokens = self.tokens
        rows, columns = self.grid_size
        lines = [
            f"{tokens.id}: {tokens.model}, {tokens.layers[-1]}, {tokens.norm} the final norm, "
            f"{tokens.similarity_metric.replace('_', ' ')}",
            f"  {rows} × {columns} patches, prefix tokens: {', '.join(tokens.prefix) or 'none'}",
        ]
        for name in ("horizontal_right", "vertical_down", "cls_similarity"):
            values = self.maps.get(name)
            if values is None:
                lines.append(f"  {name}: the model has no CLS token")
            elif values.size:
                lines.append(
                    f"  {name} {values.shape}: mean {values.mean():.4f}, {values.min():.4f} to {values.max():.4f}"
                )
        lines.append(
            f"  norms: median {np.median(self.norms):.4g}, largest {self.norms.max():.4g}, "
            f"{int(self.maps['high_norm'].sum())} high-norm tokens"
        )
        return "\n".join(lines)

    __repr__ = __str__


@dataclass(frozen=True, repr=False)
class TokenComparison:
    """Two pictures in one model; ``second`` has ``token_change`` among its maps. ``print`` gives a short summary."""

    first: TokenSimilarityResult
    second: TokenSimilarityResult

    def plot(self, path: str | Path, **look: Any) -> None:
        """Writes difference maps and curves over layers; as ``TokenSimilarityResult.plot``."""
        style = _style(path, look)
        first, second = self.first, self.second
        figure = comparison_figure(first.picture, first.tokens, second.picture, second.tokens, style)
        write_file(path, figure_bytes(figure, style.format, style.dpi))

    def __str__(self) -> str:
        change = self.second.maps["token_change"]
        told = f"token change (1 − cosine): mean {change.mean():.4g}, {change.min():.4g} to {change.max():.4g}"
        return f"{self.first}\n{self.second}\n  {told}"

    __repr__ = __str__


class TokenSimilarityAnalyzer:
    """Measures images with one model.

    Args:
        model: a transformers hub id (``openai/clip-vit-large-patch14``) or folder; ``timm:NAME`` for timm's own
            weights; or a module that satisfies ``layerscope.protocols.TokenEncoder``.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, the number of a GPU; None takes a GPU if there is one.
        similarity_metric: ``cosine`` or ``dot_product``.
        layers, norm, diagonals, pooled, seed_patch, box, text: as of ``tasks.diagnosis.tokens.TokenSimilarity``.
        image_size, fit: as of ``models.transformers_tokens.TransformersTokens``.

    Raises:
        ConfigurationError: a model, device, layer or metric that does not exist.
        WeightsError: weights that are missing or cannot be had without network.
    """

    def __init__(
        self,
        model: str | nn.Module,
        device: str | int | None = None,
        similarity_metric: str = "cosine",
        *,
        layers: int | str | list[int | str] = "last",
        norm: NormStage = "before",
        diagonals: bool = False,
        pooled: bool = False,
        seed_patch: list[int] | None = None,
        box: list[float] | None = None,
        text: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        fit: Literal["processor", "crop", "stretch", "whole"] = "processor",
    ) -> None:
        place = chosen_device(device)
        self.task = TokenSimilarity(
            _encoder(model, image_size, fit),
            layers,
            similarity_metric,
            norm,
            diagonals=diagonals,
            pooled=pooled,
            seed_patch=seed_patch,
            box=box,
            text=text,
        ).to(place)
        self.task.eval()

    def analyze(self, picture: Picture | Sequence[Picture]) -> Any:
        """One picture to a ``TokenSimilarityResult``, a list or tuple of pictures to a list of them.

        Raises:
            DataError: a file that cannot be read, or something that is no picture.
        """
        if isinstance(picture, (list, tuple)):
            return [self._measure(one, number)[0] for number, one in enumerate(picture)]
        return self._measure(picture, 0)[0]

    def compare(self, first: Picture, second: Picture) -> TokenComparison:
        """Two pictures, such as an image and its reconstruction: their maps, and how much each token changes."""
        return TokenComparison(*self._measure(first, 0, second))

    def _measure(self, picture: Picture, number: int, other: Picture | None = None) -> list[TokenSimilarityResult]:
        image, shown = self._input(picture)
        second = None if other is None else self._input(other)[0]
        if second is not None and second.shape != image.shape:
            sizes = [f"{one.shape[-1]}×{one.shape[-2]}" for one in (image, second)]
            raise DataError(
                f"{_name(picture, 0)!r} becomes {sizes[0]} pixels for the model and {_name(other, 1)!r} {sizes[1]}: "
                "their tokens have no common places. Cut both to the same proportions, or leave fit at processor."
            )
        batch = TokenBatch(
            image=image,
            other=second,
            other_id=None if other is None else [_name(other, 1)],
            other_mask=None,
            other_shown=None,
            mask=torch.zeros(1, *image.shape[-2:], dtype=torch.bool, device=self.task.device),
            has_mask=torch.zeros(1, dtype=torch.bool),
            shown=np.array([shown]),
            id=[_name(picture, number)],
            index=torch.zeros(1, dtype=torch.int64),
            skipped=[],
        )
        output: TokenOutput = self.task.test_step(batch, 0)
        return [
            TokenSimilarityResult(tokens, picture_of(view, 0))
            for tokens, view in zip(image_tokens(output, 0), output.views)
        ]

    def _input(self, picture: Picture) -> tuple[torch.Tensor, tuple[float, float, float, float]]:
        is_file = isinstance(picture, (str, Path))
        pixels = read_pixels(picture) if is_file else in_memory_pixels(picture)
        fitted, shown = fit_geometry(pixels, self.task.input_geometry, str(picture) if is_file else "the picture")
        return image_tensor(fitted)[None].to(self.task.device), shown


def chosen_device(device: str | int | None) -> torch.device:
    """A device as users write it; None takes a GPU if there is one.

    Raises:
        ConfigurationError: it is none, or is not there.
    """
    gpus = torch.cuda.device_count()
    if device is None:
        return torch.device("cuda" if gpus else "mps" if torch.backends.mps.is_available() else "cpu")
    expected = f"device is {device!r}: expected cpu, mps, cuda, cuda:1, the number of a GPU, or None."
    try:
        wanted = torch.device("cuda", device) if type(device) is int else torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigurationError(expected) from error
    if wanted.type not in ("cpu", "cuda", "mps"):
        raise ConfigurationError(expected)
    missing = (wanted.type == "cuda" and (wanted.index or 0) >= gpus) or (
        wanted.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        found = f"{gpus} GPU{'s' * (gpus != 1)}{f', numbered from 0 to {gpus - 1}' if gpus else ''}"
        raise ConfigurationError(f"device is {device!r}, and this machine has {found}. Choose another, or cpu.")
    return wanted


def _encoder(model: str | nn.Module, image_size: int | tuple[int, int] | None, fit: Any) -> nn.Module:
    if isinstance(model, nn.Module):
        if image_size is not None or fit != "processor":
            raise ConfigurationError(
                "image_size and fit are for a model by its name; this one is a module, which says itself what it takes."
            )
        return model
    kind, _, name = model.partition(":")
    if kind == "timm":
        from layerscope.models.timm_tokens import TimmTokens

        return TimmTokens(name, pretrained=True, image_size=image_size, fit=fit)
    from layerscope.models.transformers_tokens import TransformersTokens

    return TransformersTokens(model, image_size=image_size, fit=fit)


def _style(path: str | Path, look: dict[str, Any]) -> TokenPictures:
    suffix = Path(path).suffix.lower().removeprefix(".")
    return TokenPictures(**{"format": suffix, **look})


def _name(picture: Picture, number: int) -> str:
    return Path(picture).stem if isinstance(picture, (str, Path)) else f"picture {number}"
