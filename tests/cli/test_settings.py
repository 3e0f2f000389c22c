"""Settings on the command line: `null` takes one away however deep it lies, and only whole names are taken."""

import pytest
import yaml

from layerscope.cli import main
from layerscope.cli.nested_null import nested_nulls

DEEP = "--model.init_args.autoencoder.init_args."


@pytest.mark.parametrize("null", [(f"{DEEP}architecture=null",), (f"{DEEP}architecture", "null")])
def test_a_setting_of_a_configuration_is_taken_away(null: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"{DEEP}source=checkpoints/demo_vae", *null, f"{DEEP}initial_logvar=null"]
    assert main(["fit", "--config", "configs/vae/train/phantom_base.yaml", *arguments, "--print_config"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["autoencoder"]["init_args"]
    assert found["architecture"] is None
    assert found["initial_logvar"] is None
    assert found["source"] == "checkpoints/demo_vae"


def test_everything_else_stays_as_it_was() -> None:
    arguments = ["--data.init_args.split_file=null", f"{DEEP}seed=3", f"{DEEP}seed", "4", f"{DEEP}seed", "--debug"]
    assert nested_nulls(arguments) == arguments


@pytest.mark.parametrize(("part", "whole"), [("seed_everythin", "seed_everything"), ("trainer.max_step", "max_steps")])
def test_part_of_a_setting_s_name_is_not_taken_for_it(
    part: str, whole: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", "configs/vae/train/phantom_base.yaml", f"--{part}=7", "--print_config"]) == 2
    assert f"Did you mean {whole}?" in capsys.readouterr().err
