"""Makes the folder that is published: a model, its evidence and its card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gcbench.data.labels import load_label_set
from gcbench.errors import InputError
from gcbench.files import sha256, write_atomic
from gcbench.hub.card import eval_results, model_card
from gcbench.hub.evidence import Evidence, gather
from gcbench.hub.facts import ModelFacts
from gcbench.hub.layout import CARD, CURVES, GOLDEN, RECIPE, Manifest, write_manifest
from gcbench.protocols.convert import CERTIFICATE, load_certificate, verify_certificate
from gcbench.protocols.encoder_files import WEIGHTS, default_grid_size
from gcbench.protocols.golden import write_golden
from gcbench.protocols.model_folders import (
    OpenedModel,
    PretrainerConfig,
    open_model_folder,
    save_model_folder,
)
from gcbench.protocols.render import load_pretrained
from gcbench.runs.provenance import git_state, library_versions
from gcbench.runs.store import Run


def pack_run(
    path: Path, folder: Path, *, repo: str, whole: bool = False, with_results: bool = True, demonstration: bool = False
) -> tuple[Manifest, ModelFacts]:
    """Write what is published of a run, or of an encoder that `gcbench convert` wrote, into a new folder.

    Args:
        path: the run's folder, or the converted encoder's.
        folder: new or empty.
        repo: ``user/name``, for the card.
        whole: of a pre-training the whole pre-trainer, not the encoder alone.
        with_results: with what was measured.
        demonstration: allow a model of synthetic rooms; the card says so, and nothing of it is a benchmark result.

    Raises:
        InputError: the run may not be published, or is none.
        DataError, RunError: its files are broken.
    """
    if _is_dataset(path):
        raise InputError(
            f"{path} holds a dataset. The terms of ScanNet and S3DIS do not let anyone pass their data on.",
            "Give the folder of a run; only weights, settings and results of it are published.",
        )
    if (path / CERTIFICATE).is_file():
        if whole:
            raise InputError(f"{path} holds an encoder, no pre-trainer.", "Leave --pretrainer out.")
        opened, evidence = _converted(path), Evidence(None)
    else:
        opened, evidence = _of_run(path, whole, with_results)
    if evidence.synthetic and not demonstration:
        raise InputError(
            f"{path} was trained on synthetic rooms: its numbers are no benchmark results.",
            "Publish it as what it is, a demonstration, with --demonstration.",
        )
    return pack(opened, folder, repo=repo, evidence=evidence)


def pack(
    opened: OpenedModel, folder: Path, *, repo: str = "user/name", evidence: Evidence | None = None
) -> tuple[Manifest, ModelFacts]:
    """Write a model with golden features, evidence, card and manifest into a new folder; it is whole or not there.

    Raises:
        InputError: the folder has something in it, or the model computes values that are not finite.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is already there.", "Choose a new folder.")
    unfinished = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        facts = _write(opened, unfinished, repo, evidence or Evidence(None))
        manifest = write_manifest(unfinished, str(opened.config["model_type"]))
        if folder.is_dir():
            folder.rmdir()
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return manifest, facts


def _write(opened: OpenedModel, folder: Path, repo: str, evidence: Evidence) -> ModelFacts:
    save_model_folder(opened, folder)
    if evidence.result is not None and opened.kind != "pretrainer":
        shutil.copyfile(opened.weights, folder / WEIGHTS)  # to the byte what the run scored
    write_golden(folder / GOLDEN, opened.module, library_versions())
    facts = _facts(opened, repo, evidence, sha256(folder / WEIGHTS))
    if "recipe" in evidence.job:
        write_atomic(folder / RECIPE, json.dumps(evidence.job["recipe"], indent=2) + "\n")
    for name, source in evidence.files.items():
        write_atomic(folder / name, source.read_bytes())
    if evidence.curves is not None:
        write_atomic(folder / CURVES, evidence.curves.read_bytes())
    write_atomic(folder / CARD, model_card(facts))
    if not facts.synthetic:
        for name, text in eval_results(repo, facts.measurements).items():
            write_atomic(folder / name, text)
    return facts


