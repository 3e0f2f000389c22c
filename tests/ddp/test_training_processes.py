"""Two processes train as one does on the batches of both; what breaks on one ends both.

Each process draws its own noise, so the posterior's std is made negligible (e⁻¹⁴) and terms that read noisy latents
have weight 0: what is left depends on the images alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from commands import TWO, command
from step_records import Step, read_steps, recorded
from vae_runs import LAST, fit, settings, write

FEATURES = {
    "class_path": "layerscope.losses.FeatureMatching",
    "init_args": {"teacher": {"class_path": "loss_stand_ins.TinyTeacher"}, "weight": 0.1},
}
LOSSES: list[dict[str, Any]] = [
    {
        "class_path": "layerscope.losses.LearnedLogvar",
        "init_args": {"term": {"class_path": "layerscope.losses.L1"}, "initial_logvar": -1.0},
    },
    {"class_path": "layerscope.losses.KL", "init_args": {"weight": 1e-4}},
    FEATURES,
    {"class_path": "layerscope.losses.NoisyReconstruction", "init_args": {"weight": 0.0}},
]


def training(root: Path, records: Path, losses: list[dict[str, Any]], batch_size: int) -> dict[str, Any]:
    """Three steps over eight images, in double precision."""
    config = settings(
        root,
        losses,
        max_steps=3,
        max_epochs=-1,
        limit_val_batches=0,
        precision="64-true",
        callbacks=[recorded(records)],
    )
    config["model"]["init_args"]["autoencoder"]["init_args"]["initial_logvar"] = -28.0
    config["data"]["init_args"] |= {"limit": 8, "batch_size": batch_size}
    return config


def assert_same_steps(one: list[Step], two: list[list[Step]], unreached: frozenset[str] = frozenset()) -> None:
    """The gradients of both processes are the one's, which neither has by itself."""
    assert len(one) == len(two[0]) == len(two[1]) == 3
    for alone, *both in zip(one, *two):
        assert sorted(alone["ids"]) == sorted(both[0]["ids"] + both[1]["ids"])
        assert set(alone["gradients"]) == set(alone["names"]) - unreached
        apart = 0
        for name, expected in alone["gradients"].items():
            local = [step["local"][name] for step in both]
            scale = float(expected.abs().max())
            # Terms are float32, and single processes differ in e⁻¹⁴ of noise.
            for found in (*(step["gradients"][name] for step in both), (local[0] + local[1]) / 2):
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * scale + 1e-9)
            apart += float((local[0] - local[1]).abs().max()) > 0.01 * scale
        # Without the reduction the comparison above would fail.
        assert apart >= len(alone["gradients"]) - 1
        for name in unreached:
            assert all(step["gradients"].get(name, torch.zeros(1)).abs().max() == 0 for step in both)
        for name, expected in alone["buffers"].items():
            for step in both:
                torch.testing.assert_close(step["buffers"][name], expected, rtol=1e-6, atol=1e-9)
        for name in alone["names"]:
            assert torch.equal(both[0]["weights"][name], both[1]["weights"][name])


@pytest.mark.slow
def test_every_parameter_used_with_a_frozen_teacher_and_latent_noise(tmp_path: Path, fundus_phantom: Path) -> None:
    config = training(fundus_phantom, tmp_path / "one", LOSSES, 4)
    config["model"]["init_args"]["latent_noise"] = {"tau": 0.5}
    allowed = [f"--allow-import={module}" for module in ("loss_stand_ins", "step_records")]
    fit(tmp_path, "one_process", config, *allowed)
    config["data"]["init_args"]["batch_size"] = 2
    config["trainer"]["callbacks"] = [recorded(tmp_path / "two")]
    done = command("fit", tmp_path, write(tmp_path, "two", config), "two", *TWO)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = read_steps(tmp_path / "one"), [read_steps(tmp_path / "two", rank) for rank in (0, 1)]
    assert_same_steps(one, two)
    assert "losses.terms.0.logvar" in one[0]["gradients"]
    assert one[2]["buffers"]["latent_spread.batches"] == 3
    assert (one[2]["buffers"]["latent_spread.mean"] != 0).all()
    assert not any("teacher" in name for step in one for name in step["names"] + list(step["buffers"]))


