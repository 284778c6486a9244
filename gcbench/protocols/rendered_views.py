"""Rendered views as files: colour, depth, features and photo of each, one figure of some, and what they are.

    OUT/frame-000120-color.png      OUT/frame-000120-depth.png       16 bit, millimetres
    OUT/frame-000120-photo.png      OUT/frame-000120-features.png    principal components, shared by all views
    OUT/panel.png      OUT/views.json      OUT/path.webp

`views.json` is written last and lists what belongs to it. A file is replaced as a whole; others are left alone.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gcbench.errors import InputError
from gcbench.files import write_atomic
from gcbench.protocols.render import Pretrained, SceneView
from gcbench.reporting.feature_colors import FeatureColors
from gcbench.reporting.figures import PanelRow, render_panel
from gcbench.structures import Float32Array, UInt8Array

DEPTH_NOTE = (
    "16 bit, millimetres: the sum of z alpha T over the Gaussians of a pixel, as trained; 0 where nothing is rendered."
    " It is not divided by alpha (1 minus the transmittance behind the last Gaussian), so where alpha is below 1 the"
    " depth is too small by about that factor."
)
_FARTHEST = np.iinfo(np.uint16).max


def check_folder(out: Path) -> None:
    """Whether views can be written there.

    Raises:
        InputError: there is a file in the way.
    """
    blocking = next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None)
    if blocking is not None:
        raise InputError(f"{blocking} is a file, not a folder.", "Choose another --out.")


def write_view(out: Path, view: SceneView, colors: FeatureColors | None) -> dict[str, Any]:
    """Write the files of one view; what `views.json` says about it."""
    images: dict[str, NDArray[Any]] = {
        "color": _bytes(view.color),
        "depth": np.clip(np.rint(view.rendered_depth * 1000), 0, _FARTHEST).astype(np.uint16),
        "photo": _bytes(view.photo),
    }
    if view.features is not None and colors is not None:
        images["features"] = _bytes(colors(view.features))
    files = {name: f"frame-{view.frame:06d}-{name}.png" for name in images}
    for name, image in images.items():
        write_atomic(out / files[name], _png(image))
    return {
        "frame": view.frame,
        "role": view.role,
        "psnr": view.psnr,
        "depth_error": view.depth_error,
        "alpha_mean": float(view.alpha.mean()),
        "alpha_above_half": float((view.alpha > 0.5).mean()),
        "files": files,
    }


def write_panel(out: Path, scene: str, views: Sequence[SceneView]) -> Path:
    """Write the figure of these views."""
    rows = [
        PanelRow(
            title=f"{scene}, frame {view.frame} ({view.role})",
            photo=view.photo,
            rendered=view.color,
            depth=view.depth,
            rendered_depth=view.rendered_depth,
            psnr=view.psnr,
            features=view.features,
        )
        for view in views
    ]
    write_atomic(out / "panel.png", render_panel(rows))
    return out / "panel.png"


def write_record(
    out: Path,
    pretrained: Pretrained,
    *,
    scene: str,
    data_fingerprint: str,
    size: tuple[int, int],
    points: str,
    gaussians: int,
    views: Sequence[dict[str, Any]],
) -> Path:
    """Write `views.json`."""
    record = {
        "schema_version": 1,
        "scene": scene,
        "run": pretrained.job.name,
        "step": pretrained.step,
        "weights_hash": pretrained.weights_hash,
        "recipe": pretrained.job.recipe.name,
        "recipe_hash": pretrained.job.recipe.hash,
        "seed": pretrained.job.seed,
        "data_fingerprint": data_fingerprint,
        "size": list(size),
        "points": points,
        "gaussians": gaussians,
        "units": {"psnr": "dB", "depth_error": "metres, where the depth camera measured", "depth": DEPTH_NOTE},
        "views": list(views),
    }
    write_atomic(out / "views.json", json.dumps(record, indent=2) + "\n")
    return out / "views.json"


def write_animation(out: Path, images: Sequence[Float32Array], *, frame_ms: int = 80) -> Path:
    """Write views [H, W, 3] in [0, 1] as one animated picture."""
    pictures = [Image.fromarray(_bytes(image)) for image in images]
    stream = io.BytesIO()
    pictures[0].save(
        stream, format="WEBP", save_all=True, append_images=pictures[1:], duration=frame_ms, loop=0, quality=90
    )
    write_atomic(out / "path.webp", stream.getvalue())
    return out / "path.webp"


def _bytes(image: NDArray[Any]) -> UInt8Array:
    values: UInt8Array = np.rint(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)
    return values


def _png(image: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG")
    return stream.getvalue()
