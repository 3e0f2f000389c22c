"""How different two activations are, from their energies."""

from __future__ import annotations

import torch
from torch import Tensor

from layerscope.functional.memory_blocks import sum_dtype


def layer_differences(energies: Tensor, elements: int | Tensor) -> dict[str, Tensor]:
    """Five figures of the difference between an activation a, the reference, and b, each (...), float64.

    - ``l2`` = ‖a − b‖, in [0, ∞): grows with the size of the layer, so it ranks no layers of different size.
    - ``rms`` = l2 / √n, in [0, ∞), in the units of the activation.
    - ``relative_l2`` = l2 / √((‖a‖² + ‖b‖²)/2), in [0, 2]; 0 where both are zero, √2 where one is.
    - ``cosine_dissimilarity`` = 1 − ⟨a, b⟩/(‖a‖‖b‖), in [0, 2]; 0 where both are zero, 1 where one is. Computed as
      (‖a − b‖² − (‖a‖ − ‖b‖)²)/(2‖a‖‖b‖), the same by the law of cosines, which loses no digits for nearly equal
      activations and is exactly 0 for equal ones. Where ‖a‖ and ‖b‖ differ by nearly as much as a and b do (one is the
      other made stronger), what is left of it is small against both terms, and good to about 1e-9 absolutely.
    - ``sqnr_db`` = 10·log10(‖a‖²/‖a − b‖²), in dB, higher is more alike; ∞ where a equals b, be it zero, and −∞ where
      only a is zero.

    Energies that are not finite give NaN, as does ``elements`` 0: nothing was measured. Nothing else does.

    **Pooled figures** are the same function of energies summed over samples, with ``elements`` summed as well. They
    are not the mean of the samples' figures; a mean of ratios is ruled by the pairs that hardly differ.

    Args:
        energies: (..., 3), Σa², Σb² and Σ(a − b)², as ``layer_energies.pair_energies`` gives them.
        elements: n behind each row of energies, an int or (...).

    >>> a, b = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.0])
    >>> energies = torch.stack([a.square().sum(), b.square().sum(), (a - b).square().sum()])
    >>> {name: round(float(value), 3) for name, value in layer_differences(energies, elements=2).items()}
    {'l2': 4.0, 'rms': 2.828, 'relative_l2': 0.97, 'cosine_dissimilarity': 0.4, 'sqnr_db': 1.938}
    """
    dtype = sum_dtype(energies.device)
    energies = energies.to(dtype)
    first, second, difference = energies.unbind(dim=-1)
    n = torch.as_tensor(elements, dtype=dtype, device=energies.device).expand_as(difference)
    l2, norm_a, norm_b = difference.sqrt(), first.sqrt(), second.sqrt()
    same, zero = difference == 0, torch.zeros_like(difference)

    scale = (0.5 * first + 0.5 * second).sqrt()
    cosine = (0.5 * (difference - (norm_a - norm_b).square()) / (norm_a * norm_b)).clamp(0, 2)
    cosine = torch.where((first == 0) ^ (second == 0), zero + 1, cosine)
    decibels = 10 * (first.log10() - difference.log10())
    found = {
        "l2": l2,
        "rms": l2 / n.sqrt(),
        "relative_l2": torch.where(same, zero, l2 / scale),
        "cosine_dissimilarity": torch.where(same, zero, cosine),
        "sqnr_db": torch.where(same, torch.full_like(zero, torch.inf), decibels),
    }
    measured = energies.isfinite().all(dim=-1) & (n > 0)
    return {name: value.where(measured, torch.full_like(zero, torch.nan)) for name, value in found.items()}