@pytest.mark.slow
def test_a_discriminator_learns_from_both_processes(tmp_path: Path, fundus_phantom: Path) -> None:
    """With plain ``ddp``, although the generator's step uses the discriminator and trains none of it."""
    config = training(fundus_phantom, tmp_path / "one", [{"class_path": "layerscope.losses.L1"}], 4)
    network = {"class_path": "layerscope.losses.PatchDiscriminator", "init_args": {"base_channels": 4, "n_layers": 2}}
    # A fixed weight: the adaptive one belongs to the batch of a process.
    config["model"]["init_args"]["adversarial"] = {
        "weight": 0.1,
        "discriminator": network,
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}},
    }
    config["trainer"]["callbacks"] = [recorded(tmp_path / "one"), LAST]
    one = fit(tmp_path, "one_process", config, "--allow-import=step_records")
    config["data"]["init_args"]["batch_size"] = 2
    config["trainer"]["callbacks"] = [recorded(tmp_path / "two"), LAST]
    done = command("fit", tmp_path, write(tmp_path, "two", config), "two", *TWO)
    assert done.returncode == 0, done.stderr[-3000:]
    # Were the discriminators apart after a step, the generators' next gradients would differ.
    assert_same_steps(read_steps(tmp_path / "one"), [read_steps(tmp_path / "two", rank) for rank in (0, 1)])
    runs = (one, tmp_path / "outputs" / "two")
    files = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in runs]
    [expected, found] = [file["layerscope_adversary"]["discriminator"] for file in files]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)
    assert [file["global_step"] for file in files] == [3, 3]


@pytest.mark.slow
def test_parameters_that_the_loss_does_not_reach(tmp_path: Path, fundus_phantom: Path) -> None:
    config = training(fundus_phantom, tmp_path / "one", [{"class_path": "training_stand_ins.Unreached"}], 4)
    allowed = [f"--allow-import={module}" for module in ("training_stand_ins", "step_records")]
    fit(tmp_path, "one_process", config, *allowed)
    config["data"]["init_args"]["batch_size"] = 2
    config["trainer"]["callbacks"] = [recorded(tmp_path / "two")]
    path = write(tmp_path, "two", config)
    refused = command("fit", tmp_path, path, "plain", *TWO)
    assert refused.returncode == 1
    told = " ".join(refused.stderr.split())
    assert "Traceback" not in told
    assert "parameters that were not used in producing the loss" in told
    assert "strategy='ddp_find_unused_parameters_true'" in told
    done = command("fit", tmp_path, path, "two", *TWO, "--trainer.strategy=ddp_find_unused_parameters_true")
    assert done.returncode == 0, done.stderr[-3000:]
    spare = frozenset({"losses.terms.0.spare.weight", "losses.terms.0.spare.bias"})
    two = [read_steps(tmp_path / "two", rank) for rank in (0, 1)]
    assert_same_steps(read_steps(tmp_path / "one"), two, spare)


@pytest.mark.slow
def test_a_loss_that_breaks_on_one_process_ends_both(tmp_path: Path, fundus_phantom: Path) -> None:
    losses = [{"class_path": "training_stand_ins.Breaks", "init_args": {"how": "nan", "batches": 2, "rank": 1}}]
    config = training(fundus_phantom, tmp_path / "two", losses, 2)
    each = {**LAST, "init_args": {**LAST["init_args"], "every_n_train_steps": 1}}  # type: ignore[dict-item]
    config["trainer"]["callbacks"] = [each]
    done = command("fit", tmp_path, write(tmp_path, "two", config), "two", *TWO)
    assert done.returncode == 1, done.stderr[-3000:]
    told = " ".join(done.stderr.split())
    assert "Traceback" not in told
    assert "breaks is nan" in told
    checkpoint = tmp_path / "outputs" / "two" / "checkpoints" / "last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2
