"""The text tower of a CLIP checkpoint, loaded when a text is first asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerscope.errors import ConfigurationError, WeightsError
from layerscope.models.transformers_sources import (
    backbone_explained,
    load_strictly,
    place_arguments,
    place_of,
    quiet_transformers,
)

TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


class _Loaded(NamedTuple):
    model: Any
    tokenizer: Any


class ClipText:
    """Texts in the space of CLIP's image embeddings, and the projection that brings image tokens there.

    It is no module, so that a text changes neither the parameters nor the state dict of the image encoder.

    Args:
        source: a local folder (the files of ``TransformersBackbone`` and a tokenizer's) or a hub id.
        subfolder: of it.
        described: how errors call the image encoder.
    """

    def __init__(self, source: str, subfolder: str | None, described: str) -> None:
        self._source, self._subfolder, self._described = source, subfolder, described
        self._loaded: _Loaded | None = None

    @torch.no_grad()
    def embed(self, text: str, device: torch.device) -> Tensor:
        """(E,) float32 on ``device``: ``CLIPModel.get_text_features``, not normalised to length 1."""
        if not text.strip():
            raise ConfigurationError("The text to compare tokens with is empty: give a word or a sentence.")
        model, tokenizer = self._load()
        inputs = tokenizer([text], padding=True, return_tensors="pt")
        length, most = inputs["input_ids"].shape[1], model.config.text_config.max_position_embeddings
        if length > most:
            raise ConfigurationError(
                f"The text {text[:40]!r}… is {length} tokens long and the text tower of {self._source} takes {most}: "
                "shorten it."
            )
        inputs = {key: inputs[key].to(device) for key in ("input_ids", "attention_mask")}
        embedded: Tensor = model.to(device).get_text_features(**inputs).pooler_output[0]
        return embedded

    def project(self, tokens: Tensor) -> Tensor:
        """(..., D) to (..., E), in the precision of the tokens."""
        weight: Tensor = self._load().model.visual_projection.weight
        return F.linear(tokens, weight.to(tokens))

    def _load(self) -> _Loaded:
        if self._loaded is None:
            self._loaded = _Loaded(*_load(self._source, self._subfolder, self._described))
        return self._loaded


def _load(source: str, subfolder: str | None, described: str) -> tuple[nn.Module, Any]:
    from transformers import AutoConfig, AutoTokenizer, CLIPModel

    place, local, where = place_of(source, subfolder)
    extra = place_arguments(local, subfolder)
    with backbone_explained(where, local):
        settings = AutoConfig.from_pretrained(place, trust_remote_code=False, **extra)
    if settings.model_type != "clip":
        raise ConfigurationError(
            f"{where} is a {settings.model_type} without text tower, so that the tokens of {described[0].lower()}"
            f"{described[1:]} cannot be compared with a text. Give as source a whole CLIP, such as "
            "openai/clip-vit-base-patch16."
        )
    _check_tokenizer_files(Path(place) / (subfolder or ""), local)
    # The whole model, so that not a weight is left unaccounted for; its vision tower is there already.
    model: Any = load_strictly(CLIPModel, settings, place, local, where, extra)
    del model.vision_model
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **extra)
    except Exception as error:  # several libraries read a tokenizer's files
        raise WeightsError(f"{_no_tokenizer(where)} It cannot be read: {error}") from error
    vocabulary = settings.text_config.vocab_size
    if not 2 < len(tokenizer) <= vocabulary:
        raise WeightsError(
            f"The tokenizer in {where} has {len(tokenizer)} words and the text tower {vocabulary}: they are not of one "
            "model, or files are missing. Copy all files again from one source."
        )
    return model.eval().requires_grad_(False), tokenizer


def _check_tokenizer_files(folder: Path, local: bool) -> None:
    """transformers makes a tokenizer of no words where its files are missing."""
    if local and not any(all((folder / name).is_file() for name in names) for names in TOKENIZER_FILES):
        raise WeightsError(_no_tokenizer(str(folder)))


def _no_tokenizer(where: str) -> str:
    return (
        "Comparing tokens with a text needs CLIP's tokenizer: tokenizer.json, or vocab.json and merges.txt, beside "
        f"the weights in {where}."
    )
