from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gcbench.data import s3dis
from gcbench.data.labels import load_label_set
from gcbench.errors import DataError
from tests.data.raw_folders import write_room


def test_a_room(tmp_path: Path) -> None:
    scene, notes = s3dis.read_room(write_room(tmp_path, "Area_3/office_1"), neighbours=16)
    classes = load_label_set("s3dis").classes
    assert scene.name == "Area_3/office_1"
    assert scene.instance is not None
    names = [classes[index] for index in scene.segments["s3dis"]]
    assert names == ["chair"] * 160 + ["floor"] * 300 + ["clutter"] * 40
    assert np.bincount(scene.instance).tolist() == [80, 80, 300, 40]
    assert notes == ["taken as clutter: stairs"]
    assert (scene.coord[160:460, 2] == 0).all()


@pytest.mark.parametrize("stray", [b"\x10", b"\x00", b"\x10\x7f"])
def test_a_stray_control_byte_is_dropped_and_reported(tmp_path: Path, stray: bytes) -> None:
    clean, _ = s3dis.read_room(write_room(tmp_path / "a", "Area_5/hallway_6"), neighbours=16)
    scene, notes = s3dis.read_room(write_room(tmp_path / "b", "Area_5/hallway_6", stray=stray), neighbours=16)
    assert scene.coord.tobytes() == clean.coord.tobytes()
    assert f"hallway_6/floor_1.txt: {len(stray)} control bytes dropped" in notes


def test_spacing_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "even.txt").write_text("1 2 3 4 5 6\n-1.5 2e-1 3 255 0 6.0\n")
    (tmp_path / "odd.txt").write_text("1  2\t3 4 5 6 \r\n\n -1.5 2e-1 3 255 0 6.0")
    even, odd = (s3dis.read_annotation(tmp_path / name)[0] for name in ("even.txt", "odd.txt"))
    assert even.tolist() == odd.tolist() == [[1, 2, 3, 4, 5, 6], [-1.5, 0.2, 3, 255, 0, 6]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("1 2 3 4 5 6\n1 2 x 4 5 6\n", "'x'"),
        ("1 2 3 4 5 6\n1 2 3 4 5\n", "from 6 to 5"),
        ("1 2 3 4 5\n1 2 3 4 5\n", "5 columns"),
        ("1 2 3 4 5 256\n", "colour outside"),
        ("1 2 nan 4 5 6\n", "not finite"),
    ],
)
def test_a_broken_annotation_is_named(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "chair_1.txt").write_text(text)
    with pytest.raises(DataError, match=r"chair_1\.txt") as caught:
        s3dis.read_annotation(tmp_path / "chair_1.txt")
    assert expected in str(caught.value)


def test_a_room_without_annotations_is_named(tmp_path: Path) -> None:
    (tmp_path / "Area_1" / "office_1").mkdir(parents=True)
    with pytest.raises(DataError, match=r"office_1.Annotations has no"):
        s3dis.read_room(tmp_path / "Area_1" / "office_1", neighbours=16)


def test_normals_of_a_box_point_inwards() -> None:
    rng = np.random.default_rng(0)
    points, inward = [], []
    for axis in range(3):
        for side in (0.0, 3.0):
            wall = rng.uniform(0.3, 2.7, (2000, 3))
            wall[:, axis] = side
            points.append(wall)
            inward.append(np.eye(3)[axis] * (1 if side == 0 else -1))
    normal = s3dis.estimate_normals(np.concatenate(points).astype(np.float32), neighbours=16)
    aligned = np.einsum("ni,ni->n", normal, np.repeat(inward, 2000, axis=0))
    assert aligned.min() > 0.999  # the walls are exact planes, at least 0.3 m from each other
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-6)
