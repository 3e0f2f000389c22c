"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI with any model and data by class_path."""

from __future__ import annotations

import difflib
import inspect
import logging
import os
import re
import shutil
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.trainer import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from layerscope.artifacts import UNREPORTED_SCORES, RunDirectory, open_run_directory
from layerscope.callbacks.checkpoint_files import WholeCheckpointIO, tell_if_no_last_checkpoint
from layerscope.callbacks.run_folder import RunFolder
from layerscope.callbacks.stopping import SaveOnSignal
from layerscope.cli.devices import check_devices
from layerscope.cli.nested_null import nested_nulls
from layerscope.cli.path_arguments import path_arguments
from layerscope.errors import ConfigurationError, explained_cause, listed
from layerscope.shipped import here_or_shipped, shipped

# What a configuration may name by class_path: importing a module runs it, so everything else must be allowed by hand.
_TRUSTED = ["layerscope", "lightning", "torch", "torchmetrics", "torchvision", "timm", "diffusers", "transformers"]
_VERBS = ("fit", "validate", "test", "predict")
_OPTIONS = (
    *("config", "model", "data", "trainer", "seed_everything", "ckpt_path"),
    *("experiment_name", "output_root", "overwrite", "print_config"),
)


class LayerscopeCLI(LightningCLI):
    """LightningCLI that claims a run directory before it builds anything, and lets the command line win.

    Lightning would merge the hyperparameters of ``--ckpt_path`` over the command line; here a checkpoint gives
    weights and training state, and the configuration is what the user wrote.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--experiment_name", type=str, default="default", help="Name of the run's directory.")
        parser.add_argument("--output_root", type=str, default="outputs", help="Directory of the run directories.")
        parser.add_argument("--overwrite", action="store_true", help="Replace a finished result of the same name.")
        parser.set_defaults({"trainer.use_distributed_sampler": False})

    def _parse_ckpt_path(self) -> None:
        """Deliberately nothing: see the class docstring."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        name = config["experiment_name"]
        if Path(name).name != name or name in ("", ".", ".."):
            raise ConfigurationError(f"experiment_name is {name!r}: expected a plain name without slashes.")
        checkpoint = config.get("ckpt_path")
        is_file = checkpoint and checkpoint not in ("best", "last", "hpc") and "://" not in str(checkpoint)
        if is_file and not Path(checkpoint).exists():
            raise ConfigurationError(f"--ckpt_path {checkpoint} does not exist (relative to {Path.cwd()}).")
        check_devices(config["trainer"].get("accelerator"), config["trainer"].get("devices"))
        path = Path(config["output_root"]) / name
        self.run_path = path
        self.run_is_new = not path.exists()
        self.run_directory: RunDirectory | None = None
        # validate and predict claim nothing: they may look at a finished run. A callback of predict may claim it.
        writes = self.subcommand in ("fit", "test") and not config["trainer"].get("fast_dev_run")
        if writes and _is_rank_zero():
            if self.subcommand == "fit" and not checkpoint and not config["overwrite"]:
                _refuse_to_start_over(path)
            self.run_directory = open_run_directory(path, overwrite=config["overwrite"])

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        config["default_root_dir"] = str(self.run_path)
        if config.get("logger") is None and not config.get("fast_dev_run"):
            from lightning.pytorch.loggers import TensorBoardLogger

            # Empty name and version: events in RUN/tensorboard, and ModelCheckpoint's default RUN/checkpoints.
            config["logger"] = TensorBoardLogger(
                save_dir=str(self.run_path), name="", version="", sub_dir="tensorboard", default_hp_metric=False
            )
        trainer = super().instantiate_trainer(**kwargs)
        config_yaml = self._parser(self.subcommand).dump(self.config[self.subcommand], skip_none=False)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks.append(RunFolder(self.run_directory, config_yaml))
        if self.subcommand == "fit" and not config.get("fast_dev_run"):
            callbacks.append(SaveOnSignal())
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpointIO()
        return trainer

    def before_fit(self) -> None:
        if self._get(self.config, "ckpt_path") == "last" and _is_rank_zero():
            tell_if_no_last_checkpoint(self.trainer)


