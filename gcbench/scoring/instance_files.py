"""Instances of a scene as ScanNet's benchmark stores them, and the same as arrays.

Predictions as text are a file per scene with a line for each, `relative/mask.txt label_id confidence`, and a mask file
with an integer per vertex, where any that is not zero is in. As arrays they are `masks` [P, N], `labels` [P] and
`scores` [P]. Ground truth is an id per vertex, label id * 1000 + instance + 1, or the arrays `segment` and `instance`.

Shape legend
    N  vertices of a scene    P  predictions
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcbench.errors import InputError
from gcbench.files import write_atomic
from gcbench.scoring.array_files import read_arrays
from gcbench.scoring.instance_overlaps import BoolArray, Masks
from gcbench.scoring.label_files import TEXT_SUFFIX, as_labels, lines_of, parse_mask, read_bytes, read_labels, shown
from gcbench.structures import Float64Array, Int64Array

MASK_FOLDER = "predicted_masks"
_ARRAY_NAMES = ("labels", "masks", "scores")
_LABEL_ID = re.compile(rb"[+-]?[0-9]{1,9}(\.0*)?")


@dataclass(frozen=True)
class ListedInstance:
    """A line of a prediction file: `mask` as it names it, the label id, the confidence, and its number from 1."""

    mask: str
    label_id: int
    score: float
    line: int


@dataclass(frozen=True)
class InstanceFile:
    """Predictions of a scene as they stand in a file.

    Attributes:
        label_ids: [P] as in the file: raw label ids, or class indices where the user says so.
        scores: [P].
        masks: P masks, read when they are asked for.
    """

    label_ids: Int64Array
    scores: Float64Array
    masks: Masks


class MaskFiles(Sequence[BoolArray]):
    """Masks [N] bool of text files, each read when it is asked for, and not kept.

    Args:
        paths: one file per mask.
        vertices: N, or None for any.
    """

    def __init__(self, paths: Sequence[Path], vertices: int | None = None) -> None:
        self._paths = paths
        self._vertices = vertices

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: Any) -> Any:
        """Mask by number.

        Raises:
            InputError: with file and line: missing, a line that is no integer, or another number of vertices.
        """
        path = self._paths[number]
        mask = parse_mask(read_bytes(path), path)
        if self._vertices is not None and len(mask) != self._vertices:
            raise wrong_length(path, len(mask), self._vertices)
        return mask


def wrong_length(path: Path, values: int, vertices: int) -> InputError:
    """The error of a file with a value too many or too few."""
    return InputError(
        f"{path} has {values} values, its scene {vertices} vertices.",
        "There must be one for every vertex, in the order of the scene's mesh.",
    )


def read_instances(path: Path, root: Path, vertices: int | None = None) -> InstanceFile:
    """Predictions of one scene, from its text, `.npz` or `.safetensors` file.

    Args:
        path: the scene's file.
        root: folder of the predictions; no mask may lie outside of it.
        vertices: N, or None where it is not known.

    Raises:
        InputError: with file and line: missing, broken, or a mask outside of `root`. A mask of text is looked at when
            it is asked for only.
    """
    if path.suffix != TEXT_SUFFIX:
        return _read_instance_arrays(path, vertices)
    listed: dict[str, ListedInstance] = {}
    is_inside = _inside(root)
    for item in parse_instance_list(read_bytes(path), path):
        mask = os.path.normpath(os.path.join(path.parent, item.mask))  # noqa: PTH118 - a Path would cost as much as the mask
        if not is_inside(mask):
            raise InputError(
                f"{path}, line {item.line}: the mask {shown(os.fsencode(item.mask))} lies outside of {root}.",
                "Put the masks into the folder of the predictions.",
            )
        listed[mask] = item  # as in the official script, the last line about a mask counts, in place of the first
    return InstanceFile(
        label_ids=np.array([item.label_id for item in listed.values()], np.int64),
        scores=np.array([item.score for item in listed.values()], np.float64),
        masks=MaskFiles([Path(mask) for mask in listed], vertices),
    )


def _inside(root: Path) -> Callable[[str], bool]:
    """Whether a file lies in a folder, links followed; the folders that were seen are remembered."""
    resolved = _real(os.fspath(root))
    folders: dict[str, bool] = {}

    def is_inside(file: str) -> bool:
        folder = os.path.dirname(file)  # noqa: PTH120
        if folder not in folders:
            folders[folder] = _real(folder).is_relative_to(resolved)
        if os.path.islink(file):  # noqa: PTH114
            return _real(file).is_relative_to(resolved)
        return folders[folder]

    return is_inside


def _real(path: str) -> Path:
    return Path(os.path.realpath(path))  # unlike Path.resolve, it does not stop at links that lead in a circle


def parse_instance_list(content: bytes, source: Path | str) -> Iterator[ListedInstance]:
    """Lines of a prediction file, in order.

    Args:
        content: the text.
        source: its name, for errors.

    Raises:
        InputError: with source and line: a line that is not a relative path, a label id and a number, one blank apart.
    """
    for number, line in enumerate(lines_of(content), start=1):
        listed = parse_instance_line(line, number)
        if isinstance(listed, str):
            raise InputError(
                f"{source}, line {number}: {listed}.", "Every line must be: relative/mask.txt label_id confidence."
            )
        yield listed


def parse_instance_line(line: bytes, number: int) -> ListedInstance | str:
    """A line of a prediction file, or what is wrong with it."""
    fields = line.split(b" ")
    if len(fields) != 3:
        return f"{shown(line)} has {len(fields)} fields instead of 3" if line.strip() else "it is empty"
    mask, label_id, score = fields
    if not mask or b"\0" in mask:
        return f"{shown(mask)} is no path of a mask"
    if Path(os.fsdecode(mask)).is_absolute():
        return f"the mask {shown(mask)} is no relative path"
    if not _LABEL_ID.fullmatch(label_id):
        return f"the label id {shown(label_id)} is no integer"
    try:
        confidence = float(score.replace(b"_", b"x"))  # Python reads 1_0 as ten, the official script does not
    except ValueError:
        return f"the confidence {shown(score)} is no number"
    if math.isnan(confidence):
        return "the confidence is nan"
    return ListedInstance(os.fsdecode(mask), int(float(label_id)), confidence, number)


def write_instances(
    folder: Path,
    scene: str,
    label_ids: NDArray[np.integer[Any]],
    scores: NDArray[np.floating[Any]],
    masks: Masks,
) -> None:
    """Write predictions as text: `<scene>.txt`, and a file per mask in `predicted_masks/`, each atomically.

    Args:
        folder: of the predictions.
        scene: its name.
        label_ids: [P] raw label ids.
        scores: [P].
        masks: [P, N]; non-zero is in.

    Raises:
        DiskFullError: the disk is full.
    """
    for name, content in instance_texts(scene, label_ids, scores, masks):
        write_atomic(folder / name, content)


def instance_texts(
    scene: str, label_ids: NDArray[np.integer[Any]], scores: NDArray[np.floating[Any]], masks: Masks
) -> Iterator[tuple[str, bytes]]:
    """The files of a scene's predictions by name: a mask each, at last the list. Arguments as of `write_instances`."""
    lines = []
    for number, (label_id, score) in enumerate(zip(label_ids.tolist(), scores.tolist(), strict=True)):
        mask = masks[number]
        name = f"{MASK_FOLDER}/{scene.replace('/', '-')}_{number:03d}{TEXT_SUFFIX}"
        text = np.full((len(mask), 2), ord("\n"), np.uint8)
        text[:, 0] = np.where(mask, ord("1"), ord("0"))
        yield name, text.tobytes()
        lines.append(f"{'../' * scene.count('/')}{name} {label_id} {score!r}\n")
    yield f"{scene}{TEXT_SUFFIX}", "".join(lines).encode()


