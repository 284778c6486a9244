"""Converting a checkpoint into an exported encoder, with a certificate of what was taken and what it computes.

The golden features are those of fixed voxels, made by a formula of whole numbers: every machine has the same input, so
every machine can check that it has the same encoder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from gcbench.errors import DataError, InputError
from gcbench.files import write_atomic
from gcbench.models.sparse_unet import SparseUNet
from gcbench.models.weights import Match, few, match_encoder, read_checkpoint
from gcbench.protocols.encoders import build_encoder, export_encoder, load_encoder
from gcbench.recipe.schema import Encoder
from gcbench.runs.provenance import library_versions
from gcbench.structures import PointBatch

CERTIFICATE = "certificate.json"
MIN_SHARE = 0.95  # below, the encoder would be more of a random start than of the file
TOLERANCE = 1e-4  # of the largest value; float32 sums in another order differ by about 1e-6
_FILES = {"config.json", "model.safetensors", CERTIFICATE}
_SHOWN = 8


@dataclass(frozen=True)
class GoldenFeatures:
    """What an encoder computes on the fixed voxels, in evaluation mode, on the CPU.

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


@dataclass(frozen=True)
class Certificate:
    """Where a converted encoder comes from.

    Attributes:
        file: name of the checkpoint.
        file_sha256: of its bytes.
        epoch: the epoch it was written after, if it says so.
        prefix: what stood before the encoder's names.
        layout: of its convolution weights (`gcbench.models.weights`).
        matched: part of the encoder that the file holds, by number of values, 0 to 1.
        values: number of values of the whole encoder.
        missing: names that the file lacks; they have their random start.
        heads: name -> shape of the heads, left out.
        extra: other names, left out.
        golden: features of the fixed voxels.
        versions: of Python, gcbench and the libraries that computed them.
    """

    file: str
    file_sha256: str
    epoch: int | None
    prefix: str
    layout: str
    matched: float
    values: int
    missing: tuple[str, ...]
    heads: Mapping[str, tuple[int, ...]]
    extra: tuple[str, ...]
    golden: GoldenFeatures
    versions: Mapping[str, str]


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
    """Compute the golden features.

    Raises:
        InputError: a feature is not finite.
    """
    training, in_channels = encoder.training, encoder.state_dict()["conv_input.0.weight"].shape[-1]
    try:
        with torch.no_grad():
            features: Tensor = encoder.eval()(golden_voxels(in_channels)).double()
    finally:
        encoder.train(training)
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


def verify_certificate(encoder: SparseUNet, certificate: Certificate) -> list[str]:
    """Compute the golden features again and say what differs; empty when the encoder is the certified one."""
    now, then = golden_features(encoder), certificate.golden
    if (now.voxels, now.channels) != (then.voxels, then.channels):
        return [f"{now.voxels} x {now.channels} features, the certificate has {then.voxels} x {then.channels}"]
    if now.digest == then.digest:
        return []
    tables = (("mean", now.mean, then.mean), ("standard deviation", now.std, then.std))
    found = [_difference(f"{word} of a channel", [here], [there]) for word, here, there in tables]
    found.append(_difference("first features", now.rows, then.rows))
    return [line for line in found if line]


def _difference(what: str, now: Sequence[Sequence[float]], then: Sequence[Sequence[float]]) -> str:
    here, there = (torch.tensor(values, dtype=torch.float64) for values in (now, then))
    if here.shape != there.shape:
        return f"{what}: {list(there.shape)} values in the certificate, {list(here.shape)} computed"
    error = float((here - there).abs().max() / there.abs().max().clamp_min(torch.finfo(torch.float32).tiny))
    return f"{what}: off by {error:.1e} of the largest, {TOLERANCE:.0e} is allowed" if not error <= TOLERANCE else ""


