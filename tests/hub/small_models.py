"""Small models and a small reproduction with real runs' files, for the tests of publishing."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from gcbench.data.labels import load_label_set
from gcbench.files import short_sha256
from gcbench.models.pointgroup import PointGroup
from gcbench.models.segmentation import EncoderState, Segmenter
from gcbench.models.sparse_unet import SparseUNet
from gcbench.protocols.encoders import build_encoder, export_encoder
from gcbench.protocols.jobs import JobRecipe, PretrainJob
from gcbench.protocols.pretraining_model import build_pretrainer
from gcbench.protocols.trained_models import KeptModels, ModelConfig
from gcbench.recipe.loader import load_recipe
from gcbench.recipe.schema import Encoder, PretrainRecipe
from gcbench.runs.cells import CellRun, record_cells
from gcbench.runs.results import EncoderHashes, PretrainResult, SemanticResult
from gcbench.runs.store import Run, RunStore
from gcbench.training.checkpoint import Checkpoints
from tests.reporting.made_up import made_pretraining
from tests.reporting.test_report_intervals import scored

SIZES = Encoder(in_channels=6, base_channels=8, channels=(8, 16, 24, 16), layers=(1, 2, 1, 1))
GRID = 0.05


def small_encoder(seed: int = 0, sizes: Encoder = SIZES) -> SparseUNet:
    """An encoder whose features differ from point to point."""
    torch.manual_seed(seed)
    encoder = build_encoder(sizes)
    for name, value in encoder.state_dict().items():
        if value.ndim == 5:
            torch.nn.init.normal_(value, std=0.1)
        elif name.endswith("running_var"):
            value.fill_(0.5)
    return encoder


def scene(points: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates, colours and normals."""
    generator = np.random.default_rng(seed)
    coord = generator.random((points, 3), dtype=np.float32) * np.float32(2)
    normal = generator.normal(size=(points, 3)).astype(np.float32)
    return coord, generator.integers(0, 256, (points, 3)).astype(np.uint8), normal


def write_encoder(folder: Path, seed: int = 0, **origin: Any) -> Path:
    """An exported encoder, as a pre-training writes it."""
    export_encoder(
        small_encoder(seed), SIZES, folder, {"grid_size": GRID, "recipe": "pretrain/gaussiancross", **origin}
    )
    return folder


def write_segmenter(file: Path, *, instances: bool = False) -> Path:
    """A kept model of a run."""
    classes = len(load_label_set("scannet20"))
    recipe = load_recipe("instance/scannet").recipe
    config = ModelConfig(
        task="instance" if instances else "semantic",
        label_set="scannet20",
        grid_size=GRID,
        encoder=SIZES,
        grouping=recipe.grouping if instances else None,  # type: ignore[union-attr]
        evaluation="pointcept",
    )
    model = PointGroup(small_encoder(), classes) if instances else Segmenter(small_encoder(), classes)
    KeptModels(file.parent, config, "mIoU").keep("last", model, 10, {"mIoU": 0.2})
    return file


def pretraining_job(out: Path) -> PretrainJob:
    """The job of a pre-training with the small encoder."""
    overrides = [f"encoder.{key}={value}" for key, value in SIZES.model_dump(mode="json").items()]
    loaded = load_recipe("pretrain/gaussiancross", preset="tiny", overrides=overrides)
    return PretrainJob(name="small", recipe=JobRecipe.of(loaded), data=out / "data", data_key="feed", seed=0)


def reproduction(out: Path, *, synthetic: bool = False, dirty: bool = False, probe_dirty: bool = False) -> Run:
    """A finished pre-training, and a probe of Table 1 on its encoder; returns the pre-training's run."""
    store = RunStore(out / "runs")
    job = pretraining_job(out)
    run = store.run("pretrain", job.name, job.key).start(job.model_dump(mode="json"))
    recipe = job.recipe.build()
    assert isinstance(recipe, PretrainRecipe)
    model = build_pretrainer(recipe, small_encoder(), 12)
    assert isinstance(model.encoder, SparseUNet)
    origin = {
        "grid_size": GRID,
        "recipe": job.recipe.name,
        "recipe_hash": job.recipe.hash,
        "preset": None,
        "synthetic": synthetic,
        "seed": 0,
        "steps": 100,
        "teacher": {"name": "radio"},
    }
    weights = export_encoder(model.encoder, SIZES, run.folder / "encoder", origin)
    Checkpoints(run.checkpoints, warn=print).save(100, {"model": model.state_dict()})
    before = EncoderState.of(model.encoder)
    for name in ("curves", "held-out-views"):
        run.save_figure(name, _png(), title=name, caption="")
    result = made_pretraining(
        weights_hash=short_sha256(weights), synthetic=synthetic, git_dirty=dirty, data_fingerprint="feed"
    ).result
    assert isinstance(result, PretrainResult)
    run.finish(result)
    _probe(out, store, run, weights, before, synthetic=synthetic, dirty=probe_dirty)
    return run


def _probe(
    out: Path, store: RunStore, encoder: Run, weights: Path, state: EncoderState, *, synthetic: bool, dirty: bool
) -> None:
    job = {"kind": "semantic", "encoder": str(weights), "encoder_key": encoder.folder.name[-8:]}
    run = store.run("semantic", "scannet-gaussiancross-seed0", "0123456789ab").start(job)
    hashes = EncoderHashes(
        parameters_before=state.parameters,
        parameters_after=state.parameters,
        buffers_before=state.buffers,
        buffers_after=state.buffers,
    )
    made = scored(label_set="scannet20", encoder=hashes, synthetic=synthetic, git_dirty=dirty)
    result = made.model_copy(update={"table": "table1", "row": "gaussiancross", "column": "scannet"})
    assert isinstance(result, SemanticResult)
    run.finish(result)
    name = f"{run.folder.parent.name}/{run.folder.name}"
    record_cells(out, "table1", [CellRun(row="gaussiancross", column="scannet", seed=0, run=name)])


def _png() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, "PNG")
    return buffer.getvalue()
