"""Images through vision transformers whose tokens are compared with their neighbours, CLS, regions and texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from torch import Tensor, nn

from layerscope.errors import ConfigurationError, LayerscopeError, NumericalError
from layerscope.functional.controls import controls_by_name
from layerscope.functional.token_norms import HIGH_NORM_RATIO
from layerscope.functional.token_regions import box_seen, patches_in_box
from layerscope.functional.token_similarity import check_metric
from layerscope.metrics.token_measurement import TokenPlaces, TokenQuestions, TokenReferences, measure_tokens
from layerscope.probes.probe import Probe
from layerscope.protocols import Autoencoder, PooledTokens, TextAligned, TokenEncoder
from layerscope.tasks.diagnosis.block_choice import chosen_layers
from layerscope.types import (
    InputGeometry,
    LayerTokens,
    NormStage,
    TokenBatch,
    TokenLayout,
    TokenMetric,
    TokenOutput,
    TokenView,
)


class TokenSimilarity(LightningModule):
    """How alike are the tokens of a vision transformer, at any of its layers, in one pass?

    Each chosen layer is reduced inside its forward hook to maps over the patch grid and a few figures an image
    (``types.LayerTokens``). With something to compare, another picture of each image, its reconstruction by an
    autoencoder, or another model, that is measured too, and how much each token changes.

    Args:
        encoder: satisfies ``layerscope.protocols.TokenEncoder``: ``layerscope.models.transformers_tokens``,
            ``layerscope.models.timm_tokens``, or one of your own.
        layers: ``last`` block, ``all``, or some: numbers (−1 is the last), names, and patterns of names with ``*``.
        similarity_metric: ``cosine``, or ``dot_product`` without normalisation. Two zero tokens have cosine 1, a zero
            token and another 0.
        norm: whether tokens are taken ``before`` or ``after`` the model's final norm (of any layer).
        diagonals: also the neighbours along both diagonals.
        pooled: compare patches with the model's pooled token where it has no CLS token (SigLIP's attention pooling, a
            mean): made by its head of the layer's tokens.
        seed_patch: [row, column] of a patch that every patch is compared with.
        box: [left, top, right, bottom] in pixels of the picture in the file; every patch is compared with the mean
            token of the patches in it. [x, y, x + 1, y + 1] is the patch at one pixel.
        text: a text that every patch is compared with, in the space of CLIP's projections.
        effective_rank: of the patch tokens (an eigenvalue problem for each image and layer).
        high_norm_ratio: patches with a norm above so many times the median of their image count as high.
        high_norm_cutoff: patches with a norm above this count as high instead.
        other_encoder: a second model that sees the same images.
        autoencoder: satisfies ``layerscope.protocols.Autoencoder``: its reconstructions, at the size that the encoder
            sees, by the posterior's mode, are compared with the images.
        controls: known degradations to compare with too, beside the reconstruction (``jpeg_q75``).

    Raises:
        ConfigurationError: an encoder that is none, a layer, metric or control that does not exist (with close names),
            something that this encoder cannot be asked, or two things to compare with.
    """

    # Modules that satisfy TokenEncoder and Autoencoder, as the constructor checks.
    encoder: Any
    other_encoder: Any
    autoencoder: Any

    def __init__(
        self,
        encoder: nn.Module,
        layers: int | str | list[int | str] = "last",
        similarity_metric: str = "cosine",
        norm: NormStage = "before",
        diagonals: bool = False,
        pooled: bool = False,
        seed_patch: list[int] | None = None,
        box: list[float] | None = None,
        text: str | None = None,
        effective_rank: bool = True,
        high_norm_ratio: float = HIGH_NORM_RATIO,
        high_norm_cutoff: float | None = None,
        other_encoder: nn.Module | None = None,
        autoencoder: nn.Module | None = None,
        controls: list[str] | None = None,
    ) -> None:
        super().__init__()
        if norm not in get_args(NormStage):
            raise ConfigurationError(f"norm is {norm!r}: expected before or after, the model's final norm.")
        if other_encoder is not None and autoencoder is not None:
            raise ConfigurationError(
                "other_encoder and autoencoder both say what the images are compared with. Give one of them, and run "
                "the other comparison by itself."
            )
        metric = check_metric(similarity_metric)
        self.encoder = _frozen(_as_encoder(encoder, "encoder"))
        self.other_encoder = None if other_encoder is None else _frozen(_as_encoder(other_encoder, "other_encoder"))
        self.autoencoder = None if autoencoder is None else _frozen(_as_autoencoder(autoencoder))
        self.similarity_metric: TokenMetric = metric
        self.norm: NormStage = norm
        self.pooled = pooled
        self.box = _numbers("box", box, 4)
        self.text = text
        seed = _numbers("seed_patch", seed_patch, 2)
        if seed is not None and any(value != int(value) for value in seed):
            raise ConfigurationError(f"seed_patch is {seed_patch}: expected whole numbers, [row, column] of a patch.")
        self.questions = TokenQuestions(
            metric,
            diagonals,
            effective_rank,
            None if seed is None else (int(seed[0]), int(seed[1])),
            high_norm_ratio,
            high_norm_cutoff,
        )
        if controls and autoencoder is None:
            raise ConfigurationError(
                "controls are drawn beside an autoencoder's reconstruction, and there is no autoencoder. Give one, or "
                "leave controls out."
            )
        self.controls = controls_by_name(controls or [])
        self._text: dict[str, Tensor] = {}
        # Wrong layers and texts are told before any image is read.
        self._blocks: dict[str, list[str]] = {}
        for role in ("encoder", "other_encoder"):
            if (one := getattr(self, role)) is not None:
                self._blocks[role] = chosen_layers(one, layers)
                if text is not None:
                    self._text[role] = _embedded(one, text)

    # -- what others ask of it ------------------------------------------------------------------------------------

    @property
    def input_geometry(self) -> InputGeometry:
        """How the datamodule brings pictures to the size that the encoder takes."""
        geometry: InputGeometry = self.encoder.input_geometry
        return geometry

    @property
    def other_geometry(self) -> InputGeometry | None:
        """The same for the second model; None without one."""
        return None if self.other_encoder is None else self.other_encoder.input_geometry

    def watched_layers(self) -> tuple[nn.Module, Sequence[str], Sequence[str]]:
        """The module in which the blocks have their names, those that are watched, and none left out."""
        return self.encoder.layer_root, self._blocks["encoder"], []

    def look(self, images: Tensor) -> dict[str, Tensor]:
        """The encoder on images (B, 3, H, W) in [-1, 1] of the size that ``input_geometry`` gives."""
        with torch.no_grad():
            self.encoder(images)
        return {}

    def describe(self) -> dict[str, Any]:
        """Plain values for the summary."""
        return {
            "encoder": _described(self.encoder),
            "other_encoder": None if self.other_encoder is None else _described(self.other_encoder),
            "autoencoder": None
            if self.autoencoder is None
            else getattr(self.autoencoder, "source_name", type(self.autoencoder).__name__),
            "similarity_metric": self.similarity_metric,
            "norm": self.norm,
            "layers": self._blocks["encoder"],
            "seed_patch": self.questions.seed,
            "box": self.box,
            "text": self.text,
            "high_norm": {"ratio": self.questions.high_norm_ratio, "cutoff": self.questions.high_norm_cutoff},
            "controls": list(self.controls),
        }

    # -- measuring ------------------------------------------------------------------------------------------------

    def test_step(  # type: ignore[override]
        self, batch: TokenBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> TokenOutput:
        with _memory_explained(batch):
            views = self.measure(batch) if batch["id"] else []
        return TokenOutput(
            batch["id"],
            batch["index"],
            batch["has_mask"],
            batch["skipped"],
            views,
            self.similarity_metric,
            self.norm,
        )

    @torch.no_grad()
    def measure(self, batch: TokenBatch) -> list[TokenView]:
        """The images, and what they are compared with.

        Raises:
            NumericalError: tokens that are not finite, naming image and layer.
            ConfigurationError: a seed patch or box outside of what the encoder sees of an image.
        """
        images = batch["image"]
        versions = {"image": images}
        if self.autoencoder is not None:
            versions["reconstruction"] = self._reconstructed(images)
            versions |= {name: control(images) for name, control in self.controls.items()}
        if batch["other"] is not None and self.other_encoder is None:
            versions["other"] = batch["other"]
        has_mask = batch["has_mask"] if bool(batch["has_mask"].any()) else None
        views = self._see("encoder", versions, batch["mask"], has_mask, batch["shown"], batch["id"], batch["other_id"])
        if self.other_encoder is not None:
            if batch["other"] is None or batch["other_mask"] is None or batch["other_shown"] is None:
                raise ConfigurationError(
                    "other_encoder needs a datamodule that gives the images as the second model takes them, such as "
                    "layerscope.data.image_paths.ImagePaths."
                )
            views += self._see(
                "other_encoder",
                {"other_model": batch["other"]},
                batch["other_mask"],
                has_mask,
                batch["other_shown"],
                batch["id"],
            )
        return views

    def _see(
        self,
        role: str,
        versions: Mapping[str, Tensor],
        mask: Tensor,
        has_mask: Tensor | None,
        shown: NDArray[np.float64],
        ids: Sequence[str],
        other_ids: list[str] | None = None,
    ) -> list[TokenView]:
        """One pass of all versions through one model: role is the attribute that holds it."""
        encoder = getattr(self, role)
        images = torch.cat(list(versions.values()))
        height, width = (int(side) for side in images.shape[-2:])
        layout = encoder.token_layout((height, width))
        rows, columns = layout.covered or (height, width)
        mask, shown = mask[:, :rows, :columns], _cut(shown, rows / height, columns / width)
        places = TokenPlaces(None if has_mask is None else mask, has_mask, self._box(shown, ids, layout))
        self._check_seed(layout)
        if self._cls_source(layout) == "pooled" and not _pools(encoder):
            raise ConfigurationError(
                f"pooled is set, and the {type(encoder).__name__} has no pooled token "
                "(layerscope.protocols.PooledTokens). Leave pooled out: the maps of neighbours and norms need neither."
            )

        def reduce(name: str, tokens: Tensor) -> list[LayerTokens]:
            _check_tokens(tokens, layout, len(images))
            tokens, references = self._references(role, tokens, layout)
            return measure_tokens(tokens, layout, self.questions, places, references, len(versions))

        with Probe(encoder.layer_root, reduce, self._blocks[role]) as probe:
            encoder(images)
            found: dict[str, list[LayerTokens]] = probe.take()
        _check_finite(found, ids, list(versions))
        return [
            TokenView(
                name,
                (other_ids or list(ids)) if name == "other" else list(ids),
                str(getattr(encoder, "source_name", type(encoder).__name__)),
                self._cls_source(layout),
                image[..., :rows, :columns],
                mask,
                shown,
                layout,
                {layer: parts[place] for layer, parts in found.items()},
            )
            for place, (name, image) in enumerate(versions.items())
        ]

    def _cls_source(self, layout: TokenLayout) -> str:
        """What ``cls_similarity`` compares patches with: ``cls``, ``pooled``, or nothing."""
        return "cls" if "cls" in layout.prefix else "pooled" if self.pooled else ""

    def _references(self, role: str, tokens: Tensor, layout: TokenLayout) -> tuple[Tensor, TokenReferences]:
        """The tokens as they are to be compared, and what patches are compared with."""
        encoder = getattr(self, role)
        source = self._cls_source(layout)
        normed = tokens
        if self.norm == "after" or source == "pooled" or self.text is not None:
            # Under autocast a block may give another precision than that of the weights.
            parameter = next(encoder.parameters(), tokens)
            normed = encoder.final_norm(tokens.to(parameter.dtype))
        chosen = normed if self.norm == "after" else tokens
        names: dict[str, Tensor] = {}
        if source == "cls":
            names["cls_similarity"] = chosen[:, layout.prefix.index("cls")]
        elif source == "pooled":
            names["cls_similarity"] = encoder.pool(normed)
        text = None
        if self.text is not None:
            text = (encoder.project(normed), self._text[role].to(normed.device))
        return chosen, TokenReferences(names, text)

    def _box(self, shown: NDArray[np.float64], ids: Sequence[str], layout: TokenLayout) -> Tensor | None:
        """The patches of the box, bool (B, R, C)."""
        if self.box is None:
            return None
        box, part = torch.tensor(self.box, dtype=torch.float64), torch.from_numpy(shown)
        _check_box(part, ids, box)
        return patches_in_box(part, box, layout.rows, layout.columns).to(self.device)

    def _reconstructed(self, images: Tensor) -> Tensor:
        """By the posterior's mode, clamped; sides that the downsampling does not divide are padded and cut again."""
        height, width = images.shape[-2:]
        step = self.autoencoder.downsampling
        padding = (0, -width % step, 0, -height % step)
        padded = F.pad(images, padding, mode="replicate") if any(padding) else images
        decoded: Tensor = self.autoencoder.decode(self.autoencoder.encode(padded).mean)
        return decoded[..., :height, :width].float().clamp(-1, 1)

    def _check_seed(self, layout: TokenLayout) -> None:
        if self.questions.seed is None:
            return
        row, column = self.questions.seed
        if not (-layout.rows <= row < layout.rows and -layout.columns <= column < layout.columns):
            raise ConfigurationError(
                f"seed_patch is [{row}, {column}], and the encoder sees {layout.rows} rows and {layout.columns} "
                "columns of patches, counted from 0."
            )


