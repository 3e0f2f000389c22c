"""File names after --data.path, --data.masks and --data.other, through the command line's own parser."""

from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

from layerscope.cli import main
from layerscope.cli.lightning import build_model
from layerscope.cli.path_arguments import path_arguments

# Parsed only: the class is not built.
PARTS = ["--model=lightning.pytorch.demos.boring_classes.BoringModel", "--data=layerscope.data.image_paths.ImagePaths"]

AWKWARD = r"""
a.jpg
a b.jpg
x: y.png
x:y.png
a=b.jpg
--data.path=a.jpg
-1.jpg
- a.jpg
[1].jpg
[a, b.jpg
{a}.jpg
1e3
1e3.jpg
007
1_000
0x10
12:30
2026-01-01
true
no
null
~
#1.jpg
a #1.jpg
it's.png
"quoted".png
'quoted'
&a.png
*.png
**/x?.jpg
!tag x.png
%d.png
@a.png
back\slash.png
$HOME.png
Ünï—ço∂é.png
a,b.png
? x.png
|
""".strip().splitlines()


@pytest.fixture(autouse=True)
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def parsed(*arguments: str) -> Any:
    """What the datamodule would be given."""
    _, config = build_model([*PARTS, *arguments])
    return config["data"]["init_args"]


def names(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_any_file_name_arrives_as_it_is_alone_and_among_others() -> None:
    parser = ArgumentParser(exit_on_error=False, parser_mode="omegaconf")
    parser.add_subclass_arguments(LightningDataModule, "data")
    for name in AWKWARD:
        config = parser.parse_args([PARTS[1], *path_arguments([f"--data.path={name}"])])
        assert names(config.data.init_args.path) == [name], name
    assert parsed(*(f"--data.path={name}" for name in AWKWARD)).path == AWKWARD


def test_an_option_is_written_in_several_ways() -> None:
    for name in AWKWARD:
        told = path_arguments([f"--data.path={name}"])
        assert path_arguments([f"--data.init_args.path={name}"]) == told
        if not name.startswith("-"):
            assert path_arguments(["--data.path", name]) == path_arguments(["--data.init_args.path", name]) == told


def test_a_configuration_that_is_written_of_it_reads_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    # Without a suffix, jsonargparse writes 1e3 without quotes, which it then reads as a number.
    several = [name for name in AWKWARD if name[0] != "-" and name != "1e3"]
    assert main(["test", *PARTS, "--data.path", *several, "--print_config"]) == 0
    Path("own.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert parsed("--config", "own.yaml").path == several


def test_what_a_shell_makes_of_a_pattern_is_a_list_up_to_the_next_option() -> None:
    several = ["a.jpg", "1e3", "x: y.png", "null"]
    data = parsed(
        "--data.path", *several, "--data.batch_size", "3", "--data.masks", "m 1.png", "m2.png", "--data.limit=2"
    )
    assert data.path == several
    assert data.masks == ["m 1.png", "m2.png"]
    assert (data.batch_size, data.limit, data.other) == (3, 2, None)
    assert parsed("--data.path", *several, "--data.other", *several[::-1]).other == several[::-1]


def test_values_of_all_uses_are_put_together_in_order() -> None:
    assert parsed("--data.path=a", "--data.limit=2", "--data.path", "b", "c", "--data.init_args.path=d").path == [
        *"abcd"
    ]


def test_a_list_as_a_configuration_writes_it_is_one() -> None:
    assert parsed('--data.path=["a.jpg", "1e3"]').path == ["a.jpg", "1e3"]
    assert parsed("--data.path=[1, 1e3]").path == ["1", "1e3"]
    assert parsed("--data.path=[a.jpg, b.jpg]", "--data.path", "c.jpg").path == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_file_that_is_there_is_no_list_and_no_nothing(tmp_path: Path) -> None:
    for name in ("[a, b]", "[1]", "null"):
        (tmp_path / name).touch()
    assert parsed("--data.path=[a, b]", "--data.path=[1]").path == ["[a, b]", "[1]"]
    assert parsed("--data.path=[1]").path == ["[1]"]
    assert parsed("--data.path=a", "--data.masks=null").masks == ["null"]
    (tmp_path / "null").unlink()
    assert parsed("--data.path=a", "--data.masks=null").masks is None


def test_the_command_line_wins_over_a_configuration_before_it(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("data: {init_args: {path: from.jpg, masks: mask.png}}")
    data = parsed("--config", "own.yaml", "--data.path", "a.jpg", "b.jpg")
    assert (data.path, data.masks) == (["a.jpg", "b.jpg"], "mask.png")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--config", "a.yaml", "--data.root", "x: y", "--trainer.devices", "[0, 1]"],
        ["--data.path=a.jpg", "--data.masks=null", "--data.other=3", "--data.paths", "a", "b"],
        ["--data.path=/images/**/*.jpg"],
        ["--data.path+=a.jpg"],
        ["--data.masks={a: 1}", "--data.path=[a.jpg]"],
        ["--data.path"],
    ],
)
def test_what_needs_no_change_is_left_alone(arguments: list[str]) -> None:
    assert path_arguments(arguments) == arguments
