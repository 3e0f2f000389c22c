"""Devices that a configuration asks for and that are not there, on machines with and without GPUs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from layerscope.cli.devices import check_devices
from layerscope.errors import ConfigurationError

HAS = ["this machine has no GPU", "this machine has 1 GPU, number 0", "this machine has 2 GPUs, numbered 0 to 1"]


@pytest.fixture(params=[0, 1, 2])
def gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    number: int = request.param
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return number


@pytest.mark.parametrize("devices", [[7], "7,", "[0, 7]", 7, "7", [], 0, -2, [-1], [2], "2,"], ids=str)
@pytest.mark.parametrize("accelerator", ["gpu", "auto"])
def test_a_gpu_that_is_not_there(accelerator: str, devices: Any, gpus: int) -> None:
    if accelerator == "auto" and not gpus and devices in (7, "7"):
        check_devices(accelerator, devices)  # so many processes on the CPU
        return
    with pytest.raises(ConfigurationError) as refused:
        check_devices(accelerator, devices)
    assert HAS[gpus] in str(refused.value)
    assert "--trainer.accelerator=cpu --trainer.devices=1" in str(refused.value)


@pytest.mark.parametrize("accelerator", ["cuda", "gpu", "auto"])
def test_gpus_that_are_there(accelerator: str, gpus: int) -> None:
    there = ["auto", None, -1, "-1", gpus, str(gpus), [0], "0,", "[0]", [gpus - 1]]
    for devices in there if gpus else []:
        check_devices(accelerator, devices)


def test_a_cpu_has_processes_and_no_numbers(gpus: int) -> None:
    for devices in ("auto", None, 1, "2", 64):
        check_devices("cpu", devices)
    for devices in ([0], "0,", 0, -1):
        with pytest.raises(ConfigurationError, match="a number of processes, at least 1"):
            check_devices("cpu", devices)


def test_names_and_forms_that_are_none(gpus: int) -> None:
    with pytest.raises(ConfigurationError, match="'gpuu': expected auto, gpu"):
        check_devices("gpuu", 1)
    with pytest.raises(ConfigurationError, match=r"'cuda:1': expected auto, how many .* such as \[0\]"):
        check_devices("cpu", "cuda:1")
    with pytest.raises(ConfigurationError, match="mps, and this machine has no Apple GPU"):
        check_devices("mps", 1)
