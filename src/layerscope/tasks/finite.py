"""Training that meets NaN or infinity stops with its weights whole, and says from where it can go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from layerscope.errors import NumericalError, listed


def check_gradients(parameters: Mapping[str, nn.Parameter], trainer: Trainer, ids: Sequence[str]) -> Tensor | None:
    """Called before a step of an optimizer, which would spread a NaN over every weight.

    One norm over all gradients, and one transfer from the device. The loss may well be finite: √ at 0, or a division
    in the backward pass. With fp16 nothing is checked: its scaler looks for infinities and leaves such steps out.

    Args:
        parameters: by name, those that are stepped; with gradients, after accumulation and before clipping.
        trainer: of the task.
        ids: of the images of the last batch.

    Returns:
        The norm of all gradients together; None with fp16.

    Raises:
        NumericalError: names the parameters, the images, and the way back.
    """
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        return None
    gradients = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
    norm = torch.nn.utils.get_total_norm(gradients.values())
    # Where each is finite, only the norm of all is beyond float32.
    if torch.isfinite(norm) or not (broken := not_finite(gradients)):
        return norm
    accumulated = ""
    if trainer.accumulate_grad_batches > 1:
        accumulated = f", the last of the {trainer.accumulate_grad_batches} whose gradients were added"
    raise NumericalError(
        f"The loss terms are finite, but their gradient is not, for {listed(broken)}. The images of this "
        f"batch{accumulated}: {listed(ids)}. The weights were not changed. Look for a square root or a division in a "
        f"loss term, or lower its weight. {way_back(trainer)}"
    )


def check_weights(states: Sequence[Mapping[str, Tensor]], trainer: Trainer) -> None:
    """Called before weights are written, so that broken ones never replace good ones.

    Raises:
        NumericalError: a tensor has NaN or infinite elements.
    """
    broken = [name for state in states for name in not_finite(state)]
    if broken:
        raise NumericalError(
            f"The trained weights are not finite and are not saved: {listed(list(dict.fromkeys(broken)))}. A step of "
            f"the optimizer broke them; lower the learning rate. {way_back(trainer)}"
        )


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with NaN or infinite elements."""
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if not floats:
        return []
    good = torch.stack([torch.isfinite(tensor).all() for tensor in floats.values()]).tolist()
    return [name for name, is_good in zip(floats, good) if not is_good]


def way_back(trainer: Trainer) -> str:
    """Where a training that breaks off stands, and the newest checkpoint to resume from, in two sentences."""
    where = f"This was optimizer step {trainer.global_step + 1}, in epoch {trainer.current_epoch}."
    if (checkpoint := last_checkpoint(trainer)) is None:
        return f"{where} No checkpoint had been written."
    return f"{where} The last good checkpoint is {checkpoint}: resume from it with --ckpt_path {checkpoint}"


def last_checkpoint(trainer: Trainer) -> Path | None:
    """The newest that the trainer's callbacks have written, else the one the training was resumed from."""
    # best_model_path alone may name a file before it is written.
    names = ("_last_checkpoint_saved", "last_model_path", "best_model_path")
    told = [getattr(callback, name, "") for callback in trainer.checkpoint_callbacks for name in names]
    written = [Path(path) for path in told if path and Path(path).exists()]
    if written:
        return max(written, key=lambda path: path.stat().st_mtime_ns)
    return Path(trainer.ckpt_path) if trainer.ckpt_path else None
