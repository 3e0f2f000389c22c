"""Writing a trained autoencoder as a diffusers folder with what is known of it.

Not in ``models``, because a training's end and ``layerscope export`` both need it, and callbacks import no models.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from layerscope.artifacts import package_versions
from layerscope.artifacts.run_directory import to_plain
from layerscope.errors import ArtifactError, ConfigurationError, NumericalError
from layerscope.functional.latent_scaling import LatentDrift, LatentMoments, drift, scaling_entries
from layerscope.metrics.activation_audit import ActivationAudit, activation_audit
from layerscope.metrics.latent_statistics import latent_statistics
from layerscope.protocols import Autoencoder
from layerscope.report.model_card import model_card
from layerscope.types import AutoencoderRecord

EXPORT = "export.json"
CARD = "README.md"
AUDITED_IMAGES = 16
"""Images of the activation audit, which must also decode: several times the cost of encoding."""

_FACTORS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
_OWN_FILES = frozenset({"config.json", "diffusion_pytorch_model.safetensors", EXPORT, CARD})


@runtime_checkable
class ExportableAutoencoder(Autoencoder, Protocol):
    """An autoencoder that knows its configuration and writes itself, as ``DiffusersAutoencoder``."""

    @property
    def config(self) -> Mapping[str, Any]: ...

    def update_config(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """Sets the entries it has a place for, and returns them."""

    def save(self, path: str | Path) -> None:
        """Writes a diffusers folder."""


def export_autoencoder(
    autoencoder: nn.Module,
    out: str | Path,
    record: AutoencoderRecord,
    weights: Literal["averaged", "current"],
    images: Iterable[Tensor] | str,
    start: LatentMoments | str,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Measures a trained autoencoder and writes its folder: weights, config.json, README.md and export.json.

    Where the encoder was trained, the config gets the factors of ``scaling_entries`` (which also stay in the given
    ``autoencoder``); where only the decoder was, it keeps those of the start. One process writes: call it on rank zero.

    Args:
        autoencoder: an ``ExportableAutoencoder`` with float32 weights.
        out: the folder.
        record: what the training says of it, as in its checkpoints.
        weights: which weights it has, for the card.
        images: batches (B, 3, H, W) in [-1, 1] of one size, or why there are none. All are encoded for the statistics
            and the first ``AUDITED_IMAGES`` are decoded for the audit; without images neither is measured.
        start: the moments of the starting autoencoder on the same images, for the drift; or why there are none.
        overwrite: replace an earlier export in ``out``.

    Returns:
        The content of export.json. ``report.model_card.export_lines`` puts it into words.

    Raises:
        ConfigurationError: ``out`` is taken, or the autoencoder cannot be exported.
        DataError, NumericalError: as ``latent_statistics`` and ``scaling_entries``.
        ArtifactError: the folder cannot be written.
    """
    if not isinstance(autoencoder, ExportableAutoencoder):
        raise ConfigurationError(
            f"{type(autoencoder).__name__} cannot be exported: that needs config, update_config and save, as "
            "layerscope.models.autoencoders.DiffusersAutoencoder has them."
        )
    check_export_folder(out, overwrite)
    not_measured = []
    statistics: LatentMoments | None = None
    audit: ActivationAudit | None = None
    moved: LatentDrift | None = None
    if isinstance(images, str):
        not_measured += [{"what": what, "reason": images} for what in ("latent statistics", "activations")]
        unknown = images
    else:
        kept: list[Tensor] = []
        statistics = latent_statistics(autoencoder, _keeping_first(images, AUDITED_IMAGES, kept))
        audit = activation_audit(autoencoder, kept)
        not_measured += [{"what": f"activations of {block}", "reason": "it was not called"} for block in audit.silent]
        moved, unknown = _drift(start, statistics)
    if moved is None:
        not_measured.append({"what": "drift against the starting autoencoder", "reason": unknown})
    scaling = _scale_anew(autoencoder, record, statistics)
    if record["trained"] != "decoder" and statistics is None:
        not_measured.append(
            {
                "what": "scaling_factor, shift_factor, latents_mean, latents_std",
                "reason": f"the encoder was trained, so those of the start no longer fit, but {images}",
            }
        )
    document: dict[str, Any] = to_plain(
        {
            "model": record["config"]["_class_name"],
            "weights": weights,
            "latent_channels": autoencoder.latent_channels,
            "downsampling": autoencoder.downsampling,
            **{name: value for name, value in record.items() if name != "config"},
            "statistics": None if statistics is None else asdict(statistics),
            "scaling": scaling,
            "drift": None if moved is None else asdict(moved),
            "audit": None if audit is None else asdict(audit),
            "not_measured": not_measured,
            "versions": package_versions(),
        }
    )
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_diffusers_folder(autoencoder, out, {CARD: model_card(document), EXPORT: text}, overwrite)
    return document


