"""Energies of activation pairs against sums in float64 over whole tensors, in every memory layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from layerscope.errors import ConfigurationError
from layerscope.functional import layer_energies
from layerscope.functional.hsic import centred_gram
from layerscope.functional.layer_energies import pair_energies
from layerscope.functional.memory_blocks import CPU_BLOCK


def activations(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = 3 * torch.randn(*shape, generator=generator) + 1
    return a, a + 0.01 * torch.randn(*shape, generator=generator)


def expected(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.double().flatten(1), b.double().flatten(1)
    return torch.stack([a.square().sum(1), b.square().sum(1), (a - b).square().sum(1)], dim=1)


# Larger than a block, so that channels and rows are cut: 600² alone is more than one.
SHAPES = [(2, 5, 600, 600), (2, 40, 96, 96), (3, 7, 5, 4), (2, 6, 300), (1, 1, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_energies_and_distance_are_those_of_whole_tensors(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    a, b = (x.to(dtype) for x in activations(*shape))
    energies, distance = pair_energies(a, b)
    assert energies.dtype == torch.float64
    torch.testing.assert_close(energies, expected(a, b), rtol=1e-6, atol=0)
    assert distance is not None
    assert distance.dtype == torch.float32
    torch.testing.assert_close(distance.double(), (a.double() - b.double()).norm(dim=1), rtol=1e-5, atol=1e-7)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def transposed(x: Tensor) -> Tensor:
    return x.transpose(2, 3).contiguous().transpose(2, 3)


def cut_out(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x, (1, 2, 3, 0))[:, :, 3:, 1:-2]


def expanded(x: Tensor) -> Tensor:
    return x[:1, :1].expand(x.shape)


@pytest.mark.parametrize("layout", [channels_last, transposed, cut_out, expanded])
def test_any_memory_layout_gives_the_same(layout: Callable[[Tensor], Tensor]) -> None:
    a, b = (layout(x) for x in activations(2, 24, 130, 96))
    energies, distance = pair_energies(a, b)
    torch.testing.assert_close(energies, expected(a, b), rtol=1e-6, atol=0)
    assert distance is not None
    torch.testing.assert_close(distance, (a - b).norm(dim=1), rtol=1e-5, atol=1e-7)
    mixed = pair_energies(a, b.contiguous())
    torch.testing.assert_close(mixed.energies, energies, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("shape", "channel_dim"), [((2, 50, 16), -1), ((2, 50, 16), 2), ((2, 6, 9, 16), 3)])
def test_channels_in_the_last_dimension(shape: tuple[int, ...], channel_dim: int) -> None:
    a, b = activations(*shape)
    distance = pair_energies(a, b, channel_dim).distance
    assert distance is not None
    torch.testing.assert_close(distance, (a - b).norm(dim=-1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("shape", "channel_dim"), [((2, 50, 16), None), ((2, 50), 1), ((2,), 1)])
def test_without_positions_there_are_energies_and_no_distance(shape: tuple[int, ...], channel_dim: int | None) -> None:
    a, b = activations(*shape)
    energies, distance = pair_energies(a, b, channel_dim)
    assert distance is None
    torch.testing.assert_close(energies, expected(a[:, None], b[:, None]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(5, 7, 13, 11), (2, 40, 96, 96)])
def test_identical_halves_of_a_batch_are_exactly_equal_and_zero(shape: tuple[int, ...]) -> None:
    """Halves of one batch begin at any address: the sums must not depend on alignment."""
    a, _ = activations(*shape)
    batch = torch.cat([a, a])
    energies, distance = pair_energies(*batch.chunk(2))
    assert torch.equal(energies[:, 0], energies[:, 1])
    assert not energies[:, 2].any()
    assert distance is not None
    assert not distance.any()


def test_a_sample_has_the_same_bits_in_any_batch() -> None:
    a, b = activations(4, 24, 130, 96)
    whole = pair_energies(a, b)
    assert whole.distance is not None
    for row in range(4):
        alone = pair_energies(a[row : row + 1], b[row : row + 1])
        assert alone.distance is not None
        assert torch.equal(alone.energies[0], whole.energies[row])
        assert torch.equal(alone.distance[0], whole.distance[row])
    assert pair_energies(a[:0], b[:0]).energies.shape == (0, 3)


@pytest.mark.parametrize("most", [7, 100, 5000])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_samples_of_a_batch_together_as_on_an_accelerator(
    monkeypatch: pytest.MonkeyPatch, most: int, memory_format: torch.memory_format
) -> None:
    monkeypatch.setattr(layer_energies, "samples_at_once", lambda device, samples: samples)
    monkeypatch.setattr(layer_energies, "block_size", lambda device: most)
    a, b = (x.to(memory_format=memory_format) for x in activations(3, 6, 10, 8))
    energies, distance = pair_energies(a, b)
    torch.testing.assert_close(energies, expected(a, b), rtol=1e-6, atol=0)
    assert distance is not None
    torch.testing.assert_close(distance, (a - b).norm(dim=1), rtol=1e-5, atol=1e-7)
    numbers = pair_energies(a[:, 0, 0, 0], b[:, 0, 0, 0]).energies
    torch.testing.assert_close(numbers, expected(a[:, :1, 0, 0], b[:, :1, 0, 0]), rtol=1e-6, atol=0)


def test_an_activation_without_elements_has_no_energy() -> None:
    for shape in ((2, 0, 4), (2, 4, 0)):
        energies, _ = pair_energies(torch.zeros(shape), torch.zeros(shape))
        assert energies.tolist() == [[0, 0, 0]] * 2


def test_the_difference_itself_is_squared() -> None:
    """Expanding (a − b)² into a² + b² − 2ab reads 32 where the truth is 1."""
    a, b = torch.tensor([[11588.0]]), torch.tensor([[11589.0]])
    assert float(a * a + b * b - 2 * (a * b)) == 32.0
    assert pair_energies(a, b).energies[0, 2] == 1.0


def test_half_precision_is_upcast_before_it_is_subtracted() -> None:
    a, b = torch.tensor([[256.0]], dtype=torch.bfloat16), torch.tensor([[0.5]], dtype=torch.bfloat16)
    assert float(a - b) == 256.0
    assert pair_energies(a, b).energies[0, 2] == 255.5**2
    a = torch.full((1, 3), 60000.0, dtype=torch.float16)
    assert pair_energies(a, -a).energies.tolist() == expected(a, -a).tolist()


def test_a_broken_sample_leaves_its_neighbours_alone() -> None:
    a, b = activations(3, 4, 8, 8)
    a[1, 0, 0, 0] = torch.nan
    energies, distance = pair_energies(a, b)
    assert energies.isfinite().tolist() == [[True] * 3, [False, True, False], [True] * 3]
    assert distance is not None
    assert int(distance.isnan().sum()) == 1


def test_works_on_tensors_that_ask_for_gradients() -> None:
    a, b = activations(1, 3, 4, 4)
    energies, distance = pair_energies(a.requires_grad_(), b)
    assert distance is not None
    assert not energies.requires_grad
    assert not distance.requires_grad


class LargestAllocation(TorchDispatchMode):
    """Remembers the largest tensor that an operation made."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}
        if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in given:
            self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_temporaries_are_of_a_block_whatever_the_layer(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    a, b = (x.to(dtype, memory_format=memory_format) for x in activations(4, 48, 128, 128))
    with LargestAllocation() as seen:
        pair_energies(a, b)
    assert seen.bytes <= 4 * CPU_BLOCK < a.nbytes
    with LargestAllocation() as seen:
        centred_gram(a)
    assert seen.bytes <= 4 * CPU_BLOCK


def test_what_is_no_pair_is_an_error() -> None:
    a, b = activations(2, 3, 4, 4)
    with pytest.raises(ConfigurationError, match="differ in shape"):
        pair_energies(a, b[:1])
    for channel_dim in (0, 4, -4):
        with pytest.raises(ConfigurationError, match="no dimension behind the batch"):
            pair_energies(a, b, channel_dim)
