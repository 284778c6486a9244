"""`gcbench encode` and `gcbench predict` on files, with small networks of random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData
from safetensors import safe_open
from safetensors.numpy import load_file

from gcbench.cli.main import main
from gcbench.data.batching import collate
from gcbench.data.labels import load_label_set
from gcbench.data.samples import evaluation_sample
from gcbench.models.pointgroup import PointGroup
from gcbench.models.segmentation import Segmenter
from gcbench.protocols.encoders import build_encoder, export_encoder
from gcbench.protocols.semantic_inference import SceneInference
from gcbench.protocols.trained_models import KeptModels, ModelConfig, load_weights
from gcbench.recipe.loader import load_recipe
from gcbench.recipe.schema import Encoder, Grouping, SemanticRecipe
from gcbench.structures import Scene
from tests.protocols.small_segmentation import room, write_rooms

SIZES = Encoder(in_channels=6, base_channels=8, channels=(8, 12), layers=(1, 1))
GRID = 0.1


def write_npz(file: Path, scene: Scene) -> Path:
    np.savez(file, coord=scene.coord, color=scene.color, normal=scene.normal)
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, two trained models, a dataset, and a room in a file."""
    root = tmp_path_factory.mktemp("encode")
    torch.manual_seed(0)
    export_encoder(build_encoder(SIZES), SIZES, root / "encoder", {"grid_size": GRID})
    config = ModelConfig(task="semantic", label_set="scannet20", grid_size=GRID, encoder=SIZES, evaluation="pointcept")
    KeptModels(root / "semantic", config, "mIoU").keep("best", Segmenter(build_encoder(SIZES), 20), 5, {"mIoU": 0.1})
    grouping = Grouping(radius=1.5, cluster_minimum=3, proposal_minimum=4)
    config = config.model_copy(update={"task": "instance", "grouping": grouping})
    KeptModels(root / "instance", config, "mAP50").keep("last", PointGroup(build_encoder(SIZES), 20), 5, {})
    write_rooms(root / "rooms", train=1)
    write_npz(root / "room.npz", room("scene0000_00", 0))
    return root


def encode(folder: Path, scene: str | Path, out: Path, *words: str) -> np.ndarray:
    assert main(["encode", str(scene), "--model", str(folder / "encoder"), "--out", str(out), *words]) == 0
    return load_file(out)["features"]


def test_every_point_has_the_feature_of_its_voxel_in_order(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = encode(folder, folder / "room.npz", tmp_path / "out.safetensors")
    scene = replace(room("scene0000_00", 0), segments={}, instance=None)
    sample = evaluation_sample(scene, grid_size=GRID, label_set="")
    encoder = build_encoder(SIZES)
    encoder.load_state_dict(
        {k: torch.from_numpy(v) for k, v in load_file(folder / "encoder/model.safetensors").items()}
    )
    with torch.no_grad():
        expected = encoder.eval()(collate([sample.points])).numpy()[sample.inverse]
    assert features.shape == (len(scene), 12)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    assert "voxels of 10 cm (as it was trained)" in capsys.readouterr().out
    with safe_open(tmp_path / "out.safetensors", framework="np") as file:
        assert file.metadata()["scene"] == "room"
    half = encode(folder, folder / "room.npz", tmp_path / "half.safetensors", "--half")
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, features, rtol=2e-3, atol=1e-3)


def test_a_prepared_scene_gives_the_same_as_its_file(folder: Path, tmp_path: Path) -> None:
    one = encode(folder, folder / "room.npz", tmp_path / "one.safetensors")
    other = encode(folder, f"{folder / 'rooms'}:scene0000_00", tmp_path / "other.safetensors")
    assert np.array_equal(one, other)


def test_the_order_of_points_is_the_order_of_features(folder: Path, tmp_path: Path) -> None:
    """For a cloud with a point per voxel: where there are more, another one may stand for the voxel."""
    scene = room("scene0000_00", 0)
    sample = evaluation_sample(replace(scene, segments={}, instance=None), grid_size=GRID, label_set="")
    first = np.unique(sample.inverse, return_index=True)[1]
    thin = replace(scene, coord=scene.coord[first], color=scene.color[first], normal=scene.normal[first])
    order = np.random.default_rng(0).permutation(len(first))
    moved = replace(thin, coord=thin.coord[order], color=thin.color[order], normal=thin.normal[order])
    one = encode(folder, write_npz(tmp_path / "one.npz", thin), tmp_path / "one.safetensors")
    other = encode(folder, write_npz(tmp_path / "other.npz", moved), tmp_path / "other.safetensors")
    np.testing.assert_allclose(one[order], other, rtol=1e-4, atol=1e-5)


