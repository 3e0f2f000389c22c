"""Building a vision model of transformers: from a folder or hub id, or with random weights from its configuration."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from layerscope.errors import ConfigurationError, WeightsError
from layerscope.models.hub_sources import CONFIG_NAME, loading_explained, looks_local, read_config, seeded
from layerscope.models.weight_files import first_line, name_keys

WEIGHTS_NAME = "model.safetensors"
PROCESSOR_NAME = "preprocessor_config.json"

# Parts of a checkpoint that a vision tower without a head does not have: the other tower, projections, heads; and a
# counter of positions that older files store.
LEFT_OUT = re.compile(
    r"(text_model|text_projection|visual_projection|logit_scale|logit_bias|pooler|classifier|cls_classifier"
    r"|distillation_classifier)(\..*)?|(.*\.)?position_ids"
)
# What a configuration file says besides the arguments of its class.
FILE_KEYS = {"model_type", "architectures", "transformers_version", "dtype", "torch_dtype"}


def build_random(config: str | Mapping[str, Any], model_class: str | None, seed: int | None) -> nn.Module:
    """A vision model of transformers with random weights.

    Args:
        config: a transformers ``config.json`` (path or content) with its ``model_type``.
        model_class: a class of transformers; by default the plain model of that type.
        seed: of the weights; with None they come from torch's global generator.

    Raises:
        ConfigurationError: the file is missing or no JSON, the type or an argument is unknown or impossible.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    content, where = (
        (dict(config), "config")
        if isinstance(config, Mapping)
        else read_config(config, "config", "a transformers config.json")
    )
    model_type = content.get("model_type")
    if not isinstance(model_type, str):
        raise ConfigurationError(
            f"{where} has no model_type: it says which model of transformers this is, such as clip_vision_model, "
            "siglip_vision_model, dinov2_with_registers or vit."
        )
    if model_type not in CONFIG_MAPPING:
        near = difflib.get_close_matches(model_type, list(CONFIG_MAPPING.keys()), n=3)
        raise ConfigurationError(
            f"{where} has the model_type {model_type!r}, which transformers does not know."
            + f" Did you mean {' or '.join(near)}?" * bool(near)
        )
    arguments = {key: value for key, value in content.items() if key not in FILE_KEYS}
    try:
        settings = AutoConfig.for_model(model_type, **arguments)
    except Exception as error:  # transformers' own checks raise errors of several libraries
        raise ConfigurationError(f"{where} does not describe a {model_type}: {first_line(error)}") from error
    if isinstance(config, Mapping):
        # A file that transformers wrote may hold settings of older versions; in one typed by hand they are mistakes.
        known = {*AutoConfig.for_model(model_type).to_dict(), *type(settings).attribute_map}
        if strangers := [key for key in arguments if key not in known]:
            raise ConfigurationError(
                f"{where} has arguments that {model_type} does not know: {name_keys(strangers)}. transformers would "
                f"ignore them silently; it knows {', '.join(sorted(known))}."
            )
    tower = vision_config(settings)
    kind = _model_class(tower, model_class, where)
    _check_inputs(kind, where)
    with seeded(seed):
        try:
            model: nn.Module = kind(tower, **_without_pooling(kind))
        except (TypeError, ValueError, AttributeError, IndexError, RuntimeError, ZeroDivisionError) as error:
            raise ConfigurationError(f"{where} does not describe a {model_type}: {first_line(error)}") from error
    return model


def load_pretrained(source: str, subfolder: str | None, model_class: str | None) -> nn.Module:
    """The vision model of a local folder or hub id, in float32, every weight of it accounted for.

    Only safetensors are read and no code from the folder or repository is run.

    Args:
        source: a folder with ``config.json`` and ``model.safetensors``, or a hub id.
        subfolder: where in the folder or repository the model is.
        model_class: a class of transformers; by default the plain model, or its vision tower.

    Raises:
        ConfigurationError: the folder does not exist, or the model is none that takes images.
        WeightsError: the hub cannot be reached, or weights are missing, unexpected or of another shape.
    """
    from transformers import AutoConfig

    place, local, where = place_of(source, subfolder)
    extra = place_arguments(local, subfolder)
    with backbone_explained(where, local):
        settings = AutoConfig.from_pretrained(place, trust_remote_code=False, **extra)
    tower = vision_config(settings)
    kind = _model_class(tower, model_class, where)
    _check_inputs(kind, where)
    return load_strictly(kind, tower, place, local, where, _without_pooling(kind) | extra)


