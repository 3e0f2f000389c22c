"""Training against a discriminator: whose gradients are whose, when it sets in, what resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from small_architectures import SMALL_KL
from torch import Tensor, nn
from torch.utils.data import DataLoader

from layerscope.errors import ConfigurationError, NumericalError
from layerscope.losses import KL, L1, MSE, LatentNoise, NoisyReconstruction, PatchDiscriminator
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.tasks.adversary import Adversarial, decoder_output_weight
from layerscope.tasks.vae import AutoencoderTraining

SIDE = 16


class Images(torch.utils.data.Dataset[dict[str, Any]]):
    """Twelve random images without labels."""

    image = torch.rand(12, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) * 2 - 1

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, row: int) -> dict[str, Any]:
        labels = torch.zeros(0)
        return {"image": self.image[row], "target": labels, "known": labels.bool(), "id": f"i{row}", "index": row}


def discriminator() -> nn.Module:
    torch.manual_seed(5)
    return PatchDiscriminator(base_channels=4, n_layers=1)


def task(**adversarial: Any) -> AutoencoderTraining:
    settings = {"weight": 0.5, "optimizer": lambda p: torch.optim.SGD(p, lr=0.1), "discriminator": discriminator()}
    return AutoencoderTraining(
        DiffusersAutoencoder(architecture=SMALL_KL, seed=0),
        [L1(), KL()],
        adversarial=Adversarial(**settings | adversarial),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.01),
        lr_schedule="constant",
        warmup_fraction=0.0,
    )


def judge_of(module: AutoencoderTraining) -> nn.Module:
    assert module.adversary is not None
    return module.adversary.discriminator


class Record(Callback):
    """What optimizers see and leave at each step; the last of the callbacks."""

    def __init__(self) -> None:
        self.discriminators: list[dict[str, Tensor]] = []
        self.steps: list[dict[str, Any]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        adversary, network = pl_module.adversary, pl_module.autoencoder
        self.steps.append(
            {
                "batch": pl_module.batches,
                "generator": {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None},
                "discriminator": {
                    n: None if p.grad is None else p.grad.clone() for n, p in adversary.discriminator.named_parameters()
                },
            }
        )

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        state = pl_module.adversary.discriminator.state_dict()
        self.discriminators.append({name: value.clone() for name, value in state.items()})


def fit(
    module: AutoencoderTraining, folder: Path, *callbacks: Callback, ckpt: Path | None = None, **options: Any
) -> Any:
    seed_everything(3, verbose=False)
    record = Record()
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, record],
        **{"max_epochs": 1, **options},
    )
    trainer.fit(module, DataLoader(Images(), batch_size=4), ckpt_path=ckpt, weights_only=True)
    return trainer, record


def by_hand(module: AutoencoderTraining, seed: int, image: Tensor, adaptive: bool) -> tuple[dict, dict]:
    """The first step's gradients of generator and discriminator in plain torch."""
    model: Any = module.autoencoder.model  # type: ignore[attr-defined]
    judge = discriminator()
    torch.manual_seed(seed)
    posterior = model.encode(image).latent_dist
    recon = model.decode(posterior.mean + posterior.std * torch.randn_like(posterior.mean)).sample
    l1, generator = F.l1_loss(recon, image), -judge(recon).mean()
    weight: Any = 0.5
    if adaptive:
        last = model.decoder.conv_out.weight
        norms = [torch.autograd.grad(x, last, retain_graph=True)[0].norm() for x in (l1, generator)]
        weight = weight * float(norms[0] / (norms[1] + 1e-4))
    model.zero_grad()
    (l1 + 1e-6 * posterior.kl().mean() + weight * generator).backward()
    grads = {f"model.{name}": p.grad.clone() for name, p in model.named_parameters()}
    judge.zero_grad()
    recon = recon.detach()
    hinge = 0.5 * (F.relu(1 - judge(image)).mean() + F.relu(1 + judge(recon)).mean())
    hinge.backward()
    return grads, {name: p.grad for name, p in judge.named_parameters()}


@pytest.mark.parametrize("adaptive", [False, True], ids=["fixed", "adaptive"])
def test_each_side_gets_its_own_gradients_and_no_others(adaptive: bool, tmp_path: Path) -> None:
    module = task(adaptive_to="l1" if adaptive else None)
    seed_everything(3, verbose=False)
    seed = module.batch_seed()
    generator, judge = by_hand(task(), seed, Images.image[:4], adaptive)
    _, record = fit(module, tmp_path, max_steps=1)
    first = record.steps[0]
    assert first["generator"].keys() == generator.keys()
    for name, gradient in generator.items():
        torch.testing.assert_close(first["generator"][name], gradient, rtol=1e-3, atol=1e-7, msg=name)
    for name, gradient in judge.items():
        torch.testing.assert_close(first["discriminator"][name], gradient, rtol=1e-4, atol=1e-8, msg=name)
    # SGD: the discriminator moved by exactly its own gradients.
    started = discriminator().state_dict()
    for name, value in judge_of(module).state_dict().items():
        torch.testing.assert_close(value, started[name] - 0.1 * judge[name], msg=name)


def test_the_start_counts_batches_whatever_the_accumulation(tmp_path: Path) -> None:
    module = task(start_batches=4)
    trainer, record = fit(module, tmp_path, max_epochs=2, accumulate_grad_batches=2)
    # Six batches, of which the fourth to sixth are judged. An epoch of three batches steps after two and at its end.
    moved = [
        any(not torch.equal(after[name], before[name]) for name in before)
        for before, after in zip(record.discriminators, record.discriminators[1:])
    ]
    assert moved == [False, False, False, False, True]
    assert [step["batch"] for step in record.steps] == [2, 3, 5, 6]
    assert trainer.global_step == 4  # the generator's steps, not those of both


