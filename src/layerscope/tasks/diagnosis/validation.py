"""A short bottleneck diagnosis while a VAE is being trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from layerscope.errors import ConfigurationError
from layerscope.losses.frozen import Frozen
from layerscope.metrics.teacher_agreement import TeacherAgreement
from layerscope.protocols import Autoencoder, LabelledData, Teacher
from layerscope.tasks.diagnosis.latent_space import LatentSpace, NoiseProcess, measure_latent_space, noisy_latent
from layerscope.tasks.scoring import check_finite, check_label_count
from layerscope.types import Batch


@dataclass
class ShortDiagnosis:
    """What a teacher makes of reconstructions, and of slightly noisy ones, at each validation.

    Logged as ``val/mean_abs_delta_p`` and ``val/delta_auroc``, with ``_t<step>`` for noise: figures to stop or to
    choose by (``metrics.teacher_agreement``). They are without intervals; the verdict is the business of
    ``tasks.diagnosis.bottleneck``.

    teacher: satisfies ``layerscope.protocols.Teacher``; frozen, and in no checkpoint.
    timesteps: steps of the noise schedule beside the clean reconstruction; few and small ones, for each costs a decoder
        and a teacher call per image, and the first also another encoding of ``noise.latent_statistics_images`` images.
    noise: how noise is added, as in a diagnosis.
    """

    teacher: nn.Module
    timesteps: list[int] = field(default_factory=lambda: [52])
    noise: NoiseProcess = field(default_factory=NoiseProcess)

    def __post_init__(self) -> None:
        if not isinstance(self.teacher, Teacher):
            raise ConfigurationError(
                f"diagnosis.teacher is a {type(self.teacher).__name__}, which is no layerscope.protocols.Teacher: it "
                "needs num_labels and to be callable."
            )
        self.timesteps = [t for t in self.noise.schedule().steps(self.timesteps) if t != 0]

    def __deepcopy__(self, memo: dict[int, Any]) -> ShortDiagnosis:
        return self  # an averaged copy of the task costs no second teacher


class ShortDiagnosisRun:
    """One validation's diagnosis: made when it starts, shown every batch, asked when it ends.

    Args:
        settings: what the configuration says.
        module: the task; its trainer has one validation loader with a map-style data set.
        autoencoder: under training, in evaluation mode.
    """

    def __init__(self, settings: ShortDiagnosis, module: LightningModule, autoencoder: Autoencoder) -> None:
        self._settings = settings
        self._autoencoder = autoencoder
        self._teacher = Frozen(settings.teacher)
        denoiser = settings.noise.denoiser
        self._denoiser = Frozen(denoiser) if isinstance(denoiser, nn.Module) else None
        loader = cast(DataLoader[Any], module.trainer.val_dataloaders)
        self._space: LatentSpace | None = None
        if settings.timesteps:
            self._space = measure_latent_space(module, autoencoder, settings.noise, loader)
        outputs = int(cast(Any, settings.teacher).num_labels)
        data = getattr(module.trainer, "datamodule", None)
        judged = [True] * outputs
        if isinstance(data, LabelledData) and len(data.labels):
            check_label_count(settings.teacher, data.labels)
            judged = list(data.labels.evaluated)
        names = ["", *(f"t{t}" for t in settings.timesteps)]
        rows = len(loader.dataset)  # type: ignore[arg-type]
        self.agreement = TeacherAgreement(rows, outputs, judged, names).to(module.device)

    def update(self, batch: Batch, z: Tensor, recon: Tensor) -> None:
        """Judges a batch: its latents (B, C, h, w) and their decoding, float32 (B, 3, H, W), clamped to [-1, 1]."""
        ids = batch["id"]
        real = self._look(batch["image"], ids, "the original")
        versions = {"": self._look(recon, ids, "the reconstruction")}
        for t in self._settings.timesteps:
            assert self._space is not None
            denoise = None if self._denoiser is None else self._denoiser.on(z.device)
            noisy = noisy_latent(z, ids, t, self._settings.noise, self._space, denoise)
            picture = self._autoencoder.decode(noisy).float().clamp(-1, 1)
            versions[f"t{t}"] = self._look(picture, ids, f"the reconstruction at step {t}")
        self.agreement.update(batch["index"], batch["target"], batch["known"], real, versions)

    def _look(self, image: Tensor, ids: list[str], what: str) -> Tensor:
        # In float32, as a diagnosis looks: bfloat16 alone would change probabilities by about .001.
        with torch.autocast(image.device.type, enabled=False):
            logits: Tensor = self._teacher.on(image.device)(image.float().contiguous()).float()
        check_finite(logits, ids, what)
        return logits
