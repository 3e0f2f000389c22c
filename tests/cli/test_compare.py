"""Wrong usage of ``layerscope compare``."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerscope.cli import main
from layerscope.cli.compare import check_baseline
from layerscope.errors import ConfigurationError


def test_runs_output_and_shares_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    for arguments, said in (
        (["--output", out], "RUN"),
        (["a", "b"], "--output"),
        (["a", "b", "--output", out, "--margin", "2"], "between 0 and 1, got '2'"),
        (["a", "b", "--output", out, "--level", "x"], "between 0 and 1, got 'x'"),
        (["a", "b", "--output", out, "--base", "a"], "unrecognized arguments: --base"),
    ):
        assert main(["compare", *arguments]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_baseline_is_told_with_close_names_and_all_candidates() -> None:
    check_baseline(None, ["a"])
    check_baseline("a", ["a"])
    with pytest.raises(ConfigurationError, match=r"Did you mean 'base_4ch'.* They are base_4ch, feat_8ch"):
        check_baseline("base4ch", ["base_4ch", "feat_8ch"])
    with pytest.raises(ConfigurationError) as error:
        check_baseline("zzz", ["base_4ch", "feat_8ch"])
    assert "Did you mean" not in str(error.value)
