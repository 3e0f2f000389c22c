"""Does an autoencoder lose what a teacher needs? Reconstructions and a latent noise sweep, judged by the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from layerscope.artifacts import BottleneckScores, Thresholds
from layerscope.data.hashing import teacher_hash
from layerscope.data.images_to_measure import images_to_measure
from layerscope.data.labelled import labelled_data
from layerscope.errors import ConfigurationError, DataError
from layerscope.functional.controls import controls_by_name
from layerscope.functional.noise import add_noise, sample_noise
from layerscope.metrics.image_quality import QUALITY, ImageQuality
from layerscope.metrics.latents import LatentStatistics
from layerscope.metrics.table import IndexedTable
from layerscope.protocols import Autoencoder, FeatureTeacher, Posterior, Teacher
from layerscope.tasks.diagnosis.feature_comparison import (
    OriginalFeatures,
    cosines_of_neighbours,
    similarity_names,
    some_of,
)
from layerscope.tasks.diagnosis.latent_cost import LatentCost, rate_obstacle
from layerscope.tasks.diagnosis.latent_space import LatentSpace, NoiseSettings, chosen_latent
from layerscope.tasks.scoring import check_finite, check_label_count
from layerscope.tasks.thresholds import ThresholdSettings, resolve_thresholds
from layerscope.types import Batch, Condition, DiagnosisOutput, TeacherFeatures

ConditionListener = Callable[[Condition, int], None]

# Latents of the images behind the latent statistics wait for the loop: 64 of Flux' at 1024 px take 64 MiB.
_KEPT_LATENT_BYTES = 256 * 2**20


class BottleneckDiagnosis(LightningModule):
    """E1 and E2: the teacher's view of originals, reconstructions, noisy reconstructions and controls.

    Beside it what a comparison of autoencoders asks for: quality of the reconstruction without noise, rate, times.

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
        """Parts of the diagnosis that this teacher, autoencoder or machine does not allow."""
        missing = [{"what": name.upper(), "reason": reason} for name, reason in self._quality_obstacles.items()]
        if reason := rate_obstacle(self._rates):
            missing.append({"what": "rate_bits", "reason": reason})
        if not self._names_of_similarity:
            missing.append(
                {
                    "what": "embedding and stage cosines",
                    "reason": f"{type(self.teacher).__name__} has no method `features` "
                    "(layerscope.protocols.FeatureTeacher)",
                }
            )
        return missing

    def cost(self) -> dict[str, Any]:
        """What an image's latent costs with this autoencoder on this process's device; see ``LatentCost.record``."""
        return self._cost.record(tuple(self._latent_shape), self._rates)

    # -- the loop ------------------------------------------------------------------------------------------------

    def on_test_start(self) -> None:
        data = labelled_data(self.trainer)
        check_label_count(self.teacher, data.labels)
        loader = self.trainer.test_dataloaders
        if not isinstance(loader, DataLoader):
            raise ConfigurationError("BottleneckDiagnosis needs one evaluation dataloader with a map-style dataset.")
        self._quality = ImageQuality()
        self._cost = LatentCost(self.autoencoder, self.device)
        self._calibrate(loader)
        teacher = cast(nn.Module, self.teacher)
        self.teacher_hash = teacher_hash(teacher, data)
        self.thresholds = resolve_thresholds(self.threshold_settings, self, teacher, self.teacher_hash)
        rows, conditions = len(loader.dataset), len(self.conditions)  # type: ignore[arg-type]
        labels = len(data.labels)
        self.table = IndexedTable(
            rows,
            {
                "logits": (conditions, labels),
                "similarity": (conditions, len(self._names_of_similarity)),
                "quality": (len(QUALITY),),
                "rate": (),
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
        reference = OriginalFeatures(original)
        z, rate = self._encoded(image, ids)
        logits = image.new_zeros(len(image), len(self.conditions), original.logits.shape[1], dtype=torch.float32)
        similarity = logits.new_ones(len(image), len(self.conditions), len(self._names_of_similarity))
        images: dict[str, Tensor] = {"real": image}

        def judge(picture: Tensor, parts: list[_Part], name: str) -> None:
            """Writes what the teacher makes of ``picture``, in which the ``parts`` follow one another."""
            seen = self._look(picture)
            check_finite(seen.logits, [name for part in parts for name in ids[part.rows]], name)
            for part, at in _places_of(parts):
                logits[part.rows, part.place] = seen.logits[at]
                if self._names_of_similarity:
                    similarity[part.rows, part.place] = reference.compare(some_of(seen, at), part.rows)

        def whole(place: int) -> list[_Part]:
            return [_Part(place, slice(0, len(image)))]

        logits[:, 0] = original.logits
        with self._cost.decoding.timing(len(image)):
            recon = self._decode(z)
        self._announce(1, len(image))
        judge(recon, whole(1), "the reconstruction")
        images["recon"] = recon
        for latents, parts in self._noisy_latents(z, ids):
            self._announce(parts[0].place, len(latents))
            noisy = self._decode(latents)
            judge(noisy, parts, f"condition {self.conditions[parts[0].place].name}")
            self._keep_pictured(images, noisy, parts)
        first_control = len(self.conditions) - len(self.controls)
        for place, (name, control) in enumerate(self.controls.items(), start=first_control):
            self._announce(place, len(image))
            judge(control(image), whole(place), f"control {name}")
        self.table.update(
            batch["index"],
            {
                "logits": logits,
                "similarity": similarity,
                "quality": self._quality(recon, image),
                "rate": rate,
                "target": batch["target"],
                "known": batch["known"],
            },
        )
        return DiagnosisOutput(ids, batch["index"], batch["target"], batch["known"], logits, images)

    def on_test_epoch_end(self) -> None:
        columns = {name: column.cpu().numpy() for name, column in self.table.compute().items()}
        data = labelled_data(self.trainer)
        groups = data.evaluated_groups()
        assert self.thresholds is not None
        self._rates = columns["rate"]
        self._quality_obstacles = self._quality.obstacles(columns["quality"], self._image_shape[1:])
        measured = [name not in self._quality_obstacles for name in QUALITY]
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
            quality_name=np.array(QUALITY)[measured],
            quality=columns["quality"][:, measured],
            threshold_global=self.thresholds.global_logit,
            threshold_label=np.asarray(self.thresholds.label_logit, dtype=np.float64),
            threshold_source=self.threshold_settings.file or "fitted on real val in this run",
        )

    # -- parts ---------------------------------------------------------------------------------------------------

    def _look(self, image: Tensor) -> TeacherFeatures:
        if isinstance(self.teacher, FeatureTeacher):
            return self.teacher.features(image)
        # Laid out as a datamodule gives it: autoencoders with attention give channels-last images, which hand-written
        # networks with `view` refuse.
        return TeacherFeatures(self.teacher(image.contiguous()).float())

    def _encode(self, image: Tensor, ids: list[str]) -> tuple[Tensor, Tensor]:
        """Raw latents (B, C, h, w) and their rates (B,) in bits."""
        with self._cost.encoding.timing(len(image)):
            posterior: Posterior = self.autoencoder.encode(image)
        return chosen_latent(posterior, ids, self.posterior, self.noise.seed), self._cost.rate(posterior)

    def _encoded(self, image: Tensor, ids: list[str]) -> tuple[Tensor, Tensor]:
        """The same; what was kept when the latent statistics were measured is not encoded again."""
        new = [row for row, name in enumerate(ids) if name not in self._kept]
        encoded = zip(*self._encode(image[new], [ids[row] for row in new])) if new else iter(())
        latents, rates = zip(*(self._kept.pop(name) if name in self._kept else next(encoded) for name in ids))
        return torch.stack(latents), torch.stack(rates)

    def _decode(self, z: Tensor) -> Tensor:
        """Decoded in chunks, clamped to the range an image file can hold."""
        chunks = [self.autoencoder.decode(chunk) for chunk in z.split(self.decode_batch_size)]
        picture = chunks[0] if len(chunks) == 1 else torch.cat(chunks)
        if picture.shape[1:] != self._image_shape:
            raise ConfigurationError(
                f"{type(self.autoencoder).__name__} decodes to {tuple(picture.shape[1:])}, but the images are "
                f"{tuple(self._image_shape)} (channels, height, width). An autoencoder under diagnosis gives back the "
                "size it was given."
            )
        return picture.float().clamp(-1, 1)

    def _noisy_latents(self, z: Tensor, ids: list[str]) -> Iterator[tuple[Tensor, list[_Part]]]:
        """Chunks of noisy latents, and what stands in them one after another."""
        clean = self._space.normalise(z)
        denoise = self.denoiser or self._space.denoiser(self.noise.denoiser)
        for draw in sorted({c.draw for c in self.conditions if c.draw is not None}):
            eps = sample_noise(ids, clean.shape[1:], self.noise.seed, draw).to(clean)
            places = [place for place, c in enumerate(self.conditions) if c.draw == draw]
            # Parts, not the latents themselves: only one chunk of them exists at a time.
            for parts in _chunks(places, len(z), self.decode_batch_size):
                noisy = []
                for place, rows in parts:
                    t = self.conditions[place].t
                    assert t is not None
                    alpha, sigma = self.schedule.alpha_sigma(t)
                    noisy.append(denoise(add_noise(clean[rows], eps[rows], alpha, sigma), alpha, sigma))
                yield self._space.unnormalise(torch.cat(noisy)).to(z.dtype), parts

    def _keep_pictured(self, images: dict[str, Tensor], noisy: Tensor, parts: list[_Part]) -> None:
        """Keeps the first draw of the pictured steps: the very images that were scored."""
        for part, at in _places_of(parts):
            condition = self.conditions[part.place]
            if condition.draw == 0 and condition.name in self.pictured:
                kept = images.setdefault(condition.name, torch.empty_like(images["real"]))
                kept[part.rows] = noisy[at].to(kept)

    def _announce(self, place: int, images: int) -> None:
        for listener in self.condition_listeners:
            listener(self.conditions[place], images)

    @torch.no_grad()
    def _calibrate(self, loader: DataLoader[Any]) -> None:
        """Latent statistics, and cosines between different originals (the null), on a sample of the split.

        Images are paired for the null in the order of a hash of their ids, so that neighbours in a table, which may be
        one patient, are not paired.
        """
        images = images_to_measure(loader, self.noise.latent_statistics_images)
        statistics: LatentStatistics | None = None
        null: list[Tensor] = []
        previous: TeacherFeatures | None = None
        self._names_of_similarity: list[str] = []
        self._kept: dict[str, tuple[Tensor, Tensor]] = {}
        precision = self.trainer.precision_plugin
        for batch in images:
            image = precision.convert_input(batch["image"].to(self.device))
            if statistics is None:
                self._image_shape = tuple(image.shape[1:])
            self._check_size(image, batch["id"])
            # Lightning enters the precision's context for steps only.
            with precision.forward_context():
                z, rate = self._encode(image, batch["id"])
                self._keep(z, rate, batch["id"])
                if self.noise.latent_normalisation == "config":
                    z = self.autoencoder.scale(z)
                seen = self._look(image)
            if statistics is None:
                statistics = LatentStatistics(*z.shape[1:]).to(self.device)
                self._latent_shape = tuple(z.shape[1:])
            statistics.update(z)
            self._names_of_similarity = similarity_names(seen)
            if self._names_of_similarity:
                null.extend(cosines_of_neighbours(previous, seen))
                previous = some_of(seen, slice(-1, None))
        assert statistics is not None
        # Every process has the same figures: a sum over processes would count each image several times.
        statistics.sync_on_compute = False
        self._space = LatentSpace(self.autoencoder, self.noise.latent_normalisation, statistics.compute())
        self._null = torch.cat(null) if null else torch.zeros(0, len(self._names_of_similarity))
        self._calibration_images = int(statistics.images)

    def _keep(self, z: Tensor, rate: Tensor, ids: list[str]) -> None:
        """Keeps latents and rates of measured images for the loop, as far as the budget goes."""
        room = _KEPT_LATENT_BYTES // (z[0].numel() * z.element_size()) - len(self._kept)
        self._kept.update(zip(ids[: max(room, 0)], zip(z.unbind(), rate.unbind())))

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


class _Part(NamedTuple):
    """Consecutive images of a batch under one condition."""

    place: int
    rows: slice


def _chunks(places: list[int], images: int, size: int) -> Iterator[list[_Part]]:
    """Every image under each of the conditions ``places``, at most ``size`` at a time."""
    total = len(places) * images
    for start in range(0, total, size):
        stop = min(start + size, total)
        yield [
            _Part(places[of], slice(max(start - of * images, 0), min(stop - of * images, images)))
            for of in range(start // images, (stop - 1) // images + 1)
        ]


def _places_of(parts: list[_Part]) -> Iterator[tuple[_Part, slice]]:
    """Each part with its place in the chunk."""
    start = 0
    for part in parts:
        stop = start + part.rows.stop - part.rows.start
        yield part, slice(start, stop)
        start = stop
