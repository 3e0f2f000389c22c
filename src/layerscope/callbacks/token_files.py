"""The files of single images of a token diagnosis, written as the images come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from layerscope.artifacts import npz_bytes, safe_file_name
from layerscope.callbacks.image_tokens import image_tokens, picture_of
from layerscope.report.token_comparison import comparison_files
from layerscope.report.token_figures import token_files
from layerscope.report.token_style import TokenPictures
from layerscope.report.token_views import is_control
from layerscope.types import TokenOutput


@dataclass(frozen=True)
class TokenArrays:
    """What of the measurements is written as arrays.

    save_similarities: ``similarities.npz`` of every image; of 24 layers and 16 × 16 patches it takes 0.2 MB.
    """

    save_similarities: bool = True


def write_image_files(
    folder: Path, output: TokenOutput, place: int, images: int, pictures: TokenPictures, arrays: TokenArrays
) -> None:
    """All files of one image of a batch.

    Args:
        folder: where the results of the run are put together.
        output: of the batch. place: of the image in it.
        images: in the whole run; with several each has a folder of its own.
        pictures: which figures, and how. Images behind its limit have none.
        arrays: what else.
    """
    target = _place(folder, output.id[place], images)
    for name, content in _files(output, place, pictures, arrays):
        path = target / name
        # Not with their parents: those that the first process took away must not come back.
        for above in reversed(path.relative_to(folder).parents[:-1]):
            (folder / above).mkdir(exist_ok=True)
        path.write_bytes(content)


def _files(
    output: TokenOutput, place: int, pictures: TokenPictures, arrays: TokenArrays
) -> Iterator[tuple[str, bytes]]:
    views = image_tokens(output, place)
    if arrays.save_similarities:
        for tokens in views:
            name = "similarities.npz" if tokens.view == "image" else f"similarities_{tokens.view}.npz"
            yield name, npz_bytes(tokens.arrays())
    if int(output.index[place]) >= pictures.limit:
        return
    seen = [picture_of(view, place) for view in output.views]
    has_mask = bool(output.has_mask[place])
    masks = [view.mask[place].cpu().numpy() if has_mask else None for view in output.views]
    yield from token_files(seen[0], views[0], pictures, masks[0])
    for picture, tokens, mask in zip(seen[1:], views[1:], masks[1:]):
        if is_control(tokens.view):
            continue  # a measure for the others' figures, nothing to look at
        yield from comparison_files(seen[0], views[0], picture, tokens, pictures, (masks[0], mask))


def without_files(folder: Path, ids: Sequence[str], images: int) -> list[str]:
    """Images of which nothing lies in ``folder``: those of processes on other nodes, where the disk is not shared.

    images: in the whole run.
    """
    if images == 1:  # its place is the folder itself, which is always there
        return [] if any(folder.iterdir()) else list(ids)
    return [name for name in ids if not _place(folder, name, images).exists()]


def _place(folder: Path, name: str, images: int) -> Path:
    """Where the files of an image are."""
    return folder if images == 1 else folder / "images" / safe_file_name(name)
