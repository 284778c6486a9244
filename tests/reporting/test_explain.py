"""Explanations of hand-made runs whose scores under every protocol are known.

Two scenes of five points in a line and three voxels of 1 m; only classes 0 and 1 of twenty occur. The model predicts
class 0 everywhere. On voxels class 0 has IoU 1 / 2, on points 1 / 4, and where there is no label counts, 1 / 3.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from gcbench.data.labels import load_label_set
from gcbench.data.storage import (
    PreparedDataset,
    describe,
    fingerprint,
    scene_file,
    scene_sha256,
    write_manifest,
    write_scene,
)
from gcbench.errors import InputError
from gcbench.protocols.jobs import FoldsJob, InstanceJob, JobRecipe, PretrainJob, SemanticJob
from gcbench.recipe.loader import load_recipe
from gcbench.recipe.tables import load_table
from gcbench.reporting.explain import explain, parse_cell
from gcbench.reporting.explain_render import explanation_json, explanation_markdown, render_explanation
from gcbench.reporting.explanation import Explanation, Share
from gcbench.reporting.rescoring import Progress
from gcbench.runs.cells import CellRun, record_cells
from gcbench.runs.results import (
    Budget,
    CheckpointScore,
    CurvePoint,
    InstanceResult,
    PretrainResult,
    Protocol,
    Provenance,
    SemanticResult,
)
from gcbench.runs.store import Run, RunStore
from gcbench.scoring.instance import InstancePredictions, InstanceScorer, InstanceTarget
from gcbench.scoring.protocols import load_protocol
from gcbench.scoring.semantic import SemanticScorer
from gcbench.structures import Scene

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
SCENES = ("scene0000_00", "scene0001_00")
X = np.array([0.25, 0.5, 1.5, 1.75, 2.25], np.float32)  # voxels of 1 m: two points, two, one
CLASSES = np.array([0, 1, 1, 1, -1], np.int16)
ALL_ZERO = np.zeros(3, np.int16)
CELL = "table1/gaussiancross/scannet/mIoU"


def write_dataset(root: Path, scenes: Mapping[str, tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]]) -> None:
    """A prepared dataset of x coordinates, classes and instances, all of them in the split val."""
    entries = {}
    for name, (x, classes, instance) in scenes.items():
        coord = np.zeros((len(x), 3), np.float32)
        coord[:, 0] = x
        up = np.tile(np.float32([0, 0, 1]), (len(x), 1))
        segments = {"scannet20": classes.astype(np.int16)}
        scene = Scene(name, coord, np.zeros((len(x), 3), np.uint8), up, segments, instance)
        write_scene(scene_file(root, "scenes", name), scene, {})
        entries[name] = describe(scene, scene_sha256(scene), [])
    splits: dict[str, list[str]] = {"train": [], "val": list(scenes)}
    header = {"format_version": 1, "layout": "scannet", "synthetic": False, "label_sets": ["scannet20"], "normals": "x"}
    write_manifest(root, {**header, "splits": splits, "scenes": entries, "fingerprint": fingerprint(entries, splits)})


class Reproduction:
    """A reproduction's folder, filled by hand."""

    def __init__(self, out: Path) -> None:
        self.out, self.store, self.data = out, RunStore(out / "runs"), out / "data" / "scannet"

    def provenance(self, recipe: JobRecipe, minutes: int = 0) -> Provenance:
        return Provenance(
            recipe=recipe.name,
            recipe_hash=recipe.hash,
            resolved_recipe=recipe.values,
            preset=recipe.preset,
            data_fingerprint=PreparedDataset.open(self.data).fingerprint,
            synthetic=False,
            git_commit=None,
            git_dirty=None,
            versions={},
            hardware={},
            wall_seconds=60.0,
            peak_memory_mb=1000.0,
            started=START,
            ended=START + timedelta(minutes=minutes),
        )

    def pretrain(self, *overrides: str, seed: int = 0, cell: tuple[str, str] | None = None, psnr: float = 20.0) -> Run:
        recipe = JobRecipe.of(load_recipe("pretrain/gaussiancross", overrides=overrides))
        job = PretrainJob(name=f"p{seed}", recipe=recipe, data=self.data, data_key="d", seed=seed)
        curve = [CurvePoint(step=1, psnr_train=psnr, psnr_heldout=psnr - 3), CurvePoint(step=2, psnr_heldout=psnr - 2)]
        result = PretrainResult(
            name=job.name,
            seed=seed,
            steps=100,
            losses={},
            psnr=curve,
            gaussians_kept=1.0,
            seconds_per_step=1.0,
            peak_memory_mb=1000.0,
            provenance=self.provenance(recipe),
        )
        return self.finish(job, result, *cell) if cell else self.finish(job, result)

    def semantic(
        self,
        *overrides: str,
        seed: int = 0,
        row: str = "gaussiancross",
        column: str = "scannet",
        table: str = "table1",
        resolution: str = "voxels",
        predicted: Mapping[str, NDArray[Any]] | None = None,
        checkpoints: Mapping[str, float] | None = None,
        minutes: int = 0,
    ) -> Run:
        """A probe that predicts class 0 everywhere, scored on voxels of 1 m, or another one."""
        values = next(one for one in load_table(table).rows if one.id == row).values
        changes = ["data.grid_size=1.0", f"evaluation.resolution={resolution}", *overrides]
        recipe = JobRecipe.of(load_recipe("semantic/scannet", row=values, overrides=changes))
        encoder = self.pretrain(seed=seed).folder / "encoder" / "model.safetensors"
        job = SemanticJob(
            name=f"{column}-{row}-seed{seed}",
            table=table,
            row=row,
            column=column,
            fold=None,
            recipe=recipe,
            data=self.data,
            data_key="d",
            label_set="scannet20",
            train=("train",),
            val=("val",),
            encoder=encoder,
            encoder_key=f"e{seed}",
            seed=seed,
        )
        dataset, predictions = PreparedDataset.open(self.data), predicted or dict.fromkeys(SCENES, ALL_ZERO)
        scorer = SemanticScorer(load_label_set("scannet20"), load_protocol("pointcept"))
        first = [0, 2, 4] if resolution == "voxels" else range(5)
        for name in SCENES:
            target = dataset.scene(name).segments["scannet20"][first]
            scorer.add(name, predictions[name].astype(np.int64), target.astype(np.int64))
        kept = {
            name: CheckpointScore(step=1, metrics={"mIoU": value, "mAcc": value})
            for name, value in (checkpoints or {}).items()
        }
        result = SemanticResult(
            table=table,
            row=row,
            column=column,
            seed=seed,
            protocol=protocol(resolution=resolution),
            provenance=self.provenance(recipe, minutes),
            budget=Budget(scenes=1, labelled_points=4, steps=100, samples=200, passes=200.0),
            checkpoints=kept,  # type: ignore[arg-type]
            **scorer.result().as_record(),
        )
        run = self.finish(job, result, table, row, column)
        self.keep(run, {name: {"classes": array} for name, array in predictions.items()})
        return run

    def finish(self, job: Any, result: Any, table: str = "", row: str = "", column: str = "pretraining") -> Run:
        run = self.store.run(job.kind, job.name, job.key)
        if not run.is_done:
            run.start(job.model_dump(mode="json")).finish(result)
        if table:
            cell = CellRun(row=row, column=column, seed=job.seed, run=f"{job.kind}/{run.folder.name}")
            record_cells(self.out, table, [cell])
        return run

    def keep(self, run: Run, predictions: Mapping[str, Mapping[str, NDArray[Any]]], key: str = "cafe") -> Path:
        folder = run.folder / "predictions" / key
        folder.mkdir(parents=True)
        for name, arrays in predictions.items():
            save_file(dict(arrays), folder / f"{name}.safetensors")
        return folder

    def explain(self, cell: str = CELL) -> Explanation:
        return explain(parse_cell(cell), self.out)


