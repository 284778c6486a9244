"""`gcbench recipes`: lists, shows, validates and compares."""

from __future__ import annotations

from pathlib import Path

import pytest

from gcbench.cli.main import main
from gcbench.recipe.loader import recipe_names
from gcbench.recipe.tables import table_names


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_list_names_every_recipe_table_and_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*recipe_names(), "table1", "tiny"))


def test_show_prints_values_with_their_sources(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["recipes", "show", "pretrain/gaussiancross", "--preset", "tiny", "--set", "optimizer.lr=0.5"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "data.mask_ratio" in shown
    assert "paper: Table S.1, mask ratio 50 %" in shown
    assert "override: command line" in shown


def test_validate_checks_all_and_stops_at_a_bad_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "validate"]) == 0
    assert capsys.readouterr().out.count("ok ") == len(recipe_names()) + len(table_names())
    bad = tmp_path / "bad.yaml"
    bad.write_text("kind: semantic\ntitle: bad\nextends: semantic/scannet\nvalues: {optimizer: {lr: 1}}\n")
    assert main(["recipes", "validate", str(bad)]) == 2
    assert "'optimizer.lr' has no source" in capsys.readouterr().err


def test_diff_shows_what_differs_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "diff", "semantic/scannet", "semantic/s3dis"]) == 0
    shown = capsys.readouterr().out
    assert "data.crop_points" in shown
    assert "losses.lovasz" not in shown
    assert main(["recipes", "diff", "semantic/scannet", "semantic/scannet"]) == 0
    assert "No value differs" in capsys.readouterr().out