@contextmanager
def _memory_explained(batch: TokenBatch) -> Iterator[None]:
    """A device out of memory is told with its remedies."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        images, height, width = len(batch["id"]), *batch["image"].shape[-2:]
        raise LayerscopeError(
            f"The device ran out of memory on {images} image{'s' * (images > 1)} of {width} × {height} pixels. Lower "
            + "data.init_args.batch_size, or " * (images > 1)
            + "the encoder's image_size; halve the activations with --trainer.precision=bf16-mixed; or run on the CPU "
            f"(--trainer.accelerator=cpu). The device said: {str(error).splitlines()[0]}"
        ) from error


def _check_tokens(tokens: Tensor, layout: TokenLayout, images: int) -> None:
    """The model's own statement of its tokens must hold: a map of misplaced tokens would look like any other."""
    count = len(layout.prefix) + layout.rows * layout.columns
    if tokens.ndim != 3 or tuple(tokens.shape[:2]) != (images, count):
        raise ConfigurationError(
            f"It gives {tuple(tokens.shape)} for {images} images, where {len(layout.prefix)} prefix tokens and "
            f"{layout.rows} × {layout.columns} patches make ({images}, {count}, D). This is no vision transformer "
            "whose tokens stay those of one grid; layerscope.tasks.diagnosis.pairs watches any model."
        )


