"""Reconstruction as a job: files, figures, order, resuming, refusals, noise, processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from small_autoencoder import BreakOff, SmallAutoencoder
from stand_ins import Pooled

from layerscope.artifacts import read_csv, read_summary
from layerscope.callbacks.reconstructed_files import ReconstructedFiles
from layerscope.callbacks.run_folder import RunFolder
from layerscope.cli import main
from layerscope.data.folder import ImageFolder
from layerscope.data.multilabel import MultilabelImages
from layerscope.errors import ConfigurationError, DataError, NumericalError
from layerscope.functional.controls import roundtrip8
from layerscope.functional.noise import sample_noise
from layerscope.functional.reconstruction import ssim
from layerscope.tasks.diagnosis.bottleneck import BottleneckDiagnosis
from layerscope.tasks.diagnosis.latent_space import NoiseProcess, NoiseSettings
from layerscope.tasks.reconstruction import Reconstruction
from layerscope.types import DiagnosisOutput

TESTS = Path(__file__).parents[1]
# In the order of the split, which is that of the paths.
IDS = [f"val/{name}" for name in ("a/1", "a/2", "b/deep er/x", "b/y", "c", "d", "e")]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures of 24 × 16 pixels in nested folders, all in val."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in IDS:
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth = np.kron(rng.integers(0, 256, (4, 6, 3)), np.ones((4, 4, 1)))
        Image.fromarray((0.8 * smooth + rng.integers(0, 50, smooth.shape)).astype(np.uint8)).save(path)
    return root


def config(root: Path, path: Path, batch_size: int = 2, **model: Any) -> Path:
    content = {
        "seed_everything": 1,
        "trainer": {
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [{"class_path": "layerscope.callbacks.reconstructed_files.ReconstructedFiles"}],
        },
        "model": {
            "class_path": "layerscope.tasks.reconstruction.Reconstruction",
            "init_args": {"autoencoder": {"class_path": "small_autoencoder.SmallAutoencoder"}, **model},
        },
        "data": {
            "class_path": "layerscope.data.folder.ImageFolder",
            "init_args": {"root": str(root), "batch_size": batch_size},
        },
    }
    path.write_text(yaml.safe_dump(content))
    return path


class Job:
    """``layerscope predict`` in a folder of its own."""

    def __init__(self, folder: Path, images: Path) -> None:
        self.folder, self.images = folder, images

    def run(self, name: str, *overrides: str, status: int = 0, batch_size: int = 2, **model: Any) -> Path:
        written = config(self.images, self.folder / "config.yaml", batch_size, **model)
        arguments = ["--allow-import=small_autoencoder", f"--config={written}", f"--experiment_name={name}"]
        assert main(["predict", *arguments, *overrides]) == status
        return self.folder / "outputs" / name


@pytest.fixture
def job(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.chdir(tmp_path)
    return Job(tmp_path, images)


def trainer(folder: Path, *callbacks: Callback) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
    )


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def content(run: Path) -> dict[str, bytes]:
    """Every image and table of a run directory."""
    files = [*(path for path in (run / "images").rglob("*") if path.is_file()), run / "reconstruction.csv"]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}


def by_hand(original: np.ndarray, name: str, posterior: str = "mode") -> np.ndarray:
    """One image through the autoencoder in plain PyTorch, as 8-bit pixels."""
    model = SmallAutoencoder()
    x = torch.from_numpy(original.astype(np.float32) / 255 * 2 - 1).permute(2, 0, 1)[None]
    with torch.no_grad():
        latent = model.encode(x)
        z = latent.mean
        if posterior == "sample":
            z = z + latent.std * sample_noise([name], z.shape[1:], 123, "posterior")
        y = model.decode(z)[0].clamp(-1, 1).permute(1, 2, 0).numpy()
    return np.rint((y.astype(np.float64) + 1) / 2 * 255).astype(np.uint8)


@pytest.mark.parametrize("posterior", ["mode", "sample"])
def test_files_and_figures(job: Job, posterior: str) -> None:
    run = job.run("run", posterior=posterior)
    rows = read_csv(run / "reconstruction.csv")
    assert [row["id"] for row in rows] == IDS
    assert [row["index"] for row in rows] == list(range(7))
    assert {path.relative_to(run / "images").as_posix() for path in (run / "images").rglob("*") if path.is_file()} == {
        f"{name}.png" for name in IDS
    }
    for row in rows:
        assert row["file"] == f"images/{row['id']}.png"
        assert (row["width"], row["height"]) == (24, 16)
        original, recon = pixels(job.images / f"{row['id']}.png"), pixels(run / row["file"])
        # Where the value lies between two levels, float32 in a batch may fall on the other side.
        difference = np.abs(recon.astype(int) - by_hand(original, row["id"], posterior))
        assert difference.max() <= 1
        assert difference.mean() < 0.002
        assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(original, recon), abs=1e-4)
        wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
        # scikit-image leaves a border of half a window out: mirrored around it, every position counts.
        mirrored = (np.pad(picture, ((5, 5), (5, 5), (0, 0)), mode="reflect") for picture in (original, recon))
        assert row["ssim"] == pytest.approx(structural_similarity(*mirrored, channel_axis=2, **wang), abs=1e-4)
    summary = read_summary(run)
    for name in ("psnr", "ssim"):
        values = [row[name] for row in rows]
        assert summary["metrics"][name]["mean"] == pytest.approx(np.mean(values))
        assert summary["metrics"][name]["std"] == pytest.approx(np.std(values, ddof=1))
    assert summary["counts"] == {"images": 7}
    assert summary["reconstruction"]["posterior"] == posterior
    assert len(summary["reconstruction"]["autoencoder_weights"]) == len(summary["data_hash"]) == 64
    assert yaml.safe_load((run / "config_used.yaml").read_text())["model"]["init_args"]["posterior"] == posterior


def test_a_broken_off_run_goes_on_to_the_same_bytes(job: Job, tmp_path: Path) -> None:
    whole = content(job.run("whole"))
    breaking = "--trainer.callbacks+=small_autoencoder.BreakOff"
    with pytest.raises(RuntimeError, match="broken off"):
        job.run("broken", breaking, "--trainer.callbacks.batches=2", "--debug")
    run = tmp_path / "outputs" / "broken"
    assert (run / "UNFINISHED").exists()
    assert not (run / "reconstruction.csv").exists()
    there = sorted((run / "images").rglob("*.png"))
    assert [path.relative_to(run / "images").with_suffix("").as_posix() for path in there] == IDS[:4]
    (run / "images" / "val" / "a" / "1.png").unlink()
    kept = {path: path.stat().st_mtime_ns for path in there[1:]}
    SmallAutoencoder.encoded = 0
    job.run("broken")
    assert SmallAutoencoder.encoded == 5  # the batch with the missing one, and those not yet seen
    assert content(run) == whole
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not (run / "UNFINISHED").exists()
    # A finished directory is completed too, also where a file was cut off or is another picture.
    (run / "images" / "val" / "c.png").write_bytes(whole["images/val/c.png"][:60])
    Image.new("RGB", (4, 4)).save(run / "images" / "val" / "d.png")
    job.run("broken")
    assert content(run) == whole
    SmallAutoencoder.encoded = 0
    job.run("broken")
    assert SmallAutoencoder.encoded == 0
    assert content(run) == whole


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("--model.init_args.autoencoder.init_args.seed=1", "autoencoder_weights"),
        ("--model.init_args.timestep=200", "timestep"),
        ("--model.init_args.posterior=sample", "posterior"),
        ("--data.init_args.limit=3", "data_hash"),
        ("--data.init_args.image_size=16", "image_size"),
        ("--trainer.callbacks.format=webp", "format"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_configuration_is_refused(
    job: Job, capsys: pytest.CaptureFixture[str], override: str, named: str, finished: bool
) -> None:
    run = job.run("run")
    if not finished:
        (run / "UNFINISHED").touch()
        (run / "summary.json").unlink()
    before = content(run)
    capsys.readouterr()
    job.run("run", override, status=2)
    told = " ".join(capsys.readouterr().err.split())
    assert "were made otherwise" in told
    assert f"{named}: " in told
    assert content(run) == before


def test_every_process_ends_when_the_first_refuses(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    another = trainer(tmp_path, ReconstructedFiles())
    told = ConfigurationError("the first process refuses")
    monkeypatch.setattr(another.strategy, "broadcast", lambda value, src=0: told)
    with pytest.raises(ConfigurationError, match="first process refuses"):
        another.predict(Reconstruction(SmallAutoencoder()), ImageFolder(str(images)))
    assert not (tmp_path / "images").exists()


def test_other_results_are_left_alone(job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "outputs" / "run"
    run.mkdir(parents=True)
    (run / "summary.json").write_text(json.dumps({"schema_version": 1, "verdict": {}}))
    job.run("run", status=2)
    assert "holds another result" in capsys.readouterr().err
    assert [path.name for path in run.iterdir()] == ["summary.json"]
    (run / "summary.json").unlink()
    (run / "images").mkdir()
    (run / "UNFINISHED").touch()
    job.run("run", status=2)
    assert "no reconstruction.json beside it" in " ".join(capsys.readouterr().err.split())


def test_noise_changes_images_and_not_with_the_batch(job: Job) -> None:
    clean = job.run("clean")
    noise = {"timestep": 200, "noise": {"latent_statistics_images": 5}}
    runs = [job.run(f"batch{size}", batch_size=size, **noise) for size in (1, 4)]
    for name in IDS:
        a, b, without = (pixels(run / "images" / f"{name}.png").astype(int) for run in (*runs, clean))
        assert np.abs(a - b).max() <= 1
        assert (a != b).mean() < 0.01
        assert np.abs(a - without).mean() > 2
    one, four = (read_csv(run / "reconstruction.csv") for run in runs)
    assert [row["psnr"] for row in one] == pytest.approx([row["psnr"] for row in four], abs=0.01)
    summary = read_summary(runs[0])
    assert len(summary["latents"]["std"]) == 4
    assert summary["reconstruction"]["alpha"] ** 2 + summary["reconstruction"]["sigma"] ** 2 == pytest.approx(1)


class Seen(Callback):
    """Keeps the noisy images that a diagnosis judged."""

    def __init__(self) -> None:
        self.images: dict[str, torch.Tensor] = {}

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *rest: Any) -> None:
        assert isinstance(outputs, DiagnosisOutput)
        self.images.update(zip(outputs.id, outputs.images["t300"]))


@pytest.mark.parametrize("choices", [{}, {"latent_normalisation": "config"}, {"denoiser": "wiener"}])
def test_a_noisy_reconstruction_is_the_one_that_a_diagnosis_judges(
    fundus_phantom: Path, tmp_path: Path, choices: dict[str, Any]
) -> None:
    data = MultilabelImages(str(fundus_phantom), "schema.yaml", "labels.csv", batch_size=4, limit=6)
    sweep = NoiseSettings(timesteps=[300], draws=1, latent_statistics_images=4, **choices)
    seen = Seen()
    diagnosis = BottleneckDiagnosis(SmallAutoencoder(), Pooled(), sweep, picture_timesteps=[300])
    trainer(tmp_path, seen).test(diagnosis, data, verbose=False)
    task = Reconstruction(SmallAutoencoder(), "mode", 300, NoiseProcess(latent_statistics_images=4, **choices))
    outputs: Any = trainer(tmp_path).predict(task, data)
    got = {name: recon for output in outputs for name, recon in zip(output.id, output.recon)}
    assert got.keys() == seen.images.keys()
    for name, recon in got.items():
        difference = (recon - roundtrip8(seen.images[name])).abs()
        assert float(difference.max()) < 1.01 / 127.5
        assert float((difference > 1e-3).float().mean()) < 0.002


@pytest.mark.parametrize("format", ["webp", "tiff"])
def test_every_format_keeps_every_level(images: Path, tmp_path: Path, format: Any) -> None:
    for kind in ("png", format):
        returned = trainer(tmp_path / kind, ReconstructedFiles(kind)).predict(
            Reconstruction(SmallAutoencoder()), ImageFolder(str(images), batch_size=4)
        )
        assert returned is None  # or all images would stay in memory
    for name in IDS:
        png, other = (pixels(tmp_path / kind / "images" / f"{name}.{kind}") for kind in ("png", format))
        assert (png == other).all()


def test_an_id_cannot_leave_the_folder(images: Path, tmp_path: Path) -> None:
    data = ImageFolder(str(images), batch_size=4)
    data.dataset("val").ids[:4] = ["../../gone", "/tmp/gone", "a/../../gone", "b/..\\gone"]
    run = tmp_path / "deep" / "run"
    trainer(run, ReconstructedFiles()).predict(Reconstruction(SmallAutoencoder()), data)
    files = [row["file"] for row in read_csv(run / "reconstruction.csv")]
    assert len(set(files)) == 7
    assert all((run / file).resolve().is_relative_to(run / "images") for file in files)
    assert [path for path in tmp_path.rglob("*gone*") if run / "images" not in path.parents] == []


def test_images_of_several_sizes(tmp_path: Path) -> None:
    for place, size in enumerate([(16, 12), (12, 20), (16, 16)]):
        path = tmp_path / "val" / f"{place}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", size, (place, 80, 200)).save(path)
    data = ImageFolder(str(tmp_path), batch_size=1)
    trainer(tmp_path / "run", ReconstructedFiles()).predict(Reconstruction(SmallAutoencoder()), data)
    rows = read_csv(tmp_path / "run" / "reconstruction.csv")
    assert [(row["width"], row["height"]) for row in rows] == [(16, 12), (12, 20), (16, 16)]
    with pytest.raises(DataError, match="another size"):
        trainer(tmp_path).predict(Reconstruction(SmallAutoencoder(), timestep=5), data)


def test_what_cannot_be_is_refused(images: Path, tmp_path: Path) -> None:
    data = ImageFolder(str(images), batch_size=4)
    with pytest.raises(NumericalError, match=r"NaN or infinite \(first: val/a/1"):
        trainer(tmp_path, ReconstructedFiles()).predict(Reconstruction(SmallAutoencoder(broken=True)), data)
    with pytest.raises(ConfigurationError, match="timestep is 1000"):
        Reconstruction(SmallAutoencoder(), timestep=1000)
    with pytest.raises(ConfigurationError, match="posterior is 'mean'"):
        Reconstruction(SmallAutoencoder(), posterior="mean")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no Autoencoder"):
        Reconstruction(torch.nn.Identity())
    with pytest.raises(ConfigurationError, match="lose nothing"):
        ReconstructedFiles("jpeg")  # type: ignore[arg-type]


def test_nothing_stays_attached_when_a_step_fails(images: Path, tmp_path: Path) -> None:
    task = Reconstruction(SmallAutoencoder())
    for callbacks in ([], [BreakOff(1)]):
        with pytest.raises(RuntimeError, match="broken off") if callbacks else torch.no_grad():
            trainer(tmp_path / "run", ReconstructedFiles(), *callbacks).predict(task, ImageFolder(str(images)))
        assert task.stored is None


def test_images_that_come_back_exactly(images: Path, tmp_path: Path) -> None:
    from oracles import Identity

    trainer(tmp_path / "run", ReconstructedFiles(), RunFolder(None)).predict(
        Reconstruction(Identity()), ImageFolder(str(images))
    )
    assert {row["psnr"] for row in read_csv(tmp_path / "run" / "reconstruction.csv")} == {np.inf}
    summary = read_summary(tmp_path / "run")
    assert summary["metrics"]["psnr"] == {"mean": None, "std": None}
    assert summary["headline"]["value"] is None
    assert summary["metrics"]["ssim"]["mean"] == pytest.approx(1)
    assert [entry["what"] for entry in summary["not_measured"]] == ["mean PSNR"]


def test_ssim_is_not_computed_in_half_precision() -> None:
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    recon = (image + 0.1 * image.flip(-1)).clamp(-1, 1)
    expected = ssim(recon, image)
    assert expected.shape == (2,)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ssim(recon, image), expected)


@pytest.mark.slow
def test_two_processes_give_the_table_of_one(job: Job) -> None:
    """Seven images, one at a time, so that both runs have the same batches."""
    one = job.run("one", batch_size=1)
    arguments = [sys.executable, "-m", "layerscope", "predict", f"--config={job.folder / 'config.yaml'}"]
    two = ("--trainer.devices=2", "--trainer.strategy=ddp", "--experiment_name=two")
    environment = {key: value for key, value in os.environ.items() if key not in ("MASTER_PORT", "LOCAL_RANK", "RANK")}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [*arguments, "--allow-import=small_autoencoder", *two],
        cwd=job.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Reconstructions:") == 1
    assert read_summary(job.folder / "outputs" / "two")["processes"] == 2
    assert content(job.folder / "outputs" / "two") == content(one)
