"""Two modules that may answer differently have different hashes, also where their weights are equal or none."""

from __future__ import annotations

import torch
from oracles import BlockMean, Contrast, Identity, LatentScale
from small_architectures import SMALL_KL
from torch import nn

from layerscope.data.hashing import definition_hash, weights_hash
from layerscope.models.autoencoders import DiffusersAutoencoder


def test_what_no_weight_tells_is_in_the_hash() -> None:
    kinds = [Identity(), BlockMean(2), BlockMean(4), Contrast(0.7), Contrast(0.6), LatentScale(2.0, BlockMean(2))]
    kinds += [LatentScale(2.0, BlockMean(4)), LatentScale(3.0, BlockMean(4))]
    kinds += [nn.Sequential(nn.LeakyReLU(slope)) for slope in (0.1, 0.2)]
    assert len({weights_hash(kind) for kind in kinds}) == 1
    assert len({definition_hash(kind) for kind in kinds}) == len(kinds)
    assert definition_hash(BlockMean(2)) == definition_hash(BlockMean(2).eval())


def test_buffers_that_are_not_stored_are_in_the_hash() -> None:
    def scaled(factor: float) -> nn.Module:
        module = nn.Identity()
        module.register_buffer("factor", torch.tensor(factor), persistent=False)
        return module

    assert definition_hash(scaled(1.0)) == definition_hash(scaled(1.0)) != definition_hash(scaled(2.0))


def test_scaling_factor_and_tiling_of_diffusers_are_in_the_hash() -> None:
    first, same, scaled, tiled = (DiffusersAutoencoder(architecture=SMALL_KL, seed=0) for _ in range(4))
    scaled.update_config({"scaling_factor": 0.5})
    tiled.model.use_tiling = True
    hashes = [definition_hash(one) for one in (first, same, scaled, tiled)]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
