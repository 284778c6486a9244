"""`gcbench render` on a run of a few steps, through the real command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gcbench.cli.main import main
from gcbench.data.prepare import prepare_s3dis, prepare_scannet
from gcbench.data.storage import PreparedDataset
from gcbench.data.synthetic_rooms import generate_rooms
from gcbench.protocols.jobs import JobRecipe
from gcbench.recipe.loader import load_recipe
from gcbench.training.checkpoint import Checkpoints
from tests.data.raw_folders import write_room

SCENE = "scene0000_00"
SETTINGS = [
    *("schedule.steps=4", "run.checkpoint_every=2", "run.evaluate_every=2", "run.log_every=1"),
    *("data.evaluation_scenes=1", "data.holdout_every=3"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `prepared` (two rooms to train on, one for validation) and a `run` of four steps on it."""
    root = tmp_path_factory.mktemp("render")
    generate_rooms(root / "raw", layout="scannet", scenes=2, val=1, seed=0, frames=7, frame_size=(80, 60), workers=1)
    prepare_scannet(root / "raw", root / "prepared")
    overrides = [part for text in SETTINGS for part in ("--set", text)]
    where = ["--data", str(root / "prepared"), "--out", str(root / "run")]
    command = [sys.executable, "-m", "gcbench", "pretrain", "--preset", "tiny", *where, *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, to write into or to break."""
    return Path(shutil.copytree(trained / "run", tmp_path / "run"))


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "views.json").read_text())
    return content


def evaluations(run: Path) -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if line["event"] == "evaluation"}


def test_held_out_views_have_the_psnr_that_the_training_logged(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", str(run), SCENE]) == 0
    shown = record(run / "renders" / SCENE)
    assert shown["step"] == 4 and shown["points"] == "all" and shown["size"] == [80, 60]
    assert [view["frame"] for view in shown["views"]] == [20, 50]
    assert {view["role"] for view in shown["views"]} == {"held out"}
    mean = float(np.mean([view["psnr"] for view in shown["views"]]))
    assert mean == pytest.approx(evaluations(run)[4]["psnr_heldout"], abs=2e-3)
    output = capsys.readouterr().out
    assert f"{mean:.2f}" in output and "held out" in output


def test_views_trained_on_have_the_psnr_that_the_training_logged(run: Path, tmp_path: Path) -> None:
    """The evaluation takes as many of them as views are held out: the first and the last."""
    assert main(["render", str(run), SCENE, "--views", "train", "--max-views", "2", "--out", str(tmp_path / "o")]) == 0
    shown = record(tmp_path / "o")["views"]
    assert [(view["frame"], view["role"]) for view in shown] == [(0, "trained on"), (60, "trained on")]
    mean = float(np.mean([view["psnr"] for view in shown]))
    assert mean == pytest.approx(evaluations(run)[4]["psnr_train"], abs=2e-3)


def test_files_are_images_of_the_size_and_depth_is_millimetres(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    assert main(["render", str(run), SCENE, "--frames", "20,0", "--size", "64x48", "--out", str(out)]) == 0
    shown = record(out)
    assert [(view["frame"], view["role"]) for view in shown["views"]] == [(0, "trained on"), (20, "held out")]
    assert shown["size"] == [64, 48]
    for view in shown["views"]:
        images = {name: Image.open(out / file) for name, file in view["files"].items()}
        assert set(images) == {"color", "depth", "photo", "features"}
        assert {image.size for image in images.values()} == {(64, 48)}
        assert images["depth"].mode.startswith("I")
        color, photo = (np.asarray(images[name], dtype=np.float64) / 255 for name in ("color", "photo"))
        assert -10 * np.log10(np.mean((color - photo) ** 2)) == pytest.approx(view["psnr"], abs=0.05)
        depth = np.asarray(images["depth"]) / 1000
        assert 0.3 < depth.mean() < 8.0  # metres, in a room
        assert 0 <= view["alpha_above_half"] <= 1 and 0 < view["alpha_mean"] <= 1
    written = {path.name for path in out.iterdir()}
    assert written == {"panel.png", "views.json"} | {f for view in shown["views"] for f in view["files"].values()}


def test_depth_error_is_metres_where_the_camera_measured(run: Path, trained: Path) -> None:
    assert main(["render", str(run), SCENE, "--frames", "20"]) == 0
    (view,) = record(run / "renders" / SCENE)["views"]
    rendered = np.asarray(Image.open(run / "renders" / SCENE / view["files"]["depth"])) / 1000
    frame = PreparedDataset.open(trained / "prepared").frames(SCENE)[2]
    measured = frame.depth > 0
    assert np.abs(rendered - frame.depth / 1000)[measured].mean() == pytest.approx(view["depth_error"], abs=1e-3)


def test_other_files_in_the_folder_stay_and_a_second_call_gives_the_same_bytes(run: Path) -> None:
    out = run / "renders" / SCENE
    assert main(["render", str(run), SCENE]) == 0
    (out / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(["render", str(run), SCENE]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_masked_points_change_the_picture(run: Path) -> None:
    assert main(["render", str(run), SCENE, "--masked"]) == 0
    masked = record(run / "renders" / SCENE)
    assert masked["points"] == "masked"
    mean = float(np.mean([view["psnr"] for view in masked["views"]]))
    assert abs(mean - evaluations(run)[4]["psnr_heldout"]) > 2e-3


def test_a_path_of_the_camera_is_an_animation(run: Path) -> None:
    assert main(["render", str(run), SCENE, "--max-views", "1", "--path", "5"]) == 0
    with Image.open(run / "renders" / SCENE / "path.webp") as animation:
        assert animation.n_frames == 5  # type: ignore[attr-defined]
        assert animation.size == (80, 60)


def test_a_scene_outside_the_training_is_said_to_be_unseen(run: Path, tmp_path: Path, trained: Path) -> None:
    moved = Path(shutil.copytree(trained / "prepared", tmp_path / "moved"))
    where = ["--data", str(moved), "--out", str(tmp_path / "o")]
    assert main(["render", str(run), "scene0002_00", "--views", "all", *where]) == 0
    assert {view["role"] for view in record(tmp_path / "o")["views"]} == {"not in training"}
    assert main(["render", str(run), SCENE, *where]) == 0  # the same data in another place
    assert {view["role"] for view in record(tmp_path / "o")["views"]} == {"held out"}


def checkpoint(run: Path, step: int) -> Path:
    (file,) = (run / "checkpoints").glob(f"step-{step:09d}-*.pt")
    return file


def test_a_broken_newest_checkpoint_falls_back_and_stays(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest = checkpoint(run, 4)
    newest.write_bytes(newest.read_bytes()[:1000])
    assert main(["render", str(run), SCENE]) == 0
    shown = record(run / "renders" / SCENE)
    assert shown["step"] == 2
    mean = float(np.mean([view["psnr"] for view in shown["views"]]))
    assert mean == pytest.approx(evaluations(run)[2]["psnr_heldout"], abs=2e-3)
    assert f"{newest.name} is damaged" in " ".join(capsys.readouterr().err.split())
    assert newest.is_file()

    checkpoint(run, 2).write_bytes(b"")
    assert main(["render", str(run), SCENE]) == 1
    assert "All 2 checkpoints in" in capsys.readouterr().err


def test_a_checkpoint_runs_no_code(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (tmp_path / "harm",)  # type: ignore[return-value]

    Checkpoints(run / "checkpoints", warn=print).save(4, {"model": Harmful()})
    assert main(["render", str(run), SCENE]) == 1
    assert "is undamaged, but cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "harm").exists()


def test_a_checkpoint_of_another_size_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = json.loads((run / "job.json").read_text())
    job["recipe"]["values"]["gaussians.hidden"] = 32
    (run / "job.json").write_text(json.dumps(job))
    assert main(["render", str(run), SCENE]) == 1
    assert "does not fit the recipe" in capsys.readouterr().err


def test_a_model_without_a_teacher_has_no_feature_pictures(run: Path) -> None:
    """With losses.semantic 0 there are no features, and no head that makes or projects them."""
    state = torch.load(checkpoint(run, 4), weights_only=True)
    semantic = ("projection.", "heads.feature.")
    weights = {name: value for name, value in state["model"].items() if not name.startswith(semantic)}
    assert len(weights) < len(state["model"])
    Checkpoints(run / "checkpoints", warn=print).save(4, {**state, "model": weights})
    assert main(["render", str(run), SCENE, "--max-views", "1"]) == 0
    (view,) = record(run / "renders" / SCENE)["views"]
    assert set(view["files"]) == {"color", "depth", "photo"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{run}", "scene0000_0"], 2, "no scene 'scene0000_0' (close: scene0000_00"),
        (["{run}", "../../etc"], 2, "no scene '../../etc'"),
        (["{prepared}", SCENE], 2, "not a run folder"),
        (["nowhere", SCENE], 2, "nowhere is not a run folder"),
        (["{run}", SCENE, "--frames", "20,999"], 2, "no frame 999 among its 7 (close: 40, 50, 60)"),
        (["{run}", SCENE, "--frames", "first"], 2, "--frames first are no frame numbers"),
        (["{run}", SCENE, "--size", "80"], 2, "--size 80 is no size"),
        (["{run}", SCENE, "--size", "0x60"], 2, "--size 0x60 is no size"),
        (["{run}", SCENE, "--data", "nowhere"], 1, "There is no folder nowhere"),
        (["{run}", SCENE, "--out", "{run}/job.json"], 2, "job.json is a file, not a folder"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    run: Path, trained: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    before = sorted(run.rglob("*"))
    filled = [word.format(run=run, prepared=trained / "prepared") for word in arguments]
    assert main(["render", *filled]) == code
    assert message in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before


def test_runs_that_cannot_render_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = json.loads((run / "job.json").read_text())
    shutil.rmtree(run / "checkpoints")
    assert main(["render", str(run), SCENE]) == 1
    assert "has no checkpoint yet" in capsys.readouterr().err

    rooms = {"kind": "prepare", "name": "p", "layout": "scannet", "raw": "r", "out": "o", "source_key": "k"}
    (run / "job.json").write_text(json.dumps(rooms))
    assert main(["render", str(run), SCENE]) == 2
    assert "a run of kind 'prepare'" in capsys.readouterr().err

    semantic = JobRecipe.of(load_recipe("semantic/scannet")).model_dump(mode="json")
    (run / "job.json").write_text(json.dumps({**job, "recipe": semantic}))
    assert main(["render", str(run), SCENE]) == 1
    assert "its recipe is of kind 'semantic'" in capsys.readouterr().err

    del job["recipe"]["values"]["optimizer.lr"]
    (run / "job.json").write_text(json.dumps(job))
    assert main(["render", str(run), SCENE]) == 1
    assert "optimizer.lr" in capsys.readouterr().err


def test_a_dataset_that_is_gone_or_has_no_frames_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = json.loads((run / "job.json").read_text())
    (run / "job.json").write_text(json.dumps({**job, "data": str(tmp_path / "gone")}))
    assert main(["render", str(run), SCENE]) == 1
    assert "--data DIR" in capsys.readouterr().err

    for area in range(1, 7):
        write_room(tmp_path / "raw", f"Area_{area}/office_1")
    prepare_s3dis(tmp_path / "raw", tmp_path / "s3dis")
    assert main(["render", str(run), "Area_1/office_1", "--data", str(tmp_path / "s3dis")]) == 1
    assert "Scene 'Area_1/office_1'" in capsys.readouterr().err
    assert main(["render", str(run), "office_1", "--data", str(tmp_path / "s3dis")]) == 2
    assert "6 scenes, 0 of them with frames" in capsys.readouterr().err
