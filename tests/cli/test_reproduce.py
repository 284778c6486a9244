"""From nothing to a report through the real command line, on a handful of tiny rooms."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SMALL = [
    *("rooms.scannet.scenes=3", "rooms.scannet.val=2", "rooms.scannet.frames=12"),
    *("rooms.s3dis.scenes=5", "rooms.s3dis.val=1"),
    *("pretrain.schedule.steps=6", "pretrain.run.log_every=2", "pretrain.run.evaluate_every=3"),
    *("pretrain.data.evaluation_scenes=1", "semantic.schedule.steps=3", "instance.schedule.steps=3"),
]


def gcbench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gcbench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def reproduce(
    out: Path, *arguments: str, table: str = "table1", columns: str = "scannet,s3dis-area5"
) -> subprocess.CompletedProcess[str]:
    overrides = [part for text in SMALL for part in ("--set", text)]
    words = ("--preset", "tiny", "--out", out, "--columns", columns)
    return gcbench("reproduce", table, *words, *overrides, *arguments)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reproduce") / "out"
    done = reproduce(out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def cells(folder: Path, table: str) -> list[dict[str, Any]]:
    """The cells of a table in the report that were run."""
    report = json.loads((folder / "report.json").read_text())
    (found,) = (one for one in report["tables"] if one["table"] == table)
    return [cell for cell in found["cells"] if cell["status"] == "run"]


def test_every_chosen_cell_has_a_result_with_its_protocol(reproduced: Path) -> None:
    run = {(cell["row"], cell["column"]) for cell in cells(reproduced, "table1")}
    rows = ("spunet-scratch", "random-frozen", "gaussiancross", "gaussiancross-fixed-batchnorm")
    assert run == {(row, column) for row in rows for column in ("scannet", "s3dis-area5")}
    for path in reproduced.glob("runs/semantic/*/result.json"):
        result = json.loads(path.read_text())
        assert result["provenance"]["synthetic"] is True
        assert result["provenance"]["preset"] == "tiny"
        assert 0 <= result["metrics"]["mIoU"] <= 1
        assert len(result["scenes"]) == (2 if result["column"] == "scannet" else 1)


def test_the_report_shows_views_and_says_that_nothing_is_comparable(reproduced: Path) -> None:
    html = (reproduced / "report.html").read_text()
    assert "not comparable with the paper" in html
    assert html.count("data:image/png;base64,") >= 3
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "reproduced" not in (reproduced / "report.md").read_text()


def test_a_frozen_encoder_stays_what_it_was(reproduced: Path) -> None:
    (folder,) = reproduced.glob("runs/semantic/scannet-gaussiancross-seed0-*")
    encoder = json.loads((folder / "result.json").read_text())["encoder"]
    assert encoder["parameters_before"] == encoder["parameters_after"]
    assert encoder["buffers_before"] != encoder["buffers_after"]  # re-estimated on the training rooms
    (fixed,) = reproduced.glob("runs/semantic/scannet-gaussiancross-fixed-batchnorm-seed0-*")
    of_fixed = json.loads((fixed / "result.json").read_text())["encoder"]
    assert of_fixed["buffers_before"] == of_fixed["buffers_after"] == encoder["buffers_before"]
    html = (reproduced / "report.html").read_text()
    assert encoder["parameters_before"] in html


def test_a_given_encoder_is_taken_instead_of_pretraining(reproduced: Path, tmp_path: Path) -> None:
    """Probing the encoder of the run above by hand gives the number that the row has."""
    (run,) = reproduced.glob("runs/pretrain/*")
    words = ("--rows", "gaussiancross", "--columns", "scannet", "--encoder", str(run))
    done = reproduce(tmp_path / "out", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.glob("out/runs/pretrain/*"))
    (given,) = tmp_path.glob("out/runs/semantic/*/result.json")
    (trained,) = reproduced.glob("runs/semantic/scannet-gaussiancross-seed0-*/result.json")
    one, other = (json.loads(path.read_text()) for path in (given, trained))
    assert one["metrics"] == other["metrics"]
    assert any("encoder given" in note for note in one["notes"])
    wrong = reproduce(tmp_path / "wrong", *words, "--set", "semantic.encoder.base_channels=8")
    assert wrong.returncode == 2
    assert "base_channels 16 instead of 8" in " ".join(wrong.stderr.split())
    assert not (tmp_path / "wrong" / "runs").exists()


def test_a_second_call_runs_nothing(reproduced: Path) -> None:
    results = {path: path.stat().st_mtime_ns for path in reproduced.glob("runs/*/*/result.json")}
    started = time.perf_counter()
    again = reproduce(reproduced)
    assert again.returncode == 0, again.stderr
    assert "13 jobs, 13 done" in again.stdout
    assert results == {path: path.stat().st_mtime_ns for path in results}
    assert time.perf_counter() - started < 60  # a run takes minutes; this one draws the report


def test_a_dry_run_shows_the_jobs_and_does_nothing(tmp_path: Path) -> None:
    shown = reproduce(tmp_path / "new", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "pre-training" in shown.stdout and "gaussiancross-seed0" in shown.stdout
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["reproduce", "table1", "--data", "nowhere"], 1, "nowhere has no prepared dataset"),
        (["reproduce", "table1"], 2, "--preset tiny"),
        (["reproduce", "table9", "--preset", "tiny"], 2, "There is no 'table9' to reproduce"),
        (["reproduce", "table1", "--preset", "tiny", "--rows", "csc"], 2, "no row 'csc' to run"),
        (["reproduce", "table1", "--preset", "tiny", "--set", "pretrain.optimizer.lrr=1"], 2, "optimizer.lrr"),
        (["pretrain", "--data", "nowhere", "--out", "run"], 2, "nowhere"),
        (["pretrain", "--data", ".", "--out", "run", "--recipe", "semantic/scannet"], 2, "kind 'semantic'"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    failed = gcbench(*arguments)
    assert failed.returncode == code, failed.stdout + failed.stderr
    assert message in failed.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("table", "columns", "metrics", "new"),
    [
        ("table2", "scenes-20,points-50", {"mIoU"}, 4),
        ("table3", "scannet", {"mIoU"}, 1),  # SpUNet's is Table 1's
        ("table4", "scannet", {"mAP25", "mAP50", "mAP"}, 2),
    ],
)
def test_other_tables_share_rooms_encoder_and_trainings(
    reproduced: Path, table: str, columns: str, metrics: set[str], new: int
) -> None:
    done = reproduce(reproduced, table=table, columns=columns)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs, finished = (int(word) for word in re.findall(r"(\d+) jobs?, (\d+) done", done.stdout)[0])
    assert jobs - finished == new
    run = cells(reproduced, table)
    assert len(run) == 2 * len(columns.split(","))
    assert all(set(cell["entries"][0]["metrics"]) == metrics for cell in run)


def test_an_ablation_measures_its_pretraining_too(reproduced: Path) -> None:
    """Table 6: fine-tuning on two label sets, their mean, and what the pre-training measured."""
    words = ("--rows", "opacity-0.3,opacity-0.5")
    small = ("--set", "pretrain.schedule.steps=4", "--set", "pretrain.run.evaluate_every=2")
    done = reproduce(reproduced, *words, *small, table="table6", columns="scannet,scannet200,average,pretraining")
    assert done.returncode == 0, done.stdout + done.stderr
    values = {
        (cell["row"], cell["column"], metric): value["mean"]
        for cell in cells(reproduced, "table6")
        for metric, value in cell["entries"][0]["metrics"].items()
    }
    assert len(values) == 2 * (3 + 3)
    for row in ("opacity-0.3", "opacity-0.5"):
        parts = [values[row, column, "mIoU"] for column in ("scannet", "scannet200")]
        assert values[row, "average", "mIoU"] == pytest.approx(sum(parts) / 2)
        assert 0 < values[row, "pretraining", "PSNR"] < 60
        assert values[row, "pretraining", "memory"] > 100 and values[row, "pretraining", "seconds"] > 0


def test_the_paper_size_is_planned_without_data(tmp_path: Path) -> None:
    shown = gcbench("reproduce", "table3", "--out", tmp_path / "new", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    words = " ".join(shown.stdout.split())
    for word in ("960,000", "GPU-hours", "no scannet", "paper: Table 6", "gcbench data plan table3"):
        assert word in words
    assert not (tmp_path / "new").exists()
