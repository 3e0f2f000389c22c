"""Multi-label images from files: the datamodule."""

from __future__ import annotations

from typing import Literal

from layerscope.data.datamodule import ImageDataModule
from layerscope.data.locate import find_data_file
from layerscope.data.schema import load_label_schema
from layerscope.data.table import read_data_table
from layerscope.types import LabelSet, ResizeFilter


class MultilabelImages(ImageDataModule):
    """Image files with several yes-no labels each, some of them perhaps unknown; implements ``LabelledData``.

    ::

        root/                     root/                      root/
          labels.csv (table)        splits.yaml (split_file)   train/0001.png ...
          schema.yaml               labels.csv, schema.yaml    val/0002.png ...
          images/0001.png ...       images/0001.png ...        test/sub/0003.png ...

    docs/data.md describes the files.

    Args:
        root: directory that relative image paths start from.
        schema: label schema, YAML. This and the next two are looked for in ``root``, then in the working directory,
            then among the files shipped with layerscope.
        table: CSV with ``id, path, split, group`` and one column per label.
        split_file: YAML with the ids or paths of train, val and test; replaces the table's ``split`` column.
        image_size: side in pixels of the square that images are resized to; None keeps their size.
        center_crop_size: side in pixels of the file of the central square that is cut out before resizing.
        resize_filter: antialiased filter of the resizing.
        batch_size: images per batch and process.
        num_workers: processes that decode images; 0 decodes in the main process.
        eval_split: the split that ``test`` and ``predict`` read.
        limit: at most this many images of each split, evenly spaced, for a dry run.
        size_multiple: the sides of an image must be multiples of this, the downsampling of the model.
        seed: of the training order.
    """

    def __init__(
        self,
        root: str,
        schema: str,
        table: str | None = None,
        split_file: str | None = None,
        image_size: int | None = None,
        center_crop_size: int | None = None,
        resize_filter: ResizeFilter = "bicubic",
        batch_size: int = 8,
        num_workers: int = 0,
        eval_split: Literal["train", "val", "test"] = "val",
        limit: int | None = None,
        size_multiple: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(
            root,
            image_size,
            center_crop_size,
            resize_filter,
            batch_size,
            num_workers,
            eval_split,
            limit,
            size_multiple,
            seed,
        )
        self.save_hyperparameters(
            {
                "schema": str(schema),
                "table": None if table is None else str(table),
                "split_file": None if split_file is None else str(split_file),
            }
        )
        self.schema = load_label_schema(find_data_file(schema, root, "schema"))
        self.table = read_data_table(
            self.root,
            self.schema,
            None if table is None else find_data_file(table, root, "table"),
            None if split_file is None else find_data_file(split_file, root, "split_file"),
        )

    @property
    def labels(self) -> LabelSet:
        """The labels, in the order of the columns of ``target``."""
        return self.schema.label_set()
