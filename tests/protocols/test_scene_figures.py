"""Figures of scenes, from a pre-training of two steps to pictures in a run folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from safetensors.numpy import load_file

from gcbench.data.storage import PreparedDataset
from gcbench.errors import DataError
from gcbench.protocols.jobs import SceneFigureJob, read_job
from gcbench.protocols.pretrain import pretrain
from gcbench.protocols.scene_figures import chosen_scenes
from gcbench.protocols.worker import Reporter, StopRequest, execute
from gcbench.recipe.figures import load_figure
from gcbench.runs.results import FigureResult
from gcbench.runs.store import Run, RunStore
from tests.protocols.small_pretraining import small_job, write_dataset
from tests.reporting.svg_checks import check_svg, png_size

SMALL: dict[str, dict[str, Any]] = {
    "figS1": {"scenes": 1, "colors": "pca"},
    "figS2": {"scenes": 1, "classes": ("sofa", "chair")},
    "figS3": {"splits": ("train",), "scenes": 2, "label_set": "scannet20", "classes": ("floor", "chair")},
    "figS4": {"scenes": 1},
    "figS5": {"scenes": 2, "views": 1},
}


class Never:
    """Nobody asks to stop."""

    def __call__(self) -> bool:
        return False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return write_dataset(tmp_path_factory.mktemp("figures"), scenes=2)


@pytest.fixture(scope="module")
def pretraining(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    AcceleratorState._reset_state(reset_partial_state=True)
    job, run = small_job(dataset, tmp_path_factory.mktemp("run") / "small", "schedule.steps=2")
    with run.lock():
        result = pretrain(job, run, lambda event: run.log(**event), Never())
        assert result is not None
        run.finish(result)
    return run


Draw = Callable[..., tuple[FigureResult, Run]]


@pytest.fixture
def draw(dataset: PreparedDataset, pretraining: Run, tmp_path: Path) -> Draw:
    """Draw a figure in a run folder of its own."""

    def drawn(name: str, *, where: str = "runs", seed: int = 0, **changes: Any) -> tuple[FigureResult, Run]:
        definition = load_figure(name).definition.model_copy(update={**SMALL[name], **changes})
        job = SceneFigureJob(
            name=f"{name}-seed{seed}",
            definition=definition,
            data=dataset.root,
            data_key=dataset.fingerprint,
            pretraining=pretraining.folder,
            pretraining_key=read_job(pretraining.job_path).key,
            seed=seed,
        )
        run = RunStore(tmp_path / where).run(job.kind, job.name, job.key).queue(job.model_dump(mode="json"))
        assert read_job(run.job_path) == job
        with run.lock():
            run.finish(execute(read_job(run.job_path), run, Reporter(run), cast(StopRequest, Never())))
        result = run.result()
        assert isinstance(result, FigureResult)
        return result, run

    return drawn


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_figure_from_job_to_pictures(draw: Draw, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    result, run = draw(name)
    (stored,) = run.figures()
    assert stored.path.name == f"{name}.png"
    assert stored.svg is not None
    check_svg(stored.svg.read_bytes())
    assert png_size(stored.path.read_bytes())[0] == 1440
    assert (stored.title, stored.caption) == (result.title, result.caption)
    assert result.figure == name
    assert "small, pretrain/gaussiancross, preset tiny, 2 steps" in result.caption
    assert "prepared" in result.caption
    assert len(result.scenes) == SMALL[name]["scenes"]
    assert '"event": "progress"' in capsys.readouterr().out


def test_views_have_their_psnr_and_say_what_they_are(draw: Draw) -> None:
    result, run = draw("figS5")
    psnr = [scene.psnr for scene in result.scenes]
    assert all(value is not None and 3 < value < 60 for value in psnr)
    assert [scene.role for scene in result.scenes] == ["held out"] * 2
    assert f"PSNR {np.mean(psnr):.2f} dB, mean of 2 views (held out)" in result.caption
    first = result.scenes[0]
    arrays = load_file(run.folder / "arrays.safetensors")
    key = f"{first.scene}/frame-{first.frame:06d}"
    assert {name for name in arrays if name.startswith(key)} == {
        f"{key}/{part}" for part in ("photo", "color", "measured-depth", "depth", "features")
    }
    error = np.mean((arrays[f"{key}/photo"] - arrays[f"{key}/color"]) ** 2)
    assert -10 * math.log10(error) == pytest.approx(first.psnr, abs=1e-3)


def test_a_scan_has_a_colour_for_every_point(draw: Draw, dataset: PreparedDataset) -> None:
    result, run = draw("figS1")
    assert result.scenes[0].role == "not in training"
    name = result.scenes[0].scene
    colors = load_file(run.folder / "arrays.safetensors")[f"{name}/point-features"]
    assert colors.shape == (dataset.point_count(name), 3)
    assert colors.dtype == np.uint8
    assert np.ptp(colors) > 100


def test_similarity_is_one_at_the_query_and_numbers_say_how_it_spreads(draw: Draw, dataset: PreparedDataset) -> None:
    result, run = draw("figS3")
    assert [scene.query_class for scene in result.scenes] == ["floor", "chair"], "no class twice where there are others"
    for shown in result.scenes:
        similarity = load_file(run.folder / "arrays.safetensors")[f"{shown.scene}/similarity"]
        scene = dataset.scene(shown.scene)
        assert shown.query is not None
        assert similarity[shown.query] == pytest.approx(1.0)
        labels = scene.segments["scannet20"]
        same = labels == labels[shown.query]
        assert shown.same_class == pytest.approx(similarity[same].mean(), abs=1e-5)
        assert shown.other_classes == pytest.approx(similarity[~same & (labels >= 0)].mean(), abs=1e-5)


def test_without_labels_the_caption_says_which_rule_held(draw: Draw) -> None:
    result, _ = draw("figS4")
    assert result.scenes[0].query_class is None
    assert result.scenes[0].same_class is None
    assert "nearest to the scene's median" in result.caption
    assert "of the named class" not in result.caption


@pytest.mark.parametrize("name", ["figS1", "figS2"])
def test_the_same_job_gives_the_same_bytes(draw: Draw, name: str) -> None:
    first, second = (draw(name, where=where)[1] for where in ("first", "second"))
    names = ["arrays.safetensors", f"figures/{name}.png", f"figures/{name}.svg"]
    for file in names:
        assert (first.folder / file).read_bytes() == (second.folder / file).read_bytes(), file


def test_the_key_changes_with_what_decides_the_picture(dataset: PreparedDataset, pretraining: Run) -> None:
    job = SceneFigureJob(
        name="a",
        definition=load_figure("figS2").definition,
        data=dataset.root,
        data_key="d",
        pretraining=pretraining.folder,
        pretraining_key="p",
        seed=0,
    )
    other = [
        {"data_key": "e"},
        {"pretraining_key": "q"},
        {"seed": 1},
        {"definition": load_figure("figS3").definition},
        {"definition": job.definition.model_copy(update={"azimuth": 10.0})},
    ]
    keys = {job.key, *(job.model_copy(update=change).key for change in other)}
    assert len(keys) == len(other) + 1
    assert job.model_copy(update={"name": "b", "data": Path("elsewhere"), "pretraining": Path("there")}).key == job.key


def test_scenes_are_spread_over_the_splits(dataset: PreparedDataset) -> None:
    everything = chosen_scenes(dataset, ["train", "val"], 8, with_frames=True)
    assert len(everything) == len(set(everything)) == 3
    assert chosen_scenes(dataset, ["train", "val"], 2, with_frames=False) == [everything[0], everything[-1]]
    with pytest.raises(DataError, match="no split 'Area_1'"):
        chosen_scenes(dataset, ["Area_1"], 1, with_frames=False)


def test_rendering_needs_frames(dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PreparedDataset, "frame_count", lambda self, name: 0)
    with pytest.raises(DataError, match="no scene with frames in train"):
        chosen_scenes(dataset, ["train"], 1, with_frames=True)
    assert chosen_scenes(dataset, ["train"], 1, with_frames=False)
