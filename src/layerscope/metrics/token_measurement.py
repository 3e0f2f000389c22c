"""What is kept of the tokens of one layer; everything else is forgotten inside the hook."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from layerscope.functional.effective_rank import effective_rank
from layerscope.functional.localisation import AUROC, localisation_with_control
from layerscope.functional.mask_border import BORDER_FIGURES, border_figures
from layerscope.functional.memory_blocks import sum_dtype
from layerscope.functional.token_norms import HIGH_NORM_RATIO, high_norm, token_norms
from layerscope.functional.token_regions import patch_mask, region_mean
from layerscope.functional.token_similarity import neighbour_maps, similarity_to, token_change
from layerscope.functional.token_summaries import map_correlation, map_figures
from layerscope.types import LayerTokens, TokenLayout, TokenMetric


@dataclass(frozen=True)
class TokenQuestions:
    """What is measured of each layer besides neighbours and norms.

    metric: of every similarity. diagonals: neighbours along them too. effective_rank: of the patch tokens.
    seed: (row, column) of the patch that all are compared with. high_norm_ratio, high_norm_cutoff: as
    ``functional.token_norms.high_norm`` takes them.
    """

    metric: TokenMetric = "cosine"
    diagonals: bool = False
    effective_rank: bool = True
    seed: tuple[int, int] | None = None
    high_norm_ratio: float = HIGH_NORM_RATIO
    high_norm_cutoff: float | None = None


@dataclass(frozen=True)
class TokenPlaces:
    """What is known of B images by their places, the same for all layers.

    mask: bool (B, H, W), the lesion; None where no image of the batch has one. has_mask: bool (B,), which do.
    box: bool (B, R, C), the patches of the region that all patches are compared with; None without one.
    """

    mask: Tensor | None = None
    has_mask: Tensor | None = None
    box: Tensor | None = None


@dataclass(frozen=True)
class TokenReferences:
    """What patches are compared with besides each other.

    names: of the maps, to (B, D) or (D,). text: tokens (B, T, E) of the layer in the space of a text, and the text's
    (E,); None without a text.
    """

    names: dict[str, Tensor] = field(default_factory=dict)
    text: tuple[Tensor, Tensor] | None = None


def measure_tokens(
    tokens: Tensor,
    layout: TokenLayout,
    questions: TokenQuestions,
    places: TokenPlaces,
    references: TokenReferences,
    views: int = 1,
) -> list[LayerTokens]:
    """Reduces one layer's tokens.

    Args:
        tokens: (V·B, T, D), the images of the first of V views before those of the next. Similarities are computed in
            float32 whatever their precision.
        layout: of the T tokens. questions: what is asked. views: V.
        places: of the B images, the same in every view. references: of all V·B images.

    Returns:
        One entry a view; those after the first with ``token_change`` and ``map_correlation`` against the first.
    """
    prefix, rows, columns = len(layout.prefix), layout.rows, layout.columns
    grid = tokens[:, prefix:].unflatten(1, (rows, columns))
    norms = token_norms(grid)
    maps = neighbour_maps(grid, questions.metric, questions.diagonals, norms)
    for name, reference in references.names.items():
        maps[name] = similarity_to(grid, reference, questions.metric, norms)
    if questions.seed is not None:
        row, column = questions.seed
        maps["seed_similarity"] = similarity_to(grid, grid[:, row, column], questions.metric, norms)
        maps["seed_patches"] = torch.zeros_like(norms, dtype=torch.bool)
        maps["seed_patches"][:, row, column] = True
    if places.box is not None:
        maps["box_patches"] = places.box.repeat(views, 1, 1)
        region = region_mean(grid, maps["box_patches"])
        maps["box_similarity"] = similarity_to(grid, region, questions.metric, norms)
    if references.text is not None:
        projected, text = references.text
        maps["text_similarity"] = similarity_to(
            projected[:, prefix:].unflatten(1, (rows, columns)), text, questions.metric
        )
    maps["norms"] = norms
    maps["high_norm"] = high_norm(norms, questions.high_norm_ratio, questions.high_norm_cutoff)
    figures = map_figures(maps, norms, maps["high_norm"])
    if questions.effective_rank:
        figures["effective_rank"] = effective_rank(grid.flatten(1, 2))
    images = len(tokens) // views
    inside = None
    # NaN without a mask, so that every batch has the same figures.
    nothing = norms.new_full((images,), torch.nan, dtype=sum_dtype(norms.device))
    if places.mask is None or places.has_mask is None:
        figures |= dict.fromkeys(BORDER_FIGURES, nothing.repeat(views))
    else:
        inside, known = patch_mask(places.mask, rows, columns), places.has_mask.to(norms.device).repeat(views)
        at_border = border_figures(maps, inside.repeat(views, 1, 1))
        figures |= {name: values.where(known, torch.nan) for name, values in at_border.items()}
    parts = [
        LayerTokens(
            {name: values[start:end] for name, values in maps.items()},
            token_norms(tokens[start:end, :prefix]),
            {name: values[start:end] for name, values in figures.items()},
        )
        for start, end in pairwise(accumulate([images] * views, initial=0))
    ]
    first = grid[:images]
    for number, part in enumerate(parts[1:], start=1):
        change = token_change(first, grid[number * images : (number + 1) * images])
        part.maps["token_change"] = change
        part.figures["token_change"] = change.mean(dim=(1, 2))
        part.figures["map_correlation"] = map_correlation(parts[0].maps, part.maps)
        auroc = [nothing, nothing]
        if inside is not None:
            auroc = [figure[:, AUROC] for figure in localisation_with_control(change, inside)]
        part.figures["token_change_auroc"], part.figures["shifted_token_change_auroc"] = auroc
    return parts
