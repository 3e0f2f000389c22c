"""Which parameters train, and that frozen modules neither learn nor drift."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from small_architectures import SMALL_KL
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from layerscope.errors import ConfigurationError
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.tasks.freezing import keep_frozen_in_eval, select_trainable

KL: dict[str, Any] = SMALL_KL | {"block_out_channels": [8, 16], "latent_channels": 4}
FLUX = KL | {"use_quant_conv": False, "use_post_quant_conv": False}
VQ = KL | {"_class_name": "VQModel", "vq_embed_dim": 3, "num_vq_embeddings": 16}
TINY: dict[str, Any] = {
    "_class_name": "AutoencoderTiny",
    "encoder_block_out_channels": [8] * 2,
    "decoder_block_out_channels": [8] * 2,
    "num_encoder_blocks": [1] * 2,
    "num_decoder_blocks": [1] * 2,
}
IMAGE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def adapter(architecture: dict[str, Any]) -> DiffusersAutoencoder:
    return DiffusersAutoencoder(architecture=architecture, seed=0)


def trainable(module: nn.Module) -> list[str]:
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def parameters_of(module: nn.Module) -> set[int]:
    return {id(parameter) for parameter in module.parameters()}


class Own(nn.Module):
    """An autoencoder of a user's: other names, dropout, and batch normalisations with and without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.latent_norm = nn.BatchNorm2d(4, affine=False)
        self.up = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 3, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        recon: Tensor = self.up(self.latent_norm(self.down(x)))
        return recon


class TestSides:
    @pytest.mark.parametrize("architecture", [KL, FLUX, VQ, TINY], ids=["kl", "flux", "vq", "tiny"])
    @pytest.mark.parametrize("side", ["decoder", "encoder"])
    def test_one_side_with_its_quant_convolution(self, architecture, side):
        autoencoder = adapter(architecture)
        names = select_trainable(autoencoder, side)
        model = autoencoder.model
        quant = getattr(model, {"decoder": "post_quant_conv", "encoder": "quant_conv"}[side], None)
        expected = parameters_of(getattr(model, side)) | (parameters_of(quant) if quant is not None else set())
        assert {id(parameter) for parameter in model.parameters() if parameter.requires_grad} == expected
        assert names == trainable(autoencoder)

    @pytest.mark.parametrize("side", ["decoder", "encoder"])
    def test_a_step_moves_that_side_alone(self, side):
        autoencoder = adapter(KL)
        names = select_trainable(autoencoder, side)
        before = {name: value.clone() for name, value in autoencoder.state_dict().items()}
        optimizer = torch.optim.SGD([p for p in autoencoder.parameters() if p.requires_grad], lr=1.0)
        posterior = autoencoder.encode(IMAGE)
        recon = autoencoder.decode(posterior.mean + posterior.std)
        (recon - IMAGE).square().mean().backward()
        optimizer.step()
        after = autoencoder.state_dict()
        moved = {name for name in after if not torch.equal(before[name], after[name])}
        assert moved <= set(names)
        # Softmax does not see what is added to every key alike, so that only rounding moves these biases.
        assert {name for name in names if not name.endswith(".to_k.bias")} <= moved

    def test_all_trains_again_what_an_earlier_choice_froze(self):
        autoencoder = adapter(KL)
        select_trainable(autoencoder, "decoder")
        every = [name for name, _ in autoencoder.named_parameters()]
        assert select_trainable(autoencoder, "all") == select_trainable(autoencoder) == every == trainable(autoencoder)

    def test_the_model_without_an_adapter_and_a_deeper_one(self):
        for wrapped in (adapter(KL).model, nn.ModuleDict({"vae": adapter(KL).model})):
            names = select_trainable(wrapped, "decoder")
            parts = {name.removeprefix("vae.").split(".")[0] for name in names}
            assert parts == {"decoder", "post_quant_conv"}

    @pytest.mark.parametrize("side", ["decoder", "encoder"])
    def test_an_autoencoder_without_such_names(self, side):
        own = Own()
        with pytest.raises(ConfigurationError, match=rf"{side}.*Own.*parts are down, up.*only train: all and freeze"):
            select_trainable(own, side)
        assert select_trainable(own, "all", ["down.*"]) == [name for name in trainable(own) if name.startswith("up.")]

    def test_an_unknown_choice(self):
        with pytest.raises(ConfigurationError, match="'decoders': expected all, decoder or encoder"):
            select_trainable(adapter(KL), "decoders")  # type: ignore[arg-type]


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "expression"),
        [
            ("encoder.conv_in.*", r"model\.encoder\.conv_in\..*"),
            ("model.encoder.conv_in.*", r"model\.encoder\.conv_in\..*"),
            ("*.bias", r".*\.bias"),
            ("decoder.up_blocks.[0]*.weight", r"model\.decoder\.up_blocks\.0.*\.weight"),
            ("quant_conv.weight", r"model\.quant_conv\.weight"),
            (r"re:(en|de)coder\.mid_block\..+", r"model\.(en|de)coder\.mid_block\..+"),
            (r"re:model\.quant_conv\.(weight|bias)", r"model\.quant_conv\.(weight|bias)"),
        ],
    )
    def test_freezes_what_it_matches(self, pattern, expression):
        autoencoder = adapter(KL)
        every = [name for name, _ in autoencoder.named_parameters()]
        frozen = [name for name in every if re.fullmatch(expression, name)]
        assert 0 < len(frozen) < len(every)
        assert select_trainable(autoencoder, freeze=[pattern]) == [name for name in every if name not in frozen]
        assert [name for name, p in autoencoder.named_parameters() if not p.requires_grad] == frozen

    def test_several_after_the_side(self):
        autoencoder = adapter(KL)
        side = select_trainable(autoencoder, "decoder")
        names = select_trainable(autoencoder, "decoder", ["*.bias", "post_quant_conv.*", "encoder.*"])
        assert names == [name for name in side if not name.endswith(".bias") and "post_quant" not in name]

    @pytest.mark.parametrize(
        ("pattern", "said"),
        [
            ("encoder.conv_inn.weight", r"did you mean 'encoder\.conv_in\.weight'"),
            ("encodr.conv_in.*", r"did you mean .*'encoder\.conv_in\.\*'"),
            ("Encoder.conv_in.weight", r"did you mean 'encoder\.conv_in\.weight'"),
            ("encoder.mid_block", r"is a module.*Write encoder\.mid_block\.\*"),
            ("re:conv_in", "matches no parameter as a whole"),
            ("re:conv_in(", "no regular expression: missing \\)"),
            ("", "'', which matches no parameter"),
        ],
    )
    def test_a_pattern_that_matches_nothing_changes_nothing(self, pattern, said):
        autoencoder = adapter(KL)
        with pytest.raises(ConfigurationError, match=said):
            select_trainable(autoencoder, "decoder", ["*.bias", pattern])
        assert all(parameter.requires_grad for parameter in autoencoder.parameters())

    def test_nothing_left(self):
        autoencoder = adapter(KL)
        for train, freeze in (("all", ["*"]), ("decoder", ["decoder.*", "post_quant_conv.*"])):
            with pytest.raises(ConfigurationError, match=rf"Nothing is left to train: with train: {train} and freeze"):
                select_trainable(autoencoder, train, freeze)
        assert all(parameter.requires_grad for parameter in autoencoder.parameters())

    def test_text_instead_of_a_list(self):
        with pytest.raises(ConfigurationError, match=r"expected a list of patterns, such as \['\*\.bias'\]"):
            select_trainable(adapter(KL), freeze="*.bias")


