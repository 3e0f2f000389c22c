"""The switch ``compile``: the functions that training calls are compiled, and wrong results are noticed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_architectures import SMALL_KL
from torch import Tensor, nn

from layerscope.errors import NumericalError
from layerscope.losses import KL, L1
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.tasks.vae import AutoencoderTraining

ONE_LEVEL = {"block_out_channels": [8], "down_block_types": ["DownEncoderBlock2D"]}


def network() -> DiffusersAutoencoder:
    return DiffusersAutoencoder(architecture={**SMALL_KL, **ONE_LEVEL, "up_block_types": ["UpDecoderBlock2D"]}, seed=0)


def gradients(compile: bool) -> tuple[float, dict[str, Tensor]]:
    losses: list[nn.Module] = [L1(), KL()]
    task = AutoencoderTraining(network(), losses, compile=compile)
    task.log_dict = task.log = lambda *_, **__: None  # type: ignore[assignment, method-assign]
    labels = torch.zeros(2, 0)
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    batch: Any = {"image": image, "id": ["a", "b"], "target": labels, "known": labels.bool()}
    loss = task.training_step(batch, 0)["loss"]
    loss.backward()
    return float(loss.detach()), {n: p.grad for n, p in task.named_parameters() if p.grad is not None}


def test_encode_and_decode_are_compiled_and_train_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    # The compiler's front end and its autograd, without its code generator, which takes a minute on this network.
    real, compiled = torch.compile, []

    def front_end(function: Any) -> Any:
        compiled.append(function.__name__)
        return real(function, backend="aot_eager", fullgraph=True)

    loss, expected = gradients(compile=False)
    monkeypatch.setattr(torch, "compile", front_end)
    found_loss, found = gradients(compile=True)
    assert compiled == ["encode", "decode"]
    assert found_loss == pytest.approx(loss, rel=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_a_compiler_that_changes_results_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(function: Any) -> Any:
        return function if function.__name__ == "encode" else lambda z: 1.01 * function(z)

    monkeypatch.setattr(torch, "compile", wrong)
    with pytest.raises(NumericalError, match=r"reconstruction 1\.0e-02 .* compile: false"):
        gradients(compile=True)
