"""Training an image autoencoder on a weighted sum of named losses."""

from __future__ import annotations

import hashlib
import os
import sys
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from layerscope.artifacts import to_plain
from layerscope.data.hashing import weights_hash
from layerscope.errors import ConfigurationError, NumericalError
from layerscope.functional.reconstruction import kl_divergence
from layerscope.losses import KL, L1, LatentNoise, LossInputs, RunningLatentStd, WeightedSum
from layerscope.metrics.reconstruction import ReconstructionQuality
from layerscope.protocols import Autoencoder
from layerscope.tasks.adversary import Adversarial, Adversary
from layerscope.tasks.compiled import AutoencoderFunctions
from layerscope.tasks.diagnosis.validation import ShortDiagnosis, ShortDiagnosisRun
from layerscope.tasks.finite import check_gradients, check_weights, way_back
from layerscope.tasks.freezing import TrainedPart, keep_frozen_in_eval, select_trainable, trained_part
from layerscope.tasks.optimization import (
    Interval,
    LearningRateSchedule,
    clip_gradients,
    step_plateaus,
    warn_of_half_precision,
    with_schedule,
)
from layerscope.types import AutoencoderRecord, Batch, ReconstructionOutput


class AutoencoderTraining(LightningModule):
    """Minimises Σ weight · term over ``losses``; each term says its own reduction.

    ``train/<term>`` are the unweighted terms; ``train/rec_mean`` (mean absolute error per element),
    ``train/kl_per_image`` and ``train/kl_per_latent_element`` (nats) are logged whatever the losses; all but
    ``train/loss`` every ``log_every_n_steps`` steps and at the last of an epoch or of the training. Validation
    decodes the posterior's mode, without latent noise, and logs ``metrics.reconstruction`` as ``val/...``; with
    ``diagnosis`` also how much a teacher minds, ``val/mean_abs_delta_p`` and others.

    What training draws (posterior, latent noise, crops, the terms' own choices) follows from the seed of
    ``seed_everything``, the process and the number of the batch alone, so a resumed run draws what an uninterrupted
    one does.

    Args:
        autoencoder: a module that satisfies ``layerscope.protocols.Autoencoder``.
        losses: terms of ``layerscope.losses`` or your own; by default L1 and KL with weight 1e-6.
        latent_noise: noise z̃ on the latents, for terms that read the reconstruction of z̃.
        adversarial: a discriminator to train against (``tasks.adversary``).
        diagnosis: a teacher that judges reconstructions in validation (``tasks.diagnosis.validation``).
        train: ``all``, or only the ``decoder`` or the ``encoder`` side (``tasks.freezing``).
        freeze: patterns of further parameters that stay as they are: globs, or ``re:...``.
        crop_size: train on random square crops of this side, a multiple of the downsampling; whole images by default.
        optimizer: called with the trainable parameters, ``torch.optim.AdamW`` by default.
        lr_schedule: ``cosine`` to zero over the whole training, or ``constant``; both after ``warmup_fraction``. Or a
            torch scheduler by class_path, in the place of both.
        lr_interval: whether such a scheduler advances after each ``step`` of the optimizer or each ``epoch``.
        warmup_fraction: share of the training steps with linearly rising learning rate.
        compile: ``torch.compile`` for encoding and decoding in training steps, checked on the first batch.
        channels_last: memory layout of weights and images; often faster for convolutions.
        gradient_checkpointing: diffusers' own: half the memory of activations for a third more time.
        lpips: also measure LPIPS in validation where its weights are in torch.hub's cache.
    """

    autoencoder: Autoencoder

    def __init__(
        self,
        autoencoder: nn.Module,
        losses: list[nn.Module] | None = None,
        latent_noise: LatentNoise | None = None,
        adversarial: Adversarial | None = None,
        diagnosis: ShortDiagnosis | None = None,
        train: TrainedPart = "all",
        freeze: list[str] | None = None,
        crop_size: int | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_schedule: LearningRateSchedule | LRSchedulerCallable = "cosine",
        lr_interval: Interval = "epoch",
        warmup_fraction: float = 0.05,
        compile: bool = False,
        channels_last: bool = False,
        gradient_checkpointing: bool = False,
        lpips: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(autoencoder, Autoencoder):
            raise ConfigurationError(f"{type(autoencoder).__name__} is no layerscope.protocols.Autoencoder.")
        self.autoencoder = cast(Any, autoencoder)
        select_trainable(autoencoder, train, freeze or [])
        self.losses = WeightedSum([L1(), KL()] if losses is None else losses)
        if self.losses.needs_noisy_recon and latent_noise is None:
            raise ConfigurationError(
                "A loss term reads the reconstruction of a noisy latent: set latent_noise, such as {tau: 0.5}."
            )
        if latent_noise is not None and not self.losses.needs_noisy_recon:
            raise ConfigurationError(
                "latent_noise is set, but no loss term reads the reconstruction of a noisy latent. Add one "
                "(layerscope.losses.NoisyReconstruction, NoisyFeatureMatching), or remove latent_noise."
            )
        self.adversary = None if adversarial is None else Adversary(adversarial, autoencoder, self.losses)
        self.diagnosis = diagnosis
        self.latent_noise = latent_noise
        self.latent_spread = RunningLatentStd(autoencoder.latent_channels) if latent_noise is not None else None
        self.crop_size = crop_size
        if crop_size is not None:
            _check_crops(crop_size, autoencoder, self.losses)
        # Not AdamW as the default: jsonargparse would hand its weight decay on to any optimizer chosen instead.
        self.optimizer = optimizer or torch.optim.AdamW
        self.lr_schedule = lr_schedule
        self.lr_interval: Interval = lr_interval
        self.warmup_fraction = warmup_fraction
        self.channels_last = channels_last
        if channels_last:
            autoencoder.to(memory_format=torch.channels_last)
        if gradient_checkpointing:
            _enable_gradient_checkpointing(autoencoder)
        self._functions = AutoencoderFunctions(autoencoder, compile)
        self.lpips = lpips
        self.batches = 0
        self._last_ids: list[str] = []
        self._gradient_norm: Tensor | None = None
        self._stepped: dict[str, nn.Parameter] = {}
        self._start_hash: str | None = None
        self._data_hash: str | None = None

    @property
    def _network(self) -> nn.Module:
        """The autoencoder as the module it is, besides satisfying the protocol."""
        return cast(nn.Module, self.autoencoder)

    # -- fit -----------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> AutoencoderTraining:
        super().train(mode)
        keep_frozen_in_eval(self._network)
        return self

    def on_train_start(self) -> None:
        keep_frozen_in_eval(self._network)  # not only in train(), which Lightning does not call when fit begins

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        # Random weights are nobody else's start; an adapter that does not tell has weights of its own.
        if self._start_hash is None and getattr(self.autoencoder, "pretrained", True):
            self._start_hash = weights_hash(self._network)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self._data_hash = data.data_hash("train") if hasattr(data, "data_hash") else None

    def on_fit_start(self) -> None:
        if self.adversary is not None:
            self.adversary.start(self)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The ``loss`` to minimise, and all ``values`` by name, detached, for callbacks."""
        self._seed(self.batch_seed())
        inputs = self._through(batch)
        self.batches += 1
        try:
            loss, values = self.losses(inputs)
            if self.adversary is not None:
                generator_loss, judged = self.adversary.generator_loss(inputs)
                loss = loss + generator_loss
                values |= judged | self.adversary.learn(inputs, self.trainer.accumulate_grad_batches)
        except NumericalError as error:
            raise NumericalError(f"{error} {way_back(self.trainer)}") from error
        self._last_ids = batch["id"]
        told = self._always(inputs) | {f"train/{name}": value for name, value in values.items()}
        if self._values_are_read():
            self.log_dict(told)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(inputs.image))
        return {"loss": loss, "values": {"train/loss": loss.detach(), **told}}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self._gradient_norm = check_gradients(self._stepped, self.trainer, self._last_ids)
        if self.adversary is not None:
            self.adversary.step(self, self._last_ids)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's, but that clipping by norm takes the norm that was just checked instead of another one."""
        norm = self._gradient_norm
        if norm is None or self.trainer.strategy.restore_checkpoint_after_setup:  # fp16, or sharded weights
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        clip_gradients(list(self._stepped.values()), norm, gradient_clip_val, gradient_clip_algorithm)

    def on_train_end(self) -> None:
        check_weights([self.state_dict()], self.trainer)

    def _seed(self, seed: int) -> None:
        """``torch.manual_seed`` for the generators that a step draws from: those of the processor and of the device.

        torch also seeds kinds of devices that are not there, and keeps the call stack for each: a millisecond a step.
        """
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def batch_seed(self) -> int:
        """Of everything that the coming batch draws on this process."""
        text = f"{os.environ.get('PL_GLOBAL_SEED', 0)} {self.global_rank} {self.batches}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")

    def _through(self, batch: Batch) -> LossInputs:
        """One batch encoded and decoded; with latent noise both latents in one call of the decoder."""
        image = self._crop(batch["image"])
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        mean, std = self._functions.encode(image)
        z = mean + std * torch.randn_like(mean)
        noisy_recon = None
        if self.latent_noise is None or self.latent_spread is None:
            recon = self._functions.decode(z).float()
        else:
            self.latent_spread.update(z.detach())
            noisy = self.latent_noise.apply(z, self.latent_spread.std)
            recon, noisy_recon = self._functions.decode(torch.cat([z, noisy])).float().chunk(2)
        self._functions.check(image, mean, std, z, recon)
        return LossInputs(
            image=image.float(),
            recon=recon,
            mean=mean,
            std=std,
            noisy_recon=noisy_recon,
            target=batch["target"] if batch["target"].shape[1] else None,
            known=batch["known"] if batch["target"].shape[1] else None,
            batches=self.batches,
            id=batch["id"],
            decode=self._functions.decode,
            latent=z,
        )

    def _values_are_read(self) -> bool:
        """Whether loggers take this step's values, or they are the last of an epoch, which checkpoints have on record.

        Lightning takes half a millisecond for each value that it is told.
        """
        if self._trainer is None:
            return True
        trainer: Any = self.trainer
        step = trainer.global_step + 1
        asked = trainer.log_every_n_steps > 0 and step % trainer.log_every_n_steps == 0
        return bool(asked or trainer.is_last_batch or trainer.should_stop or step == trainer.max_steps)

    @staticmethod
    def _always(inputs: LossInputs) -> dict[str, Tensor]:
        """Figures in the same unit whatever the losses are."""
        with torch.no_grad():
            kl = kl_divergence(inputs.mean, inputs.std).mean()
            return {
                "train/rec_mean": (inputs.recon - inputs.image).abs().mean(),
                "train/kl_per_image": kl,
                "train/kl_per_latent_element": kl / inputs.mean[0].numel(),
            }

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Also lets go of the gradients, which Lightning would keep until after the next forward pass, its peak."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        for parameter in self._stepped.values():
            parameter.grad = None

    def configure_optimizers(self) -> Any:
        # Once, and not in every step: a walk through all modules takes half a millisecond.
        self._stepped = {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}
        trained = list(self._stepped.values())
        warn_of_half_precision(trained)
        optimizer = self.optimizer(trained)
        return with_schedule(optimizer, self.trainer, self.lr_schedule, self.warmup_fraction, self.lr_interval)

    # -- validate ------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        loader: Any = self.trainer.val_dataloaders
        self.quality = ReconstructionQuality(len(loader.dataset), lpips_backbone="alex" if self.lpips else None)
        self._diagnosed: ShortDiagnosisRun | None = None
        if self.diagnosis is not None and not self.trainer.sanity_checking:
            self._diagnosed = ShortDiagnosisRun(self.diagnosis, self, self.autoencoder)

    def validation_step(  # type: ignore[override]
        self, batch: Batch, batch_idx: int
    ) -> ReconstructionOutput:
        posterior = self.autoencoder.encode(batch["image"])
        recon = self.autoencoder.decode(posterior.mean).float().clamp(-1, 1)
        output = ReconstructionOutput(
            batch["id"], batch["index"], batch["image"], recon, posterior.mean.float(), posterior.std.float()
        )
        self.quality.update(output)
        if self._diagnosed is not None:
            self._diagnosed.update(batch, posterior.mean, recon)
        return output

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        # Every process holds the figures of the whole split, so no reduction is asked of the logger.
        found = self.quality.compute()
        if self._diagnosed is not None:
            found |= self._diagnosed.agreement.compute()
        for name, value in found.items():
            self.log(f"val/{name}", value, prog_bar=name in ("psnr", "mean_abs_delta_p"))
        step_plateaus(self.trainer, {f"val/{name}": value for name, value in found.items()})

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Weight averaging puts the average into state_dict, and what is trained into current_model_state.
        written = [checkpoint["state_dict"], checkpoint.get("current_model_state", {})]
        checkpoint["layerscope_batches"] = self.batches
        if self.adversary is not None:
            checkpoint["layerscope_adversary"] = self.adversary.state_dict()
            written.append({f"discriminator.{k}": v for k, v in self.adversary.discriminator.state_dict().items()})
        check_weights(written, self.trainer)
        if (record := self.autoencoder_record()) is not None:
            checkpoint["layerscope_autoencoder"] = record

    def autoencoder_record(self) -> AutoencoderRecord | None:
        """What checkpoints and the final export say of the autoencoder; None where it does not tell its config."""
        config = getattr(self.autoencoder, "config", None)
        if config is None:
            return None
        return AutoencoderRecord(
            config=to_plain(config),
            start_hash=self._start_hash,
            trained=trained_part(self._network),
            data_hash=self._data_hash,
            losses=self._weights(),
            metrics={name: float(value) for name, value in self.trainer.callback_metrics.items()},
            command=" ".join(sys.argv),
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.batches = checkpoint["layerscope_batches"]
        if self.adversary is not None and "layerscope_adversary" in checkpoint:
            self.adversary.load_state_dict(checkpoint["layerscope_adversary"])
        self._start_hash = checkpoint.get("layerscope_autoencoder", {}).get("start_hash", self._start_hash)

    def _weights(self) -> dict[str, float]:
        """The loss terms' weights by name."""
        weights = {str(term.name): float(term.weight) for term in self.losses.terms}  # type: ignore[arg-type]
        return weights if self.adversary is None else weights | {"adversarial": self.adversary.settings.weight}

    def _crop(self, image: Tensor) -> Tensor:
        """Random crops, one position per image."""
        side = self.crop_size
        if side is None or image.shape[-2:] == (side, side):
            return image
        if side > min(image.shape[-2:]):
            raise ConfigurationError(
                f"crop_size is {side}, but there are images of {image.shape[-1]} × {image.shape[-2]} pixels. Set a "
                "smaller one, or null to train on whole images."
            )
        tops = torch.randint(0, image.shape[-2] - side + 1, (len(image),)).tolist()
        lefts = torch.randint(0, image.shape[-1] - side + 1, (len(image),)).tolist()
        return torch.stack([one[:, top : top + side, left : left + side] for one, top, left in zip(image, tops, lefts)])


def _enable_gradient_checkpointing(autoencoder: nn.Module) -> None:
    for module in autoencoder.modules():
        if hasattr(module, "enable_gradient_checkpointing"):
            cast(Any, module).enable_gradient_checkpointing()
            return
    raise ConfigurationError(
        f"gradient_checkpointing is on, but {type(autoencoder).__name__} holds no module with "
        "enable_gradient_checkpointing (diffusers' models have it). Switch it off."
    )


def _check_crops(side: int, autoencoder: Autoencoder, losses: WeightedSum) -> None:
    factor = autoencoder.downsampling
    if side < 1 or side % factor:
        raise ConfigurationError(
            f"crop_size is {side}: expected a multiple of {factor}, the autoencoder's downsampling, such as "
            f"{max(side // factor, 1) * factor}."
        )
    if losses.needs_labels:
        rank_zero_warn("A loss term reads labels, which belong to whole images, but crop_size shows it crops.")
