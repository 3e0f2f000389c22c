"""Verbs, options, exit statuses and messages of the command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from stand_ins import Witness, diagnosis

from layerscope import __version__
from layerscope.artifacts import read_summary
from layerscope.cli import main
from layerscope.cli.lightning import _is_rank_zero

ALLOWED = ["--allow-import=oracles", "--allow-import=stand_ins"]


@pytest.fixture(autouse=True, scope="module")
def no_figures() -> Iterator[None]:
    """Nothing here looks at figures, which take half of the time of such a small run."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("layerscope.callbacks.bottleneck_report.bottleneck_figures", lambda *_: {})
        yield


@pytest.fixture
def config(tmp_path: Path, fundus_phantom: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return diagnosis(fundus_phantom, tmp_path / "config.yaml")


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The settings that ``--print_config`` shows."""
    capsys.readouterr()
    assert main([*arguments, "--print_config"]) == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    assert isinstance(settings, dict)
    return settings


def said(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    message = printed[printed.index("layerscope: error:") :].strip()
    assert "\n\n" not in message
    return " ".join(message.split())


# -- verbs -----------------------------------------------------------------------------------------------------------


def test_help_version_and_no_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"layerscope {__version__}\n"
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert main(["-h"]) == 0
    assert capsys.readouterr().out == text
    assert main([]) == 0
    assert capsys.readouterr().out == text
    for verb in ("demo", "phantom", "fit", "test", "validate", "predict", "layers"):
        assert f"\n  {verb}" in text


def test_unknown_verb_names_a_close_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tset", "--config", "x.yaml"]) == 2
    message = said(capsys)
    assert "'tset'" in message
    assert "Did you mean test?" in message
    assert main(["frobnicate"]) == 2
    assert "Did you mean" not in said(capsys)


@pytest.mark.parametrize("verb", ["demo", "phantom", "fit", "validate", "test", "predict"])
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage:")
    wanted = {"demo": ["--output"], "phantom": ["--kind", "--lesion-sizes"]}
    for option in wanted.get(verb, ["--config", "--trainer.devices", "--experiment_name", "--overwrite"]):
        assert option in text


def test_module_and_exit_status_of_the_process() -> None:
    done = subprocess.run([sys.executable, "-m", "layerscope", "nonsense"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "There is no verb 'nonsense'" in done.stderr
    assert done.stdout == ""


def test_phantom_with_wrong_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["phantom", str(tmp_path / "p"), "--n", "3"]) == 2
    assert "at least 12 images" in said(capsys)
    assert main(["phantom"]) == 2
    assert main(["phantom", str(tmp_path / "p"), "--kind", "cat"]) == 2
    assert not (tmp_path / "p").exists()


# -- configurations --------------------------------------------------------------------------------------------------


def test_print_config_with_several_files_overrides_and_the_environment(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    second = tmp_path / "second.yaml"
    second.write_text("experiment_name: ${oc.env:NAME_OF_RUN,unnamed}\ndata: {init_args: {batch_size: 2, limit: 9}}\n")
    both = ["test", *ALLOWED, "--config", str(config), f"--config={second}"]
    alone = shown(capsys, "test", *ALLOWED, "--config", str(config))
    assert alone["data"]["init_args"]["batch_size"] == 4
    assert alone["experiment_name"] == "default"
    assert alone["trainer"]["use_distributed_sampler"] is False

    settings = shown(capsys, *both, "--data.init_args.limit=7")
    assert settings["data"]["init_args"]["batch_size"] == 2
    assert settings["data"]["init_args"]["limit"] == 7
    assert settings["data"]["init_args"]["root"] == alone["data"]["init_args"]["root"]

    monkeypatch.setenv("NAME_OF_RUN", "from_the_environment")
    third = tmp_path / "third.yaml"
    assert main([*both, "--data.init_args.limit=9"]) == 0
    summary = read_summary(tmp_path / "outputs" / "from_the_environment")
    assert summary["counts"]["images"] == 9
    # What was used is written down, interpolated, and can be run again.
    used = tmp_path / "outputs" / "from_the_environment" / "config_used.yaml"
    third.write_text(used.read_text())
    assert main(["test", *ALLOWED, "--config", str(third), "--experiment_name=again"]) == 0
    again = read_summary(tmp_path / "outputs" / "again")
    assert again["verdict"] == summary["verdict"]
    assert again["data_hash"] == summary["data_hash"]


def test_a_configuration_among_the_shipped_is_found_from_anywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # The phantom's schema is what the shipped table of contents needs; the data itself is not read by --print_config.
    settings = shown(capsys, "test", "--config", "configs/classifier/eval/phantom.yaml")
    assert settings["model"]["class_path"] == "layerscope.tasks.teacher.TeacherTraining"
    assert shown(capsys, "test", "--config=configs/classifier/eval/phantom.yaml") == settings
    assert main(["test", "--config", "configs/no_such.yaml"]) == 2
    message = said(capsys)
    assert "configs/no_such.yaml does not exist" in message
    assert str(tmp_path) in message


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("--model.init_args.decode_batch_sise=4", "Did you mean decode_batch_size?"),
        ("--model.init_args.teacher.init_args.num_label=4", "Did you mean num_labels?"),
        ("--trainer.max_time=soon", "'soon'"),
        ("--ckpt_path=no.ckpt", "no.ckpt does not exist"),
        ("--trainer.devises=2", "devises"),
        ("--exprimental_name=x", "exprimental_name"),
        ("--data.init_args.batch_size=many", "many"),
        ("--model.init_args.posterior=median", "median"),
        ("--model.init_args.noise.draws=some", "some"),
    ],
)
def test_a_wrong_option_is_one_paragraph(
    config: Path, capsys: pytest.CaptureFixture[str], override: str, told: str
) -> None:
    assert main(["test", "--config", str(config), *ALLOWED, override]) == 2
    message = said(capsys)
    assert told in message
    assert len(message) < 300
    assert "Union" not in message
    assert "NestedArg" not in message
    assert not (config.parent / "outputs" / "default").exists()


def test_a_wrong_key_in_a_file_is_one_paragraph(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = yaml.safe_load(config.read_text())
    for where, value in (
        (content["model"]["init_args"], 3),
        (content["model"]["init_args"], {"timesteps": [0]}),
        (content["model"]["init_args"]["noise"], "ddpm"),
        (content["data"]["init_args"], "x"),
        (content, 1),
    ):
        where["nois"] = value
        config.write_text(yaml.safe_dump(content))
        assert main(["test", "--config", str(config), *ALLOWED]) == 2
        assert "nois" in said(capsys)
        del where["nois"]
    config.write_text("model: [unclosed\n")
    assert main(["test", "--config", str(config), *ALLOWED]) == 2
    assert "config.yaml" in said(capsys)


def test_debug_raises(config: Path) -> None:
    from layerscope.errors import ConfigurationError

    for arguments in (["--debug", "test"], ["test", "--debug"]):
        with pytest.raises(ConfigurationError, match="downsampling of 5"):
            main([*arguments, "--config", str(config), *ALLOWED, "--model.init_args.autoencoder.init_args.k=5"])


# -- what a configuration may import ---------------------------------------------------------------------------------

STRANGER = """
from pathlib import Path
from stand_ins import Pooled
Path({mark!r}).touch()
class Teacher(Pooled):
    pass
"""


def test_a_class_outside_the_allow_list_is_not_even_imported(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "imported"
    (tmp_path / "a_stranger.py").write_text(STRANGER.format(mark=str(mark)))
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ["test", "--config", str(config), *ALLOWED, "--model.init_args.teacher=a_stranger.Teacher"]
    assert main(arguments) == 2
    message = said(capsys)
    assert "a_stranger" in message
    assert "--allow-import" in message
    assert not mark.exists()
    assert main([*arguments, "--allow-import", "a_stranger"]) == 0
    assert mark.exists()


# -- the run directory -----------------------------------------------------------------------------------------------


def test_a_finished_result_is_replaced_only_on_demand(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["test", "--config", str(config), *ALLOWED, "--experiment_name=run", "--data.init_args.limit=8"]
    run = config.parent / "outputs" / "run"
    assert main(arguments) == 0
    first = (run / "scores.npz").read_bytes()
    assert main(arguments) == 2
    message = said(capsys)
    assert "outputs/run" in message
    assert "--overwrite" in message
    assert (run / "scores.npz").read_bytes() == first
    assert main([*arguments, "--overwrite", "--data.init_args.limit=9"]) == 0
    assert read_summary(run)["counts"]["images"] == 9
    # A directory that holds something else is never touched.
    other = config.parent / "outputs" / "thesis"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    assert main([*arguments, "--experiment_name=thesis", "--overwrite"]) == 2
    assert "thesis.tex" in said(capsys)
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["../up", "a/b", "..", "."])
def test_an_experiment_name_is_no_path(config: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["test", "--config", str(config), *ALLOWED, f"--experiment_name={name}"]) == 2
    assert "without slashes" in said(capsys)


# -- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK"])
def test_one_process_of_all_nodes_claims_the_run_directory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _is_rank_zero()
    monkeypatch.setenv(name, "0")
    assert _is_rank_zero()
    monkeypatch.setenv(name, "1")
    assert not _is_rank_zero()


def test_hyperparameters_of_a_checkpoint_do_not_beat_the_command_line(config: Path, tmp_path: Path) -> None:
    import torch

    arguments = ["test", "--config", str(config), *ALLOWED, "--trainer.callbacks+=stand_ins.Witness"]
    assert main([*arguments, "--data.init_args.limit=8"]) == 0
    path = tmp_path / "task.ckpt"
    torch.save(
        {
            "state_dict": Witness.task.state_dict(),
            "pytorch-lightning_version": "2.6.0",
            "hyper_parameters": {"decode_batch_size": 3, "posterior": "sample"},
            "datamodule_hyper_parameters": {"batch_size": 1, "limit": 1},
        },
        path,
    )
    overrides = ["--model.init_args.decode_batch_size=5", "--experiment_name=from_ckpt", "--data.init_args.limit=8"]
    assert main([*arguments, *overrides, "--ckpt_path", str(path)]) == 0
    assert Witness.task.decode_batch_size == 5
    assert Witness.task.posterior == "mode"
    assert read_summary(tmp_path / "outputs" / "from_ckpt")["counts"]["images"] == 8
