"""What "kl_weight" means in the public trainers, and the conversion between them.

Every recipe minimises, up to a common factor,

    mean over elements of rec + β · (KL summed over an image's latent, mean over images)

and differs in what its weight stands for. With N = 3·H·W elements of an image and n = C·h·w of a latent:

| recipe          | as written                   | β           | weight 1e-6 (elbo: 1), 3x256x256, 4x32x32 |
|-----------------|------------------------------|-------------|-------------------------------------------|
| ldm, diffusers  | sum(rec)/B + w·sum(KL)/B     | w / N       | 5.1e-12                                   |
| va_vae_pp_style | mean(rec) + w·mean(KL)       | w / n       | 2.4e-10                                   |
| monai           | mean(rec) + w·sum(KL)/B      | w           | 1e-6                                      |
| elbo            | mean(rec) + w·sum(KL)/(B·N)  | w / N       | 5.1e-6                                    |

``ldm`` is also EQ-VAE's, VA-VAE's and MedVAE's; ``monai`` also DeTok's and REPA-E's; ``elbo`` is that of mosaic, of
sgm's examples (kl 1.0, logvar 0) and of pythae: its weight is 1 for the evidence lower bound, per element of the image.
``elbo`` and ``ldm`` are one unit; their customary weights are a million apart.

As terms beside a reconstruction loss of reduction ``mean``: ``KL("ldm")``, ``KL("mean")``, ``KL("sum_per_image")`` and
``KL("ldm")`` in the order of the table, each with the recipe's own weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from layerscope.errors import ConfigurationError
from layerscope.losses.choices import check_choice

Recipe = Literal["ldm", "diffusers", "va_vae_pp_style", "monai", "elbo"]


def beta(weight: float, recipe: Recipe, image_shape: Sequence[int], latent_shape: Sequence[int]) -> float:
    """The weight β of the common form above.

    Args:
        weight: as the recipe writes it.
        recipe: a row of the table.
        image_shape: (3, H, W).
        latent_shape: (C, h, w).

    >>> f"{beta(1e-6, 'ldm', (3, 256, 256), (4, 32, 32)):.1e}"
    '5.1e-12'
    """
    return weight / _elements_per_weight(recipe, image_shape, latent_shape)


def convert_kl_weight(
    weight: float,
    source: Recipe,
    target: Recipe,
    image_shape: Sequence[int] = (3, 256, 256),
    latent_shape: Sequence[int] = (4, 32, 32),
) -> float:
    """The weight that makes ``target`` minimise what ``source`` minimises with ``weight``.

    The balance of reconstruction and KL is what is kept. The size of the whole loss, and with it what a learning rate
    means to an optimizer other than Adam, may differ.

    >>> round(convert_kl_weight(1e-6, "monai", "ldm"), 6)
    0.196608
    """
    common = beta(weight, source, image_shape, latent_shape)
    return common * _elements_per_weight(target, image_shape, latent_shape)


def _elements_per_weight(recipe: Recipe, image_shape: Sequence[int], latent_shape: Sequence[int]) -> int:
    """By how many elements the recipe's weight is divided in the common form."""
    check_choice("convert_kl_weight", "recipe", recipe, get_args(Recipe))
    for name, shape in (("image_shape", image_shape), ("latent_shape", latent_shape)):
        if len(shape) != 3 or min(shape) < 1:
            raise ConfigurationError(f"{name} is {tuple(shape)}: expected channels, height and width of at least 1.")
    match recipe:
        case "ldm" | "diffusers" | "elbo":
            return math.prod(image_shape)
        case "va_vae_pp_style":
            return math.prod(latent_shape)
        case "monai":
            return 1
        case _:
            raise ConfigurationError(f"recipe is {recipe!r}: expected {', '.join(get_args(Recipe))}.")
