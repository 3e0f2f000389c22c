"""Layers by name, pattern, class and function, and what is said of a choice that fails."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_architectures import SMALL_KL
from torch import nn

from layerscope.errors import ConfigurationError
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.probes.selection import choose_layers


class Shared(nn.Module):
    """One linear layer under two names, and parts that are never called."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        self.second = self.first
        self.heads = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(2))])


@pytest.fixture(scope="module")
def vae() -> nn.Module:
    return DiffusersAutoencoder(architecture=SMALL_KL, seed=1).model


def test_none_is_every_module_but_the_root_and_containers(vae: nn.Module) -> None:
    chosen = choose_layers(vae)
    containers = (nn.ModuleList, nn.ModuleDict, nn.ParameterList)
    expected = {n: m for n, m in vae.named_modules() if n and not isinstance(m, containers)}
    assert list(chosen) == list(expected)
    assert all(layer.module is expected[name] and layer.path is None for name, layer in chosen.items())


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("decoder.conv_in", {"decoder.conv_in"}),
        ("decoder.up_blocks.*.resnets.*", {f"decoder.up_blocks.{k}.resnets.{j}" for k in (0, 1) for j in (0, 1)}),
        ("decoder.up_blocks.?", {"decoder.up_blocks.0", "decoder.up_blocks.1"}),
        ("*", {"encoder", "decoder", "quant_conv", "post_quant_conv"}),
        ("*coder.conv_*", {f"{c}coder.conv_{p}" for c in ("en", "de") for p in ("in", "norm_out", "act", "out")}),
        ("**.conv_in", {"encoder.conv_in", "decoder.conv_in"}),
        ("decoder.**.conv_in", {"decoder.conv_in"}),
        ("**quant_conv", {"quant_conv", "post_quant_conv"}),
        (r"re:(en|de)coder\.mid_block", {"encoder.mid_block", "decoder.mid_block"}),
        ("class:UNetMidBlock2D", {"encoder.mid_block", "decoder.mid_block"}),
    ],
)
def test_patterns(vae: nn.Module, pattern: str, expected: set[str]) -> None:
    assert set(choose_layers(vae, [pattern])) == expected


def test_two_stars_cross_parts_and_a_star_does_not(vae: nn.Module) -> None:
    everything = list(choose_layers(vae))
    # fnmatch knows no parts: its star is our two.
    assert list(choose_layers(vae, ["decoder.**"])) == [n for n in everything if fnmatch.fnmatch(n, "decoder.*")]
    assert all(name.count(".") == 1 for name in choose_layers(vae, ["decoder.*"]))


def test_classes_and_functions(vae: nn.Module) -> None:
    convolutions = [name for name, module in vae.named_modules() if isinstance(module, nn.Conv2d)]
    assert list(choose_layers(vae, [nn.Conv2d])) == convolutions
    assert list(choose_layers(vae, ["class:Conv2d"])) == convolutions
    assert list(choose_layers(vae, ["class:_ConvNd"])) == convolutions  # a base class, as with isinstance
    wide = choose_layers(vae, [lambda name, module: name.startswith("enc") and isinstance(module, nn.GroupNorm)])
    assert wide
    assert all(isinstance(layer.module, nn.GroupNorm) for layer in wide.values())
    # A function that says yes to everything meets no container either.
    assert list(choose_layers(vae, [lambda name, module: True])) == list(choose_layers(vae))


def test_several_choices_are_one_list_in_the_models_order(vae: nn.Module) -> None:
    chosen = choose_layers(vae, ["decoder.conv_out", "decoder.conv_*", "encoder.conv_in"], exclude=["**.conv_act"])
    assert list(chosen) == ["encoder.conv_in", "decoder.conv_in", "decoder.conv_norm_out", "decoder.conv_out"]
    without = choose_layers(vae, ["decoder.mid_block**"], exclude=["decoder.mid_block.**"])
    assert list(without) == ["decoder.mid_block"]
    assert not any(isinstance(one.module, nn.Dropout) for one in choose_layers(vae, exclude=[nn.Dropout]).values())


