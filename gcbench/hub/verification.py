"""Whether a published model is what it says: its files, its golden features, its numbers.

Numbers are held against the results that are published with them, and those against the counts of their scenes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from gcbench.errors import DataError, GcbenchError, InputError
from gcbench.files import sha256
from gcbench.hub.card import PublishedNumber, published_numbers
from gcbench.hub.download import Place, check_listing, fetch_file, list_files
from gcbench.hub.layout import (
    CARD,
    EVALUATIONS,
    GOLDEN,
    MANIFEST,
    RESULTS,
    changed_files,
    is_publishable,
    read_manifest,
)
from gcbench.models.segmentation import EncoderState
from gcbench.protocols.encoder_files import WEIGHTS
from gcbench.protocols.golden import check_golden, read_golden
from gcbench.protocols.model_folders import open_model_folder
from gcbench.reporting.intervals import stored_metrics
from gcbench.runs.provenance import library_versions
from gcbench.runs.results import AnyResult, PretrainResult, TableResult, load_result
from gcbench.training.checkpoint import weights_bytes

_ROUNDING = 1e-4  # percentage points; numbers are published with four decimals


@dataclass(frozen=True)
class Check:
    """One check: ``passed``, ``failed``, or ``absent`` where there is nothing to check; and what was found."""

    name: str
    state: Literal["passed", "failed", "absent"]
    text: str


@dataclass(frozen=True)
class Verification:
    """All checks of a model. `commit` is None for a folder."""

    name: str
    commit: str | None
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.state != "failed" for check in self.checks)


def verify(name: str, revision: str | None = None, place: Place | None = None) -> Verification:
    """Check a model on the Hub, or in a folder.

    Args:
        name: ``user/name``, or a folder.
        revision: branch, tag or commit on the Hub.
        place: token, cache, offline.

    Raises:
        InputError: there is no such model, or it is none of gcbench's.
        DataError: it cannot be downloaded.
    """
    folder, commit = Path(name).expanduser(), None
    if not folder.is_dir():
        folder, commit = _fetch_all(name, revision, place or Place())
    elif revision is not None:
        raise InputError(f"{folder} is a folder, which has no revision.", "Leave --revision out.")
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{name} has no {MANIFEST}: it was not published by gcbench.", "There is nothing to check.")
    files = _guarded("files", lambda: _check_files(folder))
    if files.state == "failed":
        return Verification(name, commit, (files,))
    try:
        opened = open_model_folder(folder)
    except GcbenchError as error:
        return Verification(name, commit, (files, Check("model", "failed", str(error))))
    model = Check(
        "model", "passed", f"{opened.kind} of {sum(p.numel() for p in opened.module.parameters()):,} parameters"
    )
    golden = _guarded("golden features", lambda: _check_golden(folder, opened.module))
    results: dict[str, AnyResult] = {}
    scores = _guarded("results", lambda: _check_results(folder, results))
    origin = _guarded("origin of the results", lambda: _check_origin(folder, results, opened.encoder))
    numbers = _guarded("published numbers", lambda: _check_numbers(folder, results))
    return Verification(name, commit, (files, model, golden, scores, origin, numbers))


def _fetch_all(repo: str, revision: str | None, place: Place) -> tuple[Path, str]:
    """Every file that a published model may have, at one commit."""
    names = list_files(repo, revision, place)
    check_listing(repo, names, f"{repo}@{revision}" if revision else repo)
    first = fetch_file(repo, MANIFEST, revision, place)
    for name in names:
        if is_publishable(name) and name != MANIFEST:
            fetch_file(repo, name, first.commit, place)
    return first.folder, first.commit


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """What a check found; an error that it was stopped by is a failure."""
    try:
        return check()
    except GcbenchError as error:
        return Check(name, "failed", error.message)


def _check_files(folder: Path) -> Check:
    manifest = read_manifest(folder)
    changed = changed_files(folder, manifest, manifest.files)
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    added = sorted(name for name in present - set(manifest.files) - {MANIFEST} if is_publishable(name))
    lines = [f"{name} {why}" for name, why in changed.items()] + [f"{name} is not in the manifest" for name in added]
    if lines:
        return Check("files", "failed", "; ".join(lines))
    size = sum(entry.size for entry in manifest.files.values())
    return Check("files", "passed", f"{len(manifest.files)} files, {size / 1e6:.1f} MB, are those of the manifest")


def _check_golden(folder: Path, module: nn.Module) -> Check:
    if not (folder / GOLDEN).is_file():
        return Check("golden features", "absent", "none are published")
    golden = read_golden(folder / GOLDEN)
    differences = check_golden(module, golden.outputs, golden.versions, library_versions())
    if differences:
        return Check("golden features", "failed", "; ".join(differences))
    return Check("golden features", "passed", f"{', '.join(golden.outputs)} are computed as published")


def _check_results(folder: Path, results: dict[str, AnyResult]) -> Check:
    """Read all results, and compute the metrics of each from its scenes."""
    files = sorted((folder / RESULTS).glob("*.json"))
    if not files:
        return Check("results", "absent", "none are published")
    scored = 0
    for path in files:
        result = load_result(path)
        results[f"{RESULTS}/{path.name}"] = result
        if result.kind in ("semantic", "instance"):
            stored_metrics(result)
            scored += 1
    count = f"{len(files)} result{'s' * (len(files) != 1)}"
    return Check("results", "passed", f"{count}; the scores of {scored}, computed again from their scenes, are equal")


def _check_origin(folder: Path, results: dict[str, AnyResult], encoder: nn.Module) -> Check:
    """The weights are those of the results: scored, exported, or frozen below what was scored."""
    name = "origin of the results"
    if not results:
        return Check(name, "absent", "no results")
    exported = weights_bytes(encoder.state_dict(), {"format": "pt"})  # as a pre-training writes it
    weights = {sha256(folder / WEIGHTS), hashlib.sha256(exported).hexdigest()}
    frozen = EncoderState.of(encoder).parameters
    proven, wrong = 0, []
    for file, result in results.items():
        if result.kind == "figure":
            continue
        if _is_of(result, weights, frozen):
            proven += 1
        elif result.kind == "pretrain" or result.encoder is not None:
            wrong.append(f"{file} is of other weights")
    if wrong:
        return Check(name, "failed", "; ".join(wrong))
    rest = len(results) - proven
    said = f"{proven} of {len(results)} are proven by hashes to be of these weights"
    more = f"; {rest} cannot be: they trained the weights further, or join several trainings" if rest else ""
    return Check(name, "passed", said + more)


def _is_of(result: PretrainResult | TableResult, weights: set[str], parameters: str) -> bool:
    """Whether a result is of a file with one of these SHA-256, or of an encoder with these parameters."""
    short = {digest[:16] for digest in weights}
    if result.kind == "pretrain":
        return result.provenance.weights_hash in short
    if any(score.sha256 in short for score in result.checkpoints.values()):
        return True
    return result.encoder is not None and result.encoder.parameters_before == parameters


def _check_numbers(folder: Path, results: dict[str, AnyResult]) -> Check:
    name = "published numbers"
    files = sorted((folder / EVALUATIONS).glob("*.yaml"))
    numbers = published_numbers(_text(folder / CARD), {f"{EVALUATIONS}/{path.name}": _text(path) for path in files})
    if not numbers:
        return Check(name, "absent", "none in the card")
    wrong = [text for number in numbers if (text := _mistake(number, results))]
    if wrong:
        return Check(name, "failed", "; ".join(wrong))
    return Check(name, "passed", f"{len(numbers)} numbers are those of the published results")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} cannot be read as UTF-8 text: {error}.", "Publish the model again.") from error


def _mistake(number: PublishedNumber, results: dict[str, AnyResult]) -> str:
    """What is wrong with a number; empty if nothing is."""
    where, metric = f"{number.cell} in {number.where}", number.cell.rpartition("/")[2]
    found = [results.get(file) for file in number.files]
    scored = [result for result in found if result is not None and result.kind in ("semantic", "instance")]
    if len(scored) != len(found):
        return f"{where} names a result that is not published"
    if any(result.provenance.synthetic for result in scored):
        return f"{where} is of synthetic rooms, no benchmark result"
    if any(result.protocol.fingerprint() != number.fingerprint for result in scored):
        return f"{where} is not of the protocol {number.fingerprint}"
    value = 100 * _mean([result.metrics.get(metric, math.nan) for result in scored])
    if not abs(value - number.value) <= _ROUNDING:
        return f"{where} is {number.value:.4f}, the results say {value:.4f}"
    return ""


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