def convert(
    path: Path,
    out: Path,
    *,
    sizes: Encoder | None = None,
    prefix: str | None = None,
    layout: str | None = None,
    allow_partial: bool = False,
    force: bool = False,
) -> tuple[Certificate, Encoder]:
    """Write the encoder of a checkpoint as `export_encoder` does, and `certificate.json` beside it.

    Args:
        path: the checkpoint.
        out: a new folder; it is whole or not there.
        sizes: what the encoder must have; None takes those of the file.
        prefix: what stands before the encoder's names; None finds it.
        layout: of the convolution weights; None finds it.
        allow_partial: take a file that has less than `MIN_SHARE` of the encoder.
        force: replace `out`, which must be a converted encoder.

    Returns:
        The certificate, and the sizes of the encoder.

    Raises:
        InputError: the checkpoint cannot be taken (`read_checkpoint`, `match_encoder`), holds too little of the
            encoder, or `out` is there.
    """
    out = out.resolve()
    _check_target(out, force)
    checkpoint = read_checkpoint(path)
    match = match_encoder(checkpoint, sizes, prefix=prefix, layout=layout)
    if match.share < MIN_SHARE and not allow_partial:
        raise InputError(_too_little(path, match), "To start from it all the same, add --allow-partial.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = build_encoder(match.sizes)
    encoder.load_state_dict(dict(match.state), strict=False)
    certificate = Certificate(
        file=path.name,
        file_sha256=_sha256(path),
        epoch=checkpoint.epoch,
        prefix=match.prefix,
        layout=match.layout,
        matched=match.share,
        values=match.total,
        missing=match.missing,
        heads=match.heads,
        extra=match.extra,
        golden=golden_features(encoder),
        versions=library_versions(),
    )
    _write(encoder, match.sizes, certificate, out)
    return certificate, match.sizes


def load_converted(folder: Path) -> tuple[SparseUNet, Certificate]:
    """A converted encoder and its certificate.

    Raises:
        DataError: a file is missing or broken.
    """
    certificate = folder / CERTIFICATE
    try:
        sizes = json.loads((folder / "config.json").read_bytes())
        if not isinstance(sizes, dict):
            raise DataError(f"{folder / 'config.json'} is not a JSON object.", "Convert the checkpoint again.")
        sizes = {key: value for key, value in sizes.items() if key in Encoder.model_fields}
        encoder = build_encoder(Encoder.model_validate_json(json.dumps(sizes)))
        content = TypeAdapter(Certificate).validate_json(certificate.read_bytes())
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        first_line = next(iter(str(error).splitlines()), "")
        raise DataError(
            f"{folder} is not a converted encoder ({first_line}).", "Make one with: gcbench convert FILE OUT"
        ) from error
    load_encoder(encoder, folder / "model.safetensors")
    return encoder, content


def _check_target(out: Path, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not force:
        raise InputError(f"{out} is already there.", "Choose another folder, or replace it with --force.")
    if not out.is_dir() or {path.name for path in out.iterdir()} - _FILES:
        raise InputError(
            f"{out} is not a folder of this command, so --force does not replace it.", "Choose another folder."
        )


def _too_little(path: Path, match: Match) -> str:
    return (
        f"{path} lacks {len(match.missing)} parameters of the encoder: {few(match.missing)}. It holds "
        f"{match.share:.1%} of its values, {MIN_SHARE:.0%} are needed."
    )


def _write(encoder: SparseUNet, sizes: Encoder, certificate: Certificate, out: Path) -> None:
    """All three files at once, under the final name only when they are whole."""
    unfinished = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.part")
    text = json.dumps(asdict(certificate), indent=2) + "\n"
    origin: dict[str, Any] = {"checkpoint": certificate.file, "sha256": certificate.file_sha256}
    if certificate.epoch is not None:
        origin["epoch"] = certificate.epoch
    try:
        export_encoder(encoder, sizes, unfinished, origin)
        write_atomic(unfinished / CERTIFICATE, text)
        if out.exists():
            shutil.rmtree(out)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
