"""An autoencoder's two functions, compiled on request and checked against themselves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from layerscope.errors import NumericalError
from layerscope.protocols import Autoencoder

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
Decode = Callable[[Tensor], Tensor]

# Relative error (root mean square) of compiled against eager results: fused kernels sum in another order.
_ALLOWED = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}


class AutoencoderFunctions:
    """``encode`` to (mean, std) and ``decode``, eager or compiled.

    ``torch.compile(autoencoder)`` would compile ``forward``, which training never calls, and leave these two eager.
    Validation, export and hooks keep using the module itself: a hook that is added after the first compiled call of a
    module never fires.

    Args:
        autoencoder: satisfies ``layerscope.protocols.Autoencoder``.
        compiled: whether to compile; the first batch of each shape then takes a minute or more.
    """

    def __init__(self, autoencoder: Autoencoder, compiled: bool) -> None:
        def encode(image: Tensor) -> tuple[Tensor, Tensor]:
            posterior = autoencoder.encode(image)
            return posterior.mean, posterior.std

        def decode(z: Tensor) -> Tensor:
            return autoencoder.decode(z)

        self._eager: tuple[Encode, Decode] = (encode, decode)
        self.encode: Encode = torch.compile(encode) if compiled else encode
        self.decode: Decode = torch.compile(decode) if compiled else decode
        self._unchecked = compiled

    @torch.no_grad()
    def check(self, image: Tensor, mean: Tensor, std: Tensor, z: Tensor, recon: Tensor) -> None:
        """Once, on the first batch: compiled results against eager ones, in the precision that trains.

        Raises:
            NumericalError: they differ by more than rounding.
        """
        if not self._unchecked:
            return
        self._unchecked = False
        encode, decode = self._eager
        eager_mean, eager_std = encode(image)
        found = {
            "posterior mean": _difference(mean, eager_mean),
            "posterior std": _difference(std, eager_std),
            "reconstruction": _difference(recon, decode(z)),
        }
        device = image.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else image.dtype
        told = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
        if not all(value <= _ALLOWED[dtype] for value in found.values()):
            raise NumericalError(
                f"torch.compile changed the autoencoder's results: {told} (relative error against the uncompiled "
                f"module, at most {_ALLOWED[dtype]:.0e} is rounding). Either the compiler is at fault, or the "
                "autoencoder draws random numbers (dropout). Set compile: false."
            )
        rank_zero_info(f"torch.compile agrees with the uncompiled autoencoder (relative error: {told}).")


def _difference(found: Tensor, expected: Tensor) -> float:
    scale = expected.double().norm().clamp_min(1e-12)
    return float((found.double() - expected.double()).norm() / scale)
