"""Measures, pair by pair, what each watched layer makes of two images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from layerscope.artifacts.layer_scores import DIFFERENCES, LOCALISATION, POINTS, FloatArray, LayerScores, Shape
from layerscope.callbacks.gather import gather_objects
from layerscope.errors import ConfigurationError, DataError, NumericalError, listed
from layerscope.functional.layer_differences import layer_differences
from layerscope.functional.localisation import localisation_with_control, mask_pixels
from layerscope.functional.memory_blocks import sum_dtype
from layerscope.functional.positions import default_grid
from layerscope.metrics.layer_measurement import LayerMeasurement, measure_layer
from layerscope.metrics.linear_cka import LinearCKA
from layerscope.metrics.table import IndexedTable
from layerscope.probes.probe import Probe
from layerscope.protocols import Autoencoder, LayerMetric, NamedLayers, ProbedTask
from layerscope.types import CKA_GROUP, PairBatch, PairOutput, PairRole, SkippedSample


class LayerDifferences(Callback):
    """Hooks on the layers that ``tasks.diagnosis.pairs.PairDiagnosis`` names, and the tables they fill.

    Each layer's activations are reduced inside the hook, on the device: three energies a pair, the distance at each
    image position, and HSIC of whole groups of pairs for linear CKA. Activations are never stored. When the loop ends
    ``scores`` holds everything, the rows sorted by id, equal on every number of processes.

    Args:
        metrics: further figures of the two activations, each a ``protocols.LayerMetric``; those of pairs go to
            pairs.csv, their means to aggregated_results.json. Layers are not ranked by them.

    Attributes:
        seen: of the last batch, layer to ``LayerMeasurement``, in the order of the computation.
        values: of the last batch, float64 (B, L, 5), see ``artifacts.layer_scores.DIFFERENCES``.
        scores: the result, on every process.
        not_measured: layers without figures, and why.
    """

    not_measured: list[dict[str, str]]

    seen: dict[str, LayerMeasurement]
    values: Tensor
    scores: LayerScores

    def __init__(self, metrics: list[LayerMetric] | None = None) -> None:
        self.metrics = metrics or []
        names = [metric.name for metric in self.metrics]
        if len({*names, *DIFFERENCES}) != len(names) + len(DIFFERENCES):
            raise ConfigurationError(
                f"The layer metrics are called {', '.join(names)}: each needs a name of its own, other than "
                f"{', '.join(DIFFERENCES)}."
            )
        self._probe: Probe | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "test":  # before Lightning looks at the loops, and blames something else
            _checked(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        task = _checked(pl_module)
        root, layers, exclude = task.watched_layers()
        loaders = _loaders(trainer)
        self._task = task
        self._ids: list[str] = list(cast(Any, loaders[0].dataset).ids)
        self._floor_ids: list[str] = list(cast(Any, loaders[1].dataset).ids) if len(loaders) > 1 else []
        # In batches of another size most groups are cut, and which are not would depend on it.
        self._has_groups = (loaders[0].batch_size or 1) % CKA_GROUP == 0
        self._layers: list[str] = []
        self._shapes: list[Shape] = []
        self._tables: dict[str, IndexedTable] = {}
        self._cka: LinearCKA | None = None
        self._skipped: dict[PairRole, list[SkippedSample]] = {"pair": [], "floor": []}
        self._unmeasured: dict[str, str] = {}
        # Every layer there is includes some that a pass does not call; one that was asked for must be called.
        self._require_all = layers is not None
        self._probe = Probe(root, self._reduce, layers, exclude)
        self._modules = self._probe.classes
        self._rows_of_one: dict[str, int] = {}
        self._rows_unknown = _may_have_foreign_layers(task)
        self._counting = False
        task.point_listeners.append(self._reduce_point)
        self._probe.attach()

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        pairs: PairBatch = batch
        self.seen = {}
        self._pairs = len(pairs["id"])
        self._image_size = (int(pairs["positive"].shape[-2]), int(pairs["positive"].shape[-1]))
        # CKA and a user's metrics are reported for pairs only: on the floor their time would be thrown away.
        of_pairs = pairs["role"] == "pair"
        self._groups = _whole_groups(pairs["index"]) if self._has_groups and of_pairs else []
        self._metrics_of_batch = self.metrics if of_pairs else []
        if self._rows_unknown and self._pairs:
            self._count_rows(trainer, pairs["positive"][:1])

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        output = cast(PairOutput, outputs)
        if output.id:
            assert self._probe is not None
            self._probe.take(self._require_all)
            self._unmeasured |= dict.fromkeys(self._probe.silent, "it was not called")
            self._check_layers()
            self._fill(output)
        self._skipped[output.role].extend(output.skipped)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Brings the processes' shares together."""
        self._detach()
        known = gather_objects(trainer, (self._layers, self._shapes, self._unmeasured))
        self._layers, self._shapes = next((one[:2] for one in known if one[0]), ([], []))
        for layers, shapes, unmeasured in known:
            self._check_same(self._layers, layers or self._layers)
            self._shapes = _common_shapes(self._shapes, shapes or self._shapes)
            self._unmeasured |= unmeasured
        skipped = {
            role: sorted({(skip.id, skip.reason) for part in gather_objects(trainer, mine) for skip in part})
            for role, mine in self._skipped.items()
        }
        if len(skipped["pair"]) == len(self._ids):
            name, reason = skipped["pair"][0]
            raise DataError(f"None of the {len(self._ids)} pairs could be measured. The first reason: {name}: {reason}")
        pairs = self._collected("pair")
        floor = (
            self._collected("floor")["values"]
            if self._floor_ids
            else np.zeros((0, len(self._layers), len(DIFFERENCES)))
        )
        in_floor = ~np.isnan(floor[:, 0, 0])
        self.not_measured = [{"what": f"layer {name}", "reason": reason} for name, reason in self._unmeasured.items()]
        self.not_measured += [{"what": f"floor pair {name}", "reason": reason} for name, reason in skipped["floor"]]
        order = sorted(range(len(self._ids)), key=self._ids.__getitem__)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        patients = data.evaluated_groups()
        self.scores = LayerScores(
            id=[self._ids[row] for row in order],
            group=None if patients is None else [patients[row] for row in order],
            layer=self._layers,
            shape=self._shapes,
            module=["" if name in POINTS else self._modules[name.partition(":")[0]] for name in self._layers],
            values=pairs["values"][order],
            pooled=_pooled(pairs["energies"], pairs["elements"]),
            cka_hsic=self._cka_state().compute(),
            cka_possible=len(self._ids) // CKA_GROUP if self._has_groups else 0,
            floor=floor[in_floor],
            floor_id=[name for name, measured in zip(self._floor_ids, in_floor) if measured],
            floor_kind=data.describe()["noise_floor"],
            localisation=pairs["localisation"][order],
            control=pairs["control"][order],
            mask_fraction=pairs["mask_fraction"][order],
            skipped=skipped["pair"],
            extra={metric.name: pairs[f"extra {metric.name}"][order] for metric in self.metrics},
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lightning calls no ``teardown`` when a step, a callback or a dataloader raises."""
        self._detach()

    # -- inside the forward pass -----------------------------------------------------------------------------------

    def _reduce(self, name: str, activation: Tensor) -> None:
        rows = activation.shape[0] if activation.ndim else 0
        if self._counting:
            self._rows_of_one[name] = rows
            return
        if not rows or rows % (2 * self._pairs) or rows == self._rows_of_one.get(name):
            self._unmeasured[name] = (
                f"the first dimension of its output {tuple(activation.shape)} is not that of images"
            )
            return
        shape = tuple(activation.shape)
        # A point is of the whole image, also where layers see tiles of it.
        grid = default_grid(shape) if name in POINTS else self._task.position_grid(shape, self._image_size)
        self.seen[name] = measure_layer(activation, self._pairs, grid, self._groups, self._metrics_of_batch)

    def _reduce_point(self, name: str, activation: Tensor) -> None:
        # The step may run under autocast; the probe leaves it for its own reductions.
        with torch.autocast(activation.device.type, enabled=False):
            self._reduce(name, activation)

    # -- parts -----------------------------------------------------------------------------------------------------

    def _count_rows(self, trainer: Trainer, image: Tensor) -> None:
        """What a layer gives for one image alone tells a table of eight rows from the rows of eight images."""
        assert self._probe is not None
        self._rows_unknown, self._counting = False, True
        try:
            with trainer.precision_plugin.forward_context():
                self._task.look(image)
        finally:
            self._counting = False
            self._probe.take(require_all=False)

    def _check_layers(self) -> None:
        names, shapes = list(self.seen), [seen.shape for seen in self.seen.values()]
        if not self._layers:
            self._layers, self._shapes = names, list(shapes)
        self._check_same(self._layers, names)
        if self._shapes != shapes:
            self._shapes = _common_shapes(self._shapes, shapes)
        if all(name in POINTS for name in names):
            reasons = [f"{name}: {reason}" for name, reason in self._unmeasured.items()]
            raise ConfigurationError(
                f"None of the watched layers can be measured ({listed(reasons, 5)}). Choose layers that the model "
                "calls and that give one output an image (`layerscope layers --config FILE` lists them)."
            )

    def _check_same(self, layers: list[str], others: list[str]) -> None:
        if layers != others:
            strange = sorted(set(layers) ^ set(others))
            raise ConfigurationError(
                f"The layers that were called changed from one batch to another ({listed(strange, 5)}). Images of "
                "different sizes do that to a model that works in tiles: set data.init_args.image_size."
            )

    def _fill(self, output: PairOutput) -> None:
        energies = torch.stack([seen.energies for seen in self.seen.values()], dim=1)  # (B, L, 3)
        self._check_finite(energies, output.id)
        elements = torch.tensor([seen.elements for seen in self.seen.values()], device=energies.device)
        differences = layer_differences(energies, elements)
        self.values = torch.stack([differences[name] for name in DIFFERENCES], dim=-1)
        columns = {"values": self.values}
        if output.role == "pair":
            columns |= {
                "energies": energies,
                "elements": elements.expand(len(output.id), -1),
                **{f"extra {metric.name}": self._extra(metric.name) for metric in self.metrics},
                **self._localised(output),
            }
            if self._groups:
                hsic = torch.stack([cast(Tensor, seen.hsic) for seen in self.seen.values()], dim=1)
                self._cka_state().update(output.index[self._groups] // CKA_GROUP, hsic)
        self._table(output.role).update(output.index, columns)

    def _extra(self, name: str) -> Tensor:
        """(B, L) of a user's own metric."""
        return torch.stack([seen.extra[name] for seen in self.seen.values()], dim=1)

    def _localised(self, output: PairOutput) -> dict[str, Tensor]:
        """Columns of the pairs table that tell where the differences are; NaN where there is no mask."""
        shape = (len(output.id), len(self.seen), len(LOCALISATION))
        inside = torch.full(shape, torch.nan, device=output.mask.device)
        control = inside.clone()
        rows = (output.has_mask & output.mask.flatten(1).any(dim=1)).nonzero().flatten()
        if len(rows):
            pixels = mask_pixels(output.mask[rows])
            for place, seen in enumerate(self.seen.values()):
                if seen.distance is not None:
                    found, shifted = localisation_with_control(seen.distance[rows], pixels)
                    inside[rows, place], control[rows, place] = found.to(inside), shifted.to(inside)
        fraction = output.mask.flatten(1).float().mean(dim=1)
        fraction = torch.where(output.has_mask, fraction, torch.nan)
        return {"localisation": inside, "control": control, "mask_fraction": fraction}

    def _check_finite(self, energies: Tensor, ids: list[str]) -> None:
        bad = ~torch.isfinite(energies).all(dim=-1)  # (B, L)
        if not bool(bad.any()):
            return
        layer = int(bad.any(dim=0).nonzero()[0])
        names = [name for name, is_bad in zip(ids, bad[:, layer].tolist()) if is_bad]
        raise NumericalError(
            f"The activations of {self._layers[layer]} are NaN or infinite for {len(names)} pair"
            f"{'s' * (len(names) > 1)} (first: "
            f"{', '.join(names[:5])}); it is the first such layer. Check the weights, or run in 32-bit precision "
            "(SDXL's VAE overflows in float16)."
        )

    def _table(self, role: PairRole) -> IndexedTable:
        """The table of a role, made when the layers are known."""
        if role not in self._tables:
            layers = len(self._layers)
            columns: dict[str, tuple[int, ...]] = {"values": (layers, len(DIFFERENCES))}
            if role == "pair":
                places = (layers, len(LOCALISATION))
                columns |= {"energies": (layers, 3), "elements": (layers,), "mask_fraction": ()}
                columns |= {"localisation": places, "control": places}
                columns |= {f"extra {metric.name}": (layers,) for metric in self.metrics}
            rows = len(self._ids if role == "pair" else self._floor_ids)
            # Differences of energies: their digits count.
            dtype = sum_dtype(self._task.device)
            self._tables[role] = IndexedTable(rows, columns, dtype).to(self._task.device)
        return self._tables[role]

    def _cka_state(self) -> LinearCKA:
        if self._cka is None:
            groups = -(-len(self._ids) // CKA_GROUP)
            self._cka = LinearCKA(groups, len(self._layers)).to(self._task.device)
            # torchmetrics warns of a state that was never updated, which one without whole groups is not.
            self._cka.update([], torch.zeros(0, len(self._layers), 3))
        return self._cka

    def _collected(self, role: PairRole) -> dict[str, FloatArray]:
        """A role's table over all processes; skipped rows count as visited, without figures."""
        table, rows = self._table(role), [skip.row for skip in self._skipped[role]]
        if rows:
            empty = {
                name: torch.full((len(rows), *getattr(table, f"column_{name}").shape[1:]), torch.nan)
                for name in table.column_names
            }
            table.update(torch.tensor(rows), empty)
        # torchmetrics takes the axes away from a column of one number.
        return {
            name: column.double().cpu().numpy().reshape(getattr(table, f"column_{name}").shape)
            for name, column in table.compute().items()
        }

    def _detach(self) -> None:
        if self._probe is None:
            return
        self._probe.detach()
        self._probe = None
        self._task.point_listeners.remove(self._reduce_point)


def _checked(module: LightningModule) -> Any:
    if not isinstance(module, ProbedTask) or not hasattr(module, "point_listeners"):
        raise ConfigurationError(
            f"LayerDifferences watches layerscope.tasks.diagnosis.pairs.PairDiagnosis, and the model is a "
            f"{type(module).__name__}. Name that task as the model, or remove the callback."
        )
    return module


def _may_have_foreign_layers(task: Any) -> bool:
    """Whether layers may give what belongs to no image; those of an autoencoder that names its layers do not."""
    subject = getattr(task, "subject", None)
    return not (isinstance(subject, Autoencoder) and isinstance(subject, NamedLayers))


def _loaders(trainer: Trainer) -> list[DataLoader[Any]]:
    loaders: Any = trainer.test_dataloaders
    loaders = loaders if isinstance(loaders, list) else [loaders]
    if not all(isinstance(loader, DataLoader) and hasattr(loader.dataset, "ids") for loader in loaders):
        raise ConfigurationError(
            "LayerDifferences needs a datamodule of image pairs, such as layerscope.data.pairs.folder.PairFolder."
        )
    return loaders


def _common_shapes(ours: Sequence[Shape], others: Sequence[Shape]) -> list[Shape]:
    """None where images of different sizes make a difference.

    >>> _common_shapes([(8, 32, 32)], [(8, 32, 48)])
    [(8, 32, None)]
    """
    return [
        tuple(one if one == other else None for one, other in zip(mine, theirs)) for mine, theirs in zip(ours, others)
    ]


def _whole_groups(index: Tensor) -> list[int]:
    """Places in the batch where the rows 4k, 4k + 1, 4k + 2, 4k + 3 stand side by side.

    >>> _whole_groups(torch.tensor([4, 5, 6, 7, 9, 10, 11]))
    [0]
    """
    rows = index.tolist()
    return [
        place
        for place, row in enumerate(rows)
        if row >= 0 and row % CKA_GROUP == 0 and rows[place : place + CKA_GROUP] == list(range(row, row + CKA_GROUP))
    ]


def _pooled(energies: FloatArray, elements: FloatArray) -> FloatArray:
    """(L, 5) from energies (N, L, 3) and elements (N, L) summed over pairs; skipped ones are NaN."""
    total = torch.from_numpy(np.nansum(energies, axis=0))
    pooled = layer_differences(total, torch.from_numpy(np.nansum(elements, axis=0)))
    return np.stack([pooled[name].numpy() for name in DIFFERENCES], axis=-1)
