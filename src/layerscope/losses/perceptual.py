"""Perceptual distances: LPIPS, and any frozen network's features.

Reconstructions are not clamped to [-1, 1] before a network sees them, as in LDM: a clamp would cut the gradient where
values have left the range, and the target is always inside it.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from layerscope.errors import ConfigurationError, WeightsError
from layerscope.losses.choices import check_choice
from layerscope.losses.feature_distance import FeatureDistance, feature_distance
from layerscope.losses.frozen import Frozen
from layerscope.losses.inputs import LossInputs
from layerscope.losses.term import LossTerm
from layerscope.losses.weighted_maps import check_weights, weighted_distance

Backbone = Literal["alex", "vgg", "squeeze"]
_TORCHVISION_NAMES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


class LPIPS(LossTerm):
    """Learned perceptual image patch similarity (Zhang et al. 2018, arXiv 1801.03924), the mean over images.

    torchmetrics' network, in evaluation mode (its dropout is otherwise active) and with gradient to the
    reconstruction. The backbone's ImageNet weights are torchvision's and are downloaded once by torch.hub.

    Args:
        net: backbone; ``vgg`` is what LDM trains with, ``alex`` what papers report.
        network: instead of ``net``: a constructed module, called with two image batches (B, 3, H, W) in [-1, 1],
            that gives one distance per image, (B,) or (B, 1, 1, 1).
        name, weight: of the term.

    Raises:
        WeightsError: the backbone's weights are not in torch.hub's cache and cannot be downloaded, or are damaged.
    """

    def __init__(
        self, net: Backbone = "vgg", network: nn.Module | None = None, name: str = "lpips", weight: float = 1.0
    ) -> None:
        super().__init__(name, weight)
        check_choice(name, "net", net, get_args(Backbone))
        self._network = Frozen(_torchmetrics_lpips(net) if network is None else network)

    def forward(self, inputs: LossInputs) -> Tensor:
        network = self._network.on(inputs.recon.device)
        dtype = self._network.dtype
        distances: Tensor = network(inputs.recon.to(dtype), inputs.image.to(dtype))
        if distances.numel() != len(inputs.image):
            raise ConfigurationError(
                f"The network of {self.name} gave {tuple(distances.shape)} for {len(inputs.image)} pairs of images: "
                "expected one distance per image."
            )
        return distances.float().mean()


def _torchmetrics_lpips(net: Backbone) -> nn.Module:
    """The network inside torchmetrics' metric, which itself refuses values outside [-1, 1]."""
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity
    from torchvision.models import get_model_weights

    try:
        return LearnedPerceptualImagePatchSimilarity(net_type=net).net
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        weights: Any = get_model_weights(_TORCHVISION_NAMES[net])
        url = weights.DEFAULT.url
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
        state = "is there but cannot be loaded" if file.is_file() else "is not there"
        raise WeightsError(
            f"LPIPS with net {net} needs torchvision's {_TORCHVISION_NAMES[net]} weights. They were looked for in "
            f"torch.hub's cache, {file}, which {state}, and the download failed or was not tried: {error}. Download "
            f"{url} on a machine with network and put it there under that name (TORCH_HOME moves the cache), or give "
            "a network of your own by class_path as network."
        ) from error


class FrozenFeatures(LossTerm):
    """Σ over outputs of w_o · d(φ_o(x̂), φ_o(x)), φ any frozen network.

    The features of the original are the target and carry no gradient.

    Args:
        network: takes images (B, 3, H, W) and gives a tensor, a list or tuple of tensors, or a dict of them; each
            (B, C, h, w) or (B, C), channels along dimension 1. Frozen.
        outputs: which outputs to compare: keys of a dict, positions ("0", "1", ...) in a list; None for all. A single
            tensor is "0".
        output_weights: one weight per chosen output, used as given; None: the mean over outputs.
        mean, std: of the three channels in [0, 1], which the network expects to be subtracted and divided by (ImageNet:
            [0.485, 0.456, 0.406] and [0.229, 0.224, 0.225]); None: it takes [-1, 1] as it is.
        distance: ``l1``, ``mse`` or ``cosine`` on channel-normalised maps, averaged over their elements
            (``layerscope.losses.feature_distance``).
        name, weight: of the term.

    Raises:
        ConfigurationError: mean or std alone or of a wrong length; at the first batch, an output that is not there or
            is no map.
    """

    def __init__(
        self,
        network: nn.Module,
        outputs: list[str] | None = None,
        output_weights: list[float] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        distance: FeatureDistance = "mse",
        name: str = "frozen_features",
        weight: float = 1.0,
    ) -> None:
        super().__init__(name, weight)
        check_choice(name, "distance", distance, get_args(FeatureDistance))
        check_weights(name, "outputs", outputs, output_weights)
        if (mean is None) != (std is None) or any(v is not None and len(v) != 3 for v in (mean, std)):
            raise ConfigurationError(f"mean of {name} is {mean} and std is {std}: give three numbers each, or neither.")
        if std is not None and min(std) <= 0:
            raise ConfigurationError(f"std of {name} is {std}: expected three numbers above 0.")
        self._network = Frozen(network)
        self.outputs = outputs
        self.output_weights = output_weights
        self.mean = mean
        self.std = std
        self.distance: FeatureDistance = distance

    def forward(self, inputs: LossInputs) -> Tensor:
        with torch.no_grad():
            target = self._maps(inputs.image)
        found = self._maps(inputs.recon)

        def distance(a: Tensor, b: Tensor) -> Tensor:
            return feature_distance(a, b, self.distance)

        return weighted_distance(self.name, found, target, self.outputs, self.output_weights, distance)

    def _maps(self, image: Tensor) -> dict[str, Tensor]:
        x = image.float()
        if self.mean is not None and self.std is not None:
            x = ((x + 1) / 2 - x.new_tensor(self.mean).view(1, 3, 1, 1)) / x.new_tensor(self.std).view(1, 3, 1, 1)
        output: Any = self._network.on(x.device)(x.to(self._network.dtype))
        if isinstance(output, Tensor):
            output = [output]
        if isinstance(output, (list, tuple)):
            output = {str(position): one for position, one in enumerate(output)}
        maps = output if isinstance(output, dict) else {}
        if not maps or any(not isinstance(one, Tensor) or one.ndim not in (2, 4) for one in maps.values()):
            found = {
                key: tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__ for key, one in maps.items()
            }
            raise ConfigurationError(
                f"The network of {self.name} gave {found or type(output).__name__}: expected a tensor, list or dict of "
                "maps (B, C, h, w) or vectors (B, C). Wrap the network in a module that gives these."
            )
        return {str(key): one for key, one in maps.items()}
