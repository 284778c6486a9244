"""Trainings of either kind in this process: budgets, limits, the last and the best model, going on, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gcbench.data.storage import PreparedDataset
from gcbench.data.subsets import draw, load_points, load_scenes
from gcbench.errors import DataError
from gcbench.protocols.downstream import TrainingSet
from gcbench.protocols.encoders import build_encoder, export_encoder
from gcbench.protocols.trained_models import load_model, model_file, read_config
from gcbench.recipe.schema import Checkpoint, InstanceRecipe, SemanticRecipe
from gcbench.runs.results import Result, load_result
from tests.protocols.small_segmentation import StopAfter, job_of, run_job, write_rooms

KINDS = ("semantic", "instance")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return write_rooms(tmp_path_factory.mktemp("rooms"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_says_what_was_trained_on_and_which_models_are_kept(
    kind: str, dataset: PreparedDataset, tmp_path: Path
) -> None:
    job = job_of(kind, dataset)
    result, run, events = run_job(job, tmp_path / "run")
    assert result.budget is not None
    assert (result.budget.steps, result.budget.samples, result.budget.scenes) == (6, 12, 3)
    assert (result.budget.passes, result.budget.epochs) == (4.0, None)
    assert result.budget.labelled_points == 3 * 1650
    metric = "mIoU" if kind == "semantic" else "mAP50"
    evaluated = {e["step"]: e[metric] for e in events if e["event"] == "evaluation"}
    assert list(evaluated) == [2, 4, 6]
    assert result.checkpoints["last"].step == 6
    assert result.checkpoints["last"].metrics[metric] == evaluated[6] == result.metrics[metric]
    assert result.checkpoints["best"].metrics[metric] == max(evaluated.values())
    assert result.checkpoints["best"].step == min(s for s, v in evaluated.items() if v == max(evaluated.values()))
    assert load_result(run.folder / "result.json").model_dump_json() == result.model_dump_json()
    model, config = load_model(model_file(run.folder))
    assert (config.task, config.checkpoint, config.label_set) == (kind, "last", "scannet20")
    assert not model.training


def scored(result: Result, checkpoint: Checkpoint) -> tuple[int, dict[str, float]]:
    score = result.checkpoints[checkpoint]
    return score.step, score.metrics


def test_the_best_model_is_scored_where_the_recipe_says(dataset: PreparedDataset, tmp_path: Path) -> None:
    """With a rate that ruins the end, the best is not the last."""
    words = ("optimizer.lr=0.5", "schedule.final_div_factor=1.0", "schedule.div_factor=100.0")
    last, _, _ = run_job(job_of("semantic", dataset, *words), tmp_path / "last")
    best, run, _ = run_job(job_of("semantic", dataset, *words, "evaluation.checkpoint=best"), tmp_path / "best")
    assert [scored(best, name) for name in best.checkpoints] == [scored(last, name) for name in last.checkpoints]
    assert best.metrics == best.checkpoints["best"].metrics
    assert last.metrics == last.checkpoints["last"].metrics
    assert best.protocol.checkpoint == "best"
    assert read_config(model_file(run.folder)).checkpoint == "best"


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_was_stopped_goes_on_to_the_same_end(
    kind: str, dataset: PreparedDataset, tmp_path: Path
) -> None:
    job = job_of(kind, dataset)
    straight, run, _ = run_job(job, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run_job(job, tmp_path / "again", StopAfter(3))
    resumed, again, events = run_job(job, tmp_path / "again")
    assert [e["step"] for e in events if e["event"] == "resumed"] == [3]
    assert resumed.metrics == straight.metrics
    assert resumed.checkpoints == straight.checkpoints
    one, other = (load_file(r.folder / "models" / "last.safetensors") for r in (run, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", KINDS)
def test_training_starts_from_a_given_encoder(kind: str, dataset: PreparedDataset, tmp_path: Path) -> None:
    job = job_of(kind, dataset, "optimizer.lr=1.0e-30", "optimizer.weight_decay=0.0")
    recipe = job.recipe.build()
    assert isinstance(recipe, SemanticRecipe | InstanceRecipe)
    torch.manual_seed(7)
    encoder = build_encoder(recipe.encoder)
    weights = export_encoder(encoder, recipe.encoder, tmp_path / "encoder")
    given = job.model_copy(update={"encoder": weights, "encoder_key": "given:abc"})
    result, run, _ = run_job(given, tmp_path / "run")
    model, _ = load_model(model_file(run.folder))
    for (name, trained), start in zip(model.encoder.named_parameters(), encoder.parameters(), strict=True):
        assert torch.allclose(trained, start, atol=1e-20), name
    assert any("encoder given" in note for note in result.notes)


def test_limited_scenes_and_points_are_all_that_is_seen(tmp_path: Path) -> None:
    dataset = write_rooms(tmp_path, train=10)
    draw(dataset, 0)
    whole = TrainingSet.of(dataset, job_of("semantic", dataset))
    assert (len(whole.names), whole.labelled, whole.labelled_points) == (10, None, 16500)
    scenes = TrainingSet.of(dataset, job_of("semantic", dataset, limit="scenes-20"))
    assert scenes.names == load_scenes(dataset, "scenes-20")
    assert scenes.labelled_points == 2 * 1650
    points = TrainingSet.of(dataset, job_of("semantic", dataset, limit="points-20"))
    assert points.labelled is not None
    assert {name: ids.tolist() for name, ids in points.labelled.items()} == {
        name: ids.tolist() for name, ids in load_points(dataset, "points-20").items()
    }
    assert points.labelled_points == 200


@pytest.mark.parametrize("words", [(), ("probe.frozen=true", "probe.batchnorm=frozen", "probe.features=extracted")])
def test_few_labels_train_both_ways(words: tuple[str, ...], tmp_path: Path) -> None:
    dataset = write_rooms(tmp_path / "data")
    draw(dataset, 0)
    result, _, _ = run_job(job_of("semantic", dataset, *words, limit="points-20"), tmp_path / "run")
    assert result.budget is not None
    assert result.budget.labelled_points == 60
    assert "trained on the data-efficient set points-20" in result.notes


@pytest.mark.parametrize(("batchnorm", "moves"), [("track", True), ("frozen", False)])
def test_the_proof_of_a_frozen_encoder(batchnorm: str, moves: bool, dataset: PreparedDataset, tmp_path: Path) -> None:
    words = ("probe.frozen=true", f"probe.batchnorm={batchnorm}", "probe.features=online")
    result, _, _ = run_job(job_of("semantic", dataset, *words), tmp_path / "run")
    assert result.encoder is not None
    assert result.encoder.parameters_before == result.encoder.parameters_after
    assert (result.encoder.buffers_before != result.encoder.buffers_after) == moves
    full, _, _ = run_job(job_of("semantic", dataset), tmp_path / "full")
    assert full.encoder is None  # it was trained


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_set_without_labels_stops_before_the_first_step(kind: str, tmp_path: Path) -> None:
    dataset = write_rooms(tmp_path / "data", labelled=False)
    with pytest.raises(DataError, match=r"None of the points of the 3 training scenes .* has a class of scannet20"):
        run_job(job_of(kind, dataset), tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_set_that_the_data_lacks_stops_before_the_first_step(
    kind: str, dataset: PreparedDataset, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="has no labels 'scannet200'"):
        run_job(job_of(kind, dataset, label_set="scannet200"), tmp_path / "run")


def test_an_encoder_with_other_channels_stops_before_the_first_step(dataset: PreparedDataset, tmp_path: Path) -> None:
    job = job_of("semantic", dataset)
    recipe = job.recipe.build()
    assert isinstance(recipe, SemanticRecipe)
    sizes = recipe.encoder.model_copy(update={"in_channels": 3})
    weights = export_encoder(build_encoder(sizes), sizes, tmp_path / "encoder")
    with pytest.raises(DataError, match="does not fit this encoder"):
        run_job(job.model_copy(update={"encoder": weights, "encoder_key": "x"}), tmp_path / "run")


def test_a_missing_set_says_how_to_make_it(dataset: PreparedDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gcbench data subsets"):
        run_job(job_of("semantic", dataset, limit="scenes-10"), tmp_path / "run")
