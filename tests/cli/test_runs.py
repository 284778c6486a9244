"""`gcbench runs`: what it shows, what it refuses, and that it removes only what it named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from gcbench.cli.main import main
from tests.runs.test_overview import JOB, make


def test_list_shows_state_progress_and_the_last_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    make(tmp_path / "runs", "first")
    make(tmp_path / "runs", "second", done=True)
    assert main(["runs", "list", str(tmp_path), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["status"], one["step"], one["total"]) for one in listed] == [
        ("first", "failed", 20, 100),
        ("second", "done", 20, 100),
    ]
    assert main(["runs", "list", str(tmp_path), "--status", "failed"]) == 0
    text = capsys.readouterr().out
    assert "first" in text and "second" not in text and "20/100" in text and "mIoU 25.0 %" in text
    assert main(["runs", "list", str(tmp_path), "--status", "running"]) == 0
    assert "There is no run that is running" in capsys.readouterr().out
    assert main(["runs", "list", str(tmp_path), "--status", "lost"]) == 2
    assert main(["runs", "list", str(tmp_path / "nowhere")]) == 2
    assert "There is no folder" in capsys.readouterr().err


def test_show_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path, "first")
    assert main(["runs", "show", str(run.folder)]) == 0
    text = capsys.readouterr().out
    for words in (
        "step 20 of 100 (20%), 0.5 s per step, about 40 s left",
        "the roof fell in",
        "20 x odd",
        "r, preset tiny",
    ):
        assert words in text
    assert f"gcbench runs resume {run.folder}" in text
    assert main(["runs", "show", str(tmp_path)]) == 1
    assert "is not a run folder" in capsys.readouterr().err


def test_compare_shows_what_differs_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = make(tmp_path, "first"), make(tmp_path, "second", job={**JOB, "seed": 7})
    plot = tmp_path / "curves.png"
    assert main(["runs", "compare", str(first.folder), str(second.folder), "--plot", str(plot)]) == 0
    text = capsys.readouterr().out
    assert "seed" in text and "7" in text and "optimizer.lr" not in text
    assert Image.open(plot).width > 500
    assert main(["runs", "compare", str(first.folder)]) == 2
    assert "Give two or more" in capsys.readouterr().err


def test_clean_removes_nothing_until_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, "first")
    done = make(tmp_path, "second", done=True)
    before = sorted(tmp_path.rglob("*"))
    assert main(["runs", "clean", str(tmp_path)]) == 0
    assert "250 bytes can be removed; --yes removes it." in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["runs", "clean", str(tmp_path), "--yes"]) == 0
    gone = set(before) - set(tmp_path.rglob("*"))
    assert {path.relative_to(done.folder).parts[0] for path in gone} == {"checkpoints", "predictions"}
    assert done.is_done
    assert main(["runs", "clean", str(tmp_path), "--yes"]) == 0
    assert "There is nothing to remove" in capsys.readouterr().out


def test_a_finished_run_is_not_started_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path, "first", done=True)
    assert main(["runs", "resume", str(run.folder)]) == 0
    assert "is done already" in capsys.readouterr().out
    assert main(["runs", "resume", str(tmp_path)]) == 1
