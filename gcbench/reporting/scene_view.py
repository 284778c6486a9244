"""One scene to look at: a self-contained HTML page with a small WebGL viewer, and a PLY file for other programs.

The page carries its points quantised: positions as uint16 steps from the lowest corner of the scene's box, colours as
uint8, normals as int8 (127 is one), and per layer (every label set, and the instances) one code per point. Every array
is deflated and written in base64; the page needs no other file and no network.

Shape legend: N points, E entries of a layer (its classes or instances that occur), V cameras; metres, z up.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gcbench import __version__
from gcbench.errors import DataError, InputError
from gcbench.files import atomic_path
from gcbench.resources import resource_path
from gcbench.structures import (
    IGNORE_INDEX,
    Float64Array,
    Int16Array,
    Int32Array,
    Int64Array,
    LabelSet,
    Scene,
    UInt8Array,
)

COLOUR, NORMALS, INSTANCES = "colour", "normals", "instances"
MAX_POINTS = 300_000
_GREY = (140, 140, 140)  # not labelled, no instance
_MAX_ENTRIES = 65_535
_MAX_CAMERAS = 300
_GOLDEN = (5**0.5 - 1) / 2
_POSITION_STEPS = 65_535
_SPACING_SAMPLE = 2_000
_LEAST_SPACING = 1e-3


@dataclass(frozen=True)
class SceneView:
    """A scene, and what is needed to show it.

    Attributes:
        scene: its points, labels and instances.
        label_sets: the label sets of `scene.segments`, by name.
        class_colors: [K, 3] uint8 per label set; where one is missing, its classes get distinct colours.
        source: where the scene comes from, in words.
        synthetic: True for a generated room.
        cameras: [V, 5, 3] from `frustums`; empty without frames.
    """

    scene: Scene
    label_sets: Mapping[str, LabelSet] = field(default_factory=dict)
    class_colors: Mapping[str, UInt8Array] = field(default_factory=dict)
    source: str = ""
    synthetic: bool = False
    cameras: Float64Array = field(default_factory=lambda: np.zeros((0, 5, 3)))


@dataclass(frozen=True)
class Layer:
    """A way to divide the points: the classes of one label set, or the instances.

    Attributes:
        name: of the label set, or ``"instances"``.
        ids: [E] class indices or instance ids, the most points first; -1, where it occurs, last.
        names: of the E entries.
        colors: [E, 3] uint8.
        points: [E] points of the whole scene.
        codes: [N] position of each point's entry in the lists above.
    """

    name: str
    ids: Int64Array
    names: tuple[str, ...]
    colors: UInt8Array
    points: Int64Array
    codes: NDArray[Any]


def scene_layers(view: SceneView) -> list[Layer]:
    """The scene's label sets, in their order, then its instances.

    Raises:
        DataError: a label set is not known, a class index is not in it, or there are too many instances.
    """
    layers = [_classes(view, name, segment) for name, segment in view.scene.segments.items()]
    if view.scene.instance is not None:
        instances = _layer(INSTANCES, view.scene.instance, "no instance", distinct_colors, str)
        layers.append(_named_by_class(instances, layers[0]) if layers else instances)
    return layers


def _classes(view: SceneView, name: str, segment: Int16Array) -> Layer:
    scene = view.scene
    if name not in view.label_sets:
        raise DataError(f"Scene '{scene.name}' has labels of '{name}', which is no known label set.")
    classes = view.label_sets[name].classes
    if segment.size and not IGNORE_INDEX <= int(segment.min()) <= int(segment.max()) < len(classes):
        raise DataError(
            f"Scene '{scene.name}': class indices of '{name}' run from {segment.min()} to {segment.max()}, "
            f"the label set has {len(classes)} classes.",
            "Prepare the dataset again.",
        )
    palette = view.class_colors.get(name, distinct_colors(np.arange(len(classes))))
    return _layer(name, segment, "unlabelled", palette.__getitem__, classes.__getitem__)


def _layer(
    name: str,
    values: NDArray[Any],
    without: str,
    colors_of: Callable[[Int64Array], UInt8Array],
    name_of: Callable[[int], str],
) -> Layer:
    """The layer of one value per point [N]; `without` is the name of the points whose value is negative."""
    found, inverse, counts = np.unique(np.maximum(values, IGNORE_INDEX), return_inverse=True, return_counts=True)
    if len(found) > _MAX_ENTRIES:
        raise DataError(f"'{name}' has {len(found)} different values, more than the {_MAX_ENTRIES} that can be shown.")
    order = np.lexsort((found, -counts, found == IGNORE_INDEX))
    codes = np.empty(len(found), np.uint8 if len(found) <= 256 else np.uint16)
    codes[order] = np.arange(len(found))
    ids = found[order].astype(np.int64)
    colors = np.full((len(ids), 3), _GREY, np.uint8)
    colors[ids != IGNORE_INDEX] = colors_of(ids[ids != IGNORE_INDEX])
    names = tuple(without if number == IGNORE_INDEX else name_of(number) for number in ids.tolist())
    return Layer(name, ids, names, colors, counts[order], codes[inverse.reshape(-1)])


def _named_by_class(instances: Layer, classes: Layer) -> Layer:
    """Instances called by the class that most of their points have, and their id."""
    pairs = instances.codes.astype(np.int64) * len(classes.ids) + classes.codes
    table = np.bincount(pairs, minlength=len(instances.ids) * len(classes.ids)).reshape(len(instances.ids), -1)
    common = table.argmax(axis=1)
    names = [
        name if number == IGNORE_INDEX else f"{classes.names[kind]} {name}"
        for number, name, kind in zip(instances.ids, instances.names, common, strict=True)
    ]
    return replace(instances, names=tuple(names))


def distinct_colors(ids: Int64Array, seed: int = 0) -> UInt8Array:
    """Colours [E, 3] of ids [E]; they depend on id and seed only. Hues of neighbouring ids lie a golden angle apart."""
    number = np.asarray(ids, np.float64)
    hue = ((number + seed) * _GOLDEN) % 1.0
    level = ((number + seed) * _GOLDEN * _GOLDEN * 7.0) % 1.0
    light, chroma = 0.45 + 0.22 * level, 0.62 - 0.2 * level
    amount = chroma * np.minimum(light, 1 - light)
    place = (np.array([0.0, 8.0, 4.0]) + 12.0 * hue[:, None]) % 12.0
    shade = light[:, None] - amount[:, None] * np.clip(np.minimum(place - 3, 9 - place), -1, 1)
    return cast(UInt8Array, np.rint(255 * shade).astype(np.uint8))


def even_sample(count: int, wanted: int, seed: int = 0) -> Int64Array:
    """`wanted` of the indices 0 .. count - 1, ascending: one of each of as many equal runs; all if there are fewer."""
    if count <= wanted:
        return np.arange(count)
    edges = np.arange(wanted + 1, dtype=np.int64) * count // wanted
    return np.random.default_rng(seed).integers(edges[:-1], edges[1:])


def frustums(
    camera_to_world: Float64Array, intrinsics: Float64Array, sizes: Int32Array, depth: float = 0.2
) -> Float64Array:
    """Camera centres and the corners of their images at `depth` metres: [V, 5, 3].

    Args:
        camera_to_world: [V, 4, 4], OpenCV axes.
        intrinsics: [V, 3, 3], pixels, centres at + 0.5.
        sizes: [V, 2] width and height, pixels.
        depth: metres.
    """
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])[None] * sizes[:, None, :]  # [V, 4, 2]
    center, focal = intrinsics[:, :2, 2], intrinsics[:, [0, 1], [0, 1]]
    rays = np.concatenate([(corners - center[:, None]) / focal[:, None], np.ones((len(sizes), 4, 1))], axis=2) * depth
    local = np.concatenate([np.zeros((len(sizes), 1, 3)), rays], axis=1)
    moved = np.einsum("vij,vkj->vki", camera_to_world[:, :3, :3], local) + camera_to_world[:, None, :3, 3]
    return cast(Float64Array, moved)


def point_colors(view: SceneView, show: str) -> UInt8Array:
    """Colours [N, 3] of a mode: ``"colour"``, ``"normals"``, ``"instances"`` or a label set's name.

    Raises:
        InputError: the scene cannot be shown so.
    """
    _check_mode(view, show)
    if show == COLOUR:
        return view.scene.color
    if show == NORMALS:
        shade = np.rint(127.5 * (np.clip(_finite(view.scene.normal), -1, 1) + 1)).astype(np.uint8)
        return np.where(view.scene.normal.any(axis=1, keepdims=True), shade, np.uint8(_GREY[0]))
    layer = next(layer for layer in scene_layers(view) if layer.name == show)
    return cast(UInt8Array, layer.colors[layer.codes])


def modes(view: SceneView) -> tuple[str, ...]:
    """What can be shown of a scene."""
    return (COLOUR, NORMALS, *view.scene.segments, *([INSTANCES] if view.scene.instance is not None else []))


def render_scene(view: SceneView, *, show: str = COLOUR, max_points: int = MAX_POINTS, seed: int = 0) -> str:
    """One HTML file that needs nothing else: its viewer and its points are inside.

    Args:
        view: the scene.
        show: the mode it opens in, one of `modes`; the address can name another (``page.html#mode=normals``).
        max_points: a larger scene is thinned evenly to this number; the page says so.
        seed: of the thinning.

    Raises:
        DataError: the scene has no points, or a coordinate that is not finite.
        InputError: the scene cannot be shown in that mode.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    scene = view.scene
    _check_mode(view, show)
    if not len(scene) or not np.isfinite(scene.coord).all():
        raise DataError(f"Scene '{scene.name}' has no points, or a coordinate that is not finite.", "Prepare it again.")
    kept = even_sample(len(scene), max_points, seed)
    content = _page_content(view, kept)
    templates = resource_path("reports", "templates")
    environment = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = "\n" + (templates / "scene.js").read_text(encoding="utf-8")
    return environment.get_template("scene.html").render(
        view=view,
        content=content | {"show": show},
        shown=len(kept),
        extent=np.ptp(scene.coord, axis=0).tolist(),
        # Safe: our own file, and the only script that the page's policy allows to run.
        script=Markup(script),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
    )


def _page_content(view: SceneView, kept: Int64Array) -> dict[str, Any]:
    """What the page's script reads, ready for JSON."""
    scene = view.scene
    coord = scene.coord[kept].astype(np.float64)
    low = coord.min(axis=0)
    step = max(float((coord.max(axis=0) - low).max()), 1e-3) / _POSITION_STEPS
    layers = scene_layers(view)
    cameras = view.cameras[np.isfinite(view.cameras).all(axis=(1, 2))]
    cameras = cameras[even_sample(len(cameras), _MAX_CAMERAS)]
    return {
        "name": scene.name,
        "count": len(kept),
        "low": low.tolist(),
        "extent": (coord.max(axis=0) - low).tolist(),
        "step": step,
        "spacing": _spacing(coord),
        "position": _packed(np.rint((coord - low) / step).astype("<u2")),
        "color": _packed(scene.color[kept]),
        "normal": _packed(np.rint(127 * np.clip(_finite(scene.normal[kept]), -1, 1)).astype(np.int8)),
        "layers": [
            {
                "name": layer.name,
                "entries": [
                    {"id": number, "name": name, "color": color, "points": points}
                    for number, name, color, points in zip(
                        layer.ids.tolist(), layer.names, layer.colors.tolist(), layer.points.tolist(), strict=True
                    )
                ],
                "codes": _packed(layer.codes[kept]),
            }
            for layer in layers
        ],
        "cameras": np.round(cameras - low, 3).reshape(-1, 15).tolist(),
    }


def _spacing(coord: Float64Array) -> float:
    """How far apart neighbouring points of a surface lie, metres: the median distance to the fourth nearest."""
    from scipy.spatial import cKDTree

    neighbours = min(4, len(coord) - 1)
    if not neighbours:
        return _LEAST_SPACING
    sample = coord[even_sample(len(coord), _SPACING_SAMPLE)]
    distance = cKDTree(coord, balanced_tree=False, compact_nodes=False).query(sample, k=[neighbours + 1])[0]
    return max(float(np.median(distance)), _LEAST_SPACING)


def _packed(values: NDArray[Any]) -> dict[str, str]:
    stored = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
    return {"type": values.dtype.name, "data": base64.b64encode(zlib.compress(stored.tobytes(), 6)).decode()}


def _finite(normal: NDArray[Any]) -> NDArray[Any]:
    return cast(NDArray[Any], np.nan_to_num(normal, nan=0.0, posinf=0.0, neginf=0.0))


def _check_mode(view: SceneView, show: str) -> None:
    if show not in modes(view):
        raise InputError(f"Scene '{view.scene.name}' has no {show} to show.", f"It has: {', '.join(modes(view))}.")


def write_scene_ply(path: Path, view: SceneView, *, show: str = COLOUR) -> None:
    """Write all points as a binary PLY: x y z, nx ny nz, red green blue of the mode, `label_<set>` (class index,
    -1 is unlabelled) and `instance` (-1 is none). Comments name the classes.

    Raises:
        InputError: the scene cannot be shown in that mode.
        DataError: its labels do not fit their label sets.
        RunError: the disk is full.
    """
    from plyfile import PlyData, PlyElement

    scene = view.scene
    columns: dict[str, NDArray[Any]] = {axis: scene.coord[:, k] for k, axis in enumerate("xyz")}
    columns |= {axis: scene.normal[:, k] for k, axis in enumerate(("nx", "ny", "nz"))}
    colors = point_colors(view, show)
    columns |= {channel: colors[:, k] for k, channel in enumerate(("red", "green", "blue"))}
    columns |= {f"label_{name}": segment.astype(np.int16) for name, segment in scene.segments.items()}
    if scene.instance is not None:
        columns["instance"] = scene.instance.astype(np.int32)
    vertex = np.empty(len(scene), [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        vertex[name] = values
    comments = [f"gcbench {__version__}, scene {scene.name}, colours show {show}"]
    for name in scene.segments:
        comments.append(f"label_{name} is a class index, -1 is unlabelled")
        comments += [f"label_{name} {index} {kind}" for index, kind in enumerate(view.label_sets[name].classes)]
    ply = PlyData(
        [PlyElement.describe(vertex, "vertex")], byte_order="<", comments=[_ascii_line(text) for text in comments]
    )
    with atomic_path(path) as temporary:
        ply.write(str(temporary))


def _ascii_line(text: str) -> str:
    """Text that stays one line of a PLY header."""
    return "".join(sign if " " <= sign <= "~" else "?" for sign in text)[:200]
