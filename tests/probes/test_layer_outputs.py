"""Which tensor of a layer's output is meant."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from layerscope.errors import ConfigurationError
from layerscope.probes.outputs import tensor_of, tensors_in

A, B, C = torch.zeros(2, 3), torch.ones(2, 3), torch.full((2, 3), 2.0)
INDEX = torch.arange(3)


@dataclass
class Record:
    shape: tuple[int, int]
    feature: Tensor
    spare: Tensor | None = None


class Attended(NamedTuple):
    output: Tensor
    weights: Tensor | None


NAMED = BaseModelOutputWithPooling(last_hidden_state=A, pooler_output=B, hidden_states=(A, B, C))


SINGLE = [B, (B,), [B], (B, None), (B, INDEX, "grid", 3), (None, (B,)), {"x": B}, OrderedDict(x=None, y=B)]
OF_CLASSES = [Record((2, 3), B), Attended(B, None), DecoderOutput(B), BaseModelOutputWithPooling(last_hidden_state=B)]


@pytest.mark.parametrize("output", [*SINGLE, *OF_CLASSES])
def test_a_single_tensor_needs_no_path(output: Any) -> None:
    assert tensor_of(output, None, "layer") is B


@pytest.mark.parametrize(
    ("output", "path", "expected"),
    [
        ((A, B), "1", B),
        ((A, (B, C)), "1.0", B),
        ((A, (B, None)), "1", B),  # ends above the only tensor
        (NAMED, "pooler_output", B),
        (NAMED, "hidden_states.1", B),
        (Attended(A, B), "weights", B),
        (Record((2, 3), A, B), "spare", B),
        ({"map": {"high": B, "low": A}}, "map.high", B),
    ],
)
def test_a_path_says_which(output: Any, path: str, expected: Tensor) -> None:
    assert tensor_of(output, path, f"layer@{path}") is expected


@pytest.mark.parametrize(
    ("output", "path", "told"),
    [
        ((A, B), None, ["a tuple with 2 tensors", "block@0, block@1", "exclude"]),
        (NAMED, None, ["block@last_hidden_state, block@pooler_output, block@hidden_states.0"]),
        (NAMED, "hidden_states", ["with 3 tensors", "block@hidden_states.0, block@hidden_states.1"]),
        ((A, (B,)), "2", ["nothing at '2'", "block@0, block@1.0"]),
        ((A, B, A), "1.0", ["nothing at '1.0'", "block@0"]),
        (Record((2, 3), A), "features", ["a Record", "block@feature"]),
        (A, "0", ["nothing at '0'", "it gives a single tensor"]),
        (None, None, ["a NoneType", "no floating-point tensor"]),
        (("grid", INDEX, None), None, ["a tuple", "no floating-point tensor"]),
        (INDEX, None, ["a tensor of torch.int64"]),
    ],
)
def test_what_is_ambiguous_missing_or_no_activation_is_refused(output: Any, path: str | None, told: list[str]) -> None:
    layer = "block" if path is None else f"block@{path}"
    with pytest.raises(ConfigurationError) as raised:
        tensor_of(output, path, layer)
    for part in told:
        assert part in str(raised.value)


def test_all_tensors_with_their_paths() -> None:
    assert [path for path, _ in tensors_in(NAMED)] == [
        "last_hidden_state",
        "pooler_output",
        *(f"hidden_states.{k}" for k in range(3)),
    ]
    assert [(path, one is A) for path, one in tensors_in(A)] == [("", True)]
    assert list(tensors_in([INDEX, None, "x", Record])) == []