def protocol(**changes: Any) -> Protocol:
    values = {
        "label_set": "scannet20",
        "split": "val",
        "split_hash": "abc",
        "resolution": "voxels",
        "inference": "single-pass",
        "checkpoint": "last",
        "batchnorm": "track",
        "evaluation": "pointcept",
        "evaluation_version": 1,
    }
    return Protocol(**{**values, **changes})


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Reproduction]:
    reproduction = Reproduction(tmp_path / "out")
    write_dataset(reproduction.data, dict.fromkeys(SCENES, (X, CLASSES, None)))
    yield reproduction


def shares(explanation: Explanation, kind: str) -> dict[str, Share]:
    return {share.change: share for share in explanation.shares if share.kind == kind}


def numbers(explanation: Explanation, kind: str = "scoring") -> dict[str, Any]:
    return {change: pytest.approx(share.number) for change, share in shares(explanation, kind).items()}


def test_predictions_of_voxels_under_every_other_protocol(made: Reproduction) -> None:
    made.semantic()
    found = made.explain()
    assert found.mean == pytest.approx(100 * (1 / 2) / 20)
    assert numbers(found) == {
        "scored on points": 100 * (1 / 4) / 20,
        "policy scannet-official": 100 * (1 / 2) / 2,  # of the two classes that occur
        "scored on points, policy scannet-official": 100 * (1 / 4) / 2,
        "unlabelled points count as errors": 100 * (1 / 3) / 20,
    }
    assert shares(found, "scoring")["policy scannet-official"].share == pytest.approx(25 - 2.5)
    assert not found.notes
    sizes = [abs(share.share) for share in found.shares]
    assert sizes == sorted(sizes, reverse=True)
    assert found.largest is not None and found.largest.change == "policy scannet-official"
    assert found.difference == pytest.approx(2.5 - 23.3)