def test_accumulated_batches_give_the_discriminator_their_mean_gradient(tmp_path: Path) -> None:
    alone = []
    for rows in (slice(0, 4), slice(4, 8)):
        single = task()
        seed_everything(3, verbose=False)
        single.batches = rows.start // 4
        alone.append(by_hand(task(), single.batch_seed(), Images.image[rows], adaptive=False)[1])
    _, record = fit(task(), tmp_path, accumulate_grad_batches=2, limit_train_batches=2)
    for name, gradient in record.steps[0]["discriminator"].items():
        torch.testing.assert_close(gradient, (alone[0][name] + alone[1][name]) / 2, rtol=1e-4, atol=1e-8, msg=name)


def test_the_trainers_clipping_holds_for_both(tmp_path: Path) -> None:
    module = task()
    started = [{n: p.detach().clone() for n, p in x.named_parameters()} for x in (module.autoencoder, judge_of(module))]
    fit(module, tmp_path, max_steps=1, gradient_clip_val=0.1)
    for network, start, lr in zip((module.autoencoder, judge_of(module)), started, (0.01, 0.1)):
        moved = [(parameter - start[name]).flatten() for name, parameter in network.named_parameters()]
        # Both norms are larger unclipped.
        assert float(torch.cat(moved).norm()) == pytest.approx(0.1 * lr, rel=1e-3)


def test_fused_optimizers_go_with_clipping_and_bf16_mixed(tmp_path: Path) -> None:
    """Lightning by itself refuses them, for the sake of gradient scaling, which bf16 does without."""

    def fused(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=0.01, fused=True)

    module = task(optimizer=fused)
    module.optimizer = fused
    started = discriminator().state_dict()
    fit(module, tmp_path, max_steps=1, gradient_clip_val=0.1, precision="bf16-mixed")
    moved = {name for name, value in judge_of(module).state_dict().items() if not torch.equal(value, started[name])}
    assert {name for name in started if name.endswith("weight")} <= moved


def test_resuming_takes_up_the_discriminator_and_its_optimizer(tmp_path: Path) -> None:
    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=0.01)

    # At the end of an epoch: a plain DataLoader cannot resume within one.
    saved = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = task(adaptive_to="l1", optimizer=adam)
    fit(whole, tmp_path, EMAWeightAveraging(decay=0.9), saved, max_epochs=2)
    resumed = task(adaptive_to="l1", optimizer=adam)
    with torch.no_grad():  # what is stored counts, not what the constructor drew
        for parameter in judge_of(resumed).parameters():
            parameter.zero_()
    first = tmp_path / "epoch=0.ckpt"
    fit(resumed, tmp_path, EMAWeightAveraging(decay=0.9), ckpt=first, max_epochs=2)
    torch.set_num_threads(threads)
    for part in (judge_of, lambda module: module.autoencoder):
        found, expected = (part(module).state_dict() for module in (resumed, whole))
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    state = torch.load(first, weights_only=True)
    assert not any("layers" in name for part in ("state_dict", "current_model_state") for name in state[part])


class BreaksBackwards(PatchDiscriminator):
    """Finite logits whose gradient with respect to the first weight is NaN: the slope of √ at 0."""

    def forward(self, image: Tensor) -> Tensor:
        weight = next(self.parameters())
        return super().forward(image) + torch.sqrt((weight - weight).square()).sum()


def test_a_gradient_that_breaks_the_discriminator_stops_before_the_step(tmp_path: Path) -> None:
    module = task(discriminator=BreaksBackwards(base_channels=4, n_layers=1))
    generator, judge = ({n: p.clone() for n, p in x.named_parameters()} for x in (module.autoencoder, judge_of(module)))
    with pytest.raises(NumericalError, match=r"gradient is not, for discriminator\.layers\.0\.weight.*i0, i1, i2, i3"):
        fit(module, tmp_path, max_steps=1)
    assert all(torch.equal(p, judge[n]) for n, p in judge_of(module).named_parameters())
    assert all(torch.equal(p, generator[n]) for n, p in module.autoencoder.named_parameters())


def test_images_too_small_to_judge_are_refused_before_it_sets_in(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="images of at least 24 pixels; training sees 16 × 16"):
        fit(task(start_batches=1000, discriminator=PatchDiscriminator(base_channels=4)), tmp_path, max_steps=1)


def test_settings_that_cannot_work_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the loss terms are l1, kl"):
        task(adaptive_to="lpips")
    network = DiffusersAutoencoder(architecture=SMALL_KL, seed=0)
    noisy: list[nn.Module] = [MSE(), NoisyReconstruction()]
    with pytest.raises(ConfigurationError, match="a term on the noisy reconstruction"):
        AutoencoderTraining(network, noisy, LatentNoise(), adversarial=Adversarial(adaptive_to="noisy_reconstruction"))
    with pytest.raises(ConfigurationError, match="under which the adversarial loss logs"):
        AutoencoderTraining(network, [L1(name="discriminator")], adversarial=Adversarial())
    with pytest.raises(ConfigurationError, match="last layer, which is frozen"):
        AutoencoderTraining(network, train="encoder", adversarial=Adversarial(adaptive_to="l1"))
    with pytest.raises(ConfigurationError, match="start_batches"):
        Adversarial(start_batches=-1)
    assert decoder_output_weight(network) is network.model.decoder.conv_out.weight  # type: ignore[union-attr]
    with pytest.raises(ConfigurationError, match="bf16-mixed or 32-true"):
        fit(task(), tmp_path, precision="16-true")
