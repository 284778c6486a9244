from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gcbench.errors import DataError, DiskFullError, InputError
from gcbench.models import teacher_cache
from gcbench.models.teacher_cache import TeacherCache
from gcbench.models.teachers import ClassicalTeacher

LARGE = 10**9


class Stub:
    """A teacher that counts the photos it is shown; a photo's map is its mean colour, scaled."""

    name, dim = "stub", 3

    def __init__(self, key: str = "stub", rows: int = 2, scale: float = 1.0) -> None:
        self.key, self.rows, self.scale, self.seen = key, rows, scale, 0

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return self.rows, self.rows + 1

    def __call__(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        means = self.scale * images.mean(dim=(1, 2))
        return means[:, None, None].expand(-1, *self.grid(*images.shape[1:3]), 3)


FILE = 24 + 2 * 2 * 3 * 3  # bytes of one of the stub's maps


def photos(count: int = 3, height: int = 6, width: int = 8) -> Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(count))


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.maps"))


def test_read_and_computed_maps_are_the_same(tmp_path: Path) -> None:
    images = photos(3, 48, 64)
    teacher = ClassicalTeacher(rows=12)
    cache = TeacherCache(teacher, tmp_path, LARGE, "data")
    computed = cache.maps("scene", [3, 5, 8], images)
    read = TeacherCache(ClassicalTeacher(rows=12), tmp_path, LARGE, "data").maps("scene", [3, 5, 8], images)
    mixed = TeacherCache(teacher, tmp_path, LARGE, "data").maps("scene", [8, 1, 3], images[[2, 1, 0]])
    assert torch.equal(computed, read)
    assert torch.equal(mixed, computed[[2, 1, 0]])
    assert computed.dtype == torch.float32 and torch.equal(computed, computed.half().float())
    torch.testing.assert_close(computed, teacher(images), rtol=1e-3, atol=1e-3)


def test_only_missing_frames_are_computed(tmp_path: Path) -> None:
    teacher = Stub()
    cache = TeacherCache(teacher, tmp_path, LARGE)
    cache.maps("scene", [0, 1], photos(2))
    cache.maps("scene", [1, 2, 0], photos(3))
    assert (teacher.seen, cache.hits, cache.misses, cache.unsaved) == (3, 2, 3, 0)
    assert all(path.stat().st_size == FILE for path in files(tmp_path)) and len(files(tmp_path)) == 3


def test_without_a_folder_the_teacher_is_asked_each_time() -> None:
    teacher = Stub()
    cache = TeacherCache(teacher)
    for _ in range(2):
        assert torch.equal(cache.maps("scene", [0, 1], photos(2)), teacher(photos(2)))
    assert (cache.hits, cache.misses) == (0, 0) and teacher.seen == 8


def test_another_teacher_size_data_scene_or_frame_is_another_map(tmp_path: Path) -> None:
    TeacherCache(Stub(), tmp_path, LARGE, "data").maps("scene", [0], photos(1))
    others = [
        (TeacherCache(Stub("other"), tmp_path, LARGE, "data"), "scene", 0, photos(1)),
        (TeacherCache(Stub(), tmp_path, LARGE, "other"), "scene", 0, photos(1)),
        (TeacherCache(Stub(), tmp_path, LARGE, "data"), "other", 0, photos(1)),
        (TeacherCache(Stub(), tmp_path, LARGE, "data"), "scene", 1, photos(1)),
        (TeacherCache(Stub(), tmp_path, LARGE, "data"), "scene", 0, photos(1, 8, 6)),
    ]
    for cache, scene, frame, images in others:
        cache.maps(scene, [frame], images)
        assert cache.misses == 1


@given(st.text(), st.text(), st.integers())
def test_no_name_leads_out_of_the_folder(scene: str, data: str, frame: int) -> None:
    home = TeacherCache(Stub())
    home._data_key = data
    path = home._home(Path("/cache"), scene, (6, 8)) / f"{frame}.maps"
    assert Path(os.path.normpath(path)).is_relative_to("/cache") and len(path.parts) == 5