def test_predictions_of_points_give_those_of_voxels(made: Reproduction) -> None:
    made.semantic(resolution="points", predicted=dict.fromkeys(SCENES, np.zeros(5, np.int16)))
    found = made.explain()
    assert found.mean == pytest.approx(100 * (1 / 4) / 20)
    assert numbers(found)["scored on voxels"] == 100 * (1 / 2) / 20
    assert numbers(found)["scored on voxels, policy scannet-official"] == 100 * (1 / 2) / 2


def test_shares_are_means_over_the_seeds(made: Reproduction) -> None:
    made.semantic()
    made.semantic(seed=1, predicted=dict.fromkeys(SCENES, np.array([0, 1, 1], np.int16)))
    found = made.explain()
    assert found.values == {0: pytest.approx(2.5), 1: pytest.approx(10.0)}
    # On points the second gives [0, 0, 1, 1, 1]: class 0 has IoU 1 / 2, class 1 has 2 / 3.
    share = shares(found, "scoring")["scored on points"]
    assert share.number == pytest.approx((1.25 + 100 * (1 / 2 + 2 / 3) / 20) / 2)
    assert (share.share, share.seeds) == (pytest.approx(share.number - 6.25), 2)
    assert shares(found, "seeds")["other seeds"].share == pytest.approx(7.5 / math.sqrt(2))
    assert not [one for one in found.unmeasured if "seeds" in one.what]


def test_scenes_that_differ_widen_the_interval(made: Reproduction) -> None:
    made.semantic(predicted={SCENES[0]: ALL_ZERO, SCENES[1]: np.array([0, 1, 1], np.int16)})
    (share,) = shares(made.explain(), "scenes").values()
    assert share.number is None and 1 < share.share < 10
    assert "over 2 scenes" in share.note


def test_only_predictions_that_score_as_the_result_says_are_taken(made: Reproduction) -> None:
    run = made.semantic()
    other = {name: {"classes": np.ones(3, np.int16)} for name in SCENES}
    made.keep(run, other, key="0000")
    made.keep(run, {SCENES[0]: {"classes": ALL_ZERO}}, key="0001")  # not whole
    assert numbers(made.explain())["scored on points"] == 1.25
    shutil.rmtree(run.folder / "predictions" / "cafe")
    found = made.explain()
    assert set(numbers(found)) == {"policy scannet-official"}
    assert f"{SCENES[1]}.safetensors is missing or broken" in found.notes[0]
    shutil.rmtree(run.folder / "predictions" / "0001")
    assert "none of the predictions" in made.explain().notes[0]


@pytest.mark.parametrize("classes", [np.zeros(4, np.int16), np.full(3, 20, np.int16), np.zeros((3, 1), np.int16)])
def test_predictions_that_do_not_fit_are_no_crash(made: Reproduction, classes: NDArray[Any]) -> None:
    run = made.semantic()
    shutil.rmtree(run.folder / "predictions")
    made.keep(run, {name: {"classes": classes} for name in SCENES})
    found = made.explain()
    assert "the predictions were not scored again" in found.notes[0]
    assert set(numbers(found)) == {"policy scannet-official"}


