"""What a pre-training would do: `gcbench pretrain --dry-run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from gcbench.recipe.schema import PretrainRecipe

_FLOATS = 3  # kept per parameter: the weight and AdamW's two moments
_PANEL_MB = 1.0


def show_plan(console: Console, recipe: PretrainRecipe, data: Path, out: Path, processes: int) -> None:
    """Run all checks and print sizes: model, budget, data, teacher, disk. Data that is not made yet is left out.

    Raises:
        RefusedError: what would stop the training before it starts.
    """
    from gcbench.errors import refusing

    with refusing():
        lines = _lines(console, recipe, data, out, processes)
    for title in ("Model", "Budget", "Data", "Teacher", "Device", "Disk"):
        console.print(f"{title:<8} {lines[title]}", highlight=False, soft_wrap=True, markup=False)


def _lines(console: Console, recipe: PretrainRecipe, data: Path, out: Path, processes: int) -> dict[str, str]:
    """Title -> what is shown; warnings are printed at once."""
    import torch

    from gcbench.data.samples import split_frames
    from gcbench.data.storage import MANIFEST, PreparedDataset
    from gcbench.protocols.encoders import build_encoder
    from gcbench.protocols.pretrain_checks import check_batch, check_data
    from gcbench.protocols.pretrain_objective import PretrainingObjective
    from gcbench.protocols.pretraining_model import build_pretrainer
    from gcbench.training.loop import build_accelerator

    device = build_accelerator(recipe.run.precision).device
    check_batch(recipe.schedule.batch_size, processes)
    lines: dict[str, str] = {}
    if not (data / MANIFEST).is_file() and data.parent == out.parent / "data":
        lines["Data"] = f"synthetic rooms, to be made in {data}"
        total, teacher_dim = recipe.schedule.steps, None
    else:
        dataset = PreparedDataset.open(data)
        objective = PretrainingObjective(recipe, dataset, torch.device("cpu"))
        findings = check_data(recipe, dataset)
        findings.raise_if_any()
        names = dataset.scene_names(recipe.data.splits)
        frames = sum(dataset.frame_count(name) for name in names)
        heldout = sum(len(split_frames(dataset.frame_count(name), recipe.data.holdout_every)[1]) for name in names)
        lines["Data"] = f"{data}: {_scenes(len(names))}, {frames:,} frames, {heldout:,} of them held out"
        for message in findings.warnings:
            console.print(f"[yellow]{message}", highlight=False, soft_wrap=True)
        total, teacher_dim = recipe.schedule.total_steps(len(names)), objective.teacher_dim
        if objective.teacher is not None:
            lines["Teacher"] = f"{objective.teacher.name}, {objective.teacher.dim} channels, grid {objective.grid}"
    model = build_pretrainer(recipe, build_encoder(recipe.encoder), teacher_dim)
    weights, encoder = (sum(p.numel() for p in part.parameters()) for part in (model, model.encoder))
    batch = recipe.schedule.batch_size
    lines.setdefault("Teacher", recipe.teacher.name if recipe.losses.semantic else "none: losses.semantic is 0")
    lines["Model"] = f"{weights / 1e6:.1f} M parameters, {encoder / 1e6:.1f} M of them in the encoder"
    lines["Budget"] = f"{total:,} steps of {_scenes(batch)}, {recipe.data.views} views each" if total else "in epochs"
    lines["Device"] = f"{device.type}, {processes} process{'es' if processes > 1 else ''}, " + (
        "float32" if recipe.run.precision == "no" else recipe.run.precision
    )
    lines["Disk"] = f"about {_disk_mb(recipe, weights, encoder, total or 0):,.0f} MB in {out}" + (
        f", and up to {recipe.teacher.cache_gb} GB of teacher features" if recipe.teacher.cache_gb else ""
    )
    return lines


def _disk_mb(recipe: PretrainRecipe, weights: int, encoder: int, steps: int) -> float:
    pictures = _PANEL_MB * (steps / (recipe.run.evaluate_every or recipe.schedule.round_steps(steps)) + 3)
    checkpoints = recipe.run.keep_checkpoints + 2  # the best one, and one that is being written
    return (checkpoints * _FLOATS * weights + encoder) * 4 / 1e6 + pictures


def _scenes(count: int) -> str:
    return f"{count:,} scene{'' if count == 1 else 's'}"
