"""Pictures of a pre-training run, from its log and the views it kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gcbench.reporting.figures import PanelRow, loss_curves, render_panel
from gcbench.reporting.render import Figure
from gcbench.runs.store import Run

_LOSSES = {"colour": "image", "depth": "depth", "semantic": "semantic"}
_PSNR = {"views trained on": "psnr_train", "held-out views": "psnr_heldout"}
_VIEWS = 3


def draw_pretraining(run: Run) -> list[Figure]:
    """Draw held-out views as last rendered and the curves, store them in the run's `figures/`, and return them."""
    figures = []
    panels = sorted((run.folder / "panels").glob("step-*.npz"))
    if panels:
        step = int(panels[-1].stem.removeprefix("step-"))
        figures.append(
            _store(
                run,
                "held-out-views",
                render_panel(_rows(panels[-1])),
                "Views never trained on",
                f"Photo, rendered colour, depth camera, rendered depth and rendered features after {step:,} steps.",
            )
        )
    records = run.records()
    if any(record.get("event") == "step" for record in records):
        figures.append(
            _store(
                run,
                "curves",
                loss_curves(records, losses=_LOSSES, psnr=_PSNR),
                "Pre-training",
                "Unweighted losses of the training views (Eq. 17-19); PSNR of views trained on and held out.",
            )
        )
    return figures


def _store(run: Run, name: str, png: bytes, title: str, caption: str) -> Figure:
    return Figure(title, caption, run.save_figure(name, png, title=title, caption=caption))


def _rows(path: Path) -> list[PanelRow]:
    with np.load(path, allow_pickle=False) as panel:
        arrays = {name: panel[name] for name in panel.files}
    count = len(arrays["photo"])
    chosen = np.linspace(0, count - 1, min(_VIEWS, count)).round().astype(int)
    return [
        PanelRow(
            title=f"{arrays['scene']}, frame {arrays['frames'][view]}",
            photo=arrays["photo"][view],
            rendered=arrays["rendered"][view].clip(0, 1),
            depth=arrays["true_depth"][view],
            rendered_depth=arrays["rendered_depth"][view],
            psnr=float(arrays["psnr"][view]),
            features=arrays["features"][view],
        )
        for view in chosen
    ]