def _check_box(shown: Tensor, ids: Sequence[str], box: Tensor) -> None:
    """The image is named by its id, which the geometry does not know."""
    unseen = (~box_seen(shown, box)).nonzero().flatten().tolist()
    if unseen and box[0] < box[2] and box[1] < box[3]:
        part = [round(value, 1) for value in shown[unseen[0]].tolist()]
        raise ConfigurationError(
            f"The box {box.tolist()} (left, top, right, bottom in pixels of the file) lies outside what the encoder "
            f"sees of {ids[unseen[0]]!r}, {part}. Give a box inside it; where a crop cut its place off, set the "
            "encoder's fit to stretch or whole."
        )


def _cut(shown: NDArray[np.float64], down: float, across: float) -> NDArray[np.float64]:
    """The upper and left share of the part that is shown, (B, 4) left, top, right, bottom."""
    left, top, right, bottom = shown.T
    return np.stack([left, top, left + (right - left) * across, top + (bottom - top) * down], axis=1)


def _check_finite(found: Mapping[str, Sequence[LayerTokens]], ids: Sequence[str], views: Sequence[str]) -> None:
    """One transfer from the device for all layers: a token with NaN or infinity has such a norm."""
    norms = [[part.maps["norms"].flatten(1) for part in parts] for parts in found.values()]
    finite = torch.stack([torch.stack([one.isfinite().all(dim=1) for one in parts]) for parts in norms])
    if bool(finite.all()):
        return
    layer, view, image = (~finite).nonzero()[0].tolist()
    raise NumericalError(
        f"The tokens of {ids[image]!r} ({views[view]}) after {list(found)[layer]} are not all finite. Half precision "
        "overflows in some vision transformers: try --trainer.precision=32-true or bf16-true; otherwise look for "
        "broken weights."
    )


