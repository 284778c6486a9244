"""Checks a dataset on disk: counts, labels, normals, frames, hashes; of a raw folder the counts alone.

Each scene is looked at on its own (`audit_scene.py`), in as many processes as wanted; only small facts about it are
kept. A finding of level ``error`` means that numbers made from the dataset are wrong or not comparable.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Literal

from pydantic import BaseModel, Field

from gcbench.data import audit_findings, metadata
from gcbench.data.audit_findings import Finding, Level
from gcbench.data.audit_scene import SceneAudit, SceneFacts, label_set_sizes, open_once
from gcbench.data.labels import load_label_set
from gcbench.data.plan import raw_files
from gcbench.data.plan_facts import DATASETS, dataset_plan
from gcbench.data.s3dis_facts import s3dis_facts
from gcbench.data.scene_jobs import OnScene, run_jobs
from gcbench.data.storage import MANIFEST, PreparedDataset
from gcbench.errors import DataError


class Spread(BaseModel):
    """Least, middle and most."""

    low: float
    median: float
    high: float


class SplitReport(BaseModel):
    """One split.

    Attributes:
        expected: scenes that it has officially; None where nothing is expected.
        sha256: of the sorted scene names, a line each.
        frames, instances: per scene; None where there are none.
    """

    name: str
    scenes: int
    expected: int | None
    points: int
    frames: Spread | None
    instances: Spread | None
    sha256: str


class ClassReport(BaseModel):
    """One class: its points, their share of the labelled points, and the scenes that have it."""

    name: str
    points: int
    share: float
    scenes: int


class LabelReport(BaseModel):
    """The histogram of one label set; `absent` lists, per split with labels, the classes that no scene has."""

    name: str
    scenes: int
    unlabelled: float
    classes: list[ClassReport]
    absent: dict[str, list[str]]


class Audit(BaseModel):
    """The whole report.

    Attributes:
        kind: ``"prepared"``, or ``"raw"``, where only files were counted.
        compared: True if counts were compared with the official ones.
        raw: what was counted -> how many, and how many there should be.
        frame_distance: metres between frames and points, over scenes.
    """

    format_version: Literal[1] = 1
    kind: Literal["prepared", "raw"]
    folder: str
    layout: str
    synthetic: bool = False
    compared: bool = True
    hashes_checked: bool = False
    fingerprint: str | None = None
    points: int = 0
    splits: list[SplitReport] = Field(default_factory=list)
    labels: list[LabelReport] = Field(default_factory=list)
    normals: dict[str, int] = Field(default_factory=dict)
    frame_distance: Spread | None = None
    extent: Spread | None = None
    raw: dict[str, tuple[int, int]] = Field(default_factory=dict)
    findings: list[Finding] = Field(default_factory=list)
    scenes: list[SceneFacts] = Field(default_factory=list)

    def count(self, level: Level) -> int:
        """Number of findings of a level."""
        return sum(finding.level == level for finding in self.findings)


def audit(folder: Path, *, hashes: bool = True, workers: int = 0, on_scene: OnScene | None = None) -> Audit:
    """Check a prepared dataset, or count the files of a raw one.

    Args:
        folder: a prepared dataset, or a raw folder of ScanNet or S3DIS.
        hashes: compare every scene and its frames with the manifest's hashes.
        workers: processes; 0 works in this one.
        on_scene: progress.

    Raises:
        DataError: the folder is neither, or its manifest is not readable.
        RunError: a worker was killed.
    """
    if folder.is_dir() and not (folder / MANIFEST).exists():
        return _audit_raw(folder)
    open_once.cache_clear()
    dataset = PreparedDataset.open(folder)
    names = sorted(dataset.manifest["scenes"])
    classes = label_set_sizes(dataset.label_sets)
    jobs = [SceneAudit(folder, name, classes, hashes) for name in names]
    done, _ = run_jobs(None, jobs, workers, on_scene, False) if jobs else ({}, {})
    facts = {name: SceneFacts.model_validate(done[name]) for name in names}
    labels = [_label_report(dataset, name, facts) for name in dataset.label_sets]
    absent = {label_set.name: label_set.absent for label_set in labels}
    distances = (item.metres for fact in facts.values() for item in fact.distances if item.metres is not None)
    return Audit(
        kind="prepared",
        folder=str(folder),
        layout=dataset.layout,
        synthetic=dataset.synthetic,
        compared=not dataset.synthetic,
        hashes_checked=hashes,
        fingerprint=dataset.fingerprint,
        points=sum(item.points for item in facts.values()),
        splits=[_split_report(dataset, split, facts) for split in dataset.splits],
        labels=labels,
        normals=dict(Counter(item.normals or str(dataset.manifest.get("normals")) for item in facts.values())),
        frame_distance=_spread(distances),
        extent=_spread(audit_findings.extent(item) for item in facts.values() if item.low),
        findings=audit_findings.findings(dataset, facts, absent),
        scenes=list(facts.values()),
    )


def _split_report(dataset: PreparedDataset, split: str, facts: Mapping[str, SceneFacts]) -> SplitReport:
    names = dataset.splits[split]
    of = [facts[name] for name in names]
    return SplitReport(
        name=split,
        scenes=len(names),
        expected=None if dataset.synthetic else _expected(dataset.layout).get(split),
        points=sum(item.points for item in of),
        frames=_spread(item.frames for item in of) if any(item.frames for item in of) else None,
        instances=_spread(item.instances for item in of if item.instances is not None),
        sha256=hashlib.sha256("".join(f"{name}\n" for name in sorted(names)).encode()).hexdigest(),
    )


def _expected(layout: str) -> dict[str, int]:
    if layout == "s3dis":
        return {area: sum(rooms.values()) for area, rooms in s3dis_facts().rooms.areas.items()}
    return metadata.expected_scenes(layout)


def _label_report(dataset: PreparedDataset, name: str, facts: Mapping[str, SceneFacts]) -> LabelReport:
    counted = {scene: item.labels[name] for scene, item in facts.items() if name in item.labels}
    size = max((len(item.points) for item in counted.values()), default=0)
    classes = _class_names(name, size)
    points = [sum(item.points[k] for item in counted.values() if k < len(item.points)) for k in range(len(classes))]
    unlabelled = sum(item.unlabelled for item in counted.values())
    total = sum(points)
    absent = {}
    for split, names in dataset.splits.items():
        seen = [counted[scene].points for scene in names if scene in counted]
        if seen:
            absent[split] = [label for k, label in enumerate(classes) if not any(k < len(p) and p[k] for p in seen)]
    return LabelReport(
        name=name,
        scenes=len(counted),
        unlabelled=unlabelled / max(total + unlabelled, 1),
        classes=[
            ClassReport(
                name=label,
                points=points[k],
                share=points[k] / max(total, 1),
                scenes=sum(k < len(item.points) and item.points[k] > 0 for item in counted.values()),
            )
            for k, label in enumerate(classes)
        ],
        absent=absent,
    )


def _class_names(label_set: str, size: int) -> Sequence[str]:
    try:
        return load_label_set(label_set).classes
    except DataError:  # not one of the package's: numbers stand for names
        return [str(k) for k in range(size)]


def _spread(values: Iterable[float]) -> Spread | None:
    found = list(values)
    return Spread(low=min(found), median=median(found), high=max(found)) if found else None


def _audit_raw(folder: Path) -> Audit:
    for layout in DATASETS:
        found = raw_files(dataset_plan(layout), folder)
        if found:
            counts = {item.what: (item.found, item.expected) for item in found.values()}
            message = "This is a raw folder: its files were counted, nothing was read."
            way_out = f"Prepare it (gcbench data prepare {layout} {folder} OUT) and audit OUT."
            notes = [Finding(level="note", check="raw", message=message, way_out=way_out)]
            few = [step for step, item in found.items() if not item.whole]
            if few:
                message = f"Kinds of files that are not complete: {len(few)} of {len(found)}."
                notes.insert(0, Finding(level="error", check="counts", message=message, where=few))
            return Audit(kind="raw", folder=str(folder), layout=layout, raw=counts, findings=notes)
    raise DataError(
        f"{folder} is neither a prepared dataset nor a raw folder of ScanNet or S3DIS (synthetic rooms are not).",
        f"A prepared dataset has {MANIFEST}; a raw one has scans/<id> or Area_1 ... Area_6. Prepare raw data first.",
    )