def _of_run(path: Path, whole: bool, with_results: bool) -> tuple[OpenedModel, Evidence]:
    run = Run(path)
    if run.manifest is None:
        raise InputError(
            f"{path} is not the folder of a run.", "Give one such as OUT/runs/pretrain/NAME: gcbench runs list OUT"
        )
    if run.status != "done":
        raise InputError(f"{path} is {run.status}, so there is no model yet.", f"Go on: gcbench runs resume {path}")
    opened = open_model_folder(path)
    evidence = gather(run, opened.weights, with_results=with_results)
    if not whole:
        return opened, evidence
    if opened.kind != "encoder":
        raise InputError(f"{path} is no pre-training, so it has no pre-trainer.", "Leave --pretrainer out.")
    return _pretrainer(path, opened), evidence


def _pretrainer(path: Path, encoder: OpenedModel) -> OpenedModel:
    """The whole model of a pre-training, from its last checkpoint, whose encoder must be the exported one."""
    pretrained = load_pretrained(path, lambda _: None)
    model = pretrained.model.cpu()
    exported = encoder.module.state_dict()
    kept = model.encoder.state_dict()
    if kept.keys() != exported.keys() or any(not kept[name].equal(value) for name, value in exported.items()):
        raise InputError(
            f"The last checkpoint of {path} is not that of its exported encoder.", "Publish the encoder alone."
        )
    channels = None if model.projection is None else model.projection.out_features
    config = PretrainerConfig(
        recipe=pretrained.job.recipe, teacher_channels=channels, pretraining=dict(encoder.config["pretraining"])
    )
    return replace(encoder, module=model, config=config.model_dump(mode="json"))


def _converted(path: Path) -> OpenedModel:
    opened = open_model_folder(path)
    differences = verify_certificate(opened.encoder, load_certificate(path))
    if differences:
        raise InputError(
            f"{path} is not the encoder of its certificate: {'; '.join(differences)}.", "Convert it again."
        )
    return opened


def _facts(opened: OpenedModel, repo: str, evidence: Evidence, weights: str) -> ModelFacts:
    origin: Mapping[str, Any] = opened.config.get("pretraining") or opened.config.get("origin") or {}
    result, recipe = evidence.result, evidence.job.get("recipe", {})
    provenance = None if result is None else result.provenance
    teacher = origin.get("teacher")
    checkpoint = origin.get("checkpoint")
    values: Mapping[str, Any] = recipe.get("values", {})
    steps = origin.get("steps")
    if result is not None and result.kind != "pretrain" and result.budget is not None:
        steps = result.budget.steps
    return ModelFacts(
        repo=repo,
        kind=opened.kind,
        parameters=sum(value.numel() for value in opened.module.parameters()),
        channels=opened.encoder.out_channels,
        in_channels=int(opened.encoder.state_dict()["conv_input.0.weight"].shape[-1]),
        grid_size=default_grid_size() if opened.grid_size is None else opened.grid_size,
        classes=() if opened.label_set is None else load_label_set(opened.label_set).classes,
        recipe=_text(origin.get("recipe")),
        recipe_hash=_text(origin.get("recipe_hash")),
        preset=_text(origin.get("preset")),
        seed=_number(origin.get("seed")),
        steps=_number(steps),
        dataset=_text(values.get("data.dataset")),
        data_fingerprint=None if provenance is None else provenance.data_fingerprint,
        synthetic=evidence.synthetic or origin.get("synthetic") is True,
        teacher=_text(teacher.get("name")) if isinstance(teacher, Mapping) else None,
        commit=git_state()[0] if provenance is None else provenance.git_commit,
        versions=library_versions() if provenance is None else provenance.versions,
        converted_from=(checkpoint, str(origin.get("sha256", ""))) if isinstance(checkpoint, str) else None,
        weights_sha256=weights,
        measurements=evidence.measurements,
        notes=() if result is None else tuple(result.notes),
        given_encoder=_given(origin.get("encoder")),
        curves=evidence.curves is not None,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _given(key: Any) -> str | None:
    """The SHA-256 in the key of an encoder that a job was given; None for one of its own reproduction, or none."""
    return key.removeprefix("given:") if isinstance(key, str) and key.startswith("given:") else None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _is_dataset(path: Path) -> bool:
    names = {"dataset.json", "scenes", "scans"}
    return path.is_dir() and any((path / name).exists() for name in names) and not (path / "job.json").is_file()
