"""Converting a checkpoint into an exported encoder, with a certificate of what was taken and what it computes."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from gcbench.errors import DataError, InputError
from gcbench.files import sha256, write_atomic
from gcbench.models.sparse_unet import SparseUNet
from gcbench.models.weights import Match, few, match_encoder, read_checkpoint
from gcbench.protocols.encoder_files import open_encoder
from gcbench.protocols.encoders import build_encoder, export_encoder, read_encoder
from gcbench.protocols.golden import GoldenFeatures, compare_golden, golden_features
from gcbench.recipe.schema import Encoder
from gcbench.runs.provenance import library_versions

CERTIFICATE = "certificate.json"
MIN_SHARE = 0.95  # below, the encoder would be more of a random start than of the file
_FILES = {"config.json", "model.safetensors", CERTIFICATE}


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


def verify_certificate(encoder: SparseUNet, certificate: Certificate) -> list[str]:
    """Compute the golden features again and say what differs; empty when the encoder is the certified one."""
    return [difference.text for difference in compare_golden(golden_features(encoder), certificate.golden)]


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
        file_sha256=sha256(path),
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
        InputError: it is no encoder's folder.
        DataError: a file is missing or broken.
    """
    certificate = load_certificate(folder)
    return read_encoder(open_encoder(folder)), certificate


def load_certificate(folder: Path) -> Certificate:
    """The certificate of a converted encoder.

    Raises:
        DataError: there is none, or it is broken.
    """
    try:
        return TypeAdapter(Certificate).validate_json((folder / CERTIFICATE).read_bytes())
    except (OSError, ValidationError) as error:
        first_line = next(iter(str(error).splitlines()), "")
        raise DataError(
            f"{folder} is not a converted encoder ({first_line}).", "Make one with: gcbench convert FILE OUT"
        ) from error


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