def load_strictly(
    kind: Any, settings: Any, place: str, local: bool, where: str, arguments: Mapping[str, Any]
) -> nn.Module:
    """A model of transformers in float32, every weight accounted for but those of the parts that it leaves out.

    Args:
        kind: its class. settings: its configuration.
        place, local, where: as ``place_of`` gives them.
        arguments: further ones of ``from_pretrained``.

    Raises:
        WeightsError: the hub cannot be reached, or weights are missing, unexpected or of another shape.
    """
    with backbone_explained(where, local), quiet_transformers():
        # A mismatched shape is reported like the others instead of raised, so that the message names it.
        model, found = kind.from_pretrained(
            place,
            config=settings,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            **arguments,
        )
    # transformers leaves a missing weight random and only warns.
    shapes = [f"{key} {tuple(stored)} instead of {tuple(wanted)}" for key, stored, wanted in found["mismatched_keys"]]
    unexpected = [key for key in sorted(found["unexpected_keys"]) if not LEFT_OUT.fullmatch(key)]
    problems = [
        f"{word}: {name_keys(keys)}."
        for word, keys in (
            ("Missing", sorted(found["missing_keys"])),
            ("Unexpected", unexpected),
            ("Of another shape", shapes),
        )
        if keys
    ]
    if problems:
        raise WeightsError(
            f"The weights in {where} do not fit the {kind.__name__} of its {CONFIG_NAME}. {' '.join(problems)} The "
            "file is incomplete or belongs to another configuration; copy both again from one source."
        )
    loaded: nn.Module = model.float()
    return loaded


def read_processor(source: str, subfolder: str | None) -> dict[str, Any] | None:
    """The image processor's settings beside the weights; None where there are none."""
    from transformers.image_processing_base import ImageProcessingMixin

    place, local, where = place_of(source, subfolder)
    try:
        with quiet_transformers():
            settings, _ = ImageProcessingMixin.get_image_processor_dict(place, **place_arguments(local, subfolder))
    except OSError as error:
        if (Path(place) / (subfolder or "") / PROCESSOR_NAME).is_file():
            raise ConfigurationError(f"{where}/{PROCESSOR_NAME} cannot be read: {first_line(error)}") from error
        return None
    return dict(settings)


def vision_config(settings: Any) -> Any:
    """The configuration of the vision tower, or of the model itself where it has no towers."""
    return getattr(settings, "vision_config", None) or settings


def _model_class(settings: Any, name: str | None, where: str) -> Any:
    import transformers

    if name is not None:
        kind = getattr(transformers, name, None)
        if not (inspect.isclass(kind) and issubclass(kind, transformers.PreTrainedModel)):
            raise ConfigurationError(
                f"transformers {transformers.__version__} has no model class {name!r}: expected one such as "
                "CLIPVisionModel, or null for the plain model."
            )
        return kind
    try:
        kind = transformers.MODEL_MAPPING[type(settings)]
    except KeyError as error:
        raise ConfigurationError(
            f"{where} is of the type {settings.model_type!r}, for which transformers names no plain model. Set "
            "model_class to its vision model, such as CLIPVisionModel."
        ) from error
    return kind[0] if isinstance(kind, tuple) else kind


def _without_pooling(kind: Any) -> dict[str, Any]:
    """A classifier's checkpoint lacks the pooling layer that the plain ViT would add; no block depends on it."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind.__init__).parameters else {}


def _check_inputs(kind: Any, where: str) -> None:
    """The model's answer must follow from the image alone."""
    name = kind.__name__
    if name.startswith("ViTMAE"):
        raise ConfigurationError(
            f"{where} is a {name}, which hides patches at random: two images would differ by chance. Choose a model "
            "that sees the whole image."
        )
    inputs = [one for one in inspect.signature(kind.forward).parameters.values() if one.name != "self"]
    needed = {one.name for one in inputs if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD}
    if "pixel_attention_mask" in needed:
        raise ConfigurationError(
            f"{where} is a {name}, which takes the patches of a picture of any proportions as a padded sequence with a "
            "mask (NaFlex), and not images. Give a checkpoint of fixed resolution, such as "
            "google/siglip2-base-patch16-224."
        )
    if needed - {"pixel_values"} or "pixel_values" not in {one.name for one in inputs}:
        raise ConfigurationError(
            f"{where} is a {name}, which does not take images alone: its inputs are "
            f"{name_keys(one.name for one in inputs)}. Give a vision model, or set model_class to the vision tower."
        )


def place_of(source: str, subfolder: str | None) -> tuple[str, bool, str]:
    """Where to load from, whether that is a folder, and how errors call it."""
    folder = Path(source).expanduser()
    local = folder.is_dir()
    place = str(folder) if local else source
    where = f"{place}/{subfolder}" if subfolder else place
    if not local and looks_local(source):
        raise ConfigurationError(
            f"The backbone's source {source} does not exist (relative to {Path.cwd()}). Give a transformers folder "
            f"with {CONFIG_NAME} and {WEIGHTS_NAME}, or a hub id."
        )
    inner = folder / (subfolder or "")
    if local and not (inner / CONFIG_NAME).is_file():
        raise ConfigurationError(
            f"There is no {CONFIG_NAME} in {inner}. A transformers folder holds {CONFIG_NAME}, {WEIGHTS_NAME} and "
            f"{PROCESSOR_NAME}."
        )
    return place, local, where


def place_arguments(local: bool, subfolder: str | None) -> dict[str, Any]:
    extra: dict[str, Any] = {"subfolder": subfolder} if subfolder else {}
    return extra | {"local_files_only": True} if local else extra


def backbone_explained(where: str, local: bool) -> contextlib.AbstractContextManager[None]:
    return loading_explained(where, local, "backbone", WEIGHTS_NAME, PROCESSOR_NAME)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside, transformers keeps its report of keys and its progress bar to itself: our errors say the same."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