def test_data_that_changed_are_not_scored(made: Reproduction) -> None:
    made.semantic()
    shutil.rmtree(made.data)
    assert "There is no folder" in made.explain().notes[0]
    write_dataset(made.data, dict.fromkeys(SCENES, (X, np.zeros(5, np.int16), None)))
    assert "they have changed" in made.explain().notes[0]


def test_data_and_runs_that_moved_together_are_found(made: Reproduction, tmp_path: Path) -> None:
    made.semantic()
    made.out.rename(tmp_path / "moved")
    found = explain(parse_cell(CELL), tmp_path / "moved")
    assert not found.notes
    assert [recipe.kind for recipe in found.recipes] == ["semantic", "pretrain"]


def test_the_best_checkpoint_against_the_last(made: Reproduction) -> None:
    made.semantic(checkpoints={"last": 0.025, "best": 0.030})
    share = shares(made.explain(), "checkpoint")["best checkpoint instead of last"]
    assert (share.number, share.share) == (pytest.approx(3.0), pytest.approx(0.5))


def test_keys_that_are_not_the_papers(made: Reproduction) -> None:
    made.semantic("optimizer.lr=0.5", "run.workers=3")
    recipe = made.explain().recipes[0]
    assert {difference.key: (difference.ours, difference.paper) for difference in recipe.differences} == {
        "data.grid_size": (1.0, 0.02),
        "optimizer.lr": (0.5, 0.005),
        "run.workers": (3, 8),
    }
    lr = next(difference for difference in recipe.differences if difference.key == "optimizer.lr")
    assert (lr.ours_source, lr.paper_source) == ("override: command line", "paper: Table S.2")
    assert [d.key for d in recipe.differences if d.without_effect] == ["run.workers"]
    assert made.explain().recipes[1].differences == ()


def test_budgets_and_data_beside_the_papers(made: Reproduction) -> None:
    made.semantic()
    facts = {fact.what: (fact.ours, fact.paper) for fact in made.explain().facts}
    ours, paper = facts["budget, training"]
    assert ours == "100 steps, 200 samples, 200.0 passes over 1 scenes, 4 labelled points"
    assert paper == "30,000 steps, 960,000 samples, 800 epochs (passes), batches of 32"
    ours, paper = facts["data, training"]
    assert ours == "real rooms, 1 training scenes, 2 scored"
    assert paper == "scannet: trained on 1,201 of train; scored on 312 of val"
    assert facts["budget, pre-training"][0] == "100 steps, 3,200 samples"
    made.semantic(column="s3dis-area5", table="table1")
    facts = {fact.what: (fact.ours, fact.paper) for fact in made.explain("table1/gaussiancross/s3dis-area5").facts}
    assert facts["data, training"][1].endswith("Area_6; scored on Area_5")


def test_a_run_that_differs_in_one_key_measures_it(made: Reproduction) -> None:
    made.semantic("optimizer.lr=0.5", "losses.lovasz=0.5", checkpoints={"last": 0.025})
    better = dict.fromkeys(SCENES, np.array([0, 1, 1], np.int16))
    made.semantic("losses.lovasz=0.5", "run.workers=3", row="random-frozen", predicted=better)  # of another row
    made.semantic(
        "losses.lovasz=0.5", "optimizer.lr=0.7", "optimizer.weight_decay=0.1", row="random-frozen"
    )  # two keys
    found = made.explain()
    (share,) = shares(found, "recipe").values()
    assert share.change == "semantic.optimizer.lr=0.005 instead of 0.5"
    assert (share.number, share.share) == (pytest.approx(10.0), pytest.approx(7.5))
    assert share.note.startswith("the paper's value; run scannet-random-frozen-seed0-")
    (left,) = [one for one in found.unmeasured if "semantic/scannet" in one.what]
    assert left.what.startswith("2 values")  # the grid and the weight of Lovasz; the rate was measured
    assert "--set semantic.losses.lovasz=0.5" in left.command


