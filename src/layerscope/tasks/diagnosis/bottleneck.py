"""Does an autoencoder lose what a teacher needs? Reconstructions and a latent noise sweep, judged by the teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from layerscope.artifacts import BottleneckScores, Thresholds
from layerscope.data.hashing import teacher_hash
from layerscope.data.labelled import labelled_data
from layerscope.errors import ConfigurationError, DataError
from layerscope.functional.controls import controls_by_name
from layerscope.functional.noise import add_noise, sample_noise
from layerscope.functional.similarity import channel_norm, pooled, position_cosine, vector_cosine
from layerscope.metrics.latents import LatentStatistics
from layerscope.metrics.table import IndexedTable
from layerscope.protocols import Autoencoder, FeatureTeacher, Posterior, Teacher
from layerscope.tasks.diagnosis.latent_space import LatentSpace, NoiseSettings
from layerscope.tasks.scoring import check_finite, check_label_count
from layerscope.tasks.thresholds import ThresholdSettings, resolve_thresholds
from layerscope.types import Batch, Condition, DiagnosisOutput, TeacherFeatures

ConditionListener = Callable[[Condition, int], None]


class BottleneckDiagnosis(LightningModule):
    """E1 and E2: the teacher's view of originals, reconstructions, noisy reconstructions and controls.

    Each image is encoded once. Its noisy latents share one noise per draw along the whole sweep and are decoded in
    chunks; the teacher's view of the original is computed once. Results are collected by row number, so batch
    size, workers, processes and order do not change them.

    Args:
        autoencoder: a module that satisfies ``layerscope.protocols.Autoencoder``.
        teacher: a module that satisfies ``layerscope.protocols.Teacher``; with ``features`` also embedding and stage
            cosines are measured.
        noise: the noise sweep.
        posterior: ``mode`` encodes to the posterior's mode, ``sample`` draws from it (per sample, from the noise seed).
        controls: known degradations judged in the same run: roundtrip8, jpeg_q95, jpeg_q75, jpeg_q50, down2, down4,
            down8, blur3, blur5, shift1.
        thresholds: where the decision thresholds of F1 and flips come from.
        decode_batch_size: noisy latents decoded at once; lower it when memory runs out.
        picture_timesteps: noise steps whose reconstructions are kept for pictures; by default the one in the middle.
    """

    autoencoder: Autoencoder
    teacher: Teacher

    def __init__(
        self,
        autoencoder: nn.Module,
        teacher: nn.Module,
        noise: NoiseSettings = NoiseSettings(),  # noqa: B008 — never changed
        posterior: Literal["mode", "sample"] = "mode",
        controls: list[str] | None = None,
        thresholds: ThresholdSettings = ThresholdSettings(),  # noqa: B008 — never changed
        decode_batch_size: int = 8,
        picture_timesteps: list[int] | None = None,
    ) -> None:
        super().__init__()
        for module, protocol in ((autoencoder, Autoencoder), (teacher, Teacher)):
            if not isinstance(module, protocol):
                needs = "encode, decode, latent_channels, downsampling, scale, unscale"
                if protocol is Teacher:
                    needs = "num_labels and to be callable"
                raise ConfigurationError(f"{type(module).__name__} is no {protocol.__name__}: it needs {needs}.")
        if decode_batch_size < 1:
            raise ConfigurationError(f"decode_batch_size is {decode_batch_size}: expected at least 1.")
        if posterior not in ("mode", "sample"):
            raise ConfigurationError(f"posterior is {posterior!r}: expected mode or sample.")
        self.autoencoder = cast(Any, autoencoder.requires_grad_(False).eval())
        self.teacher = cast(Any, teacher.requires_grad_(False).eval())
        self.noise = noise
        # A submodule, so that it moves to the device; in eval mode, so that dropout or batch norm do not judge.
        self.denoiser = noise.denoiser.requires_grad_(False).eval() if isinstance(noise.denoiser, nn.Module) else None
        self.posterior = posterior
        self.controls = controls_by_name(controls or [])
        self.threshold_settings = thresholds
        self.decode_batch_size = decode_batch_size
        self.schedule = noise.schedule()
        self.conditions = list(self._build_conditions())
        self.pictured = self._choose_pictured(picture_timesteps)
        self.condition_listeners: list[ConditionListener] = []
        self.scores: BottleneckScores | None = None
        self.thresholds: Thresholds | None = None

    # -- what is judged ------------------------------------------------------------------------------------------

    def _build_conditions(self) -> Iterator[Condition]:
        yield Condition("real", "real")
        yield Condition("recon", "recon")
        for t in self.schedule.steps(self.noise.timesteps):
            if t == 0:
                continue
            log_snr = self.schedule.log_snr(t)
            for draw in range(self.noise.draws_at(log_snr)):
                yield Condition(f"t{t}", "noise", t, draw, log_snr)
        for name in self.controls:
            yield Condition(name, "control")

    def _choose_pictured(self, wanted: list[int] | None) -> set[str]:
        steps = sorted({c.t for c in self.conditions if c.t is not None})
        if wanted is None:
            wanted = steps[len(steps) // 2 : len(steps) // 2 + 1]
        missing = [t for t in wanted if t not in steps and t != 0]
        if missing:
            raise ConfigurationError(f"picture_timesteps {missing} are not among the evaluated steps {steps}.")
        return {f"t{t}" for t in wanted if t != 0}

    def describe(self) -> dict[str, Any]:
        """What a summary tells about how the answer came about: schedule, convention, normalisation."""
        choice = self.noise.denoiser
        return {
            "schedule": self.schedule.name,
            "convention": self.schedule.convention,
            "posterior": self.posterior,
            "latent_normalisation": self.noise.latent_normalisation,
            "latent_mean": self._space.mean.tolist(),
            "latent_std": self._space.std.tolist(),
            "latent_dead_channels": self._space.dead_channels,
            "latent_statistics_images": self._calibration_images,
            "denoiser": choice if isinstance(choice, str) else type(choice).__name__,
            "noise_seed": self.noise.seed,
            "latent_shape": list(self._latent_shape),
            "image_shape": list(self._image_shape),
        }

    def not_measured(self) -> list[dict[str, str]]:
        """Parts of the diagnosis that this teacher does not allow."""
        missing = []
        if not self._names_of_similarity:
            missing.append(
                {
                    "what": "embedding and stage cosines",
                    "reason": f"{type(self.teacher).__name__} has no method `features` "
                    "(layerscope.protocols.FeatureTeacher)",
                }
            )
        return missing

    # -- the loop ------------------------------------------------------------------------------------------------

    def on_test_start(self) -> None:
        data = labelled_data(self.trainer)
        check_label_count(self.teacher, data.labels)
        loader = self.trainer.test_dataloaders
        if not isinstance(loader, DataLoader):
            raise ConfigurationError("BottleneckDiagnosis needs one evaluation dataloader with a map-style dataset.")
        self._calibrate(loader)
        teacher = cast(nn.Module, self.teacher)
        self.teacher_hash = teacher_hash(teacher, data)
        self.thresholds = resolve_thresholds(self.threshold_settings, self, teacher)
        rows, conditions = len(loader.dataset), len(self.conditions)  # type: ignore[arg-type]
        labels = len(data.labels)
        self.table = IndexedTable(
            rows,
            {
                "logits": (conditions, labels),
                "similarity": (conditions, len(self._names_of_similarity)),
                "target": (labels,),
                "known": (labels,),
            },
        ).to(self.device)

    def test_step(  # type: ignore[override]
        self, batch: Batch, batch_idx: int
    ) -> DiagnosisOutput:
        image, ids = batch["image"], batch["id"]
        self._check_size(image, ids)
        original = self._look(image)
        check_finite(original.logits, ids, "the original")
        reference = _Reference(original)
        z = self._latent(self.autoencoder.encode(image), ids)
        logits = image.new_zeros(len(image), len(self.conditions), original.logits.shape[1], dtype=torch.float32)
        similarity = logits.new_ones(len(image), len(self.conditions), len(self._names_of_similarity))
        images: dict[str, Tensor] = {"real": image}
        rows_of_batch = torch.arange(len(image), device=image.device)

        def judge(picture: Tensor, rows: Tensor, places: Tensor, name: str) -> None:
            """Writes what the teacher makes of ``picture``: batch row and condition of each image are given."""
            seen = self._look(picture)
            check_finite(seen.logits, [ids[row] for row in rows.tolist()], name)
            logits[rows, places] = seen.logits
            if self._names_of_similarity:
                similarity[rows, places] = self._compare(reference, seen, rows)

        logits[:, 0] = original.logits
        recon = self._decode(z)
        self._announce(1, len(image))
        judge(recon, rows_of_batch, torch.ones_like(rows_of_batch), "the reconstruction")
        images["recon"] = recon
        for latents, rows, places in self._noisy_latents(z, ids):
            self._announce(int(places[0]), len(latents))
            noisy = self._decode(latents)
            judge(noisy, rows, places, f"condition {self.conditions[int(places[0])].name}")
            self._keep_pictured(images, noisy, rows, places)
        first_control = len(self.conditions) - len(self.controls)
        for place, (name, control) in enumerate(self.controls.items(), start=first_control):
            self._announce(place, len(image))
            judge(control(image), rows_of_batch, torch.full_like(rows_of_batch, place), f"control {name}")
        self.table.update(
            batch["index"],
            {"logits": logits, "similarity": similarity, "target": batch["target"], "known": batch["known"]},
        )
        return DiagnosisOutput(ids, batch["index"], batch["target"], batch["known"], logits, images)

    def on_test_epoch_end(self) -> None:
        columns = {name: column.cpu().numpy() for name, column in self.table.compute().items()}
        data = labelled_data(self.trainer)
        groups = data.evaluated_groups()
        assert self.thresholds is not None
        self.scores = BottleneckScores(
            id=np.array(cast(Any, self.trainer.test_dataloaders).dataset.ids),
            group=np.array(groups if groups is not None else [], dtype=str),
            target=columns["target"].astype(np.uint8),
            known=columns["known"] > 0.5,
            label=np.array(data.labels.names),
            label_display=np.array(data.labels.display_names),
            evaluated=np.array(data.labels.evaluated, dtype=bool),
            condition=np.array([c.name for c in self.conditions]),
            kind=np.array([c.kind for c in self.conditions]),
            t=np.array([-1 if c.t is None else c.t for c in self.conditions]),
            draw=np.array([-1 if c.draw is None else c.draw for c in self.conditions]),
            log_snr=np.array([np.nan if c.log_snr is None else c.log_snr for c in self.conditions]),
            log_snr_eff=np.array(
                [np.nan if c.log_snr is None else self._space.effective_log_snr(c.log_snr) for c in self.conditions]
            ),
            logits=columns["logits"].transpose(1, 0, 2).copy(),
            similarity_name=np.array(self._names_of_similarity, dtype=str),
            similarity=columns["similarity"].transpose(1, 0, 2).copy(),
            similarity_null=self._null.cpu().numpy(),
            threshold_global=self.thresholds.global_logit,
            threshold_label=np.asarray(self.thresholds.label_logit, dtype=np.float64),
            threshold_source=self.threshold_settings.file or "fitted on real val in this run",
        )

    # -- parts ---------------------------------------------------------------------------------------------------

    def _look(self, image: Tensor) -> TeacherFeatures:
        if isinstance(self.teacher, FeatureTeacher):
            return self.teacher.features(image)
        return TeacherFeatures(self.teacher(image).float())

    def _latent(self, posterior: Posterior, ids: list[str]) -> Tensor:
        if not isinstance(posterior, Posterior) or isinstance(posterior, Tensor):
            raise ConfigurationError(
                f"{type(self.autoencoder).__name__}.encode gives a {type(posterior).__name__}; it must give a "
                "posterior with mean and std (layerscope.protocols.Posterior)."
            )
        if self.posterior == "mode":
            return posterior.mean
        eps = sample_noise(ids, posterior.mean.shape[1:], self.noise.seed, "posterior")
        return posterior.mean + posterior.std * eps.to(posterior.mean)

    def _decode(self, z: Tensor) -> Tensor:
        """Decoded in chunks, clamped to the range an image file can hold."""
        picture = torch.cat([self.autoencoder.decode(chunk) for chunk in z.split(self.decode_batch_size)])
        if picture.shape[1:] != self._image_shape:
            raise ConfigurationError(
                f"{type(self.autoencoder).__name__} decodes to {tuple(picture.shape[1:])}, but the images are "
                f"{tuple(self._image_shape)} (channels, height, width). An autoencoder under diagnosis gives back the "
                "size it was given."
            )
        return picture.float().clamp(-1, 1)

    def _noisy_latents(self, z: Tensor, ids: list[str]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Chunks of noisy latents with the batch row and the condition of each."""
        clean = self._space.normalise(z)
        denoise = self.denoiser or self._space.denoiser(self.noise.denoiser)
        batch_rows = torch.arange(len(z), device=z.device)
        for draw in sorted({c.draw for c in self.conditions if c.draw is not None}):
            eps = sample_noise(ids, clean.shape[1:], self.noise.seed, draw).to(clean)
            places = [place for place, c in enumerate(self.conditions) if c.draw == draw]
            # A list of pairs, not the latents themselves: only one chunk of them exists at a time.
            pairs = [(row, place) for place in places for row in range(len(z))]
            for start in range(0, len(pairs), self.decode_batch_size):
                chunk = pairs[start : start + self.decode_batch_size]
                rows = batch_rows[[row for row, _ in chunk]]
                noisy = []
                for row, place in chunk:
                    t = self.conditions[place].t
                    assert t is not None
                    alpha, sigma = self.schedule.alpha_sigma(t)
                    noisy.append(
                        denoise(add_noise(clean[row : row + 1], eps[row : row + 1], alpha, sigma), alpha, sigma)
                    )
                latents = self._space.unnormalise(torch.cat(noisy)).to(z.dtype)
                yield latents, rows, torch.tensor([place for _, place in chunk], device=z.device)

    def _keep_pictured(self, images: dict[str, Tensor], noisy: Tensor, rows: Tensor, places: Tensor) -> None:
        """Keeps the first draw of the pictured steps: the very images that were scored."""
        for at, (row, place) in enumerate(zip(rows.tolist(), places.tolist())):
            condition = self.conditions[place]
            if condition.draw == 0 and condition.name in self.pictured:
                kept = images.setdefault(condition.name, torch.empty_like(images["real"]))
                kept[row] = noisy[at].to(kept)

    def _compare(self, original: _Reference, seen: TeacherFeatures, rows: Tensor) -> Tensor:
        """Cosines of the pairs (original[rows[i]], seen[i]): (len(rows), K) in the order of the names."""
        whole = len(rows) == original.size and bool((rows == torch.arange(original.size, device=rows.device)).all())

        def of(original_part: Tensor) -> Tensor:
            return original_part if whole else original_part[rows]

        columns = []
        if original.embedding is not None and seen.embedding is not None:
            columns.append(vector_cosine(of(original.embedding), seen.embedding))
        for name, stage in original.stages.items():
            columns.append(vector_cosine(of(original.pooled[name]), pooled(seen.stages[name])))
            columns.append(position_cosine(of(stage), seen.stages[name], of(original.norms[name])))
        return torch.stack(columns, dim=1)

    def _announce(self, place: int, images: int) -> None:
        for listener in self.condition_listeners:
            listener(self.conditions[place], images)

    @torch.no_grad()
    def _calibrate(self, loader: DataLoader[Any]) -> None:
        """Latent statistics, and cosines between different originals (the null), on a sample of the split.

        Images are chosen, and paired for the null, in the order of a hash of their ids: neither the order of the rows
        nor the number of processes matters (each measures the same images), and neighbours in a table, which may be
        one patient, are not paired.
        """
        dataset: Any = loader.dataset
        chosen = sorted(range(len(dataset)), key=lambda row: _shuffling_key(dataset.ids[row]))
        chosen = chosen[: self.noise.latent_statistics_images]
        statistics: LatentStatistics | None = None
        null: list[Tensor] = []
        previous: TeacherFeatures | None = None
        self._names_of_similarity: list[str] = []
        precision = self.trainer.precision_plugin
        images = DataLoader(Subset(dataset, chosen), batch_size=loader.batch_size, collate_fn=loader.collate_fn)
        for batch in images:
            image = precision.convert_input(batch["image"].to(self.device))
            if statistics is None:
                self._image_shape = tuple(image.shape[1:])
            self._check_size(image, batch["id"])
            # Lightning enters the precision's context for steps only.
            with precision.forward_context():
                z = self._latent(self.autoencoder.encode(image), batch["id"])
                if self.noise.latent_normalisation == "config":
                    z = self.autoencoder.scale(z)
                seen = self._look(image)
            if statistics is None:
                statistics = LatentStatistics(*z.shape[1:]).to(self.device)
                self._latent_shape = tuple(z.shape[1:])
            statistics.update(z)
            self._names_of_similarity = _similarity_names(seen)
            if self._names_of_similarity:
                null.extend(self._neighbours(previous, seen))
                previous = _last(seen)
        assert statistics is not None
        # Every process has the same figures: a sum over processes would count each image several times.
        statistics.sync_on_compute = False
        self._space = LatentSpace(self.autoencoder, self.noise.latent_normalisation, statistics.compute())
        self._null = torch.cat(null) if null else torch.zeros(0, len(self._names_of_similarity))
        self._calibration_images = len(chosen)

    def _neighbours(self, previous: TeacherFeatures | None, seen: TeacherFeatures) -> Iterator[Tensor]:
        """Cosines of consecutive different originals, also across the border of two batches."""
        if previous is not None:
            only = torch.zeros(1, dtype=torch.int64, device=seen.logits.device)
            yield self._compare(_Reference(previous), _slice(seen, slice(0, 1)), only)
        if len(seen.logits) > 1:
            rows = torch.arange(len(seen.logits) - 1, device=seen.logits.device)
            yield self._compare(_Reference(seen), _slice(seen, slice(1, None)), rows)

    def _check_size(self, image: Tensor, ids: list[str]) -> None:
        height, width = image.shape[-2:]
        if tuple(image.shape[1:]) != self._image_shape:
            raise DataError(
                f"The image {ids[0]!r} has {width} × {height} pixels and others have {self._image_shape[2]} × "
                f"{self._image_shape[1]}; a diagnosis needs one size, since latents are measured per position. Set "
                "data.init_args.image_size or data.init_args.center_crop_size."
            )
        factor = self.autoencoder.downsampling
        if height % factor or width % factor:
            raise ConfigurationError(
                f"Images of {width} × {height} pixels do not divide by the autoencoder's downsampling of {factor}; "
                "diffusers would crop them without a word. Set data.init_args.image_size or "
                f"data.init_args.center_crop_size to a multiple of {factor}, such as "
                f"{max(factor, height // factor * factor)}."
            )


class _Reference:
    """What the teacher sees of the originals of a batch, with what every comparison needs of it."""

    def __init__(self, seen: TeacherFeatures) -> None:
        self.size = len(seen.logits)
        self.embedding = seen.embedding
        self.stages = seen.stages
        self.pooled = {name: pooled(stage) for name, stage in seen.stages.items()}
        self.norms = {name: channel_norm(stage) for name, stage in seen.stages.items()}


def _shuffling_key(sample_id: str) -> bytes:
    return hashlib.blake2b(sample_id.encode(), digest_size=8).digest()


def _similarity_names(seen: TeacherFeatures) -> list[str]:
    names = ["embedding"] if seen.embedding is not None else []
    return names + [f"{stage}.{kind}" for stage in seen.stages for kind in ("pooled", "position")]


def _slice(seen: TeacherFeatures, rows: slice) -> TeacherFeatures:
    embedding = None if seen.embedding is None else seen.embedding[rows]
    return TeacherFeatures(seen.logits[rows], embedding, {name: stage[rows] for name, stage in seen.stages.items()})


def _last(seen: TeacherFeatures) -> TeacherFeatures:
    return _slice(seen, slice(-1, None))
