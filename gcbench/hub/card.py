"""The card of a published model, with its numbers in the two forms that the Hub reads, and both read back.

`README.md` has them as `model-index`, `.eval_results/*.yaml` as one file for each protocol. What a number is of stands
in `dataset.args` and in the notes, so that it can be found again in `results/`. Imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import jinja2
import yaml

from gcbench.data.plan_facts import DATASETS, dataset_plan
from gcbench.errors import DataError
from gcbench.hub.facts import Measurement, ModelFacts
from gcbench.hub.layout import CARD, EVALUATIONS
from gcbench.resources import resource_path

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_LICENCE = "see the section Terms"
_MALFORMED = (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass(frozen=True)
class PublishedNumber:
    """A number as a card or an evaluation file states it.

    Attributes:
        where: the file.
        cell: ``table/row/column/metric``.
        value: percent.
        fingerprint: of the protocol.
        files: the result files that it is the mean of.
    """

    where: str
    cell: str
    value: float
    fingerprint: str
    files: tuple[str, ...]


def model_card(facts: ModelFacts) -> str:
    """`README.md`: front matter with `model-index`, and what a reader must know. Synthetic models have no index."""
    from huggingface_hub import ModelCardData

    judged = not facts.synthetic
    data = ModelCardData(
        model_name=facts.repo.rpartition("/")[2],
        library_name="gcbench",
        license="other" if judged else "mit",
        license_name=_LICENCE if judged else None,
        tags=["point-cloud", "3d", "sparse-convolution", "self-supervised", "gaussiancross", facts.kind],
        eval_results=[_eval_result(facts.repo, one) for one in facts.measurements if judged] or None,
    )
    body = _template().render(
        facts=facts,
        name=facts.repo.rpartition("/")[2],
        rows=facts.measurements,
        protocols={one.fingerprint: one.protocol for one in facts.measurements},
        one_seed=all(len(one.seeds) == 1 for one in facts.measurements),
        files=", ".join(f"`{name}`" for name in sorted({name for one in facts.measurements for name in one.files})),
        training=_training(facts),
        terms=_terms(facts),
        versions=", ".join(f"{name} {version}" for name, version in facts.versions.items()),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


def eval_results(repo: str, measurements: Iterable[Measurement]) -> dict[str, str]:
    """Path -> content of `.eval_results`: a file for each dataset, split, classes and protocol."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    by_file: dict[str, list[EvalResultEntry]] = {}
    for one in measurements:
        if not math.isfinite(one.value):
            continue
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{one.label_set}-{one.split}-{one.task}-{one.fingerprint}")
        entry = EvalResultEntry(
            dataset_id=dataset_plan(one.dataset).hub_dataset,
            task_id=f"{one.task}-{one.label_set}-{one.split}-{one.metric}",
            value=round(one.value, 4),
            date=one.measured.isoformat(),
            source_url=_address(repo, one),
            source_name=", ".join(one.files),
            notes=f"{_cell(one)}; {one.fingerprint}; {one.protocol}",
        )
        by_file.setdefault(f"{EVALUATIONS}/{name}.yaml", []).append(entry)
    return {
        name: yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
        for name, entries in by_file.items()
    }


def published_numbers(card: str, evaluations: Mapping[str, str]) -> list[PublishedNumber]:
    """What a card and its evaluation files state.

    Args:
        card: content of `README.md`; `evaluations`: path -> content.

    Raises:
        DataError: one of them is not what `model_card` and `eval_results` write.
    """
    found = []
    try:
        _, front, _ = card.split("---\n", 2)
        index = (yaml.safe_load(front) or {}).get("model-index") or []
        for result in (result for model in index for result in model["results"]):
            args, files = result["dataset"]["args"], _files(result)
            for metric in result["metrics"]:
                cell = f"{args['cell']}/{metric['type']}"
                found.append(PublishedNumber(CARD, cell, float(metric["value"]), str(args["protocol"]), files))
    except _MALFORMED as error:
        raise DataError(f"The front matter of {CARD} is not what gcbench writes ({_first(error)}).") from error
    return found + [number for name, text in evaluations.items() for number in _evaluated(name, text)]


def _evaluated(name: str, text: str) -> list[PublishedNumber]:
    found = []
    try:
        for entry in yaml.safe_load(text):
            cell, fingerprint, _ = entry["notes"].split("; ", 2)
            found.append(PublishedNumber(name, cell, float(entry["value"]), fingerprint, _files(entry)))
    except _MALFORMED as error:
        raise DataError(f"{name} is not what gcbench writes ({_first(error)}).") from error
    return found


def _files(entry: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(entry["source"]["name"]).split(", "))


def _eval_result(repo: str, one: Measurement) -> EvalResult:
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type=f"{one.task}-segmentation",
        task_name=f"{one.task.capitalize()} segmentation of point clouds",
        dataset_type=dataset_plan(one.dataset).hub_dataset,
        dataset_name=f"{dataset_plan(one.dataset).title} ({one.label_set}, {one.split})",
        dataset_config=one.label_set,
        dataset_split=one.split,
        dataset_args={"cell": f"{one.table}/{one.row}/{one.column}", "protocol": one.fingerprint},
        metric_type=one.metric,
        metric_name=f"{one.metric} ({one.protocol})",
        metric_value=round(one.value, 4),
        source_name=", ".join(one.files),
        source_url=_address(repo, one),
    )


def _address(repo: str, one: Measurement) -> str:
    return f"https://huggingface.co/{repo}/blob/main/{PurePosixPath(one.files[0])}"


def _cell(one: Measurement) -> str:
    return f"{one.table}/{one.row}/{one.column}/{one.metric}"


def _training(facts: ModelFacts) -> dict[str, str]:
    said = {
        "recipe": f"{facts.recipe} ({facts.recipe_hash[:12]})" if facts.recipe and facts.recipe_hash else facts.recipe,
        "preset": facts.preset,
        "data": "synthetic rooms" if facts.synthetic else facts.dataset,
        "data fingerprint": facts.data_fingerprint,
        "teacher": facts.teacher,
        "steps": None if facts.steps is None else f"{facts.steps:,}",
        "seed": None if facts.seed is None else str(facts.seed),
        "gcbench": facts.commit,
    }
    return {key: value for key, value in said.items() if value}


def _terms(facts: ModelFacts) -> list[str]:
    """Terms of the data that this model, or a number on its card, is of; all of them if nobody knows."""
    known = {one.dataset for one in facts.measurements} | ({facts.dataset} if facts.dataset in DATASETS else set())
    return [dataset_plan(name).licence for name in DATASETS if not known or name in known]


def _escaped(text: object) -> str:
    """Text that stays in its place: in a table's cell, without HTML."""
    plain = " ".join(str(text).split())
    return re.sub(r"([|`*_\[\]<>\\#~])", r"\\\1", plain).replace("\\<", "&lt;").replace("\\>", "&gt;")


def _measured(one: Measurement) -> str:
    words = [f"{one.value:.1f}" if math.isfinite(one.value) else "undefined"]
    if one.spread is not None:
        words.append(f"± {one.spread:.1f}")
    if one.interval is not None:
        words.append(f"[{one.interval[0]:.1f}, {one.interval[1]:.1f}]")
    seeds: Sequence[int] = one.seeds
    return " ".join([*words, f"({len(seeds)} seed{'s' * (len(seeds) > 1)})"])


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(  # noqa: S701 - Markdown: `cell` escapes what comes from outside
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {"cell": _escaped, "measured": _measured}
    return environment.from_string(resource_path("reports", "templates", "model_card.md").read_text(encoding="utf-8"))


def _first(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