def run_lightning(verb: str, arguments: Sequence[str], allow_import: Sequence[str] = ()) -> int:
    """One LightningCLI verb with layerscope's errors: 0 when it finished."""
    _prepare(allow_import)
    cli = _Build()
    try:
        cli.run(verb, arguments)
    except ArgumentError as error:
        raise (explained_cause(error) or ConfigurationError(_readable(str(error)))) from error
    except MisconfigurationException as error:
        # Of predict, Lightning asks for ``forward`` first.
        if re.search(r"No `\w+_step\(\)` method|requires `forward` method", str(error)):
            raise ConfigurationError(
                f"This configuration is not for `layerscope {verb}`: its task has no {verb} loop. Shipped ones "
                "for fit are in vae/train and classifier/train, for test in vae/diagnostic, classifier/eval, pairs and "
                "tokens, for predict in vae/reconstruct."
            ) from error
        raise (
            explained_cause(error) or ConfigurationError(f"Lightning refuses this configuration: {error}")
        ) from error
    except SIGTERMException:
        return 143
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from stop
        raise
    finally:
        cli.clean_up()
    return 0


def build_model(arguments: Sequence[str], allow_import: Sequence[str] = ()) -> tuple[LightningModule, Namespace]:
    """The model that ``layerscope test`` with these arguments would run, and the whole configuration.

    Nothing else is built: no data, no trainer, no run directory.
    """
    _prepare(allow_import)
    try:
        cli = _ModelOnly(**_cli_options("test", arguments))
    except ArgumentError as error:
        raise (explained_cause(error) or ConfigurationError(_readable(str(error)))) from error
    return cli.model, cli.config["test"]


def check_arguments(verb: str, arguments: Sequence[str], allow_import: Sequence[str] = ()) -> None:
    """Reads arguments as their verb does, and builds and claims nothing.

    Raises:
        ConfigurationError: they name what there is not, or a value that does not fit.
    """
    _prepare(allow_import)
    try:
        _ReadOnly(**_cli_options(verb, arguments))
    except ArgumentError as error:
        raise (explained_cause(error) or ConfigurationError(_readable(str(error)))) from error


def _prepare(allow_import: Sequence[str]) -> None:
    """What holds for the whole process: quieter libraries, and which modules a configuration may import."""
    warnings.filterwarnings("ignore", message=".*args parameter is intended to run from within Python.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*there is no last checkpoint available.*")  # told in before_fit
    # On several processes, for each of a validation's thirty figures; every process has those of the whole split.
    warnings.filterwarnings("ignore", message=r".*`self\.log\('val/.*sync_dist=True.*")
    # Lightning advertises its cloud services through the same logger as its messages.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
    if allow_import and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script, unlike python -m, does not look where the user stands
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*_TRUSTED, *allow_import])


def _cli_options(verb: str, arguments: Sequence[str]) -> dict[str, Any]:
    # Without abbreviations: part of a name would be taken for the whole, also of a name that was misspelt.
    per_verb = {"parser_mode": "omegaconf", "exit_on_error": False, "allow_abbrev": False}
    found = [_find_config(argument, before) for before, argument in zip(["", *arguments], arguments)]
    return {
        "save_config_callback": None,
        "subclass_mode_model": True,
        "subclass_mode_data": True,
        "seed_everything_default": 0,
        "auto_configure_optimizers": False,
        "load_from_checkpoint_support": False,
        "parser_kwargs": {**per_verb, **{name: dict(per_verb) for name in _VERBS}, "prog": "layerscope"},
        "args": [
            verb,
            *path_arguments(nested_nulls(found)),
        ],
    }


class _ReadOnly(LayerscopeCLI):
    """Reads a configuration as its verb does, and builds nothing."""

    def _set_seed(self) -> None:
        """Changes no random numbers."""

    def before_instantiate_classes(self) -> None:
        """Claims no run directory."""

    def instantiate_classes(self) -> None:
        """Builds nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs nothing."""


class _ModelOnly(_ReadOnly):
    """Builds the model alone."""

    def instantiate_classes(self) -> None:
        config = self.config.clone()
        config[self.subcommand] = Namespace(model=config[self.subcommand]["model"])
        self.model = self._get(self.parser.instantiate_classes(config), "model")


class _Build:
    """Keeps hold of a CLI whose constructor runs everything, so that a failed run can be tidied up."""

    def __init__(self) -> None:
        self.cli: LayerscopeCLI | None = None
        self.finished = False

    def run(self, verb: str, arguments: Sequence[str]) -> None:
        keeper = self

        class Cli(LayerscopeCLI):
            def before_instantiate_classes(self) -> None:
                keeper.cli = self
                super().before_instantiate_classes()

        Cli(**_cli_options(verb, arguments))
        self.finished = True

    def clean_up(self) -> None:
        """A failed run that never had a result leaves no directory behind; what it can go on from is kept."""
        if self.finished or self.cli is None or not getattr(self.cli, "run_is_new", False) or not _is_rank_zero():
            return
        path = self.cli.run_path
        worth_keeping = ("summary.json", "checkpoints", UNREPORTED_SCORES, "images")
        if path.is_dir() and not any((path / name).exists() for name in worth_keeping):
            shutil.rmtree(path, ignore_errors=True)


