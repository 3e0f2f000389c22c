"""What the token encoders of timm and transformers have in common: checked sizes, counted tokens."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from layerscope.errors import ConfigurationError
from layerscope.models.image_input import InputSize, Size
from layerscope.models.input_geometry import check_multiple, output_size
from layerscope.models.layer_names import block_names
from layerscope.models.vision_backbone import VisionBackbone
from layerscope.types import InputGeometry, TokenLayout

PLAIN_ONLY = (
    "Token encoders are vision transformers that keep one grid of tokens, row by row, through all their blocks. "
    "`layerscope pair` compares the layers of any other model; a plain one of your own can be given by class_path "
    "(layerscope.protocols.TokenEncoder)."
)


class TokenFacts(NamedTuple):
    """What a vision transformer says of its tokens.

    prefix: the tokens before the patches. patch: (h, w) in pixels. own_size: (H, W) that it is built for.
    any_size: whether it takes other sizes too. norm: name in ``layer_root`` of what norms its last tokens, or None.
    pooled_by: what makes one token of all, or None.
    """

    prefix: tuple[str, ...]
    patch: Size
    own_size: Size
    any_size: bool
    norm: str | None
    pooled_by: str | None


class TokenEncoding(VisionBackbone):
    """The part of a token encoder that follows from its facts; mixed into a backbone, whose images it never resizes."""

    _facts: TokenFacts
    _geometry: InputGeometry

    def _set_tokens(self, facts: TokenFacts, geometry: InputGeometry) -> None:
        """To be called once the backbone is built; an error where the geometry gives what the model does not take."""
        self._facts, self._geometry = facts, geometry
        self._input_size = InputSize()
        if (size := output_size(geometry)) is not None:
            self._check_size(size)
        elif not facts.any_size:
            raise ConfigurationError(
                f"{self._described} takes images of {_pixels(facts.own_size)} only, and its preprocessing gives every "
                "picture a size of its own. Set fit to crop or stretch, and no image_size."
            )

    @property
    def _described(self) -> str:
        """How errors call the model."""
        return f"The {type(self.model).__name__}"

    @property
    def input_geometry(self) -> InputGeometry:
        """How pictures of any size become what the model sees."""
        return self._geometry

    @property
    def default_layers(self) -> tuple[str, ...]:
        """The names of the blocks, in the order of the computation."""
        return block_names(self.model)

    @property
    def final_norm_name(self) -> str | None:
        """Name in ``layer_root`` of the norm of the last tokens; None where the model has none of tokens."""
        return self._facts.norm

    @property
    def pooled_by(self) -> str | None:
        """What makes one token of all, such as an attention pooling head; None where nothing does: ``pool`` fails."""
        return self._facts.pooled_by

    def token_layout(self, image_size: tuple[int, int]) -> TokenLayout:
        """Of the tokens for images of (H, W) pixels.

        Raises:
            ConfigurationError: the model does not take this size.
        """
        self._check_size(image_size)
        patch = self._facts.patch
        rows, columns = image_size[0] // patch[0], image_size[1] // patch[1]
        # SigLIP's 384 pixels are no multiple of its patches of 14.
        covered = (rows * patch[0], columns * patch[1])
        return TokenLayout(self._facts.prefix, rows, columns, None if covered == image_size else covered)

    def normalise(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to what the model expects: mean and std removed, in its precision, never resized.

        Raises:
            ConfigurationError: the images are of another shape, or of a size that the model does not take.
        """
        if image.ndim == 4:
            self._check_size((image.shape[-2], image.shape[-1]))
        return self._standardised(image, None)

    def final_norm(self, tokens: Tensor) -> Tensor:
        """The model's norm of its last tokens, of tokens (B, T, D) of any layer; the same tokens where it has none."""
        if self._facts.norm is None:
            return tokens
        normed: Tensor = self.model.get_submodule(self._facts.norm)(tokens)
        return normed

    def _check_size(self, size: Size) -> None:
        facts = self._facts
        if tuple(size) != facts.own_size and not facts.any_size:
            raise ConfigurationError(
                f"{self._described} takes images of {_pixels(facts.own_size)} only and was to be given {_pixels(size)}"
                ": its positions are not interpolated. Set image_size to that of the images where the model can be "
                "adapted to it, or leave it out."
            )
        if size[0] < facts.patch[0] or size[1] < facts.patch[1]:
            raise ConfigurationError(
                f"An image of {_pixels(size)} is smaller than a patch of {self._described[0].lower()}"
                f"{self._described[1:]}, {_pixels(facts.patch)}."
            )
        check_multiple((size[0], size[1]), facts.patch, facts.own_size, "An image")

    def _no_pooling(self) -> ConfigurationError:
        ending = (
            "its CLS token stands for the image" if "cls" in self._facts.prefix else "it ends with its patch tokens"
        )
        return ConfigurationError(
            f"{self._described} has nothing that makes one token of all (an attention pooling head, or a mean over "
            f"tokens): {ending}."
        )


def check_tokens(shape: tuple[int, ...], layout: TokenLayout, what: str) -> None:
    """That an activation is all tokens of a layout.

    Args:
        shape: of the activation, (B, T, D).
        layout: of the tokens.
        what: whose they are, for the error: ``The layer blocks.3 of ViTModel``.

    Raises:
        ConfigurationError: it has other dimensions, or another number of tokens.
    """
    count = len(layout.prefix) + layout.rows * layout.columns
    if len(shape) == 3 and shape[1] == count:
        return
    before = f"{len(layout.prefix)} before the patches ({', '.join(layout.prefix)})" if layout.prefix else "none before"
    raise ConfigurationError(
        f"{what} gives {tuple(shape)}: expected (images, {count} tokens, channels), {before} and {layout.rows} × "
        f"{layout.columns} patches. {PLAIN_ONLY}"
    )


def token_counts(parameters: dict[str, nn.Parameter | None]) -> tuple[str, ...]:
    """The prefix that such parameters make, kind to parameter in the order of the sequence.

    They are (D,), (1, 1, D) or (1, R, D); None adds no token.
    """
    return tuple(
        kind
        for kind, parameter in parameters.items()
        if parameter is not None
        for _ in range(parameter.shape[-2] if parameter.ndim > 1 else 1)
    )


def _pixels(size: Size) -> str:
    return f"{size[0]} × {size[1]} pixels (height × width)"