def test_the_run_closest_to_the_paper_is_explained(made: Reproduction) -> None:
    made.semantic("optimizer.lr=0.5", "optimizer.weight_decay=0.1", minutes=2)
    near = made.semantic("optimizer.lr=0.5")
    found = made.explain()
    assert found.runs == (near.folder.name,)
    assert "runs with other values" in found.notes[0]
    assert list(shares(found, "recipe")) == ["semantic.optimizer.weight_decay=0.1 instead of 0.05"]


def test_commands_repeat_how_the_run_was_made(made: Reproduction) -> None:
    made.semantic("optimizer.lr=0.5")
    (seeds,) = [one for one in made.explain().unmeasured if one.what == "the spread over seeds"]
    words = seeds.command.split()
    assert words[:3] == ["gcbench", "reproduce", "table1"]
    assert words[words.index("--data") + 1] == str(made.data.parent)
    changes = [words[number + 1] for number, word in enumerate(words) if word == "--set"]
    assert changes == [
        *("semantic.data.grid_size=1.0", "semantic.evaluation.resolution=voxels", "semantic.optimizer.lr=0.5"),
    ]


def test_models_run_again_only_if_asked(made: Reproduction) -> None:
    run = made.semantic()
    asked: list[Path] = []

    def predict(runs: Sequence[tuple[Run, PreparedDataset]], progress: Progress) -> dict[str, float]:
        asked.extend(run.folder for run, _ in runs)
        return {"mIoU": 0.5}

    assert made.explain().unmeasured[0].what == "test-time augmentation"
    found = explain(parse_cell(CELL), made.out, predict=predict)
    assert asked == [run.folder]
    assert numbers(found)["test-time augmentation, on points"] == 50.0
    assert "test-time augmentation" not in [one.what for one in found.unmeasured]


def test_instances_under_both_policies(made: Reproduction) -> None:
    """An instance of two classes: one script counts it as its first vertex's class, the other as two instances."""
    classes = np.repeat([4, 6, 1], [120, 80, 50])
    instance = np.repeat([0, 0, -1], [120, 80, 50]).astype(np.int32)
    shutil.rmtree(made.data)
    write_dataset(made.data, {"room": (np.arange(250, dtype=np.float32), classes, instance)})
    recipe = JobRecipe.of(load_recipe("instance/scannet"))
    job = InstanceJob(
        name="i",
        table="table4",
        row="pointgroup-scratch",
        column="scannet",
        fold=None,
        recipe=recipe,
        data=made.data,
        data_key="d",
        label_set="scannet20",
        train=("train",),
        val=("val",),
        encoder=None,
        encoder_key=None,
        seed=0,
    )
    arrays = {
        "classes": np.array([4]),
        "scores": np.array([0.9], np.float32),
        "of_point": np.where(np.arange(250) < 120, 0, -1).astype(np.int32),
    }
    scorer = InstanceScorer(load_label_set("scannet20"), load_protocol("pointcept"))
    predictions = InstancePredictions(arrays["classes"], arrays["scores"], [np.arange(120)])
    scorer.add("room", predictions, InstanceTarget(classes.astype(np.int64), instance.astype(np.int64)))
    result = InstanceResult(
        table="table4",
        row="pointgroup-scratch",
        column="scannet",
        seed=0,
        protocol=protocol(resolution="points", ignored=("unlabelled", "wall", "floor"), batchnorm="trained"),
        provenance=made.provenance(recipe),
        **scorer.result().as_record(),
    )
    run = made.finish(job, result, "table4", "pointgroup-scratch", "scannet")
    made.keep(run, {"room": arrays})
    found = made.explain("table4/pointgroup-scratch/scannet/mAP")
    assert found.mean == pytest.approx(100 * 2 / 9)  # IoU 0.6 is over two of the nine thresholds
    assert numbers(found) == {
        "policy scannet-official": 100.0,
        "scored on voxels": 100 * 2 / 9,  # every point is a voxel of its own
        "scored on voxels, policy scannet-official": 100.0,
    }
    assert found.unmeasured[0].what == "the classes that are left out (wall, floor)"


