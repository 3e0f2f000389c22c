"""Whether the devices that a configuration asks for are there, told before anything is built."""

from __future__ import annotations

from typing import Any

from layerscope.errors import ConfigurationError

_GPUS = ("gpu", "cuda", "mps")


def check_devices(accelerator: Any, devices: Any) -> None:
    """``trainer.accelerator`` and ``trainer.devices`` against this machine.

    Lightning tells some of this as a TypeError, and of a missing GPU not how many there are.

    Args:
        accelerator: a name; anything else is left to Lightning, and so are TPUs.
        devices: ``auto``, a number of devices (−1 for all), or a list of the numbers of GPUs, as text or not.

    Raises:
        ConfigurationError: the accelerator is unknown or not there, a GPU is not there, or devices is none of these.
    """
    import torch
    from lightning.pytorch.accelerators import AcceleratorRegistry

    if not isinstance(accelerator, str) or torch.distributed.is_torchelastic_launched():
        return
    known = ["auto", "gpu", *AcceleratorRegistry.available_accelerators()]
    if accelerator not in known:
        raise ConfigurationError(f"trainer.accelerator is {accelerator!r}: expected {', '.join(known)}.")
    cuda, mps = torch.cuda.device_count(), int(torch.backends.mps.is_available())
    found = {"cuda": cuda, "mps": mps}.get(accelerator, cuda or mps)
    has = f"this machine has {_counted(found, {'cuda': 'CUDA GPU', 'mps': 'Apple GPU (mps)'}.get(accelerator, 'GPU'))}"
    if accelerator in _GPUS and not found:
        raise ConfigurationError(
            f"trainer.accelerator is {accelerator}, and {has} that PyTorch {torch.__version__} can use. Take "
            "--trainer.accelerator=cpu --trainer.devices=1; where there is one, look whether its driver fits this "
            "PyTorch, and at CUDA_VISIBLE_DEVICES."
        )
    if accelerator not in ("auto", "cpu", *_GPUS):
        return
    numbers, count = _asked(devices)
    if accelerator == "cpu" or not found:
        if numbers is not None or (count is not None and count < 1):
            raise ConfigurationError(
                f"trainer.devices is {devices}, and {has if accelerator == 'auto' else 'trainer.accelerator is cpu'}: "
                "on a CPU it is a number of processes, at least 1. Take --trainer.accelerator=cpu --trainer.devices=1."
            )
        return
    absent = [number for number in numbers or [] if not 0 <= number < found]
    if absent or numbers == [] or (count is not None and not (count == -1 or 1 <= count <= found)):
        raise ConfigurationError(
            f"trainer.devices is {devices}, and {has}{f', numbered 0 to {found - 1}' if found > 1 else ', number 0'}. "
            "A single number is how many are used, a list such as [0] names them. Choose among those, or take "
            "--trainer.accelerator=cpu --trainer.devices=1."
        )


def _asked(devices: Any) -> tuple[list[int] | None, int | None]:
    """The numbers of GPUs, or how many; neither where Lightning chooses."""
    if devices is None or devices == "auto":
        return None, None
    given = devices
    if isinstance(devices, str):
        parts = [part.strip() for part in devices.strip("[] ").split(",")]
        given = [part for part in parts if part] if "," in devices or "[" in devices else parts[0]
    try:
        return ([int(one) for one in given], None) if isinstance(given, (list, tuple)) else (None, int(given))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"trainer.devices is {devices!r}: expected auto, how many devices to use, or a list of the numbers of GPUs "
            "such as [0]."
        ) from error


def _counted(number: int, what: str) -> str:
    """
    >>> _counted(0, "GPU"), _counted(1, "GPU"), _counted(2, "GPU")
    ('no GPU', '1 GPU', '2 GPUs')
    """
    return f"{number or 'no'} {what}{'s' * (number > 1)}"
