"""The datamodule and its samplers, on a small phantom on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

import layerscope.data.dataset as dataset
from layerscope.data.locate import find_data_file
from layerscope.data.multilabel import MultilabelImages
from layerscope.data.phantom.write import write_phantom
from layerscope.data.sampler import UnrepeatedDistributedSampler
from layerscope.data.schema import load_label_schema
from layerscope.errors import ConfigurationError, DataError
from layerscope.protocols import LabelledData


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("data") / "phantom", "exact", n=25, size=32, seed=3)


def data(root: Path, **arguments: object) -> MultilabelImages:
    files = {"root": str(root), "schema": str(root / "schema.yaml"), "table": str(root / "labels.csv")}
    return MultilabelImages(**{**files, "batch_size": 4, **arguments})  # type: ignore[arg-type]


def test_batches_keep_the_contract(phantom: Path) -> None:
    module = data(phantom, eval_split="train")
    assert isinstance(module, LabelledData)
    batches = list(module.test_dataloader())
    first = batches[0]
    assert first["image"].shape == (4, 3, 32, 32)
    assert first["image"].dtype == first["target"].dtype == torch.float32
    assert first["known"].dtype == torch.bool
    assert first["index"].dtype == torch.int64
    assert isinstance(first["id"], list)
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(len(module.dataset("train"))))
    assert [name for batch in batches for name in batch["id"]] == module.dataset("train").ids
    assert torch.equal(torch.cat([batch["target"] for batch in batches]), module.dataset("train").targets)
    assert len(module.data_hash("train")) == 64
    assert module.data_hash("train") != module.data_hash("val")


def test_workers_and_batch_size_change_nothing(phantom: Path) -> None:
    def images(**arguments: object) -> torch.Tensor:
        return torch.cat([batch["image"] for batch in data(phantom, **arguments).val_dataloader()])

    reference = images(num_workers=0, batch_size=1)
    assert torch.equal(images(num_workers=2, batch_size=3), reference)
    assert torch.equal(images(num_workers=0, batch_size=8), reference)


@pytest.mark.parametrize("size", [1, 2, 5, 7, 8])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_each_sample_once_on_any_number_of_ranks(size: int, world: int) -> None:
    samplers = [UnrepeatedDistributedSampler(range(size), rank, world) for rank in range(world)]
    rows = [list(sampler) for sampler in samplers]
    assert sorted(row for share in rows for row in share if row >= 0) == list(range(size))
    # A process without samples reads one stand-in, so that its loop runs and meets the others at the end.
    assert [share for share in rows if -1 in share] == [[-1]] * max(0, world - size)
    assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers]
    assert max(map(len, samplers)) - min(map(len, samplers)) <= 1


def test_evaluation_shards_by_the_rank_of_the_process(phantom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from layerscope.data import sampler

    seen, trained = [], []
    for rank in range(3):
        monkeypatch.setattr(sampler, "rank_and_world", lambda rank=rank: (rank, 3))
        module = data(phantom)
        seen += [row for batch in module.val_dataloader() for row in batch["index"].tolist()]
        trained += [row for batch in module.train_dataloader() for row in batch["index"].tolist()]
    assert sorted(row for row in seen if row >= 0) == list(range(len(module.dataset("val"))))
    assert set(trained) == set(range(len(module.dataset("train"))))


def test_training_order_depends_on_seed_and_epoch(phantom: Path) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        loader = data(phantom, seed=seed).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [row for batch in loader for row in batch["index"].tolist()]

    assert order(0, 0) == order(0, 0)
    orders = [order(0, 0), order(0, 1), order(7, 0), sorted(order(7, 0))]
    assert len({tuple(rows) for rows in orders}) == 4


class Recorder(LightningModule):
    """Notes which images each loop of the trainer hands over."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[str]] = {"train": [], "val": [], "test": [], "predict": []}

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.seen["train"] += batch["id"]
        return self.weight * batch["image"].mean()

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self.seen["val"] += batch["id"]

    def test_step(self, batch: dict, batch_idx: int) -> None:
        self.seen["test"] += batch["id"]

    def predict_step(self, batch: dict, batch_idx: int) -> None:
        self.seen["predict"] += batch["id"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path: Path) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(
        max_epochs=2,
        accelerator="cpu",
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
        enable_model_summary=False,
        **quiet,
    )