def test_folds_are_scored_again_together(made: Reproduction) -> None:
    """A cell of one fold behind a job that sums folds: the predictions lie with the fold's run."""
    fold = made.semantic(row="random-frozen")
    result = fold.result().model_copy(update={"row": "gaussiancross", "column": "s3dis-6fold", "budget": None})
    job = FoldsJob(
        name="f",
        table="table1",
        row="gaussiancross",
        column="s3dis-6fold",
        label_set="scannet20",
        protocol="pointcept",
        folds=(Path("/elsewhere/runs/semantic") / fold.folder.name / "result.json",),
        fold_keys=("k",),
        seed=0,
    )
    made.finish(job, result, "table1", "gaussiancross", "s3dis-6fold")
    found = made.explain("table1/gaussiancross/s3dis-6fold")
    assert numbers(found)["scored on points"] == 1.25
    assert not found.notes


def test_a_pretraining_has_held_out_views(made: Reproduction) -> None:
    made.pretrain(cell=("table6", "opacity-0.3"), psnr=20.0)
    made.pretrain("data.views=8", psnr=23.0)
    found = made.explain("table6/opacity-0.3/pretraining")
    assert (found.values, found.unit) == ({0: 20.0}, "dB")
    assert numbers(found) == {"held-out views instead of training views": 18.0}
    assert numbers(found, "recipe") == {"pretrain.data.views=8 instead of 5": 23.0}
    assert made.explain("table6/opacity-0.3/pretraining/memory").values == {0: 1000.0}


def test_a_mean_is_put_down_to_its_columns(made: Reproduction, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = {"scannet": 4.5, "scannet200": 11.0, "average": 7.75}
    cells = {
        f"table7/radio/{column}/mIoU": SimpleNamespace(value=value, place="here") for column, value in printed.items()
    }
    monkeypatch.setattr("gcbench.reporting.explain.load_paper_table", lambda table: SimpleNamespace(cells=cells))
    made.semantic(table="table7", row="radio")
    better = dict.fromkeys(SCENES, np.array([0, 1, 1], np.int16))
    made.semantic("optimizer.lr=0.5", table="table7", row="radio", column="scannet200", predicted=better)
    found = made.explain("table7/radio/average")
    assert found.values == {0: pytest.approx((2.5 + 10.0) / 2)}
    assert [(share.change, share.share, share.number) for share in found.shares] == [
        ("the paper's 4.5 in the column scannet", pytest.approx(1.0), pytest.approx(7.25)),
        ("the paper's 11 in the column scannet200", pytest.approx(0.5), pytest.approx(6.75)),
    ]
    assert "gcbench explain table7/radio/scannet/mIoU" in found.notes[0]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("table1", "Tables: table1, table2"),
        ("table1/nobody/scannet", "Its rows: spunet-scratch"),
        ("table1/gaussiancross/mars", "Its columns: scannet, "),
        ("table6/opacity-0.3/pretraining/mIoU", "It has: PSNR, memory, seconds"),
        ("fig3/mask-10/pretraining", "Its columns: scannet"),
    ],
)
def test_what_there_is_is_named(cell: str, message: str) -> None:
    with pytest.raises(InputError, match="no ") as error:
        parse_cell(cell)
    assert message in error.value.way_out


def test_a_cell_that_was_not_run_says_how(made: Reproduction) -> None:
    with pytest.raises(InputError) as error:
        made.explain()
    assert "gcbench reproduce table1 --rows gaussiancross --columns scannet --out" in error.value.way_out
    with pytest.raises(InputError, match="only the paper has this row"):
        made.explain("table1/pc/scannet")


def test_rendered_for_a_terminal_for_markdown_and_as_json(made: Reproduction) -> None:
    from rich.console import Console

    made.semantic("optimizer.lr=0.5")
    found = made.explain()
    console = Console(width=80, no_color=True)
    with console.capture() as captured:
        console.print(render_explanation(found), crop=False)
    lines = captured.get().splitlines()
    commands = {one.command for one in found.unmeasured if one.command}
    assert commands <= {line.strip() for line in lines}  # each on one line
    assert any("Difference: -20.80" in line for line in lines)
    markdown = explanation_markdown(found)
    assert "| scoring | policy scannet-official | 25.00 | +22.50 | 1 |" in markdown
    assert "| optimizer.lr | 0.5 | 0.005 | override: command line | paper: Table S.2 |" in markdown
    content = json.loads(explanation_json(found))
    assert (content["mean"], content["paper"]) == (pytest.approx(2.5), 23.3)
    assert content["difference"] == pytest.approx(-20.8)
