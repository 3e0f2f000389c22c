"""Training and evaluating the teacher: a multi-label classifier on real images (E0)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torchvision.transforms import v2

from layerscope.artifacts import ClassifierScores, Thresholds
from layerscope.data.hashing import teacher_hash
from layerscope.data.labelled import labelled_data
from layerscope.errors import ConfigurationError, NumericalError
from layerscope.functional.ranking import auroc, average_precision, macro
from layerscope.tasks.mixing import Mixer, Mixing
from layerscope.tasks.optimization import LearningRateSchedule, with_schedule
from layerscope.tasks.scoring import check_finite, check_label_count, scores_table, to_scores
from layerscope.tasks.thresholds import search_on_val
from layerscope.types import Batch


@dataclass
class Augmentation:
    """Random changes of training images, drawn per image on the device.

    Args:
        flip: mirror left-right and up-down, each with probability one half.
        rotate_degrees: rotation up to this angle either way; the corners are filled with black.
        brightness, contrast, saturation: relative strength of the colour jitter.
    """

    flip: bool = True
    rotate_degrees: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def build(self) -> nn.Module:
        """The augmentation as a module over float images in [0, 1] (3, H, W)."""
        steps: list[nn.Module] = []
        if self.flip:
            steps += [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
        if self.rotate_degrees:
            steps.append(v2.RandomRotation(self.rotate_degrees, interpolation=v2.InterpolationMode.BILINEAR))
        if self.brightness or self.contrast or self.saturation:
            steps.append(v2.ColorJitter(self.brightness, self.contrast, self.saturation))
        return nn.Sequential(*steps)


class TeacherTraining(LightningModule):
    """Multi-label classification with missing labels.

    ``fit`` minimises binary cross-entropy or focal loss over the known labels and logs ``val/mAP`` and ``val/auroc``
    (macro over the labels that have both classes in val). ``test`` scores the evaluated split, with thresholds
    fitted on val.

    Args:
        teacher: a module that satisfies ``layerscope.protocols.Teacher``.
        loss: ``bce``, or ``focal`` (Lin et al. 2017, without its alpha).
        focal_gamma: focusing exponent of ``focal``.
        pos_weight: weight of positives per label; ``balanced`` takes negatives / positives of the train split.
        optimizer: called with the parameters, ``torch.optim.AdamW`` by default.
        lr_schedule: ``cosine`` to zero over the whole training, or ``constant``; both after ``warmup_fraction``.
        warmup_fraction: share of the training steps with linearly rising learning rate.
        augmentation: random changes of the training images.
        mixing: reconstructions in the place of some training images, before the random changes. Validation, test and
            prediction see real images only.
    """

    def __init__(
        self,
        teacher: nn.Module,
        loss: Literal["bce", "focal"] = "bce",
        focal_gamma: float = 2.0,
        pos_weight: list[float] | Literal["balanced"] | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_schedule: LearningRateSchedule = "cosine",
        warmup_fraction: float = 0.05,
        augmentation: Augmentation = Augmentation(),  # noqa: B008 — never changed
        mixing: Mixing | None = None,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.loss = loss
        self.focal_gamma = focal_gamma
        self.pos_weight = pos_weight
        # Not AdamW as the default: jsonargparse would hand its weight decay on to any optimizer chosen instead.
        self.optimizer = optimizer or torch.optim.AdamW
        self.lr_schedule = lr_schedule
        self.warmup_fraction = warmup_fraction
        self.augment = augmentation.build()
        self.mixer = None if mixing is None else Mixer(mixing)
        # No buffer: it is known only when training starts, and weight averaging has copied the buffers by then.
        self._pos_weight: Tensor | None = None
        self.scores: ClassifierScores | None = None
        self.thresholds: Thresholds | None = None

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to logits (B, L)."""
        logits: Tensor = self.teacher(image)
        return logits

    # -- fit -----------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        data: Any = labelled_data(self.trainer)
        check_label_count(self.teacher, data.labels)
        match self.pos_weight:
            case None:
                pass
            case "balanced":
                train = data.dataset("train")
                target, known = np.asarray(train.targets), np.asarray(train.known)
                positives = np.maximum((target * known).sum(axis=0), 1)
                weight = np.maximum(known.sum(axis=0) - positives, 1) / positives
                self._pos_weight = torch.tensor(weight, dtype=torch.float32)
            case list():
                if len(self.pos_weight) != len(data.labels):
                    raise ConfigurationError(
                        f"pos_weight has {len(self.pos_weight)} entries for {len(data.labels)} labels."
                    )
                self._pos_weight = torch.tensor(self.pos_weight, dtype=torch.float32)
            case _:
                raise ConfigurationError(f"pos_weight is {self.pos_weight!r}: expected a list, balanced or null.")
        if self.mixer is not None:
            self.mixer.start(self)

    def on_train_epoch_start(self) -> None:
        if self.mixer is not None:
            self.mixer.start_epoch()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        seen = list(batch["image"]) if self.mixer is None else self.mixer.mix(batch, self.current_epoch)
        image = torch.stack([self.augment((one + 1) / 2) for one in seen]) * 2 - 1
        loss = self._loss(self.teacher(image), batch["target"], batch["known"])
        if not torch.isfinite(loss):
            raise NumericalError(
                f"The training loss is {float(loss)} at step {self.global_step} (images "
                f"{', '.join(batch['id'][:4])}, …). Lower the learning rate or check these images."
            )
        self.log("train/loss", loss, prog_bar=True, batch_size=len(image))
        return loss

    def on_train_epoch_end(self) -> None:
        if self.mixer is not None:
            figures = {f"train/{name}": value for name, value in self.mixer.figures().items()}
            self.log_dict(figures, sync_dist=True)

    def describe(self) -> dict[str, Any]:
        """What the summary of a training says besides its figures."""
        return {} if self.mixer is None else {"mixing": self.mixer.describe()}

    def _loss(self, logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
        """Mean over the known labels of the batch; zero where none is known."""
        weight = None if self._pos_weight is None else self._pos_weight.to(logits.device)
        elementwise = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none", pos_weight=weight)
        match self.loss:
            case "bce":
                pass
            case "focal":
                probability = torch.sigmoid(logits.float())
                wrong = torch.where(target > 0.5, 1 - probability, probability)
                elementwise = elementwise * wrong**self.focal_gamma
            case _:
                raise ConfigurationError(f"loss is {self.loss!r}: expected bce or focal.")
        return (elementwise * known).sum() / known.sum().clamp_min(1)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.teacher.parameters())
        return with_schedule(optimizer, self.trainer, self.lr_schedule, self.warmup_fraction)

    # -- validate and test ---------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._start_table(self.trainer.val_dataloaders)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        scores = to_scores(self._table)
        evaluated = np.asarray(labelled_data(self.trainer).labels.evaluated, dtype=bool)
        columns = (scores.logits[:, evaluated], scores.target[:, evaluated], scores.known[:, evaluated])
        # Every process holds the whole table, so no reduction is asked of the logger.
        self.log("val/mAP", macro(average_precision(*columns))[0], prog_bar=True)
        self.log("val/auroc", macro(auroc(*columns))[0], prog_bar=True)

    def on_test_start(self) -> None:
        data = labelled_data(self.trainer)
        check_label_count(self.teacher, data.labels)
        self.thresholds = search_on_val(self, self.teacher, teacher_hash(self.teacher, data))

    def on_test_epoch_start(self) -> None:
        self._start_table(self.trainer.test_dataloaders)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._score(batch)

    def on_test_epoch_end(self) -> None:
        scores = to_scores(self._table)
        data: Any = labelled_data(self.trainer)
        groups = data.evaluated_groups()
        loader: Any = self.trainer.test_dataloaders
        assert self.thresholds is not None
        self.scores = ClassifierScores(
            id=np.array(loader.dataset.ids),
            group=np.array(groups if groups is not None else [], dtype=str),
            target=scores.target,
            known=scores.known,
            label=np.array(data.labels.names),
            label_display=np.array(data.labels.display_names),
            evaluated=np.array(data.labels.evaluated, dtype=bool),
            logits=scores.logits,
            threshold_global=self.thresholds.global_logit,
            threshold_label=np.asarray(self.thresholds.label_logit, dtype=np.float64),
            threshold_source="fitted on real val in this run",
        )

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Ids and probabilities (B, L) of a batch."""
        return {"id": batch["id"], "probability": torch.sigmoid(self.teacher(batch["image"]).float())}

    def _start_table(self, loader: Any) -> None:
        labels = len(labelled_data(self.trainer).labels)
        self._table = scores_table(len(loader.dataset), labels).to(self.device)

    def _score(self, batch: Batch) -> None:
        if self.trainer.sanity_checking:
            return
        logits = self.teacher(batch["image"]).float()
        check_finite(logits, batch["id"], "real images")
        self._table.update(batch["index"], {"logits": logits, "target": batch["target"], "known": batch["known"]})
