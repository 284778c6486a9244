"""Golden features: what a model computes on fixed voxels, so that every machine can check that it has the same model.

The voxels are made by a formula of whole numbers, so every machine has the same input.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from gcbench.errors import DataError, InputError
from gcbench.files import write_atomic
from gcbench.models.pointgroup import PointGroup
from gcbench.models.pretrainer import Pretrainer
from gcbench.models.segmentation import Segmenter
from gcbench.models.sparse_unet import SparseUNet
from gcbench.structures import PointBatch

TOLERANCE = 1e-4  # of the largest value; float32 sums in another order differ by about 1e-6
_LOW_PRECISION = 3e-2  # half, bfloat16 and TF32 stay below this, another model does not
_SHOWN = 8


@dataclass(frozen=True)
class GoldenFeatures:
    """What a model computes on the fixed voxels, in evaluation mode.

    Attributes:
        voxels: number of voxels, N.
        channels: of a feature, F.
        mean: [F], over the voxels.
        std: [F], over the voxels.
        rows: [8, 8], first channels of the first voxels.
        digest: SHA-256 of all features, rounded to `TOLERANCE` of the largest. Equal digests mean equal features;
            other processors round elsewhere, so unequal ones mean nothing.
    """

    voxels: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    digest: str


def golden_voxels(in_channels: int) -> PointBatch:
    """An uneven floor of 32 x 32 voxels and a wall of 16 on one side: 1536 voxels, features in [-1, 1]."""
    x, y = (axis.flatten() for axis in torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij"))
    floor = torch.stack((x, y, 4 + (x * x + 3 * y) % 7 // 2), dim=1)
    y, z = (axis.flatten() for axis in torch.meshgrid(torch.arange(32), torch.arange(8, 24), indexing="ij"))
    cells = torch.cat((floor, torch.stack((torch.zeros_like(y), y, z), dim=1)))
    steps = (cells * torch.tensor([7, 13, 29])).sum(dim=1, keepdim=True) + 17 * torch.arange(in_channels)
    feat = (steps % 256).double() / 127.5 - 1
    return PointBatch(cells.float() * 0.02, cells.int(), feat.float(), torch.tensor([len(cells)]))


def golden_features(encoder: SparseUNet) -> GoldenFeatures:
    """The features of an encoder.

    Raises:
        InputError: a feature is not finite.
    """
    return golden_outputs(encoder)["features"]


def golden_outputs(model: nn.Module) -> dict[str, GoldenFeatures]:
    """What a model computes, by name: ``features`` of its encoder, then ``logits`` of a segmenter, ``logits`` and
    ``offsets`` of a PointGroup, ``anchors`` of a pre-trainer (what its Gaussian heads see).

    Raises:
        InputError: a value is not finite.
    """
    training = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            found = _outputs(model.eval())
    finally:
        for module, mode in training:
            module.training = mode
    return {name: _described(values.double().cpu()) for name, values in found.items()}


def _outputs(model: nn.Module) -> dict[str, Tensor]:
    encoder = model if isinstance(model, SparseUNet) else model.encoder
    assert isinstance(encoder, SparseUNet)
    weight = encoder.state_dict()["conv_input.0.weight"]
    batch = golden_voxels(weight.shape[-1]).to(weight.device)
    features = encoder(batch)
    found: dict[str, Tensor] = {"features": features}
    if isinstance(model, Segmenter):
        found["logits"] = model(batch)
    elif isinstance(model, PointGroup):
        found["logits"], found["offsets"] = model(batch)
    elif isinstance(model, Pretrainer):
        found["anchors"] = model.volume(batch.coord, features, batch.offsets)[0][1].features
    return found


def _described(features: Tensor) -> GoldenFeatures:
    if not bool(torch.isfinite(features).all()):
        raise InputError(
            "The encoder's features are not finite, although its weights are.",
            "Its batch-norm statistics may be broken (a negative variance); take another checkpoint.",
        )
    unit = TOLERANCE * max(float(features.abs().max()), torch.finfo(torch.float32).tiny)
    std, mean = torch.std_mean(features, dim=0, correction=0)
    return GoldenFeatures(
        voxels=len(features),
        channels=features.shape[1],
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        rows=tuple(tuple(row) for row in features[:_SHOWN, :_SHOWN].tolist()),
        digest=hashlib.sha256((features / unit).round().int().numpy().astype("<i4").tobytes()).hexdigest(),
    )


@dataclass(frozen=True)
class GoldenFile:
    """`golden.json` of a published model.

    Attributes:
        outputs: what the model computes, by name.
        versions: of Python, gcbench and the libraries that computed it.
    """

    outputs: Mapping[str, GoldenFeatures]
    versions: Mapping[str, str]
    schema_version: Literal[1] = 1


def write_golden(path: Path, model: nn.Module, versions: Mapping[str, str]) -> None:
    """Compute the golden features of a model on the CPU, and write them.

    Raises:
        InputError: a value is not finite.
    """
    content = GoldenFile(golden_outputs(model), dict(versions))
    write_atomic(path, json.dumps(asdict(content), indent=1) + "\n")


def read_golden(path: Path) -> GoldenFile:
    """The golden features that were published with a model.

    Raises:
        DataError: the file is missing or broken.
    """
    try:
        return TypeAdapter(GoldenFile).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        first_line = next(iter(str(error).splitlines()), "")
        raise DataError(f"{path} has no golden features ({first_line}).", "Download the model again.") from error


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was.

    Attributes:
        what: ``"mean of a channel"``, ...; `error`: of the largest value; infinite if even the sizes differ.
        text: one line for readers.
    """

    what: str
    error: float
    text: str