def test_each_image_is_decoded_once_per_visit_and_fit_leaves_test_alone(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    real = dataset.read_image
    monkeypatch.setattr(dataset, "read_image", lambda path, **kw: decoded.append(path.stem) or real(path, **kw))
    module, recorder = data(phantom, eval_split="test"), Recorder()
    trainer(tmp_path).fit(recorder, datamodule=module)
    train, val = module.dataset("train").ids, module.dataset("val").ids
    assert sorted(recorder.seen["train"]) == sorted(train * 2)
    assert recorder.seen["train"][: len(train)] != recorder.seen["train"][len(train) :]
    assert sorted(decoded) == sorted(train * 2 + val * 2)

    decoded.clear()
    trainer(tmp_path).test(recorder, datamodule=module, verbose=False)
    assert recorder.seen["test"] == decoded == module.dataset("test").ids
    trainer(tmp_path).predict(recorder, datamodule=data(phantom, eval_split="val"))
    assert recorder.seen["predict"] == val


def test_test_needs_only_the_evaluated_split(phantom: Path, tmp_path: Path) -> None:
    rows = [row for row in (phantom / "labels.csv").read_text().splitlines() if ",train," not in row]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    module = data(phantom, table=str(tmp_path / "labels.csv"), eval_split="test")
    module.setup("test")
    with pytest.raises(DataError, match=r"'train' of .* is empty"):
        module.setup("fit")


def test_groups_belong_to_the_evaluated_split(phantom: Path) -> None:
    module = data(phantom, eval_split="test")
    groups = module.evaluated_groups()
    assert groups is not None
    assert len(groups) == len(module.dataset("test"))
    assert set(groups).isdisjoint(data(phantom, eval_split="train").evaluated_groups() or [])


def test_limit_shortens_every_split(phantom: Path) -> None:
    module = data(phantom, limit=2, eval_split="test")
    whole = data(phantom, eval_split="test").dataset("test").ids
    assert module.dataset("test").ids == [whole[0], whole[-1]]
    assert [batch["index"].tolist() for batch in module.test_dataloader()] == [[0, 1]]


def test_hparams_are_plain_and_complete(phantom: Path) -> None:
    hparams = dict(data(phantom, image_size=16, limit=3).hparams)
    assert hparams["image_size"] == 16
    assert hparams["limit"] == 3
    assert len(hparams) == 13
    assert all(type(value) in (str, int, type(None)) for value in hparams.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 100, "size_multiple": 8}, r"image_size is 100, which size_multiple 8 .* Use 96 or 104\."),
        ({"center_crop_size": 3, "size_multiple": 8}, r"center_crop_size is 3, .* Use 8\."),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"limit": 0}, "limit is 0"),
        ({"num_workers": -1}, "num_workers is -1"),
    ],
)
def test_impossible_arguments(phantom: Path, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        data(phantom, **arguments)


def own_images(tmp_path: Path, sizes: list[tuple[int, int]]) -> MultilabelImages:
    """A data set of one split with images of the given width and height."""
    (tmp_path / "schema.yaml").write_text("labels: [a]")
    rows = ["id,path,split,a"]
    for number, size in enumerate(sizes):
        Image.fromarray(np.full((size[1], size[0], 3), number, np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number},{number}.png,val,")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return data(tmp_path)


def test_images_of_different_sizes_in_a_batch(tmp_path: Path) -> None:
    module = own_images(tmp_path, [(8, 8), (16, 8)])
    with pytest.raises(DataError, match=r"'0' \(8×8 pixels\) and '1' \(16×8\) .*Set data\.init_args\.image_size"):
        next(iter(module.val_dataloader()))
    module = data(tmp_path, image_size=8)
    assert next(iter(module.val_dataloader()))["image"].shape == (2, 3, 8, 8)


def test_sizes_that_the_downsampling_does_not_divide(tmp_path: Path) -> None:
    own_images(tmp_path, [(20, 16)])
    with pytest.raises(DataError, match=r"0\.png has 20×16 pixels, .*downsampling of 8 .*such as 16"):
        next(iter(data(tmp_path, size_multiple=8).val_dataloader()))
    assert next(iter(data(tmp_path, size_multiple=8, image_size=16).val_dataloader()))["image"].shape[-1] == 16


def test_unknown_labels_and_missing_groups(tmp_path: Path) -> None:
    module = own_images(tmp_path, [(8, 8)])
    batch = next(iter(module.val_dataloader()))
    assert not batch["known"].any()
    assert not batch["target"].any()
    assert module.evaluated_groups() is None


def test_an_error_in_a_worker_still_names_the_file(tmp_path: Path) -> None:
    module = own_images(tmp_path, [(8, 8), (8, 8)])
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1\.png is empty"):
        next(iter(module.val_dataloader()))
    with pytest.raises(DataError, match=r"1\.png is empty"):
        next(iter(data(tmp_path, num_workers=1).val_dataloader()))


def test_files_are_found_in_root_then_here_then_among_the_shipped(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.csv").write_text("nonsense")
    module = MultilabelImages(str(phantom), "schema.yaml", "labels.csv")
    assert module.dataset("train").ids
    with pytest.raises(
        DataError, match=r"table is other\.csv, which does not exist \(looked for .*phantom/other\.csv and"
    ):
        MultilabelImages(str(phantom), "schema.yaml", "other.csv")
    (tmp_path / "other.csv").write_text((phantom / "labels.csv").read_text())
    assert MultilabelImages(str(phantom), "schema.yaml", "other.csv").dataset("val").ids
    with pytest.raises(DataError, match=r"labels\.csv lacks columns .*configs/labels/fundus_phantom\.yaml"):
        MultilabelImages(str(phantom), "configs/labels/fundus_phantom.yaml", str(phantom / "labels.csv"))


@pytest.mark.parametrize("name", ["example", "fundus_phantom", "proposed_schema"])
def test_shipped_schemas_are_read(name: str) -> None:
    labels = load_label_schema(find_data_file(f"configs/labels/{name}.yaml", ".", "schema")).label_set()
    assert len(labels) == {"example": 4, "fundus_phantom": 5, "proposed_schema": 20}[name]


def test_the_shipped_schema_of_the_fundus_phantom_is_the_written_one(tmp_path: Path) -> None:
    root = write_phantom(tmp_path / "phantom", n=12, size=32)
    shipped = load_label_schema(find_data_file("configs/labels/fundus_phantom.yaml", ".", "schema"))
    assert shipped.labels == load_label_schema(root / "schema.yaml").labels
