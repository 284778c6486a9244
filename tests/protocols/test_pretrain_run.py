"""Pre-training in this process: batches, what is logged, odd scenes, precision, teacher, export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from gcbench.data.batching import collate
from gcbench.data.frame_images import encode_depth
from gcbench.data.samples import Share
from gcbench.data.storage import PreparedDataset, write_manifest, write_scene
from gcbench.errors import InputError, RunError
from gcbench.objectives.pretraining import psnr
from gcbench.protocols.encoders import build_encoder
from gcbench.protocols.pretrain import PretrainBatches, pretrain, pretrain_samples
from gcbench.protocols.pretrain_evaluation import HeldOutEvaluation
from gcbench.protocols.pretrain_objective import PretrainingObjective
from gcbench.protocols.pretraining_model import build_pretrainer
from gcbench.protocols.worker import Reporter
from gcbench.recipe.schema import PretrainRecipe
from gcbench.runs.results import PretrainResult
from gcbench.runs.store import Run
from gcbench.structures import Scene
from gcbench.training.checkpoint import Checkpoints
from tests.protocols.small_pretraining import change_frames, small_job, small_recipe, write_dataset


class Never:
    """Nobody asks to stop."""

    def __call__(self) -> bool:
        return False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return write_dataset(tmp_path_factory.mktemp("pretrain"))


def run_job(dataset: PreparedDataset, folder: Path, *overrides: str) -> tuple[PretrainResult, Run]:
    AcceleratorState._reset_state(reset_partial_state=True)  # it keeps the first precision of a process
    job, run = small_job(dataset, folder, *overrides)
    with run.lock():
        result = pretrain(job, run, _Quiet(run), Never())
        assert result is not None
        run.finish(result)
    return result, run


class _Quiet(Reporter):
    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] != "progress":
            self.run.log(**event)


def built(dataset: PreparedDataset, *overrides: str) -> tuple[PretrainRecipe, PretrainingObjective, torch.nn.Module]:
    recipe = small_recipe(*overrides).recipe
    assert isinstance(recipe, PretrainRecipe)
    objective = PretrainingObjective(recipe, dataset, torch.device("cpu"))
    torch.manual_seed(0)
    return recipe, objective, build_pretrainer(recipe, build_encoder(recipe.encoder), objective.teacher_dim)


def test_processes_share_every_batch(dataset: PreparedDataset) -> None:
    recipe = small_recipe().recipe
    assert isinstance(recipe, PretrainRecipe)
    samples = pretrain_samples(recipe, dataset, seed=1)
    whole = PretrainBatches(samples, 4)
    parts = [PretrainBatches(samples, 4, Share(rank, 2)) for rank in range(2)]
    for number in (0, 3):
        points, views = whole[number]
        shares = [part[number] for part in parts]
        assert points.names == shares[0][0].names + shares[1][0].names
        assert torch.equal(points.coord, torch.cat([share[0].coord for share in shares]))
        assert [view.frame_ids for view in views] == [view.frame_ids for share in shares for view in share[1]]


def test_a_run_logs_draws_and_exports(dataset: PreparedDataset, tmp_path: Path) -> None:
    result, run = run_job(dataset, tmp_path / "run", "run.evaluate_every=2")
    records = run.records()
    logged = [record for record in records if record["event"] == "step"]
    assert [record["step"] for record in logged] == [1, 2, 3, 4]
    wanted = {"loss", "image", "depth", "semantic", "psnr", "lr", "grad_norm", "seconds", "seconds_per_scene"}
    wanted |= {"memory_mb", "kept", "above", "born", "gone", "data_share", "warnings"}
    assert wanted <= set(logged[0])
    recipe = small_recipe().recipe
    assert isinstance(recipe, PretrainRecipe)
    for record in logged:
        weights = recipe.losses
        total = sum(getattr(weights, name) * record[name] for name in ("image", "depth", "semantic"))
        assert record["loss"] == pytest.approx(total, rel=1e-5)
        assert record["seconds_per_scene"] == pytest.approx(record["seconds"] / 2)
        assert 0 <= record["data_share"] < 1
    assert [point.step for point in result.psnr] == [0, 2, 4]
    assert all(np.isfinite((point.psnr_heldout, point.psnr_train)).all() for point in result.psnr)
    assert result.seconds_per_scene == pytest.approx(result.seconds_per_step / 2)
    assert result.teacher is not None and result.teacher["name"] == "classical"
    assert run.result() == result
    panels = sorted(path.name for path in (run.folder / "panels").iterdir())
    assert panels == ["step-000000000.png", "step-000000002.png", "step-000000004.png"]
    assert {figure.path.name for figure in run.figures()} == {"curves.png", "held-out-views.png"}
    config = json.loads((run.folder / "encoder" / "config.json").read_text())
    origin = config["pretraining"]
    assert (origin["data"], origin["seed"], origin["steps"]) == (dataset.fingerprint, 0, 4)
    assert (
        origin["recipe"] == "pretrain/gaussiancross"
        and origin["recipe_hash"] == small_recipe("run.evaluate_every=2").hash
    )


def test_a_training_that_diverges_skips_and_then_stops_with_its_batch(dataset: PreparedDataset, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not finite in 2 steps in a row") as raised:
        run_job(dataset, tmp_path / "run", "optimizer.lr=1.0e+30", "schedule.steps=8", "run.skip_limit=2")
    assert "Lower optimizer.lr" in str(raised.value.way_out)
    assert list((tmp_path / "run" / "faults").glob("step-*.safetensors"))


def test_without_a_semantic_loss_there_is_no_teacher(dataset: PreparedDataset, tmp_path: Path) -> None:
    absent = "teacher.model=/nowhere"  # not even looked for
    result, run = run_job(dataset, tmp_path, "losses.semantic=0.0", "teacher.name=dinov2", absent, "schedule.steps=1")
    assert "semantic" not in result.losses and result.teacher is None
    with Image.open(run.folder / "panels" / "step-000000001.png") as without:
        narrow = without.width
    _, other = run_job(dataset, tmp_path / "with", "schedule.steps=1")
    with Image.open(other.folder / "panels" / "step-000000001.png") as with_features:
        assert with_features.width > narrow


def test_a_teacher_that_cannot_be_loaded_is_told_before_anything(dataset: PreparedDataset, tmp_path: Path) -> None:
    job, run = small_job(dataset, tmp_path, "teacher.name=dinov2", "teacher.model=/nowhere/at-all")
    with run.lock(), pytest.raises(InputError, match="/nowhere/at-all"):
        pretrain(job, run, _Quiet(run), Never())
    assert run.records() == []


def test_features_are_kept_on_request(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GCBENCH_CACHE", str(tmp_path / "cache"))
    recipe, objective, model = built(dataset, "teacher.cache_gb=1.0")
    batch = PretrainBatches(pretrain_samples(recipe, dataset, seed=0), 2)[0]
    first = objective(model, *batch)[1].semantic
    again = objective(model, *batch)[1].semantic
    assert first is not None and again is not None and torch.equal(first, again)
    assert objective.cache.hits == objective.cache.misses == 4
    assert list((tmp_path / "cache" / "teacher-features").rglob("*.maps"))


def test_evaluating_in_parts_changes_nothing(dataset: PreparedDataset) -> None:
    recipe, objective, model = built(dataset)
    evaluation = HeldOutEvaluation(pretrain_samples(recipe, dataset, seed=0), recipe, objective, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole = evaluation(model, nullcontext())
    evaluation.at_once = 1
    parts = evaluation(model, nullcontext())
    assert whole.keys() == {"psnr_heldout", "psnr_train", "image_heldout", "depth_heldout", "semantic_heldout"}
    assert parts == pytest.approx(whole, rel=1e-5)
    after = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_scenes_are_evaluated_in_batches_as_in_training(dataset: PreparedDataset) -> None:
    recipe, objective, model = built(dataset)
    samples = pretrain_samples(recipe, dataset, seed=0)
    evaluation = HeldOutEvaluation(samples, recipe, objective, 2)
    measured = evaluation(model, nullcontext())
    together = [samples.heldout_views(name) for name in evaluation.names]
    assert len(together) == 2
    model.train()
    with torch.no_grad():
        predictions, _ = objective(
            model, collate([sample.points for sample in together]), [sample.views for sample in together]
        )
    expected = [float(psnr(p.rendered.colors, p.targets.colors).mean()) for p in predictions]
    assert measured["psnr_heldout"] == pytest.approx(np.mean(expected), rel=1e-5)


def test_bfloat16_is_honoured_on_the_cpu(dataset: PreparedDataset, tmp_path: Path) -> None:
    deep = ("schedule.steps=2", "volume.dense_channels=[8,8]")  # the CPU's own sparse convolutions stay in float32
    full = run_job(dataset, tmp_path / "full", *deep)[0]
    half = run_job(dataset, tmp_path / "half", *deep, "run.precision=bf16")[0]
    assert half.losses != full.losses
    assert half.losses["loss"] == pytest.approx(full.losses["loss"], rel=0.05)


def test_odd_scenes_train_on_and_are_counted(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, scenes=1)
    nothing = np.zeros((48, 64), np.uint16)
    for position in range(10):
        change_frames(dataset, "scene0000_00", position, depth=encode_depth(nothing))
    result, run = run_job(dataset, tmp_path / "run", "schedule.steps=3")
    assert result.warnings["no-depth"] == 6  # two scenes a step
    told = [record for record in run.records() if record["event"] == "warning"]
    assert [(record["kind"], record["step"]) for record in told] == [("no-depth", 1)]
    assert "scene0000_00" in told[0]["message"]
    assert all(np.isfinite(record["loss"]) for record in run.records() if record["event"] == "step")


@pytest.mark.parametrize("together", [1, 2])
def test_a_scene_of_one_point_trains_on(tmp_path: Path, together: int) -> None:
    dataset = write_dataset(tmp_path, scenes=2)
    whole = dataset.scene("scene0001_00")
    one = Scene(whole.name, whole.coord[70:71], whole.color[70:71], whole.normal[70:71])
    path = dataset.root / "scenes" / "scene0001_00.arrow"
    write_scene(path, one, {})
    dataset.manifest["scenes"]["scene0001_00"]["points"] = 1
    write_manifest(dataset.root, dataset.manifest)
    changes = ("schedule.steps=4", "data.evaluation_scenes=2", f"schedule.batch_size={together}")
    result, run = run_job(PreparedDataset.open(dataset.root), tmp_path / "run", *changes)
    steps = [record for record in run.records() if record["event"] == "step"]
    assert result.warnings["one-point"] == 4 * together / 2  # every other scene
    assert "scene0001_00" in next(r["message"] for r in run.records() if r.get("kind") == "one-point")
    assert all(np.isfinite([record[key] for key in ("loss", "image", "depth", "grad_norm")]).all() for record in steps)
    kept = Checkpoints(run.checkpoints, warn=pytest.fail).load_last()
    assert kept is not None and all(torch.isfinite(value).all() for value in kept["model"].values())
