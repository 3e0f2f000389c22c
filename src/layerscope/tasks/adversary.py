"""The discriminator that a VAE is trained against, with its own optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from layerscope.data.sampler import rank_and_world
from layerscope.errors import ConfigurationError, NumericalError
from layerscope.losses import (
    LossInputs,
    PatchDiscriminator,
    WeightedSum,
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from layerscope.losses.choices import check_not_negative
from layerscope.tasks.finite import check_gradients
from layerscope.tasks.freezing import part_of
from layerscope.tasks.optimization import clip_gradients

_OWN_VALUES = ("adversarial", "adversarial_weight", "discriminator", "logits_real", "logits_fake")


@dataclass
class Adversarial:
    """The adversarial part of a VAE's loss: a PatchGAN with hinge losses, as in VQGAN and LDM.

    The generator's loss is weight · adaptive factor · (−mean D(x̂)) on the clean reconstruction x̂, from
    ``start_batches`` on; before, the discriminator neither judges nor learns. The discriminator's is
    0.5·(mean max(0, 1 − D(x)) + mean max(0, 1 + D(x̂))).

    weight: of the generator's loss.
    start_batches: training batches before it sets in, counted on each process whatever the accumulation.
    adaptive_to: name of the loss term, one on the clean reconstruction, whose gradient at the decoder's last layer the
        generator's shall equal (Esser et al. 2021, ``losses.adaptive_weight``); None takes ``weight`` as it is.
    discriminator: (B, 3, H, W) in [-1, 1] to logits of any shape; ``losses.PatchDiscriminator`` by default.
    optimizer: called with the discriminator's parameters; AdamW with learning rate 1e-4 and betas (0.5, 0.9) by
        default. Its rate stays constant.
    """

    weight: float = 0.5
    start_batches: int = 0
    adaptive_to: str | None = None
    discriminator: nn.Module | None = None
    optimizer: Callable[[Iterable], Optimizer] | None = None

    def __post_init__(self) -> None:
        for name in ("weight", "start_batches"):
            check_not_negative("the adversarial loss", name, getattr(self, name))


class Adversary:
    """A discriminator at work beside a task whose only optimizer, in Lightning's eyes, is the generator's.

    Deliberately no ``nn.Module``: the task does not register the discriminator, so that Lightning's automatic
    optimization stays, with its accumulation, clipping and counting of steps (two registered optimizers would need
    manual optimization, which refuses the former two, and count every step twice), plain ``ddp`` finds no unused
    parameters, and weight averaging leaves the discriminator alone. In return its gradients are averaged over
    processes here, and the task stores its state.

    ``generator_loss`` freezes the discriminator while the generator's graph is built; ``learn`` shows it the detached
    reconstruction. So neither's gradient reaches the other. Gradients accumulate until the generator's optimizer
    steps, and ``step`` comes with it.

    Args:
        settings: what the configuration says.
        autoencoder: the generator.
        losses: its other terms, for the adaptive weight.
    """

    def __init__(self, settings: Adversarial, autoencoder: nn.Module, losses: WeightedSum) -> None:
        self.settings = settings
        self._losses = losses
        terms = {str(term.name): term for term in losses.terms}
        if taken := sorted(set(terms).intersection(_OWN_VALUES)):
            raise ConfigurationError(
                f"A loss term is named {', '.join(taken)}, under which the adversarial loss logs. Set another name."
            )
        self._balanced_term: Any = None
        self._last_layer: nn.Parameter | None = None
        if settings.adaptive_to is not None:
            if settings.adaptive_to not in terms:
                raise ConfigurationError(
                    f"adversarial.adaptive_to is {settings.adaptive_to!r}, but the loss terms are {', '.join(terms)}. "
                    "Name the reconstruction term, or set null for a fixed weight."
                )
            self._balanced_term = terms[settings.adaptive_to]
            if self._balanced_term.needs_noisy_recon:
                raise ConfigurationError(
                    f"adversarial.adaptive_to is {settings.adaptive_to!r}, a term on the noisy reconstruction; the "
                    "adversarial loss judges the clean one. Name a term on that."
                )
            self._last_layer = decoder_output_weight(autoencoder)
            if not self._last_layer.requires_grad:
                raise ConfigurationError(
                    "adversarial.adaptive_to needs gradients of the decoder's last layer, which is frozen. Train the "
                    "decoder, or set adaptive_to: null for a fixed weight."
                )
        self.discriminator = settings.discriminator if settings.discriminator is not None else PatchDiscriminator()
        self.discriminator.requires_grad_(True).train()
        parameters = list(self.discriminator.parameters())
        if settings.optimizer is not None:
            self.optimizer = settings.optimizer(parameters)
        else:
            self.optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.5, 0.9))
        self._stored: dict[str, Any] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Adversary:
        return self

    def start(self, module: LightningModule) -> None:
        """Moves to the task's device, takes up a stored state, and begins with the same weights on every process."""
        if str(module.trainer.precision) in ("16-mixed", "16-true"):
            raise ConfigurationError(
                f"trainer.precision is {module.trainer.precision}, whose gradient scaling the discriminator's own "
                "steps cannot share. Train with bf16-mixed or 32-true."
            )
        if module.trainer.strategy.restore_checkpoint_after_setup:
            raise ConfigurationError(
                f"{type(module.trainer.strategy).__name__} shards the weights over processes, which adversarial "
                "training cannot be resumed under. Train with ddp; gradient_checkpointing saves memory."
            )
        self.discriminator.to(module.device)
        if self._stored is not None:
            self.discriminator.load_state_dict(self._stored["discriminator"])
            self.optimizer.load_state_dict(self._stored["optimizer"])
            self._stored = None
        if rank_and_world()[1] > 1:
            for tensor in self.discriminator.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)

    def generator_loss(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss of the generator, a scalar, and its parts by name, detached; nothing before the start."""
        smallest = getattr(self.discriminator, "smallest_side", 0)
        if min(inputs.image.shape[-2:]) < smallest:  # from the first batch on, and not when it sets in
            raise ConfigurationError(
                f"The discriminator judges images of at least {smallest} pixels; training sees "
                f"{inputs.image.shape[-1]} × {inputs.image.shape[-2]}. Lower its n_layers, or train on larger "
                "images or crops."
            )
        if inputs.batches < self.settings.start_batches:
            return inputs.recon.new_zeros((), dtype=torch.float32), {}
        self.discriminator.requires_grad_(False)
        loss = hinge_generator_loss(self.discriminator(inputs.recon))
        weight = loss.new_tensor(self.settings.weight)
        if self._balanced_term is not None and self._last_layer is not None:
            term = self._balanced_term
            balanced = term.current_weight(inputs.batches) * term(inputs).float()
            weight = weight * adaptive_weight(balanced, loss, self._last_layer)
        return weight * loss, {"adversarial": loss.detach(), "adversarial_weight": weight}

    def learn(self, inputs: LossInputs, accumulated: int) -> dict[str, Tensor]:
        """Adds one of ``accumulated`` batches to the discriminator's gradients; returns its values, detached.

        Raises:
            NumericalError: its loss is NaN or infinite.
        """
        if inputs.batches < self.settings.start_batches:
            return {}
        self.discriminator.requires_grad_(True)
        real, fake = self.discriminator(inputs.image), self.discriminator(inputs.recon.detach())
        loss = hinge_discriminator_loss(real, fake)
        if not bool(torch.isfinite(loss)):
            raise NumericalError(
                f"The discriminator's loss is {float(loss)} after {inputs.batches} training batches (images "
                f"{', '.join(inputs.id[:4])}, …). Lower its learning rate or the weight of the adversarial loss."
            )
        (loss / accumulated).backward()
        means = {"logits_real": real, "logits_fake": fake}
        return {"discriminator": loss.detach(), **{name: x.detach().float().mean() for name, x in means.items()}}

    def step(self, module: LightningModule, ids: list[str]) -> None:
        """One step with the gradients so far, averaged over processes and clipped as the trainer clips.

        Raises:
            NumericalError: a gradient is NaN or infinite; ``ids`` are of the last batch's images.
        """
        held = [parameter for parameter in self.discriminator.parameters() if parameter.grad is not None]
        if not held:
            return
        if rank_and_world()[1] > 1:
            _average_gradients(held)
        trainer = module.trainer
        named = {f"discriminator.{name}": p for name, p in self.discriminator.named_parameters()}
        norm = check_gradients(named, trainer, ids)
        assert norm is not None  # only fp16 has none, and was refused
        clip_gradients(held, norm, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer, for checkpoints."""
        return {"discriminator": self.discriminator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes effect in ``start``, when the discriminator is on its device."""
        self._stored = state


def decoder_output_weight(autoencoder: nn.Module) -> nn.Parameter:
    """The weight of the decoder's last layer: the last one of two or more dimensions in the order of its modules.

    Raises:
        ConfigurationError: the autoencoder has no such parameter.
    """
    weights = [(name, parameter) for name, parameter in autoencoder.named_parameters() if parameter.ndim > 1]
    decoder = [parameter for name, parameter in weights if part_of(name) == "decoder"]
    if not weights:
        raise ConfigurationError(
            f"{type(autoencoder).__name__} has no weight of two or more dimensions, so an adaptive weight of the "
            "adversarial loss cannot be measured. Set adversarial.adaptive_to to null."
        )
    return decoder[-1] if decoder else weights[-1][1]


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    """In one collective operation; every process must hold gradients of the same parameters."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for gradient, average in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
        gradient.copy_(average.view_as(gradient))
