"""`gcbench evaluate`: scores of anyone's predictions, under a named protocol. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from gcbench.cli.scoring_options import Ids, IdsOption, Kind

if TYPE_CHECKING:
    from gcbench.data.storage import PreparedDataset
    from gcbench.scoring.bootstrap import Metrics
    from gcbench.scoring.evaluation import Evaluation

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_T = TypeVar("_T")
_SPLIT = "val"
_EPILOG = """Examples:

  gcbench evaluate semantic --pred predictions --gt ground_truth --labels scannet20

  gcbench evaluate instance --pred predictions --gt prepared/scannet --labels scannet200 --protocol pointcept

  gcbench evaluate semantic --pred seed0 --pred seed1 --gt prepared/s3dis --split Area_5 --labels s3dis --json out.json

Text files are as ScanNet's benchmark has them. All formats: docs/evaluation.md.
"""


@app.command(epilog=_EPILOG)
def evaluate(
    kind: Annotated[Kind, typer.Argument(help="What is scored: semantic or instance segmentation.")],
    pred: Annotated[
        list[Path],
        typer.Option(
            help="Folder with a file per scene: .txt, .npy, .npz or .safetensors. Give several for several seeds.",
            metavar="DIR",
        ),
    ],
    gt: Annotated[
        Path, typer.Option(help="Ground truth: a folder with a file per scene, or a prepared dataset.", metavar="DIR")
    ],
    labels: Annotated[str, typer.Option(help="Label set: scannet20, scannet200 or s3dis.", metavar="NAME")],
    protocol: Annotated[
        str, typer.Option(help="Metric policy: scannet-official or pointcept.", metavar="NAME")
    ] = "scannet-official",
    split: Annotated[
        str | None,
        typer.Option(
            help=f"Split of a prepared dataset, or several: Area_1,Area_2. Default: {_SPLIT}.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    ids: IdsOption = Ids.raw,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out scenes without a prediction; the result names them.")
    ] = False,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Draws for the 95 % interval over scenes; 0 for none.", metavar="N")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of these draws.", metavar="N")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.", metavar="N")] = 1,
    classes: Annotated[bool, typer.Option("--classes", help="Print every class, however many there are.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write all scores, at full precision.", metavar="FILE")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the scores of all classes.", metavar="FILE")] = None,
) -> None:
    """Score predictions. Equal to the official scripts to the bit.

    The protocol says which script: scannet-official is the benchmark's own, pointcept the one most papers use.
    """
    from rich.console import Console

    from gcbench.protocols.evaluate import evaluation_record
    from gcbench.reporting.scores import render_scores, scores_csv
    from gcbench.runs.files import write_json

    _check_outputs(json, csv)
    evaluations, dataset, split_name = _evaluations(kind, pred, gt, labels, protocol, split, ids)
    runs: dict[str, Metrics] = {}
    missing: tuple[str, ...] = ()
    for evaluation in evaluations:
        runs[str(evaluation.predictions)], missing = _score(evaluation, allow_missing=allow_missing, workers=workers)
    record = evaluation_record(
        runs,
        split=split_name,
        missing=missing,
        draws=bootstrap,
        seed=seed,
        workers=workers,
        synthetic=dataset is not None and dataset.synthetic,
        data_fingerprint=None if dataset is None else dataset.fingerprint,
    )
    if json is not None:
        write_json(json, record.model_dump())
    if csv is not None:
        from gcbench.files import write_atomic

        write_atomic(csv, scores_csv(record))
    Console().print(render_scores(record, every_class=classes))


def _evaluations(
    kind: Kind, pred: list[Path], gt: Path, labels: str, protocol: str, split: str | None, ids: Ids
) -> tuple[list[Evaluation], PreparedDataset | None, str | None]:
    """What is to be scored, a part per folder of predictions; the prepared dataset and its split, if it is one."""
    from gcbench.data.labels import load_label_set
    from gcbench.errors import DataError, InputError
    from gcbench.scoring.evaluation import Evaluation, FolderTruth, GroundTruth
    from gcbench.scoring.protocols import load_protocol

    if len({folder.resolve() for folder in pred}) < len(pred):
        raise InputError("--pred names a folder twice.", "Several folders are several seeds of one method.")
    try:
        label_set = load_label_set(labels)
    except DataError as error:
        raise InputError(error.message, error.way_out) from error
    policy = load_protocol(protocol)
    dataset: PreparedDataset | None = None
    truth: GroundTruth
    if (gt / "dataset.json").is_file():
        from gcbench.data.storage import PreparedDataset
        from gcbench.protocols.prepared_truth import PreparedTruth

        dataset = PreparedDataset.open(gt)
        split = split or _SPLIT
        truth = PreparedTruth.open(dataset, label_set, split)
    elif split is not None:
        raise InputError(f"--split {split}: {gt} is no prepared dataset, it has no splits.", "Leave --split out.")
    else:
        truth = FolderTruth.open(gt, label_set, indices=ids is Ids.indices)
    indices = ids is Ids.indices
    return (
        [Evaluation(kind.value, folder, truth, label_set, policy, indices) for folder in pred],
        dataset,
        split,
    )


def _score(evaluation: Evaluation, *, allow_missing: bool, workers: int) -> tuple[Metrics, tuple[str, ...]]:
    """Metrics of one folder of predictions, and the scenes that it lacks."""
    from gcbench.cli.scene_progress import scene_progress
    from gcbench.scoring.evaluation import choose_scenes, collect, measured_scenes

    files, missing = choose_scenes(evaluation, allow_missing=allow_missing)
    with (
        measured_scenes(evaluation, files, workers) as measured,
        scene_progress(f"scoring {evaluation.predictions.name}", len(files)) as step,
    ):
        return collect(evaluation, _watched(measured, step, len(files))), missing


def _watched(
    measured: Iterator[tuple[str, _T]], step: Callable[[str, int, int], None], total: int
) -> Iterator[tuple[str, _T]]:
    for done, (scene, counts) in enumerate(measured, start=1):
        step(scene, done, total)
        yield scene, counts


def _check_outputs(*files: Path | None) -> None:
    """Before any work: a result must have a place."""
    from gcbench.errors import InputError

    for file in files:
        if file is not None and (file.is_dir() or not file.resolve().parent.is_dir()):
            raise InputError(f"{file} cannot be written: it is a folder, or its folder does not exist.")
