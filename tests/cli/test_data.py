from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gcbench.cli.data import app
from gcbench.cli.main import main
from gcbench.data.storage import PreparedDataset
from gcbench.errors import InputError
from tests.data.raw_folders import write_room, write_scannet

run = CliRunner()


def test_prepare_scannet_ends_with_a_summary(tmp_path: Path) -> None:
    raw = write_scannet(tmp_path / "raw", frames=4)
    (raw / "rgbd").rename(tmp_path / "frames")
    result = run.invoke(
        app,
        f"prepare scannet {raw} {tmp_path}/out --rgbd {tmp_path}/frames --every 2 --workers 0",
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    dataset = PreparedDataset.open(tmp_path / "out")
    assert dataset.frame_count("scene0000_00") == 2
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    assert rows == [["train", "2", "288", "4", "0"], ["val", "1", "144", "2", "0"], ["test", "1", "144", "2", "0"]]
    assert dataset.fingerprint in result.stdout
    assert "no such thing" in result.stdout


def test_prepare_s3dis(tmp_path: Path) -> None:
    write_room(tmp_path / "raw", "Area_2/office_1")
    result = run.invoke(
        app,
        ["prepare", "s3dis", str(tmp_path / "raw"), str(tmp_path / "out"), "--workers", "0"],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    assert "taken as clutter: stairs" in result.stdout
    assert PreparedDataset.open(tmp_path / "out").scene_names("Area_2") == ("Area_2/office_1",)


@pytest.mark.parametrize("size", ["160", "160x", "0x120", "x", "-4x3", "160x120x3"])
def test_a_size_that_is_none_is_refused(tmp_path: Path, size: str) -> None:
    arguments = ["synth", str(tmp_path), "--scenes", "1", "--val", "0", "--seed", "0", "--layout", "scannet"]
    result = run.invoke(app, [*arguments, f"--size={size}"])
    assert isinstance(result.exception, InputError)
    assert "WIDTHxHEIGHT" in str(result.exception)


def test_the_module_imports_no_torch() -> None:
    code = "import sys, gcbench.cli.data; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_preparing_imports_no_torch() -> None:
    code = "import sys, gcbench.data.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_keep_going_lists_what_is_left_out_and_exits_with_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    raw = write_scannet(tmp_path / "raw", frames=2)
    mesh = raw / "scans" / "scene0000_00" / "scene0000_00_vh_clean_2.ply"
    mesh.write_bytes(mesh.read_bytes()[:500])
    words = ["data", "prepare", "scannet", str(raw), str(tmp_path / "out"), "--workers", "0"]
    assert main(words) == 1
    assert str(mesh) in capfd.readouterr().err
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert main([*words, "--keep-going"]) == 1
    assert "1 of 4 scenes are left out" in capfd.readouterr().err
    assert PreparedDataset.open(tmp_path / "out").scene_names("train") == ("scene0001_00",)


def test_export_and_import_are_there_and_back(tmp_path: Path) -> None:
    raw = write_scannet(tmp_path / "raw")
    for words in (
        f"data prepare scannet {raw} {tmp_path}/first --workers 0",
        f"data export {tmp_path}/first {tmp_path}/pointcept --layout pointcept --workers 0",
        f"data import pointcept {tmp_path}/pointcept {tmp_path}/copy --workers 0",
        f"data import pointcept {tmp_path}/pointcept {tmp_path}/place --in-place --workers 0",
        f"data subsets {tmp_path}/first --seed 1",
    ):
        assert main(words.split()) == 0, words
    first, copy, place = (PreparedDataset.open(tmp_path / name) for name in ("first", "copy", "place"))
    assert first.fingerprint == copy.fingerprint == place.fingerprint
    assert len(list((tmp_path / "first" / "subsets").iterdir())) == 8
    assert not (tmp_path / "place" / "scenes").exists()


@pytest.mark.parametrize(
    "verb",
    ["plan", "prepare scannet", "prepare s3dis", "import pointcept", "export", "subsets", "audit", "view", "synth"],
)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    result = run.invoke(app, [*verb.split(), "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"gcbench data {verb}" in result.stdout
