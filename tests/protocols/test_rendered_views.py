from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gcbench.data.prepare import prepare_scannet
from gcbench.data.samples import load_views
from gcbench.data.storage import PreparedDataset
from gcbench.errors import InputError
from gcbench.protocols.render import HELD_OUT, SceneView, camera_path
from gcbench.protocols.rendered_views import check_folder, write_view
from tests.data.raw_folders import write_scannet


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    root = tmp_path_factory.mktemp("path")
    return prepare_scannet(write_scannet(root / "raw", train=1, val=0, hidden=0, frames=4), root / "out")


def test_a_path_passes_through_the_frames_cameras(dataset: PreparedDataset) -> None:
    frames = dataset.frames(dataset.scene_names("train")[0])
    views = load_views(frames, range(4), (16, 12), np.eye(4))
    viewmats, Ks = camera_path(frames, 7, (16, 12))
    torch.testing.assert_close(viewmats[::2], views.viewmats, rtol=0, atol=1e-5)
    torch.testing.assert_close(Ks, views.Ks[:1].expand(7, 3, 3))
    rotations = viewmats[:, :3, :3]
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand(7, 3, 3), rtol=0, atol=1e-5)


def test_a_path_needs_two_views(dataset: PreparedDataset) -> None:
    with pytest.raises(InputError, match="path of 1 views along 4 frames"):
        camera_path(dataset.frames(dataset.scene_names("train")[0]), 1, (16, 12))


def view(depth: float) -> SceneView:
    image = np.full((3, 4, 3), 0.5, dtype=np.float32)
    flat = np.ones((3, 4), dtype=np.float32)
    return SceneView(7, HELD_OUT, image, image, flat, depth * flat, flat, None, 20.0, None)


@pytest.mark.parametrize(("metres", "millimetres"), [(0.0, 0), (1.2346, 1235), (65.0, 65000), (1e4, 65535), (-1.0, 0)])
def test_depth_is_kept_in_whole_millimetres(tmp_path: Path, metres: float, millimetres: int) -> None:
    folder = tmp_path / "Area_1" / "office_1"
    record = write_view(folder, view(metres), None)
    assert set(record["files"]) == {"color", "depth", "photo"}
    depth = np.asarray(Image.open(folder / record["files"]["depth"]))
    assert depth.max() == depth.min() == millimetres
    assert json.loads(json.dumps(record))["role"] == "held out"


def test_a_file_where_a_folder_must_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_folder(tmp_path / "new" / "folder")
    with pytest.raises(InputError, match="file is a file, not a folder"):
        check_folder(tmp_path / "file" / "scene")
