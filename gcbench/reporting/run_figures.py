"""Pictures of a pre-training run, from its log and the views it drew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gcbench.files import write_atomic
from gcbench.reporting.figures import loss_curves, run_curves
from gcbench.reporting.render import Figure
from gcbench.runs.store import Run

_LOSSES = {"colour": "image", "depth": "depth", "semantic": "semantic"}
_COMPARED = {
    "Loss": "loss",
    "PSNR of held-out views (dB)": "psnr_heldout",
    "mIoU": "mIoU",
    "AP50": "mAP50",
    "Learning rate": "lr",
}
_PSNR = {"views trained on": "psnr_train", "held-out views": "psnr_heldout"}


def panel_path(run: Run, step: int) -> Path:
    """Where the picture of held-out views after `step` steps lies."""
    return run.folder / "panels" / f"step-{step:09d}.png"


def draw_pretraining(run: Run) -> list[Figure]:
    """Store held-out views as last drawn and the curves so far in the run's `figures/`, and return them."""
    figures = []
    panels = sorted((run.folder / "panels").glob("step-*.png"))
    if panels:
        step = int(panels[-1].stem.removeprefix("step-"))
        figures.append(
            _store(
                run,
                "held-out-views",
                panels[-1].read_bytes(),
                "Views never trained on",
                f"Photo, rendered colour, depth camera, rendered depth and rendered features after {step:,} steps.",
            )
        )
    records = run.records()
    if any(record.get("event") == "step" for record in records):
        words = "Unweighted losses of the training views (Eq. 17-19); PSNR of views trained on and held out."
        drawn = loss_curves(records, losses=_LOSSES, psnr=_PSNR, title="Pre-training", caption=words)
        figures.append(_store(run, "curves", drawn.png, drawn.title, drawn.caption, drawn.svg))
    return figures


def draw_comparison(runs: Sequence[tuple[str, Run]], path: Path) -> None:
    """Draw losses and what was measured of several runs, by label, into a PNG file.

    Raises:
        InputError: none of them has logged anything of that.
    """
    logs = {label: run.records() for label, run in runs}
    write_atomic(path, run_curves(logs, values=_COMPARED))


def _store(run: Run, name: str, png: bytes, title: str, caption: str, svg: bytes | None = None) -> Figure:
    return Figure(title, caption, run.save_figure(name, png, title=title, caption=caption, svg=svg))
