"""Wrong input is told before a training starts, all of it at once, with scene and frame."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gcbench.data.storage import PreparedDataset
from gcbench.errors import DataError, InputError
from gcbench.protocols.pretrain_checks import check_batch, check_data
from gcbench.recipe.schema import PretrainRecipe
from tests.data.raw_folders import HEIGHT, WIDTH
from tests.protocols.small_pretraining import change_frames, small_recipe, write_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> PreparedDataset:
    return write_dataset(tmp_path)


def recipe(*overrides: str) -> PretrainRecipe:
    built = small_recipe(*overrides).recipe
    assert isinstance(built, PretrainRecipe)
    return built


def problem(dataset: PreparedDataset, *overrides: str) -> str:
    with pytest.raises(DataError) as caught:
        check_data(recipe(*overrides), dataset).raise_if_any()
    return str(caught.value)


def png(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint16)).save(stream, "PNG")
    return stream.getvalue()


def test_good_data_passes_and_every_scene_is_told(dataset: PreparedDataset) -> None:
    told: list[tuple[str, int, int]] = []
    findings = check_data(recipe(), dataset, lambda *scene: told.append(scene))
    assert (findings.problems, findings.warnings) == ([], [])
    assert [scene[1:] for scene in told] == [(1, 3), (2, 3), (3, 3)]


def test_fewer_frames_than_views(dataset: PreparedDataset) -> None:
    text = problem(dataset, "data.views=9")
    assert "Scene 'scene0000_00' has 8 frames to train on (of 10, every 5th is held out)" in text
    assert "--set data.views=8" in text


def test_no_frame_to_measure_on(dataset: PreparedDataset) -> None:
    text = problem(dataset, "data.holdout_every=20")
    assert "none is held out to measure on" in text
    assert "--set data.holdout_every=10" in text
    assert "scene0002_00" not in text  # only two scenes are evaluated


def test_another_dataset(dataset: PreparedDataset) -> None:
    assert "prepared from scannet, the recipe wants s3dis" in problem(dataset, "data.dataset=s3dis")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("camera_to_world", [0.0] * 16, "its pose is singular or not rigid"),
        ("camera_to_world", [float("inf")] * 16, r"not rigid \(not finite\)"),
        ("intrinsic", [0.0, 0, 32, 0, 60, 24, 0, 0, 1], "no intrinsics of a camera of 64 x 48 pixels"),
        ("intrinsic", [60.0, 0, 640, 0, 60, 24, 0, 0, 1], "no intrinsics of a camera"),
        ("depth", png(32, 24), "its depth image is 32 x 24 pixels, the frame 64 x 48"),
        ("color", b"no image", "its color image is broken"),
        ("color", png(WIDTH, HEIGHT)[:20], "its color image is broken"),
    ],
)
def test_a_wrong_frame_is_named(dataset: PreparedDataset, column: str, value: object, message: str) -> None:
    change_frames(dataset, "scene0001_00", 3, **{column: value})
    with pytest.raises(DataError, match=rf"Scene 'scene0001_00', frame 30: .*{message}"):
        check_data(recipe(), dataset).raise_if_any()


def test_ten_problems_are_listed_and_the_others_counted(dataset: PreparedDataset) -> None:
    for scene in ("scene0000_00", "scene0002_00"):
        for position in range(7):
            change_frames(dataset, scene, position, camera_to_world=[0.0] * 16)
    text = problem(dataset)
    assert text.count("  - Scene") == 10
    assert "... and 4 more" in text
    assert text.count("Prepare the dataset again") == 1


def test_a_scene_without_frames(dataset: PreparedDataset) -> None:
    scenes = {name: dict(entry) for name, entry in dataset.manifest["scenes"].items()}
    del scenes["scene0001_00"]["frames"]
    text = problem(replace(dataset, manifest={**dataset.manifest, "scenes": scenes}))
    assert "Scene 'scene0001_00' has no RGB-D frames" in text


def test_views_larger_than_frames_are_a_warning(dataset: PreparedDataset) -> None:
    findings = check_data(recipe("data.view_width=128", "data.view_height=96"), dataset)
    assert findings.problems == []
    assert findings.warnings == [
        "Views of 128 x 96 pixels are enlarged: the frames of 3 scenes are smaller (first: scene0000_00, 64 x 48)."
    ]


def test_a_batch_that_cannot_be_shared() -> None:
    check_batch(8, 4)
    with pytest.raises(InputError, match=r"schedule\.batch_size is 8: 3 processes.*batch_size=9"):
        check_batch(8, 3)
