"""Input that cannot be used: the message says where and what to do, and no half of a result is left."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stand_ins import Witness, diagnosis, read_rows, write_rows

from layerscope.artifacts import Stage, read_csv, read_summary
from layerscope.cli import main

TESTS = Path(__file__).parents[1]
ALLOWED = ("--allow-import=oracles", "--allow-import=stand_ins")
TEACHER, AUTOENCODER = "--model.init_args.teacher", "--model.init_args.autoencoder"


class Bench:
    """A small phantom of one's own, a diagnosis of it, and what the command said."""

    def __init__(self, folder: Path, phantom: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.root = folder / "phantom"
        shutil.copytree(phantom, self.root)
        self.config = diagnosis(self.root, folder / "config.yaml")
        self.run = folder / "outputs" / "run"
        self._capsys = capsys

    @property
    def table(self) -> Path:
        return self.root / "labels.csv"

    def rows(self) -> list[dict[str, str]]:
        return read_rows(self.table)

    def first_of(self, split: str) -> tuple[int, dict[str, str]]:
        """Row number as an editor counts, and the row, of a split's first image."""
        return next((number, row) for number, row in enumerate(self.rows(), start=2) if row["split"] == split)

    def change(self, change: Callable[[list[dict[str, str]]], Any]) -> None:
        rows = self.rows()
        change(rows)
        write_rows(self.table, rows)

    def diagnose(self, *overrides: str) -> int:
        return main(["test", "--config", str(self.config), "--experiment_name=run", *ALLOWED, *overrides])

    def refused(self, *overrides: str, status: int) -> str:
        """The message of a command that must fail with ``status`` and leave nothing behind."""
        existed = self.run.exists()
        self._capsys.readouterr()
        assert self.diagnose(*overrides) == status
        printed = self._capsys.readouterr().err
        assert "Traceback" not in printed
        assert self.run.exists() == existed
        message = printed[printed.index("layerscope: error:") :]
        assert "\n\n" not in message.strip()
        return " ".join(message.split())


@pytest.fixture
def bench(
    tmp_path: Path, fundus_phantom: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Bench:
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path, fundus_phantom, capsys)


@pytest.fixture
def keep_ctrl_c() -> Iterator[None]:
    """Lightning ignores SIGINT for the rest of the process once it was interrupted."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


# -- image files -----------------------------------------------------------------------------------------------------


def bomb(path: Path) -> None:
    """A PNG whose header claims 60,000 × 60,000 pixels."""
    content = bytearray(path.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    path.write_bytes(bytes(content))


IMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path.unlink(), "does not exist"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-400]), "truncated or damaged"),
    "empty": (lambda path: path.write_bytes(b""), "empty (0 bytes)"),
    "no image": (lambda path: path.write_text("<html>404</html>"), "not an image"),
    "bomb": (bomb, "too large to decode safely"),
}


@pytest.mark.parametrize("case", list(IMAGES))
def test_unreadable_image(bench: Bench, case: str) -> None:
    spoil, told = IMAGES[case]
    number, row = bench.first_of("test")
    spoil(bench.root / row["path"])
    message = bench.refused(status=1)
    assert told in message
    assert row["path"] in message
    if case == "missing":
        assert f"labels.csv, row {number}" in message
    assert any(word in message for word in ("Correct", "Copy", "copy", "take it out", "save it"))


def test_unreadable_image_in_a_worker_process_reads_the_same(bench: Bench) -> None:
    _, row = bench.first_of("val")  # the test split is first looked at in the main process
    spoil, told = IMAGES["truncated"]
    spoil(bench.root / row["path"])
    alone = bench.refused(status=1)
    assert bench.refused("--data.init_args.num_workers=1", status=1) == alone
    assert told in alone


def test_images_of_different_sizes(bench: Bench) -> None:
    _, row = bench.first_of("test")
    Image.new("RGB", (48, 40)).save(bench.root / row["path"])
    message = bench.refused(status=1)
    assert row["id"] in message
    assert "48×40" in message
    assert "image_size" in message


# -- the table -------------------------------------------------------------------------------------------------------


def test_unknown_column(bench: Bench) -> None:
    schema = bench.root / "schema.yaml"
    schema.write_text(schema.read_text().replace("haemorrhage", "hemorage"))
    message = bench.refused(status=1)
    assert "hemorage" in message
    assert "labels.csv" in message
    assert "haemorrhage" in message


@pytest.mark.parametrize(
    ("cell", "value", "told"),
    [
        ("atrophy", "2", ["'atrophy'", "'2'", "1 (present), 0 (absent)"]),
        ("id", "../../escape", ["'../../escape'", "leaves its directory", "Use letters"]),
        ("id", "<script>alert(1)</script>", ["<script>", "Use letters"]),
        ("split", "tset", ["'tset'", "test", "Write train, val or test"]),
    ],
)
def test_bad_cell_names_file_row_and_remedy(bench: Bench, cell: str, value: str, told: list[str]) -> None:
    bench.change(lambda rows: rows[6].update({cell: value}))
    message = bench.refused(status=1)
    assert "labels.csv, row 8" in message
    for part in told:
        assert part in message


def test_duplicate_id(bench: Bench) -> None:
    bench.change(lambda rows: rows[6].update(id=rows[2]["id"]))
    message = bench.refused(status=1)
    assert "labels.csv, row 8" in message
    assert f"{bench.rows()[2]['id']!r} is already used in row 4" in message


def test_empty_split(bench: Bench) -> None:
    bench.change(lambda rows: [row.update(split="train") for row in rows if row["split"] == "test"])
    message = bench.refused(status=1)
    assert "'test'" in message
    assert "labels.csv" in message
    assert "test 0" in message
    assert "choose another eval_split" in message


def test_empty_validation_split_where_thresholds_are_fitted(bench: Bench) -> None:
    bench.change(lambda rows: [row.update(split="train") for row in rows if row["split"] == "val"])
    assert "'val'" in bench.refused(status=1)


def test_patients_crossing_splits(bench: Bench) -> None:
    _, in_test = bench.first_of("test")
    _, in_train = bench.first_of("train")
    bench.change(
        lambda rows: [row.update(group="dana") for row in rows if row["id"] in (in_test["id"], in_train["id"])]
    )
    message = bench.refused(status=1)
    assert f"dana (train: {in_train['id']}, test: {in_test['id']})" in message
    assert "labels.csv" in message
    assert "move them into one split" in message


# -- models ----------------------------------------------------------------------------------------------------------


def test_size_not_divisible_by_the_downsampling(bench: Bench) -> None:
    message = bench.refused(f"{AUTOENCODER}.init_args.k=5", status=2)
    assert "32 × 32" in message
    assert "downsampling of 5" in message
    assert "30" in message


def test_teacher_with_another_number_of_labels(bench: Bench) -> None:
    message = bench.refused(f"{TEACHER}.init_args.num_labels=4", status=2)
    assert "4 outputs" in message
    assert "5 labels" in message
    assert "microaneurysm" in message


@pytest.mark.parametrize("after", [0, 7, 8])
def test_nan_logits(bench: Bench, after: int) -> None:
    """In the search for thresholds, on an original and on a reconstruction."""
    message = bench.refused(
        f"{TEACHER}=stand_ins.FailingPooled",
        f"{TEACHER}.init_args.how=nan",
        f"{TEACHER}.init_args.after={after}",
        status=1,
    )
    assert "NaN or infinite logits" in message
    ids = [row["id"] for row in bench.rows()]
    assert any(name in message for name in ids)
    assert "precision" in message


def test_nothing_hangs_on_the_modules_after_an_error(bench: Bench) -> None:
    message = bench.refused(
        f"{AUTOENCODER}=stand_ins.FailingDecoder",
        "--trainer.enable_progress_bar=true",
        "--trainer.callbacks+=layerscope.callbacks.progress.ConditionProgressBar",
        "--trainer.callbacks+=stand_ins.Witness",
        status=1,
    )
    assert "the decoder broke" in message
    assert "--debug" in message
    task: Any = Witness.task
    assert task.condition_listeners == []
    for module in task.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks


# -- a finished result -----------------------------------------------------------------------------------------------


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_result_survives_what_fails_over_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, keep_ctrl_c: None
) -> None:
    assert bench.diagnose() == 0
    before = content(bench.run)
    failing = [f"{TEACHER}=stand_ins.FailingPooled", f"{TEACHER}.init_args.after=7", "--overwrite"]

    assert "--overwrite" in bench.refused(status=2)
    assert content(bench.run) == before
    for how, status in (("nan", 1), ("raise", 1), ("ctrl_c", 130)):
        bench.refused(*failing, f"{TEACHER}.init_args.how={how}", status=status)
        assert content(bench.run) == before
    with monkeypatch.context() as patched:
        fill_the_disk(patched, "summary")
        bench.refused("--overwrite", status=1)
    assert content(bench.run) == before
    # And it is replaced, whole, by a run that succeeds.
    assert bench.diagnose("--overwrite", "--data.init_args.limit=9") == 0
    assert read_summary(bench.run)["counts"]["images"] == 9
    assert not [name for name in content(bench.run) if name.startswith(".") or name == "UNFINISHED"]


# -- a full disk and Ctrl-C ------------------------------------------------------------------------------------------


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """From the chosen moment on, writing fails as on a full disk."""

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "the file")

    match when:
        case "first table":
            monkeypatch.setattr(Stage, "write_bytes", full)
        case "scores":
            monkeypatch.setattr(np, "savez_compressed", full)
        case "pictures":
            monkeypatch.setattr(Image.Image, "save", full)
        case "summary":
            monkeypatch.setattr("layerscope.artifacts.run_directory.json.dumps", full)
        case "putting in place":
            real, calls = os.replace, []

            def after_five(source: Any, target: Any) -> None:
                calls.append(target)
                if len(calls) == 5:
                    full()
                real(source, target)

            monkeypatch.setattr(os, "replace", after_five)


@pytest.mark.parametrize("when", ["first table", "scores", "pictures", "summary", "putting in place"])
def test_full_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    fill_the_disk(monkeypatch, when)
    message = bench.refused(status=1)
    assert "No space left on device" in message
    assert "outputs/run" in message
    assert "free disk space" in message


def test_ctrl_c_in_a_step(bench: Bench, keep_ctrl_c: None) -> None:
    message = bench.refused(
        f"{TEACHER}=stand_ins.FailingPooled",
        f"{TEACHER}.init_args.how=ctrl_c",
        f"{TEACHER}.init_args.after=8",
        status=130,
    )
    assert "Ctrl-C" in message


@pytest.mark.slow
def test_ctrl_c_in_a_process_of_its_own(bench: Bench) -> None:
    overrides = [
        f"{TEACHER}=stand_ins.FailingPooled",
        f"{TEACHER}.init_args.how=sigint",
        f"{TEACHER}.init_args.after=8",
    ]
    command = [sys.executable, "-m", "layerscope", "test", "--config", str(bench.config), "--experiment_name=run"]
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    begun = time.monotonic()
    done = subprocess.run(
        [*command, *ALLOWED, *overrides],
        env=os.environ | {"PYTHONPATH": path},
        # A suite started in the background ignores the signal, and so would what it starts.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 130, (done.stderr, time.monotonic() - begun)
    assert "Traceback" not in done.stderr
    assert "Stopped by Ctrl-C" in done.stderr
    assert not bench.run.exists()


# -- no error --------------------------------------------------------------------------------------------------------


def test_a_label_without_positives_is_a_row_with_its_reason(bench: Bench) -> None:
    bench.change(lambda rows: [row.update(atrophy="0") for row in rows])
    assert bench.diagnose() == 0
    rows = [row for row in read_csv(bench.run / "per_label.csv") if row["label"] == "atrophy"]
    undefined = {(row["condition"], row["metric"]): row for row in rows if row["metric"] in ("auroc", "ap")}
    assert set(undefined) == {(condition, metric) for condition in ("real", "recon") for metric in ("auroc", "ap")}
    for row in undefined.values():
        assert "no positives" in row["flag"]
        assert not np.isfinite(row["value"])
    missing = [entry for entry in read_summary(bench.run)["not_measured"] if "atrophy" in entry["what"]]
    assert missing
    assert all("no positives" in entry["reason"] for entry in missing)