def _refuse_to_start_over(path: Path) -> None:
    """An unfinished training would be lost to one that begins anew and writes the same checkpoints."""
    if (path / "summary.json").exists() or any(path.glob("hpc_ckpt_*.ckpt")):  # these Lightning resumes by itself
        return
    kept = sorted(file.name for file in (path / "checkpoints").glob("*.ckpt"))
    if kept:
        raise ConfigurationError(
            f"{path} holds an unfinished training with checkpoints ({listed(kept)}), which a new one would replace. Go "
            "on with --ckpt_path last, start over with --overwrite, or choose another --experiment_name."
        )


def _is_rank_zero() -> bool:
    """Before Lightning has set up its ranks: launched workers know theirs from the environment.

    Where Lightning itself starts a node's processes, the first of another node knows its node alone.
    """
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK")
    return all(int(os.environ.get(name, "0")) == 0 for name in names)


def _find_config(argument: str, before: str) -> str:
    """``--config configs/...`` finds the shipped configuration from any working directory."""
    flag, equals, value = argument.partition("=")
    if before in ("--config", "-c"):
        flag, equals, value = "", "", argument
    elif flag != "--config" or not equals:
        return argument
    path = here_or_shipped(value)
    if not path.exists():
        raise ConfigurationError(
            f"The configuration {value} does not exist, neither here ({Path.cwd()}) nor among the shipped ones in "
            f"{shipped('configs')}."
        )
    _check_yaml(path)
    return f"{flag}{equals}{path}"


def _check_yaml(path: Path) -> None:
    """jsonargparse's message on broken YAML does not name the file."""
    try:
        yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"The configuration {path} cannot be read as YAML: {error}.") from error


# What jsonargparse says of a value that fits no type of a union: every branch, and itself in Python's notation.
_NOISE = (
    r"Does not validate against any of the Union subtypes\s+Subtypes: .*?\s+Errors:\s+-?",
    r"\s*- Expected a <class 'NoneType'>",
    r"\s*- Expected a path but \S+ either not accessible or invalid",
    r"\s*Given value type: <class .*?>(?=\s)",
    r"\s*Given value: NestedArg\(.*?\)(?=\s|$)",
    r"\s*Given value: (Namespace\(|\{).*",
    r"\s*- Type typing\.Callable\S*\[.*?\] expects a function or a callable class(?=:)",
)


def _readable(message: str) -> str:
    """jsonargparse's message without its noise, with the nearest accepted name and the way out of a denial."""
    for noise in _NOISE:
        message = re.sub(noise, "", message, flags=re.DOTALL)
    message = re.sub(r"a typing\.Literal\[(.*?)\]", r"one of \1", message)
    message = re.sub(r"\s+- Expected a dot import path string:\s\S+(?=\s+Given value:)", ", or a class_path.", message)
    if "import path denylist" in message or "import_path_allowlist" in message:
        message = message.split("Add the import path to import_path_allowlist")[0]
        message += " Allow it with --allow-import NAME if you trust that module."
    if re.search(r"arguments are required: (\w+\.)?model", message):
        message += ". Name a configuration with --config FILE; those in configs/ ship with layerscope."
    if unknown := re.search(r"class_path '([\w.]+)':\s+Option '(\w+)' is not accepted", message):
        message = message.rstrip(". \n") + _meant(unknown[2], unknown[1])
    elif unknown := re.search(r"(?:class_path '([\w.]+)':\s+)?unrecognized arguments: (--\S+)", message):
        name = unknown[2].removeprefix("--").partition("=")[0].split(".")
        if name[0] == "trainer" and len(name) > 1:
            message = message.rstrip(". \n") + _meant(name[1], "lightning.pytorch.trainer.Trainer")
        else:
            message = message.rstrip(". \n") + _meant(name[0], unknown[1] or "")
    return message


def _meant(name: str, class_path: str) -> str:
    """Which parameter of a class, or which option of a verb, a name was probably to be."""
    module, _, owner = class_path.rpartition(".")
    accepted = list(inspect.signature(getattr(sys.modules.get(module), owner, object)).parameters) or list(_OPTIONS)
    near = difflib.get_close_matches(name, accepted, n=1)
    return f". Did you mean {near[0]}?" if near else f". {owner or 'The command line'} takes {', '.join(accepted)}."
