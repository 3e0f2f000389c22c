"""What a token report knows of its images and views: masks, tokens before the patches; data that tell too little."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from image_files import write_mask
from pair_runs import run
from token_batches import batch_of
from token_runs import clip, settings, write_images

from layerscope.artifacts import read_csv, read_summary
from layerscope.artifacts.token_scores import MASK_FIGURES
from layerscope.callbacks.token_report import TokenReport
from layerscope.callbacks.token_table import TokenTable
from layerscope.errors import ConfigurationError
from layerscope.functional.mask_border import BORDER_FIGURES
from layerscope.models.transformers_tokens import TransformersTokens
from layerscope.report.token_statistics import CONTROL_OF
from layerscope.tasks.diagnosis.tokens import TokenSimilarity
from layerscope.types import SkippedSample

ALONE: Any = SimpleNamespace(world_size=1)
"""A trainer without other processes."""


def test_every_figure_of_a_mask_and_its_control_is_one_of_a_mask() -> None:
    assert {*BORDER_FIGURES, *CONTROL_OF, *CONTROL_OF.values()} == set(MASK_FIGURES)


def test_scores_know_masks_tokens_metric_and_norm() -> None:
    """Over batches, of which one is skipped as a whole and one has no mask."""
    table = TokenTable(["a", "b", "c"], torch.device("cpu"))
    task = TokenSimilarity(
        TransformersTokens(**clip()["init_args"]), similarity_metric="dot_product", norm="after", layers="all"
    )
    for row, has_mask in ((0, False), (2, True)):
        mask = torch.zeros(1, 32, 32, dtype=torch.bool)
        mask[:, 8:24, 8:24] = True
        batch = batch_of(torch.rand(1, 3, 32, 32), mask=mask if has_mask else None)
        batch["index"] = torch.tensor([row])
        table.update(task.test_step(batch, 0))
    batch = batch_of(torch.zeros(0, 3, 32, 32))
    batch["skipped"] = [SkippedSample("b", 1, "broken")]
    table.update(task.test_step(batch, 0))
    scores = table.scores(ALONE, None)
    assert scores.with_mask is not None
    assert scores.with_mask.tolist() == [False, False, True]
    assert (scores.similarity_metric, scores.norm) == ("dot_product", "after")
    assert (scores.views[0].prefix, scores.views[0].cls_source) == (("cls",), "cls")
    assert scores.skipped == [("b", "broken")]


def test_a_lesion_on_a_single_patch_is_no_missing_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_images(tmp_path / "images", 2)
    write_mask(tmp_path / "masks" / "a1.png", (10, 9, 31, 27), size=(40, 36))
    config = settings(images, encoder=clip(image_size=8), norm="after")
    folder = run(tmp_path, "run", config, f"--data.masks={tmp_path / 'masks'}")
    missing = {row["what"]: row["reason"] for row in read_summary(folder)["not_measured"]}
    assert missing["border_drop"] == "1 image: no mask; 1 image: no border in the patch grid"
    rows = read_csv(folder / "images.csv")
    assert {row["flag"] for row in rows if row["figure"] == "border_drop"} == {
        "no mask",
        "no border in the patch grid",
    }
    assert "tokens after the final norm." in capsys.readouterr().out


class Data:
    """Of images, without what a report says of them."""

    labels = ()

    def evaluated_groups(self) -> None: ...

    def data_hash(self, split: str) -> str:
        return split


def test_data_that_do_not_tell_enough_are_refused_before_any_image() -> None:
    loader = SimpleNamespace(dataset=SimpleNamespace(ids=["a"]))
    trainer: Any = SimpleNamespace(datamodule=Data(), test_dataloaders=loader)
    with pytest.raises(ConfigurationError, match=r"Data lacks describe and eval_split\. Use .*ImagePaths"):
        TokenReport().on_test_start(trainer, SimpleNamespace(device="cpu"))  # type: ignore[arg-type]
    trainer = SimpleNamespace(datamodule=None, test_dataloaders=[SimpleNamespace(dataset=[])])
    with pytest.raises(ConfigurationError, match=r"NoneType lacks labels, .* and a test dataset with ids"):
        TokenReport().on_test_start(trainer, SimpleNamespace(device="cpu"))  # type: ignore[arg-type]


def test_files_that_another_node_kept_for_itself_are_told(tmp_path: Path) -> None:
    report = TokenReport()
    (tmp_path / "images" / "a").mkdir(parents=True)
    report._ids, report._folder = ["a", "b", "c"], SimpleNamespace(path=tmp_path)  # type: ignore[assignment]
    report.scores = SimpleNamespace(skipped=[("c", "broken")])  # type: ignore[assignment]
    (found,) = report._not_written()
    assert found["what"] == "files of 1 of 3 images"
    assert "not kept; use an output folder that all nodes share" in found["reason"]