def test_a_trained_model_lends_its_encoder(folder: Path, tmp_path: Path) -> None:
    model = str(folder / "semantic" / "best.safetensors")
    assert main(["encode", str(folder / "room.npz"), "--model", model, "--out", str(tmp_path / "f.safetensors")]) == 0
    assert load_file(tmp_path / "f.safetensors")["features"].shape == (1650, 12)


def test_predicted_classes_are_those_that_a_table_scores(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = folder / "semantic" / "best.safetensors", tmp_path / "out.ply"
    assert main(["predict", str(folder / "room.npz"), "--model", str(model), "--out", str(out)]) == 0
    vertex = PlyData.read(str(out))["vertex"].data
    recipe = load_recipe("semantic/s3dis").recipe  # scored on points
    assert isinstance(recipe, SemanticRecipe)
    labels = load_label_set("scannet20")
    network = Segmenter(build_encoder(SIZES), 20)
    load_weights(network, model)
    scene = room("scene0000_00", 0)
    expected = SceneInference(recipe.evaluation, GRID, labels).predict(network.eval(), scene, torch.device("cpu"))
    assert np.array_equal(vertex["label_scannet20"], expected["classes"])
    assert np.array_equal(np.stack([vertex[axis] for axis in "xyz"], 1), scene.coord)
    assert len(np.unique(np.stack([vertex[c] for c in ("red", "green", "blue")], 1), axis=0)) == len(
        np.unique(expected["classes"])
    )
    assert labels.classes[int(np.bincount(expected["classes"]).argmax())] in capsys.readouterr().out


def test_instances_are_predicted_too(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = folder / "instance" / "last.safetensors", tmp_path / "out.ply"
    assert main(["predict", str(folder / "room.npz"), "--model", str(model), "--out", str(out)]) == 0
    vertex = PlyData.read(str(out))["vertex"].data
    assert vertex["instance"].min() >= -1
    assert "instances" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "room.npz", "--model", "encoder", "--out", "x.ply"], "holds an encoder, which knows no classes"),
        (["predict", "room.npz", "--model", "nowhere", "--out", "x.ply"], "nowhere is no trained segmentation model"),
        (["predict", "room.npz", "--model", "room.npz", "--out", "x.ply"], "room.npz is no trained segmentation model"),
        (["predict", "encoder/model.safetensors", "--model", "instance/last.safetensors", "--out", "x.ply"], "no .ply"),
        (
            ["encode", "room.npz", "--model", "rooms", "--out", "x.safetensors"],
            "rooms has no config.json",
        ),
        (["encode", "room.npz", "--model", "encoder", "--out", "./room.npz"], "is the scene itself"),
        (["encode", "room.npz", "--model", "encoder", "--out", "nowhere/x"], "There is no folder"),
        (["encode", "room.npz", "--model", "encoder", "--out", "rooms"], "'rooms' is a folder"),
        (["encode", "rooms:scene0009_00", "--model", "encoder", "--out", "x"], "scene0009_00"),
        (["encode", "room.npz", "--model", "encoder", "--out", "x", "--device", "tpu"], "no device 'tpu'"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(
    words: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    assert main(words) in (1, 2)
    assert message in " ".join(capsys.readouterr().err.split())
    assert sorted(folder.rglob("*")) == before


def test_an_encoder_of_other_channels_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = SIZES.model_copy(update={"in_channels": 3})
    export_encoder(build_encoder(sizes), sizes, tmp_path / "encoder")
    words = ["encode", str(folder / "room.npz"), "--model", str(tmp_path / "encoder"), "--out", str(tmp_path / "x")]
    assert main(words) == 2
    assert "takes 3 channels; a scene has 6" in " ".join(capsys.readouterr().err.split())
