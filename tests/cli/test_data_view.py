from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from plyfile import PlyData
from typer.testing import CliRunner, Result

import gcbench
from gcbench.cli import data_view
from gcbench.data.prepare import prepare_s3dis, prepare_scannet
from gcbench.errors import DataError, InputError
from tests.data.mutations import assert_survives
from tests.data.raw_folders import write_room, write_scannet

app = typer.Typer()
app.command(epilog=data_view.EXAMPLES)(data_view.view)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scannet(tmp_path_factory.mktemp("scannet") / "raw", frames=4)


@pytest.fixture(scope="module")
def prepared(raw: Path) -> Path:
    prepare_scannet(raw, raw.parent / "prepared", workers=0)
    return raw.parent / "prepared"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def view(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def content(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="scene">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert found
    loaded: dict[str, Any] = json.loads(found[1])
    return loaded


def test_a_prepared_scene_by_its_name(prepared: Path, here: Path) -> None:
    result = view(prepared, "scene0001_00", "--show", "labels", "--label-set", "scannet200")
    page = here / "scene0001_00.html"
    assert re.fullmatch(r"scene0001_00\.html: 144 points, \d\.\d MB\n", result.stdout)
    found = content(page)
    assert (found["name"], found["count"], found["show"]) == ("scene0001_00", 144, "scannet200")
    assert len(found["cameras"]) == 4
    assert {entry["name"] for entry in found["layers"][0]["entries"]} >= {"floor", "chair", "unlabelled"}
    assert "scannet, train" in page.read_text(encoding="utf-8")
    assert "Synthetic" not in page.read_text(encoding="utf-8")


def test_folder_and_name_in_one_word(prepared: Path, here: Path) -> None:
    view(f"{prepared}:scene0002_00", "--out", "page.html")
    assert content(here / "page.html")["name"] == "scene0002_00"


def test_without_a_name_it_is_the_first_and_says_so(prepared: Path, here: Path) -> None:
    result = view(prepared)
    assert "has 4 scenes; this is scene0000_00" in result.stderr
    assert content(here / "scene0000_00.html")["show"] == "colour"


def test_ply_beside_the_page_with_all_points(prepared: Path, here: Path) -> None:
    result = view(prepared, "scene0000_00", "--ply", "cloud.ply", "--show", "instances", "--max-points", "100")
    assert "100 of 144 points" in result.stdout and "cloud.ply: 144 points" in result.stdout
    vertex = PlyData.read("cloud.ply")["vertex"].data
    assert len(vertex) == 144 and {"label_scannet20", "label_scannet200", "instance"} <= set(vertex.dtype.names)
    assert content(here / "scene0000_00.html")["count"] == 100


def test_a_room_with_its_area_in_its_name(here: Path) -> None:
    write_room(here / "raw", "Area_2/office_1")
    prepare_s3dis(here / "raw", here / "prepared", workers=0)
    view(here / "prepared", "Area_2/office_1", "--show", "labels")
    found = content(here / "Area_2_office_1.html")
    assert found["name"] == "Area_2/office_1" and found["show"] == "s3dis" and found["cameras"] == []


def test_a_raw_scene_with_its_labels(raw: Path, here: Path) -> None:
    view(raw / "scans" / "scene0000_00", "--show", "labels")
    found = content(here / "scene0000_00.html")
    assert [layer["name"] for layer in found["layers"]] == ["scannet20", "scannet200", "instances"]
    view(raw / "scans_test" / "scene0003_00")
    assert content(here / "scene0003_00.html")["layers"] == []


def test_a_mesh(raw: Path, here: Path) -> None:
    mesh = raw / "scans" / "scene0000_00" / "scene0000_00_vh_clean_2.ply"
    view(mesh)
    found = content(here / "scene0000_00_vh_clean_2.html")
    assert found["count"] == 144 and found["layers"] == []
    with pytest.raises(InputError, match="has no scene 'x'"):
        view(mesh, "x")


def test_a_wrong_name_brings_the_close_ones(prepared: Path, here: Path) -> None:
    with pytest.raises(InputError, match=r"has no scene 'scene0001_0' \(close: scene0001_00") as caught:
        view(prepared, "scene0001_0")
    assert "4 scenes, from scene0000_00 to scene0003_00" in str(caught.value)
    assert list(here.iterdir()) == []


def test_what_a_scene_does_not_have_is_refused(prepared: Path, here: Path) -> None:
    with pytest.raises(InputError, match=r"no labels of 'scanet20' \(close: scannet20"):
        view(prepared, "scene0000_00", "--label-set", "scanet20")
    with pytest.raises(InputError, match="has no labels to show"):
        view(prepared, "scene0003_00", "--show", "labels")
    with pytest.raises(InputError, match="There is no folder"):
        view(prepared, "scene0000_00", "--out", "nowhere/page.html")
    with pytest.raises(InputError, match="is a folder"):
        view(prepared, "scene0000_00", "--ply", str(here))
    with pytest.raises(DataError, match="There is no folder nothing"):
        view("nothing")
    assert list(here.iterdir()) == []


def test_the_page_is_opened_only_when_asked(prepared: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(typer, "launch", opened.append)
    view(prepared, "scene0000_00")
    assert opened == []
    view(prepared, "scene0000_00", "--open")
    assert opened == [(here / "scene0000_00.html").as_uri()]


def test_a_damaged_file_of_frames_is_named(prepared: Path, here: Path) -> None:
    file = prepared / "frames" / "scene0002_00.arrow"
    assert assert_survives(lambda: view(prepared, "scene0002_00"), file, file.read_bytes(), count=100) > 30


def loads(code: str, *modules: str) -> bool:
    """Whether running the code in a new process imports one of the modules."""
    check = f"import sys; from pathlib import Path; {code}; sys.exit(any(name in sys.modules for name in {modules}))"
    return bool(subprocess.run([sys.executable, "-c", check], cwd=Path(gcbench.__file__).parents[1]).returncode)


def test_the_module_imports_quickly() -> None:
    assert not loads("import gcbench.cli.data_view", "numpy", "torch", "rich")


def test_viewing_imports_no_torch(prepared: Path, here: Path) -> None:
    call = f"view({str(prepared)!r}, 'scene0000_00', out=Path({str(here)!r}) / 'a.html')"
    assert not loads(f"from gcbench.cli.data_view import view; {call}", "torch")
    assert content(here / "a.html")["count"] == 144