def test_new_tensors_that_stay_random_are_told(tmp_path):
    adapter(KL).save(tmp_path / "vae")
    widened = DiffusersAutoencoder(source=str(tmp_path / "vae"), latent_channels=8, seed=0)
    with pytest.warns(UserWarning, match="frozen: ") as told:
        select_trainable(widened, "decoder")
    (message,) = [str(one.message) for one in told if "stay so because they are frozen" in str(one.message)]
    names = {"encoder.conv_out.weight", "encoder.conv_out.bias", "quant_conv.weight", "quant_conv.bias"}
    assert set(re.findall(r"model\.([\w.]+\.(?:weight|bias))", message)) == names
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        select_trainable(widened, "all", ["encoder.mid_block.*"])


class TestEvaluationMode:
    def test_frozen_modules_and_what_is_inside_them(self):
        own = Own()
        select_trainable(own, freeze=["down.*", "up.1.*"])
        own.train()
        keep_frozen_in_eval(own)
        off = {name for name, module in own.named_modules() if not module.training}
        # The dropout in `up`, whose convolution trains, stays on; so does what has no weights beside both.
        assert off == {"down", "down.0", "down.1", "down.2", "up.1"}

    def test_wholly_and_not_at_all_frozen(self):
        own = Own().requires_grad_(False)
        keep_frozen_in_eval(own)
        assert not any(module.training for module in own.modules())
        own.requires_grad_(True).train()
        keep_frozen_in_eval(own)
        assert all(module.training for module in own.modules())

    def test_evaluation_is_not_switched_to_training(self):
        own = Own().eval()
        select_trainable(own, freeze=["down.*"])
        keep_frozen_in_eval(own)
        assert not any(module.training for module in own.modules())

    def test_frozen_half_gives_the_same_answer_through_a_training_with_validation(self):
        class Task(LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.own = Own()
                select_trainable(self.own, freeze=["down.*"])
                self.encoded: list[Tensor] = []

            def on_train_start(self) -> None:
                keep_frozen_in_eval(self.own)

            def train(self, mode: bool = True) -> Task:
                super().train(mode)
                keep_frozen_in_eval(self.own)
                return self

            def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
                with torch.no_grad():
                    self.encoded.append(self.own.down(IMAGE))
                return (self.own(batch[0]) - batch[0]).square().mean()

            def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
                self.own(batch[0])

            def on_train_epoch_start(self) -> None:
                self.train()

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

        torch.manual_seed(0)
        task = Task()
        before = {name: value.clone() for name, value in task.own.state_dict().items()}
        loader = DataLoader(TensorDataset(IMAGE.repeat(2, 1, 1, 1) + 0.5), batch_size=2)
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(task, loader, loader)
        assert len(task.encoded) == 4
        assert all(torch.equal(one, task.encoded[0]) for one in task.encoded)
        changed = {name for name, value in task.own.state_dict().items() if not torch.equal(value, before[name])}
        # Its running statistics and weights are those of the start; those of the trained half moved.
        assert not {name for name in changed if name.startswith("down.")}
        assert {"up.1.running_mean", "up.1.weight", "up.2.weight", "latent_norm.running_mean"} <= changed
