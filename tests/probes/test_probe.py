"""What a probe sees of a model, and that it leaves nothing behind."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from small_architectures import SMALL_KL
from torch import Tensor, nn

from layerscope.errors import ConfigurationError, NumericalError
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.probes.probe import Probe

SHAPE = {"reduce": lambda name, tensor: tuple(tensor.shape)}


@pytest.fixture(scope="module")
def random_autoencoder() -> DiffusersAutoencoder:
    return DiffusersAutoencoder(architecture=SMALL_KL, seed=1).eval()  # type: ignore[no-any-return]


@pytest.fixture
def autoencoder(random_autoencoder: DiffusersAutoencoder) -> DiffusersAutoencoder:
    return copy.deepcopy(random_autoencoder)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1


@torch.no_grad()
def through(autoencoder: DiffusersAutoencoder, images: Tensor) -> Tensor:
    return autoencoder.decode(autoencoder.encode(images).mean)


def hooks_on(module: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_hooks_always_called", "_forward_hooks_with_kwargs", "_forward_pre_hooks")
    return sum(len(getattr(one, kind)) for one in module.modules() for kind in kinds)


class Twice(nn.Module):
    """A linear layer that is used twice, a tuple of two tensors, and a ReLU that writes over its input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.both = Both()
        self.relu = nn.ReLU(inplace=True)
        self.spare = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.both(self.linear(x))
        return self.relu(self.linear(first + second))  # type: ignore[no-any-return]