def read_target(path: Path) -> Int64Array | tuple[Int64Array, Int64Array]:
    """Ground truth of one scene: the benchmark's ids [N], or labels [N] and instances [N] where a file has both.

    Raises:
        InputError: with file and line: missing, broken, or neither of the two.
    """
    if path.suffix in (TEXT_SUFFIX, ".npy"):
        return read_labels(path)
    arrays = read_arrays(path)
    if set(arrays) == {"segment", "instance"}:
        segment, instance = (as_labels(arrays[name], f"{path}, {name}") for name in ("segment", "instance"))
        if len(segment) != len(instance):
            raise InputError(f"{path}: {len(segment)} labels, but {len(instance)} instances of vertices.")
        return segment, instance
    if len(arrays) == 1:
        return as_labels(next(iter(arrays.values())), path)
    raise InputError(
        f"{path} has the arrays {', '.join(sorted(arrays)) or '(none)'}.",
        "It must have `segment` and `instance`, or one with label id * 1000 + instance + 1.",
    )


def _read_instance_arrays(path: Path, vertices: int | None) -> InstanceFile:
    if path.suffix == ".npy":
        raise InputError(
            f"{path} is one array, which cannot hold masks, labels and scores.", "Use .npz or .safetensors."
        )
    arrays = read_arrays(path)
    if tuple(sorted(arrays)) != _ARRAY_NAMES:
        raise InputError(
            f"{path} has the arrays {', '.join(sorted(arrays)) or '(none)'}.",
            "It must have `masks` [P, N], `labels` [P] and `scores` [P].",
        )
    masks, scores = arrays["masks"], arrays["scores"]
    labels = as_labels(arrays["labels"], f"{path}, labels")
    if masks.ndim != 2 or masks.dtype.kind not in "biu" or scores.shape != labels.shape or len(masks) != len(labels):
        raise InputError(
            f"{path}: masks of {masks.dtype} with shape {masks.shape}, labels {labels.shape}, scores {scores.shape}.",
            "They must be `masks` [P, N] of bools or integers, `labels` [P] and `scores` [P].",
        )
    if scores.dtype.kind not in "iuf" or np.isnan(scores).any():
        raise InputError(f"{path}: a score is not a number.")
    if vertices is not None and masks.shape[1] != vertices:
        raise wrong_length(path, masks.shape[1], vertices)
    return InstanceFile(labels, scores.astype(np.float64), masks)
