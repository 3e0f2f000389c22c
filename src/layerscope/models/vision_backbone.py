"""What the backbones of timm and transformers have in common: one model inside, given images as it expects them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from layerscope.models.image_input import InputSize, Size, channel_values, standardise


class VisionBackbone(nn.Module):
    """A model whose layers are watched, and how images reach it.

    Args:
        model: the module of timm or transformers.
        mean, std: of the three channels in [0, 1], which the model expects to be subtracted and divided by.
        input_size: in which size it takes images.
    """

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float], input_size: InputSize) -> None:
        super().__init__()
        self.model = model
        self._input_size = input_size
        self.register_buffer("_mean", channel_values(mean, "mean"), persistent=False)
        self.register_buffer("_std", channel_values(std, "std"), persistent=False)

    @property
    def layer_root(self) -> nn.Module:
        """``model``: layers are named as its own library names them."""
        return self.model

    def normalise(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to what the model expects: resized, mean and std removed, in its precision."""
        return self._standardised(image, self._input_size.of((image.shape[-2], image.shape[-1])))

    def _standardised(self, image: Tensor, size: Size | None) -> Tensor:
        x = standardise(image, self._mean, self._std, size)  # type: ignore[arg-type]
        return x.to(next(self.model.parameters()).dtype)