def write_diffusers_folder(
    autoencoder: ExportableAutoencoder, out: str | Path, files: Mapping[str, str], overwrite: bool = False
) -> None:
    """Writes the autoencoder's folder and text ``files`` (name to content) into it; all appear together, or nothing.

    Raises:
        ConfigurationError: as ``check_export_folder``.
        ArtifactError: the disk is full or not writable.
    """
    out = Path(out)
    check_export_folder(out, overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as partial:
            made, previous = Path(partial) / "new", Path(partial) / "previous"
            made.mkdir()
            autoencoder.save(made)
            for name, text in files.items():
                (made / name).write_text(text, encoding="utf-8")
            try:
                if out.exists():
                    out.rename(previous)
                made.rename(out)
            except BaseException:
                if previous.exists():
                    previous.rename(out)
                raise
    except OSError as error:
        raise ArtifactError(
            f"The autoencoder could not be written to {out}: {error.strerror or error}. Nothing of it was kept there; "
            "free disk space or choose a writable folder."
        ) from error


def check_export_folder(out: str | Path, overwrite: bool) -> None:
    """ConfigurationError if an export may not go to ``out``: something is there that it would replace unasked."""
    out = Path(out)
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigurationError(f"The export goes into the folder {out}, but that is a file. Choose another OUT.")
    names = sorted(path.name for path in out.iterdir())
    strangers = [name for name in names if name not in _OWN_FILES]
    if strangers:
        raise ConfigurationError(
            f"The folder {out} holds files that are no export of layerscope ({', '.join(strangers[:5])}"
            f"{', ...' if len(strangers) > 5 else ''}). They are left alone: choose a new folder."
        )
    if names and not overwrite:
        raise ConfigurationError(
            f"The folder {out} already holds an autoencoder. Choose another one, or pass --overwrite to replace it."
        )


def _scale_anew(
    autoencoder: ExportableAutoencoder, record: AutoencoderRecord, statistics: LatentMoments | None
) -> dict[str, Any]:
    """Sets the factors where the encoder was trained and was measured; tells those of the start and those now."""
    start = {name: record["config"][name] for name in _FACTORS if name in record["config"]}
    anew = record["trained"] != "decoder" and statistics is not None
    entries = scaling_entries(statistics) if anew and statistics is not None else start
    return {"start": start, "exported": autoencoder.update_config(entries), "re_estimated": anew}


def _drift(start: LatentMoments | str, now: LatentMoments) -> tuple[LatentDrift | None, str]:
    """The drift, or why there is none."""
    if isinstance(start, str):
        return None, start
    try:
        return drift(start, now), ""
    except (ConfigurationError, NumericalError) as error:
        return None, str(error)


def _keeping_first(images: Iterable[Tensor], count: int, kept: list[Tensor]) -> Iterator[Tensor]:
    """``images``, of which the first ``count`` are also put into ``kept``."""
    for batch in images:
        missing = count - sum(map(len, kept))
        if missing > 0:
            kept.append(batch[:missing])
        yield batch
