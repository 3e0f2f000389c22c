"""Pictures of fixed validation images: when they are drawn, of which images, and what they show."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_vae import TinyVAE, tiny_trainer

from layerscope.artifacts import read_history
from layerscope.callbacks import reconstructions as module
from layerscope.callbacks.reconstructions import ReconstructionPictures
from layerscope.errors import ConfigurationError
from layerscope.functional.controls import to_uint8
from layerscope.report.figures_reconstruction import PicturedSample

TESTS = Path(__file__).parents[1]


def names(run: Path) -> set[str]:
    return {path.name for path in (run / "reconstructions").glob("*")}


def both(*epochs: int) -> set[str]:
    return {f"{kind}_epoch_{n}.png" for n in epochs for kind in ("recon", "latents")}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[PicturedSample], int]]:
    """What was given to the figure, each time."""
    seen: list[tuple[list[PicturedSample], int]] = []
    figure = module.reconstruction_figure

    def spy(samples: list[PicturedSample], epoch: int, amplify: float) -> object:
        seen.append((samples, epoch))
        return figure(samples, epoch, amplify)

    monkeypatch.setattr(module, "reconstruction_figure", spy)
    return seen


def test_files_of_the_untrained_state_and_of_every_second_epoch(
    tmp_path: Path, drawn: list[tuple[list[PicturedSample], int]]
) -> None:
    callback, model = ReconstructionPictures(2, images=3), TinyVAE()
    trainer = tiny_trainer(tmp_path / "run", [callback], epochs=5, num_sanity_val_steps=2)
    trainer.validate(model, verbose=False)
    assert names(tmp_path / "run") == both(0)
    trainer.fit(model)
    assert names(tmp_path / "run") == both(0, 2, 4)
    assert [epoch for _, epoch in drawn] == [0, 2, 4]
    expected = sorted((f"val{k}" for k in range(7)), key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:3]
    for samples, _ in drawn:
        assert [sample.id for sample in samples] == expected
        for sample in samples:
            original = to_uint8(model.val_set.image[int(sample.id[3:])]).permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(sample.original, original)
            error = sample.reconstruction.astype(float) - sample.original
            assert sample.psnr == pytest.approx(10 * np.log10(255**2 / np.square(error).mean()), abs=0.1)
            assert sample.latent.shape == (3, 8, 8)
    assert drawn[2][0][0].psnr > drawn[0][0][0].psnr
    assert callback._kept == {}
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"images": 0}).Reload()
    for tag, kind in (("reconstructions", "recon"), ("latents", "latents")):
        logged = events.Images(tag)
        assert [image.step for image in logged] == [0, 2, 4]
        file = Image.open(tmp_path / "run" / "reconstructions" / f"{kind}_epoch_4.png").convert("RGB")
        shown = Image.open(io.BytesIO(logged[-1].encoded_image_string)).convert("RGB")
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(file))


def test_the_first_validation_after_a_multiple_is_drawn(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path / "run", [ReconstructionPictures(4)], epochs=12, check_val_every_n_epoch=3)
    trainer.fit(TinyVAE())
    assert names(tmp_path / "run") == both(6, 9, 12)


def test_a_resumed_run_goes_on_drawing_where_it_stopped(tmp_path: Path) -> None:
    first = tiny_trainer(tmp_path / "run", [ReconstructionPictures(2)], epochs=2)
    first.fit(TinyVAE())
    first.save_checkpoint(tmp_path / "last.ckpt")
    again = tiny_trainer(tmp_path / "run", [ReconstructionPictures(2)], epochs=4)
    again.fit(TinyVAE(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert names(tmp_path / "run") == both(2, 4)
    # A trained state that is validated alone is no epoch 0.
    again.validate(TinyVAE(), ckpt_path=tmp_path / "last.ckpt", weights_only=True, verbose=False)
    assert names(tmp_path / "run") == both(2, 4)


def test_a_dry_run_writes_nothing_and_needs_no_run_directory(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path / "run", [ReconstructionPictures(1)], fast_dev_run=True)
    trainer.callbacks = [callback for callback in trainer.callbacks if isinstance(callback, ReconstructionPictures)]
    trainer.fit(TinyVAE(val_images=3))
    assert not (tmp_path / "run" / "reconstructions").exists()


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    for wrong in ({"every_n_epochs": 0}, {"images": 0}, {"images": 33}, {"amplify": 0.0}):
        with pytest.raises(ConfigurationError, match="ReconstructionPictures got"):
            ReconstructionPictures(**wrong)
    trainer = tiny_trainer(tmp_path / "run", [ReconstructionPictures(1)])
    trainer.callbacks = [callback for callback in trainer.callbacks if isinstance(callback, ReconstructionPictures)]
    with pytest.raises(ConfigurationError, match="No run directory"):
        trainer.fit(TinyVAE())

    class Silent(TinyVAE):
        def validation_step(self, batch: object, batch_idx: int) -> None:  # type: ignore[override]
            super().validation_step(batch, batch_idx)  # type: ignore[arg-type]

    with pytest.raises(ConfigurationError, match="Silent returned NoneType"):
        tiny_trainer(tmp_path / "other", [ReconstructionPictures(1)]).fit(Silent())


TWO_PROCESSES = """
import sys
from pathlib import Path
from lightning.pytorch.callbacks import Callback
from layerscope.callbacks.reconstructions import ReconstructionPictures
from layerscope.callbacks.run_folder import RunFolder
from layerscope.callbacks.training_history import TrainingHistory
from tiny_vae import TinyVAE, tiny_trainer

folder = Path(sys.argv[1])
# The command line gives the directory to rank zero only.
class RankZeroFolder(Callback):
    def setup(self, trainer, pl_module, stage):
        for callback in trainer.callbacks:
            if isinstance(callback, RunFolder) and not trainer.is_global_zero:
                callback.directory = None

for images in (7, 1):
    callbacks = [ReconstructionPictures(1, 4), TrainingHistory(), RankZeroFolder()]
    two = tiny_trainer(folder / f"two{images}", callbacks, devices=2, strategy="ddp_fork")
    two.fit(TinyVAE(lr=0.0, val_images=images, batch_size=2))
    tiny_trainer(folder / f"one{images}", [ReconstructionPictures(1, 4), TrainingHistory()]).fit(
        TinyVAE(lr=0.0, val_images=images, batch_size=4))
"""


@pytest.mark.slow
def test_two_processes_give_the_figures_and_pictures_of_one(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    for name in ("MASTER_PORT", "LOCAL_RANK", "RANK"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", TWO_PROCESSES, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for images in (7, 1):
        one, two = (read_history(tmp_path / f"{count}{images}")[0] for count in ("one", "two"))
        assert list(one) == list(two)
        for name, value in one.items():
            if name.startswith("val/"):
                assert two[name] == pytest.approx(value, rel=1e-5, abs=1e-8, nan_ok=True), name
        assert one["batches"] == two["batches"] == 2
        for row in (one, two):  # the training images of both processes
            assert row["images_per_second"] * row["train_seconds"] == pytest.approx(8)
        pictures = names(tmp_path / f"one{images}")
        assert pictures == both(1)
        for name in pictures:
            files = [tmp_path / f"{count}{images}" / "reconstructions" / name for count in ("one", "two")]
            assert files[0].read_bytes() == files[1].read_bytes()