def test_evil_names_stay_inside(tmp_path: Path) -> None:
    cache = TeacherCache(Stub(), tmp_path / "cache", LARGE)
    for scene in ("Area_1/office_1", "../../up", "/etc/passwd", "nul\0", ".", "", "x" * 5000, "*?<>|\n"):
        cache.maps(scene, [0], photos(1))
    assert len(files(tmp_path / "cache")) == 8 and [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_the_limit_holds_and_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = TeacherCache(Stub(), tmp_path, 10 * FILE)
    for frame in range(10):
        cache.maps("scene", [frame], photos(1))
    for path in files(tmp_path):
        os.utime(path, (int(path.stem), int(path.stem)))  # used in the order of their numbers
    cache.maps("scene", [0], photos(1))  # and now number 0 again
    cache.maps("scene", [10], photos(1))
    assert sorted(int(path.stem) for path in files(tmp_path)) == [0, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    for frame in range(11, 60):
        cache.maps("scene", [frame], photos(1))
        assert len(files(tmp_path)) <= 10
    assert len(files(tmp_path)) >= 9 and cache.unsaved == 0

    TeacherCache(Stub(), tmp_path, 4 * FILE)  # a smaller limit holds from the start
    assert len(files(tmp_path)) == 4
    small = TeacherCache(Stub(), tmp_path, FILE - 1)
    assert torch.isfinite(small.maps("scene", [0], photos(1))).all()
    assert small.unsaved == 1 and not files(tmp_path)


def test_the_limit_counts_what_others_and_killed_processes_left(tmp_path: Path) -> None:
    TeacherCache(Stub("other"), tmp_path, LARGE).maps("scene", range(5), photos(5))
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / ".7.maps.abc.part").write_bytes(bytes(20 * FILE))
    cache = TeacherCache(Stub(), tmp_path, 6 * FILE)
    assert not (tmp_path / "x" / ".7.maps.abc.part").exists() or not files(tmp_path)
    cache.maps("scene", range(5), photos(5))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.suffix in (".maps", ".part")) <= 6 * FILE
    (tmp_path / ".bytes").write_text("rubbish")
    cache.maps("other", range(6), photos(6))
    assert len(files(tmp_path)) <= 6


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "longer", "header", "shape", "folder"])
def test_a_broken_file_is_computed_again(tmp_path: Path, damage: str) -> None:
    expected = TeacherCache(Stub(), tmp_path, LARGE).maps("scene", [0], photos(1))
    (path,) = files(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-1] ^= 1
    elif damage == "header":
        content[0] ^= 1
    elif damage == "shape":
        content[8], content[12] = content[12], content[8]
    broken = {"cut": content[:-3], "empty": b"", "longer": bytes(content) + b"0"}.get(damage, content)
    path.write_bytes(broken)
    if damage == "folder":
        path.unlink()
        path.mkdir()
    cache = TeacherCache(Stub(), tmp_path, LARGE)
    assert torch.equal(cache.maps("scene", [0], photos(1)), expected) and cache.misses == 1
    assert torch.equal(cache.maps("scene", [0], photos(1)), expected)
    assert (cache.hits, cache.unsaved) == ((1, 0) if damage != "folder" else (0, 2))


def test_values_beyond_half_precision_stay_finite(tmp_path: Path) -> None:
    maps = TeacherCache(Stub(scale=1e7), tmp_path, LARGE).maps("scene", [0], photos(1))
    assert float(maps.max()) == 65504.0


def test_a_full_disk_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise DiskFullError("full")

    cache = TeacherCache(Stub(), tmp_path, LARGE)
    monkeypatch.setattr(teacher_cache, "write_atomic", full)
    assert torch.isfinite(cache.maps("scene", [0, 1], photos(2))).all()
    assert cache.unsaved == 2 and not files(tmp_path)


def test_a_folder_that_vanishes_does_not_end_the_run(tmp_path: Path) -> None:
    cache = TeacherCache(Stub(), tmp_path / "cache", LARGE)
    cache.maps("scene", [0], photos(1))
    (tmp_path / "cache").rename(tmp_path / "moved")
    assert torch.isfinite(cache.maps("scene", [0], photos(1))).all()


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 frames of 'scene' have 3 images"):
        TeacherCache(Stub(), tmp_path, LARGE).maps("scene", [0, 1], photos(3))
    with pytest.raises(InputError, match="0 bytes"):
        TeacherCache(Stub(), tmp_path, 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"feature cache.*cache_gb=null"):
        TeacherCache(Stub(), tmp_path / "file", LARGE)


MANY = """
import sys
from pathlib import Path
import torch
from tests.models.test_teacher_cache import FILE, Stub, photos
from gcbench.models.teacher_cache import TeacherCache
cache = TeacherCache(Stub(), Path(sys.argv[1]), 12 * FILE)
images = photos(20)
expected = Stub()(images).half().float()
draw = torch.Generator().manual_seed(int(sys.argv[2]))
for _ in range(15):
    frames = torch.randperm(20, generator=draw)[:5].tolist()
    assert torch.equal(cache.maps("scene", frames, images[frames]), expected[frames])
assert cache.hits and cache.misses and not cache.unsaved
"""


def test_processes_share_a_folder(tmp_path: Path) -> None:
    """They delete each other's files all the time: the folder holds 12 of 20 frames."""
    runs = [
        subprocess.Popen([sys.executable, "-c", MANY, str(tmp_path), str(seed)], stderr=subprocess.PIPE, text=True)
        for seed in range(2)
    ]
    for run in runs:
        _, message = run.communicate(timeout=120)
        assert run.returncode == 0, message
    assert 0 < len(files(tmp_path)) <= 12 and not list(tmp_path.rglob("*.part"))
