"""`gcbench leaderboard` as it is typed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import gcbench.reporting.leaderboard
from gcbench.cli.leaderboard import app
from gcbench.data.labels import load_label_set
from gcbench.errors import InputError
from gcbench.protocols.evaluate import evaluation_record
from gcbench.scoring.instance import InstancePredictions, InstanceScorer, InstanceTarget
from gcbench.scoring.protocols import load_protocol


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A file of `gcbench evaluate instance` on a synthetic room: of two chairs one is found, and one half."""
    ids = np.repeat([0, 1, 2], 200)
    masks = np.array([ids == 0, (ids == 1) & (np.arange(600) < 320)])
    scorer = InstanceScorer(load_label_set("scannet20"), load_protocol("scannet-official"))
    predictions = InstancePredictions(np.array([4, 4]), np.array([0.9, 0.8]), masks)
    scorer.add("room_0", predictions, InstanceTarget(np.repeat([4, 4, 0], 200), ids))
    path = tmp_path / "result.json"
    path.write_text(evaluation_record({"p": scorer.result()}, split="val", synthetic=True).model_dump_json())
    return path


def call(*arguments: str | Path) -> str:
    outcome = CliRunner().invoke(app, [str(part) for part in arguments], catch_exceptions=False, env={"COLUMNS": "120"})
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def add(result: Path, *options: str | Path) -> str:
    said = ("--resolution", "points", "--inference", "single-pass")
    return call("add", result, "--table", "table4", "--column", "scannet", "--name", "My method", *said, *options)


def test_add_then_show_in_every_format(result: Path, tmp_path: Path) -> None:
    boards = tmp_path / "boards"
    assert "my-method.yaml" in add(result, "--board", boards, "--link", "https://example.org")
    for form in ("terminal", "md", "html", "json"):
        text = call("show", "table4", "--board", boards, "--format", form)
        assert "My method" in text
        out = tmp_path / f"board.{form}"
        assert "7 rows of the paper, 1 measured" in call(
            "show", "table4", "--board", boards, "--format", form, "--out", out
        )
        assert "My method" in out.read_text()
    content = json.loads((tmp_path / "board.json").read_text())
    (row,) = content["groups"][1]["rows"]
    metrics = json.loads(result.read_text())["metrics"]
    assert 0 < metrics["mAP"] < metrics["mAP50"] == 1
    assert {key: score["value"] for key, score in row["scores"].items()} == {
        f"scannet/{metric}": 100 * value for metric, value in metrics.items()
    }
    with pytest.raises(InputError, match="--replace"):
        add(result, "--board", boards)
    add(result, "--board", boards, "--replace")


def test_show_sorts_by_a_metric(result: Path) -> None:
    text = call("show", "table4", "--sort", "scannet200/mAP")
    assert "ranked by ScanNet200 val, mAP" in text
    assert text.index("PointGroup") < text.index("● GC ")  # a blank comes after every number


def test_list_counts_entries(result: Path, tmp_path: Path) -> None:
    add(result, "--board", tmp_path / "boards")
    lines = {
        line.split("│")[1].strip(): line
        for line in call("list", "--board", tmp_path / "boards").splitlines()
        if "│" in line
    }
    assert [int(lines["table4"].split("│")[column]) for column in (4, 5)] == [7, 1]
    assert [int(lines["table3"].split("│")[column]) for column in (4, 5)] == [16, 0]


def test_an_installed_package_is_not_written_to(result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "gcbench"
    inside.mkdir()
    monkeypatch.setattr("gcbench.__file__", os.fspath(inside / "__init__.py"))
    monkeypatch.setattr(gcbench.reporting.leaderboard, "packaged_folder", lambda: inside / "evaluation" / "leaderboard")
    with pytest.raises(InputError, match="--board"):
        add(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "table9"], "no leaderboard 'table9'"),
        (["show", "../labels/s3dis"], "no leaderboard"),
        (["show", "table3", "--board", "none"], "no folder 'none'"),
        (["show", "table3", "--out", "none/board.md"], "Make it"),
        (["show", "table3", "--sort", "kitti"], "no column 'kitti'"),
    ],
)
def test_bad_input_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        call(*arguments)
    assert list(tmp_path.iterdir()) == []