class Both(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, 2 * x


class TestResults:
    def test_equal_a_forward_that_stores_everything(self, autoencoder: DiffusersAutoencoder, images: Tensor) -> None:
        layers = ["encoder.conv_in", "decoder.mid_block.**", "decoder.up_blocks.*.resnets.*", "decoder.conv_out"]
        twin = copy.deepcopy(autoencoder.model)
        stored: dict[str, list[Tensor]] = {}
        for name, module in twin.named_modules():
            module.register_forward_hook(lambda m, i, output, name=name: stored.setdefault(name, []).append(output))
        with torch.no_grad():  # the wrapped model by itself; forward is never called
            twin.decode(twin.encode(images).latent_dist.mode())
        with Probe(autoencoder.model, lambda name, tensor: float(tensor.double().square().sum()), layers) as probe:
            through(autoencoder, images)
            found = probe.take()
        assert set(found) >= {"encoder.conv_in", "decoder.mid_block.resnets.1.nonlinearity:2", "decoder.conv_out"}
        for call, value in found.items():
            name, _, number = call.partition(":")
            expected = stored[name][int(number or 1) - 1]
            assert value == pytest.approx(float(expected.double().square().sum()), rel=1e-6), call
        assert {name.partition(":")[0] for name in found} == set(probe.names)
        assert probe.classes["decoder.conv_out"] == "Conv2d"
        assert probe.silent == ()

    def test_come_in_the_order_of_the_calls_and_number_them(
        self, autoencoder: DiffusersAutoencoder, images: Tensor
    ) -> None:
        block = "decoder.up_blocks.0.resnets.0"
        with Probe(autoencoder.model, **SHAPE, layers=[f"{block}**"]) as probe:
            for _ in range(2):  # numbers restart
                through(autoencoder, images)
                called = list(probe.take())
                parts = [*("norm1", "nonlinearity", "conv1", "norm2", "nonlinearity:2", "dropout", "conv2"), ""]
                assert called == [f"{block}.{part}".rstrip(".") for part in parts]
            through(autoencoder, images)
            through(autoencoder, images)
            assert f"{block}.nonlinearity:4" in probe.take()

    def test_a_tiled_decode_fires_nine_times(self) -> None:
        with pytest.warns(UserWarning, match="tiling changes"):
            tiled = DiffusersAutoencoder(architecture=SMALL_KL, seed=1, tiling=True, tile_size=16).eval()
        with Probe(tiled.model, **SHAPE, layers=["decoder.conv_out"]) as probe:
            with torch.no_grad():
                tiled.decode(torch.zeros(1, 4, 16, 16))
            shapes = probe.take()
        assert list(shapes) == ["decoder.conv_out", *(f"decoder.conv_out:{number}" for number in range(2, 10))]
        assert {shape[:2] for shape in shapes.values()} == {(1, 3)}

    def test_paths_choose_among_tensors(self) -> None:
        model, x = Twice(), torch.ones(1, 4)
        with Probe(model, lambda name, tensor: tensor.clone(), ["both@0", "both@1"]) as probe:
            model(x)
            found = probe.take()
        assert list(found) == ["both@0", "both@1"]
        torch.testing.assert_close(found["both@1"], 2 * found["both@0"])
        with Probe(model, **SHAPE, layers=["both"]), pytest.raises(ConfigurationError, match="both@0, both@1"):
            model(x)

    def test_are_without_gradient_and_without_autocast(self) -> None:
        model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
        x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))

        def gram(name: str, tensor: Tensor) -> Tensor:
            assert not tensor.requires_grad
            return tensor.float() @ tensor.float().T

        with torch.autocast("cpu", dtype=torch.bfloat16):
            with Probe(model, gram, ["0"], keep=["0"]) as probe:
                y = model(x)
            assert (x @ x).dtype == torch.bfloat16  # autocast goes on around the hook
        gram_matrix, activation = probe.take()["0"], probe.kept()["0"]
        assert activation.dtype == torch.bfloat16
        assert gram_matrix.dtype == torch.float32
        assert torch.equal(gram_matrix, activation.float() @ activation.float().T)
        assert y.requires_grad
        assert not gram_matrix.requires_grad

    def test_can_be_taken_after_the_block_and_not_from_an_earlier_one(self) -> None:
        model, x = Twice(), torch.ones(1, 4)
        probe = Probe(model, **SHAPE, layers=["linear"])
        with probe:
            model(x)
        model(x)
        assert list(probe.take()) == ["linear", "linear:2"]
        model.relu.register_forward_pre_hook(lambda *_: 1 // 0)
        with probe, pytest.raises(ZeroDivisionError):
            model(x)
        with probe:
            assert probe.take(require_all=False) == {}


class TestSilentLayers:
    def test_are_an_error_or_named(self) -> None:
        model, x = Twice(), torch.ones(1, 4)
        with Probe(model, **SHAPE, layers=["linear", "spare"]) as probe:
            with pytest.raises(ConfigurationError, match=r"2 of 2 .* linear, spare.*did not run while it was watched"):
                probe.take()
            model(x)
            with pytest.raises(ConfigurationError, match=r"1 of 2 watched layers were not called: spare.*no part of"):
                probe.take()
            assert list(probe.take(require_all=False)) == ["linear", "linear:2"]
            assert probe.silent == ("spare",)

    def test_of_an_encoder_where_only_the_decoder_runs(self, autoencoder: DiffusersAutoencoder) -> None:
        with Probe(autoencoder.model, **SHAPE, layers=["*.conv_in"]) as probe, torch.no_grad():
            autoencoder.decode(torch.zeros(1, 4, 8, 8))
            assert list(probe.take(require_all=False)) == ["decoder.conv_in"]
        assert probe.silent == ("encoder.conv_in",)


class TestDetaching:
    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
    def test_after_an_error_of_the_model_and_of_the_caller(
        self, autoencoder: DiffusersAutoencoder, images: Tensor, error: type[BaseException]
    ) -> None:
        def fails(*_: object) -> None:
            raise error

        with pytest.raises(error), Probe(autoencoder.model, **SHAPE):
            fails()
        assert hooks_on(autoencoder) == 0
        handle = autoencoder.model.decoder.conv_in.register_forward_pre_hook(fails)
        with pytest.raises(error), Probe(autoencoder.model, **SHAPE):
            through(autoencoder, images)
        handle.remove()
        with pytest.raises(error), Probe(autoencoder.model, fails):
            through(autoencoder, images)
        assert hooks_on(autoencoder) == 0

    def test_after_early_return_and_an_abandoned_generator(
        self, autoencoder: DiffusersAutoencoder, images: Tensor
    ) -> None:
        def returns() -> Any:
            with Probe(autoencoder.model, **SHAPE, layers=["encoder.conv_in"]) as probe:
                through(autoencoder, images)
                return probe.take()

        def yields() -> Iterator[Any]:
            with Probe(autoencoder.model, **SHAPE, layers=["encoder.conv_in"]) as probe:
                while True:
                    through(autoencoder, images)
                    yield probe.take()

        assert returns() == {"encoder.conv_in": (2, 8, 16, 16)}
        results = yields()
        assert next(results) == returns()
        assert hooks_on(autoencoder) == 1
        results.close()
        assert hooks_on(autoencoder) == 0

    def test_by_hand_and_twice_and_leaves_others_hooks(self, autoencoder: DiffusersAutoencoder) -> None:
        autoencoder.model.decoder.register_forward_hook(lambda *_: None)
        probe = Probe(autoencoder.model, **SHAPE, layers=["decoder", "encoder"])
        for _ in range(2):
            probe.attach()
            probe.attach()
            assert hooks_on(autoencoder) == 3
            probe.detach()
            probe.detach()
            assert hooks_on(autoencoder) == 1

    def test_what_was_attached_before_attaching_failed(self) -> None:
        class Refuses(nn.Linear):
            def register_forward_hook(self, *_: object, **__: object) -> Any:
                raise RuntimeError("no hooks here")

        model = nn.Sequential(nn.Linear(2, 2), Refuses(2, 2))
        with pytest.raises(RuntimeError, match="no hooks"):
            Probe(model, **SHAPE).attach()
        assert hooks_on(model) == 0


class TestMemory:
    def test_a_probe_does_not_keep_its_model_alive(self) -> None:
        model = Twice()
        gone, layer_gone = weakref.ref(model), weakref.ref(model.linear)
        probe = Probe(model, lambda name, tensor: float(tensor.sum()), ["linear"], keep=["linear"])
        with probe:
            model(torch.ones(1, 4))
            del model
            gc.collect()
            assert gone() is None
            assert layer_gone() is None
        assert len(probe.take()) == len(probe.kept()) == 2
        with pytest.raises(ConfigurationError, match="model is gone"):
            probe.attach()

    def test_activations_die_when_they_are_reduced(self) -> None:
        model = Twice()
        alive: list[weakref.ref[Any]] = []

        def reduce(name: str, tensor: Tensor) -> float:
            alive.append(weakref.ref(tensor.untyped_storage()))
            return float(tensor.sum())

        with Probe(model, reduce, ["linear"]) as probe, torch.no_grad():
            y = model(torch.ones(1, 4))
            del y
            gc.collect()
            assert [one() for one in alive] == [None, None]
            probe.take()

    def test_kept_activations_are_copies(self) -> None:
        model, x = Twice(), torch.ones(3, 4)
        with torch.no_grad():
            model.linear.bias.fill_(-9)  # the ReLU makes zeros of all of it, in place
            with Probe(model, **SHAPE, layers=["linear", "relu"], keep=["linear"]) as probe:
                model(x)
                kept = probe.kept()
            assert list(kept) == ["linear", "linear:2"]
            torch.testing.assert_close(kept["linear"], model.linear(x))
            torch.testing.assert_close(kept["linear:2"], model.linear(3 * model.linear(x)))
            assert probe.kept() == {}

    def test_a_byte_budget_bounds_what_is_kept(self) -> None:
        model, x = Twice(), torch.ones(3, 4)
        with Probe(model, **SHAPE, layers=["linear"], keep=["linear"], byte_budget=96) as probe:
            for _ in range(3):  # of two calls of 48 bytes, whoever forgets to ask for them
                model(x)
                assert len(probe.take()) == 2
            assert len(probe.kept()) == 2
        small = Probe(model, **SHAPE, layers=["linear"], keep=["linear"], byte_budget=95)
        with small, pytest.raises(ConfigurationError, match=r"linear:2 takes 48 bytes; with the 48 .* of 95 bytes"):
            model(x)
        assert hooks_on(model) == 0

    def test_only_what_is_watched_can_be_kept(self) -> None:
        with pytest.raises(ConfigurationError, match=r"keep names spare, .*Watched are linear"):
            Probe(Twice(), **SHAPE, layers=["linear"], keep=["spare"])


class TestErrorsOfReductions:
    @pytest.mark.parametrize("error", [NumericalError("NaN in it"), ValueError("NaN in it"), ZeroDivisionError()])
    def test_name_the_layer_and_keep_their_type(self, error: Exception) -> None:
        model = Twice()
        text = str(error)

        def reduce(name: str, tensor: Tensor) -> None:
            if name == "linear:2":
                raise error

        with Probe(model, reduce, ["linear"]), pytest.raises(type(error)) as raised:
            model(torch.ones(1, 4))
        assert str(raised.value) == f"Reducing the activation of linear:2: {text}".strip()
        assert hooks_on(model) == 0


class TestCompiledModules:
    def test_are_refused_where_hooks_would_not_fire(self) -> None:
        compiled: Any = torch.compile(Twice(), backend="eager")
        for layers in (None, ["linear"], ["_orig_mod.linear"]):
            with pytest.raises(ConfigurationError, match=r"the Twice itself.*compile: false"):
                Probe(compiled, **SHAPE, layers=layers)
        in_place = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2))
        in_place.compile(backend="eager")
        with pytest.raises(ConfigurationError, match="the Sequential itself"):
            Probe(in_place, **SHAPE)
        ancestor = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2))
        ancestor[0].compile(backend="eager")
        for layers in (["0"], ["0.0"]):
            with pytest.raises(ConfigurationError, match=r"cannot be probed: 0\."):
                Probe(ancestor, **SHAPE, layers=layers).attach()
        assert hooks_on(ancestor) == 0

    def test_do_not_matter_elsewhere(self) -> None:
        model = nn.Sequential(nn.Linear(2, 2), torch.compile(nn.Linear(2, 2), backend="eager"))
        with Probe(model, **SHAPE, layers=["0"]) as probe:
            model(torch.ones(1, 2))
            assert list(probe.take()) == ["0"]
        with pytest.raises(ConfigurationError, match=r"_orig_mod.*compile: false"):
            Probe(model, **SHAPE, layers=["1.weights"])
        with pytest.raises(ConfigurationError, match=r"cannot be probed: 1\."):
            Probe(model, **SHAPE, layers=["1._orig_mod"]).attach()

    def test_compiled_after_the_choice_are_refused_too(self) -> None:
        model = Twice()
        probe = Probe(model, **SHAPE, layers=["linear"])
        model.compile(backend="eager")
        with pytest.raises(ConfigurationError, match="the Twice itself"):
            probe.attach()
