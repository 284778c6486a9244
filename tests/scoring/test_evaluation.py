"""Folders of predictions: which files are scenes, and what happens when a process dies."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from gcbench.errors import InputError, RunError
from gcbench.scoring.evaluation import SEMANTIC, Evaluation, FolderTruth, choose_scenes, collect, measured_scenes
from gcbench.scoring.label_files import write_labels
from gcbench.scoring.protocols import load_protocol
from gcbench.structures import LabelSet

LABELS = LabelSet("scannet20", "scannet", ("wall", "floor", "chair"), (1, 2, 5))


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    for scene in ("Area_1/office_1", "Area_1/hall", "Area_2/hall.2"):
        for folder in ("pred", "gt"):
            write_labels(tmp_path / folder / f"{scene}.txt", np.array([1, 2, 5, 5]))
    truth = FolderTruth.open(tmp_path / "gt", LABELS)
    return Evaluation(SEMANTIC, tmp_path / "pred", truth, LABELS, load_protocol("pointcept"))


def test_scenes_are_files_in_folders_too(evaluation: Evaluation) -> None:
    files, missing = choose_scenes(evaluation, allow_missing=False)
    assert list(files) == ["Area_1/hall", "Area_1/office_1", "Area_2/hall.2"]
    assert missing == ()
    with measured_scenes(evaluation, files, 1) as measured:
        assert collect(evaluation, measured).means()["mIoU"] == pytest.approx(1.0)


def test_files_of_other_kinds_are_no_scenes(evaluation: Evaluation) -> None:
    for folder in (evaluation.predictions, evaluation.predictions.parent / "gt"):
        (folder / "README.md").write_text("about")
        (folder / "Area_1" / "view.ply").write_text("ply")
    assert len(choose_scenes(evaluation, allow_missing=False)[0]) == 3
    assert len(FolderTruth.open(evaluation.predictions.parent / "gt", LABELS).scenes) == 3


def test_all_that_is_missing_is_counted_and_some_is_named(evaluation: Evaluation) -> None:
    (evaluation.predictions / "Area_1" / "hall.txt").unlink()
    (evaluation.predictions / "Area_2" / "hall.2.txt").unlink()
    with pytest.raises(InputError, match=r"2 of 3 scenes have no prediction in .*: Area_1/hall, Area_2/hall\.2\."):
        choose_scenes(evaluation, allow_missing=False)
    files, missing = choose_scenes(evaluation, allow_missing=True)
    assert (list(files), missing) == (["Area_1/office_1"], ("Area_1/hall", "Area_2/hall.2"))


def test_a_killed_process_is_an_error_and_no_number(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evaluation, "measure", lambda *_: os._exit(9))
    files, _ = choose_scenes(evaluation, allow_missing=False)
    with pytest.raises(RunError, match="fewer --workers"), measured_scenes(evaluation, files, 2) as measured:
        collect(evaluation, measured)
