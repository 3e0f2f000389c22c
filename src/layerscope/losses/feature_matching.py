"""Feature matching: the reconstruction is to look to a frozen teacher as the original does.

In the GAN literature the words mean features of the discriminator; here they are those of a fixed teacher.
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn

from layerscope.errors import ConfigurationError
from layerscope.losses.choices import check_choice
from layerscope.losses.feature_distance import FeatureDistance, feature_distance
from layerscope.losses.frozen import Frozen
from layerscope.losses.inputs import LossInputs
from layerscope.losses.term import LossTerm
from layerscope.losses.weighted_maps import check_weights, weighted_distance
from layerscope.protocols import FeatureTeacher


class FeatureMatching(LossTerm):
    """Σ over stages of w_s · d(φ_s(x̂), φ_s(x)), φ_s the feature maps of a teacher's stages.

    The features of the original are the target and carry no gradient. The reconstruction is not clamped to [-1, 1]: a
    clamp would cut the gradient where values have left the range, and the target is always inside it.

    Args:
        teacher: satisfies ``layerscope.protocols.FeatureTeacher``; resizes and normalises by itself. Frozen.
        stages: names of the teacher's stages; None for all it shows.
        stage_weights: one weight per chosen stage, used as given; None: 1 / number of stages each, a mean.
        distance: ``l1``, ``mse`` or ``cosine``, averaged over the elements of a stage
            (``layerscope.losses.feature_distance``).
        normalise: divide each position's channels by their root mean square first, which makes stages comparable.
        name, weight: of the term.

    Raises:
        ConfigurationError: a teacher without features, or, at the first batch, a stage it does not show.
    """

    def __init__(
        self,
        teacher: nn.Module,
        stages: list[str] | None = None,
        stage_weights: list[float] | None = None,
        distance: FeatureDistance = "mse",
        normalise: bool = True,
        name: str = "feature_matching",
        weight: float = 1.0,
    ) -> None:
        super().__init__(name, weight)
        if not isinstance(teacher, FeatureTeacher):
            raise ConfigurationError(
                f"{name} matches the features of a teacher, and {type(teacher).__name__} shows none: it is no "
                "layerscope.protocols.FeatureTeacher. Any network's output goes with layerscope.losses.FrozenFeatures."
            )
        check_choice(name, "distance", distance, get_args(FeatureDistance))
        check_weights(name, "stages", stages, stage_weights)
        self._teacher = Frozen(teacher)
        self.stages = stages
        self.stage_weights = stage_weights
        self.distance: FeatureDistance = distance
        self.normalise = normalise

    def forward(self, inputs: LossInputs) -> Tensor:
        subject = self._subject(inputs)
        teacher = self._teacher.on(subject.device)
        with torch.no_grad():
            target = teacher.features(inputs.image).stages
        found = teacher.features(subject).stages

        def distance(a: Tensor, b: Tensor) -> Tensor:
            return feature_distance(a, b, self.distance, self.normalise)

        return weighted_distance(self.name, found, target, self.stages, self.stage_weights, distance)

    def _subject(self, inputs: LossInputs) -> Tensor:
        """The images that are compared with the original: (B, 3, H, W)."""
        return inputs.recon


class NoisyFeatureMatching(FeatureMatching):
    """Feature matching on the reconstruction of a noisy latent, D(z̃), against the original.

    Arguments are those of ``FeatureMatching``. An honest comparison keeps the sum of both weights: otherwise the noisy
    term only means more feature loss.
    """

    needs_noisy_recon = True

    def __init__(
        self,
        teacher: nn.Module,
        stages: list[str] | None = None,
        stage_weights: list[float] | None = None,
        distance: FeatureDistance = "mse",
        normalise: bool = True,
        name: str = "noisy_feature_matching",
        weight: float = 1.0,
    ) -> None:
        super().__init__(teacher, stages, stage_weights, distance, normalise, name, weight)

    def _subject(self, inputs: LossInputs) -> Tensor:
        if inputs.noisy_recon is None:
            raise ConfigurationError(f"{self.name} needs noisy_recon, and the inputs have none.")
        return inputs.noisy_recon