def _as_encoder(module: nn.Module, argument: str) -> nn.Module:
    if not isinstance(module, TokenEncoder):
        raise ConfigurationError(
            f"{argument} is a {type(module).__name__}, which does not say where its tokens are "
            "(layerscope.protocols.TokenEncoder: layer_root, default_layers, input_geometry, token_layout and "
            "final_norm). Use layerscope.models.transformers_tokens.TransformersTokens or "
            "layerscope.models.timm_tokens.TimmTokens, or give your own class these."
        )
    return module


def _as_autoencoder(module: nn.Module) -> nn.Module:
    if not isinstance(module, Autoencoder):
        raise ConfigurationError(
            f"autoencoder is a {type(module).__name__}, which is none (layerscope.protocols.Autoencoder)."
        )
    return module


def _embedded(encoder: nn.Module, text: str) -> Tensor:
    """A text in the space of a model's projections."""
    if not isinstance(encoder, TextAligned):
        raise ConfigurationError(
            f"text is set, and the {type(encoder).__name__} has no text encoder that its tokens could be compared with "
            "(layerscope.protocols.TextAligned). Use CLIP through layerscope.models.transformers_tokens."
        )
    # An adapter of many models has the method for all of them, and tells here which have no text tower.
    return encoder.embed_text(text)


def _pools(encoder: nn.Module) -> bool:
    """An adapter of many models has the method for all of them, and says by ``pooled_by`` which can."""
    return isinstance(encoder, PooledTokens) and getattr(encoder, "pooled_by", "its own way") is not None


def _frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False).eval()


def _numbers(name: str, given: Sequence[float] | None, count: int) -> tuple[float, ...] | None:
    if given is None:
        return None
    if len(given) != count:
        what = "[row, column]" if count == 2 else "[left, top, right, bottom] in pixels"
        raise ConfigurationError(f"{name} is {list(given)}: expected {count} numbers, {what}.")
    return tuple(float(value) for value in given)


def _described(encoder: Any) -> dict[str, Any]:
    return {
        "class": type(encoder).__name__,
        "model": type(encoder.layer_root).__name__,
        "source": getattr(encoder, "source_name", None),
        "geometry": encoder.input_geometry,
    }