def test_a_module_of_two_names_counts_once() -> None:
    model = Shared()
    assert list(choose_layers(model)) == ["first", "first.0", "first.1", "heads.a", "heads.b"]
    assert list(choose_layers(model, ["second.0"])) == ["first.0"]
    assert list(choose_layers(model, ["second.*"], exclude=["second.1"])) == ["first.0"]


def test_paths_into_outputs(vae: nn.Module) -> None:
    chosen = choose_layers(vae, ["decoder.up_blocks.*@0", "encoder@hidden_states.2"])
    assert {name: layer.path for name, layer in chosen.items()} == {
        "encoder@hidden_states.2": "hidden_states.2",
        "decoder.up_blocks.0@0": "0",
        "decoder.up_blocks.1@0": "0",
    }
    assert chosen["encoder@hidden_states.2"].module is vae.get_submodule("encoder")
    assert list(choose_layers(vae, ["encoder@1", "encoder@0", "encoder"])) == ["encoder@1", "encoder@0"]
    assert list(choose_layers(vae, ["decoder.conv_*@0"], exclude=["**_out"])) == [
        "decoder.conv_in@0",
        "decoder.conv_act@0",
    ]


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        (["decoder.conv_inn"], ["'decoder.conv_inn'", "Close names are decoder.conv_in,"]),
        (["conv_norm_out"], ["encoder.conv_norm_out", "decoder.conv_norm_out"]),
        (["decoder.up_block.*.resnets.*"], ["Close names are decoder.up_blocks.*.resnets.*"]),
        (["re:decoder.up_blocks"], ["decoder.up_blocks"]),
        (["re:decoder.("], ["no regular expression"]),
        (["class:Conv2D"], ["Close classes are Conv2d"]),
        ([nn.LSTM], ["LSTM", "Their classes are"]),
        ([lambda name, module: False], ["It was asked about encoder, encoder.conv_in"]),
        (["zzz"], ["Its first ones are encoder", "layerscope layers"]),
        ([""], ["''"]),
        (["@0"], ["NAME@PATH"]),
        (["decoder@"], ["NAME@PATH"]),
        ([], ["No layers are named"]),
        ("decoder", ["expected a list, such as [decoder]"]),
    ],
)
def test_a_choice_that_meets_nothing(vae: nn.Module, layers: Any, told: list[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        choose_layers(vae, layers)
    for part in told:
        assert part in str(raised.value)


def test_an_exclude_that_meets_nothing_or_everything(vae: nn.Module) -> None:
    with pytest.raises(ConfigurationError, match=r"exclude has 'decoder.conv_i'.*Close names are decoder\.conv_in,"):
        choose_layers(vae, ["decoder.*"], exclude=["decoder.conv_i"])
    with pytest.raises(ConfigurationError, match=r"exclude takes away every layer .*decoder\.conv_in"):
        choose_layers(vae, ["decoder.conv_in"], exclude=["decoder.**"])
    with pytest.raises(ConfigurationError, match="remove @0"):
        choose_layers(vae, ["decoder.*"], exclude=["decoder.conv_in@0"])


@pytest.mark.parametrize(
    ("build", "name", "told"),
    [
        (lambda: DiffusersAutoencoder(architecture=SMALL_KL, seed=1), "model.decoder.up_blocks", "up_blocks.0, "),
        (Shared, "heads", "heads.a, heads.b, or heads.* for all of them"),
        (Shared, "scales", "no children"),
    ],
)
def test_the_name_of_a_container_is_refused_with_its_children(
    build: Callable[[], nn.Module], name: str, told: str
) -> None:
    with pytest.raises(ConfigurationError, match="never called itself") as raised:
        choose_layers(build(), [name])
    assert told in str(raised.value)
