"""Named loss terms of VAE training and their weighted sum; every class here can be given by ``class_path``."""

from layerscope.losses.adversarial import (
    PatchDiscriminator,
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from layerscope.losses.classification import TeacherClassification
from layerscope.losses.equivariance import Equivariance
from layerscope.losses.feature_matching import FeatureMatching, NoisyFeatureMatching
from layerscope.losses.inputs import LossInputs
from layerscope.losses.kl import KL
from layerscope.losses.kl_units import convert_kl_weight
from layerscope.losses.latent_noise import LatentNoise, RunningLatentStd
from layerscope.losses.learned_logvar import LearnedLogvar
from layerscope.losses.perceptual import LPIPS, FrozenFeatures
from layerscope.losses.pixels import L1, MSE, SSIM, Charbonnier, NoisyReconstruction
from layerscope.losses.term import LossTerm
from layerscope.losses.weighted_sum import WeightedSum

__all__ = [
    "KL",
    "L1",
    "LPIPS",
    "MSE",
    "SSIM",
    "Charbonnier",
    "Equivariance",
    "FeatureMatching",
    "FrozenFeatures",
    "LatentNoise",
    "LearnedLogvar",
    "LossInputs",
    "LossTerm",
    "NoisyFeatureMatching",
    "NoisyReconstruction",
    "PatchDiscriminator",
    "RunningLatentStd",
    "TeacherClassification",
    "WeightedSum",
    "adaptive_weight",
    "convert_kl_weight",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
]