def compare_golden(now: GoldenFeatures, then: GoldenFeatures) -> list[Difference]:
    """What differs by more than `TOLERANCE`; empty when they are of the same model."""
    if (now.voxels, now.channels) != (then.voxels, then.channels):
        text = f"{now.voxels} x {now.channels} features, the certificate has {then.voxels} x {then.channels}"
        return [Difference("sizes", float("inf"), text)]
    if now.digest == then.digest:
        return []
    tables = (
        ("mean of a channel", [now.mean], [then.mean]),
        ("standard deviation of a channel", [now.std], [then.std]),
        ("first features", now.rows, then.rows),
    )
    return [found for what, here, there in tables if (found := _difference(what, here, there)) is not None]


def _difference(what: str, now: Sequence[Sequence[float]], then: Sequence[Sequence[float]]) -> Difference | None:
    here, there = (torch.tensor(values, dtype=torch.float64) for values in (now, then))
    if here.shape != there.shape:
        text = f"{what}: {list(there.shape)} values in the certificate, {list(here.shape)} computed"
        return Difference(what, float("inf"), text)
    error = float((here - there).abs().max() / there.abs().max().clamp_min(torch.finfo(torch.float32).tiny))
    text = f"{what}: off by {error:.1e} of the largest, {TOLERANCE:.0e} is allowed"
    return None if error <= TOLERANCE else Difference(what, error, text)


def check_golden(
    model: nn.Module, then: Mapping[str, GoldenFeatures], then_versions: Mapping[str, str], versions: Mapping[str, str]
) -> list[str]:
    """Compute the golden features again; one line for each thing that differs, then what it comes from.

    Args:
        model: on the device that is to be checked.
        then: what was published, by output.
        then_versions: the libraries that computed it; `versions`: those of here.
    """
    now = golden_outputs(model)
    lines = [f"{name} are not computed" for name in then.keys() - now.keys()]
    found = {name: compare_golden(now[name], golden) for name, golden in then.items() if name in now}
    lines += [f"{name}: {one.text}" for name, differences in found.items() for one in differences]
    if not lines:
        return []
    worst = max((one.error for differences in found.values() for one in differences), default=float("inf"))
    return [*lines, *_reasons(model, then, worst), *_other_versions(then_versions, versions)]


def _reasons(model: nn.Module, then: Mapping[str, GoldenFeatures], worst: float) -> list[str]:
    """Why, as far as this machine can tell."""
    types = {str(value.dtype).removeprefix("torch.") for value in model.parameters()} - {"float32"}
    if types:
        return [f"precision: the weights were made {', '.join(sorted(types))} after they were loaded"]
    device = next(model.parameters()).device
    if device.type != "cpu":
        model.to("cpu")
        try:
            right = not any(compare_golden(one, then[name]) for name, one in golden_outputs(model).items())
        finally:
            model.to(device)
        if right and worst < _LOW_PRECISION:
            return [f"precision: right on the CPU, rounded more on {device} (TF32 or half precision is switched on)"]
        if right:
            return [f"layout: right on the CPU, wrong on {device}: its spconv reads the weights in another order"]
    if worst < _LOW_PRECISION:
        return ["precision: so small a difference comes from rounding, such as float16 or TF32, here or there"]
    return ["weights or network: the difference is too large for rounding"]


def _other_versions(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The libraries that are not those of then."""
    words = [f"{name} {then.get(name, 'absent')} -> {now.get(name, 'absent')}" for name in sorted({*then, *now})]
    words = [text for name, text in zip(sorted({*then, *now}), words, strict=True) if then.get(name) != now.get(name)]
    return [f"library versions that differ: {', '.join(words)}"] if words else ["all library versions are the same"]
