"""`gcbench submission`: exit codes, what is printed and written, where the test scenes come from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gcbench.cli.main import main
from gcbench.data.labels import load_label_set
from gcbench.data.scannet import vertex_count
from gcbench.scoring.label_files import write_labels
from tests.data.raw_folders import write_scannet

SCENES = ("scene0707_00", "scene0708_00")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for scene in SCENES:
        write_labels(tmp_path / "pred" / f"{scene}.txt", draw.choice(load_label_set("scannet20").ids, 200))
    (tmp_path / "scenes.txt").write_text("".join(f"{scene}\n" for scene in SCENES))
    return tmp_path


def run(*words: object) -> int:
    return main(["submission", *map(str, words)])


def test_pack_then_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--labels", "scannet20", "--scenes", folder / "scenes.txt")
    assert run("pack", folder / "pred", folder / "a.zip", "--kind", "semantic", *common) == 0
    assert f"ready: {folder / 'a.zip'}, semantic submission, scannet20: 2 of 2 scenes" in capsys.readouterr().out
    assert run("check", folder / "a.zip", *common, "--json", folder / "a.json") == 0
    printed = capsys.readouterr().out
    assert "0 errors, 0 warnings" in printed
    assert "number of vertices was not checked" in printed
    record = json.loads((folder / "a.json").read_text())
    assert (record["errors"], record["scenes"], record["violations"]) == (0, 2, [])
    before = (folder / "a.zip").read_bytes()
    assert run("pack", folder / "pred", folder / "a.zip", "--kind", "semantic", *common) == 2
    assert "is there already" in capsys.readouterr().err
    assert run("pack", folder / "pred", folder / "a.zip", "--kind", "semantic", *common, "--force") == 0
    assert (folder / "a.zip").read_bytes() == before


def test_violations_are_printed_and_the_exit_code_is_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "pred" / f"{SCENES[0]}.txt").write_text("5\n13\nx\n" + "77\n" * 50)
    (folder / "pred" / "\x1b[2J.txt").write_text("")
    common = ("--labels", "scannet20", "--scenes", folder / "scenes.txt")
    assert run("check", folder / "pred", *common, "--json", folder / "a.json") == 2
    captured = capsys.readouterr()
    assert "'x' is no integer" in captured.out
    assert "refused:" in captured.out
    assert "\x1b" not in captured.out
    assert captured.err == ""
    record = json.loads((folder / "a.json").read_text())
    first = next(found for found in record["violations"] if found["file"] == f"{SCENES[0]}.txt")
    assert (first["line"], first["error"]) == (3, True)
    assert run("pack", folder / "pred", folder / "a.zip", "--kind", "semantic", *common) == 2
    captured = capsys.readouterr()
    assert f"{SCENES[0]}.txt, line 3: 'x' is no integer" in captured.out.replace("\n        ", "")
    assert "1 error; nothing was written" in captured.err
    (folder / "pred" / f"{SCENES[0]}.txt").write_text("77\n" * 200)
    assert run("pack", folder / "pred", folder / "a.zip", "--kind", "semantic", *common) == 2
    captured = capsys.readouterr()
    assert "77 is no label id of scannet20" in captured.out
    assert "and 190 more in scene0707_00.txt" in captured.out
    assert "200 errors; nothing was written" in captured.err
    assert not (folder / "a.zip").exists()


def test_the_test_scenes_are_scannets_and_vertices_come_from_meshes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write_scannet(tmp_path / "raw", frames=1)
    (scene,) = [path.name for path in (raw / "scans_test").iterdir()]
    write_labels(tmp_path / "pred" / f"{scene}.txt", np.full(vertex_count(raw, scene), 5))
    assert run("check", tmp_path / "pred") == 2
    printed = capsys.readouterr().out
    assert "scene0707_00.txt" in printed
    assert "of 100 scenes" in printed
    (tmp_path / "scenes.txt").write_text(f"{scene}\n")
    words = ("--data", raw, "--scenes", tmp_path / "scenes.txt")
    assert run("check", tmp_path / "pred", *words) == 0
    assert "1 of 1 scenes" in capsys.readouterr().out
    write_labels(tmp_path / "pred" / f"{scene}.txt", np.full(3, 5))
    assert run("check", tmp_path / "pred", *words) == 2
    assert "it has 3 lines; the scene has" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "scenes.txt").write_text("scene0707_00\n")
    assert run("check", tmp_path / "pred", *words) == 2
    assert "has no mesh of scene 'scene0707_00'" in capsys.readouterr().err
    assert run("check", tmp_path / "pred", "--labels", "s3dis") == 2
    assert "no split lists for the dataset 's3dis'" in capsys.readouterr().err


def test_a_bomb_needs_no_memory(folder: Path) -> None:
    """Two gigabytes of zeros in two megabytes: refused without being unpacked."""
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for scene in SCENES:
            with archive.open(f"{scene}.txt", "w", force_zip64=True) as stream:
                for _ in range(64):
                    stream.write(bytes(1 << 24))
    words = ["submission", "check", "bomb.zip", "--labels", "scannet20", "--scenes", "scenes.txt"]
    code = (
        "import resource, sys; from gcbench.cli.main import main\n"
        f"code = main({words!r})\n"
        "sys.stderr.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)); sys.exit(code)"
    )
    # A process that starts from this large one would be credited with its memory: a small one stands between.
    launcher = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', sys.argv[1]]).returncode)"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", launcher, code], capture_output=True, text=True, cwd=folder, env=environment
    )
    assert answer.returncode == 2, answer.stderr
    assert answer.stdout.count("it would unpack to 1074 MB") == 2
    assert int(answer.stderr) < 200
