"""The card of a published model, with its numbers in the two forms that the Hub reads, and both read back.

`README.md` has them as `model-index`, `.eval_results/*.yaml` as one file for each protocol. What a number is of stands
in the arguments of its metric and in the notes, so that it can be found again in `results/`. Numbers of synthetic rooms
are in neither. Imports no torch.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote

import jinja2
import yaml

from gcbench.data.plan_facts import DATASETS, dataset_plan
from gcbench.errors import DataError
from gcbench.hub.client import check_repo
from gcbench.hub.facts import Measurement, ModelFacts
from gcbench.hub.layout import CARD, EVALUATIONS, RESULTS
from gcbench.resources import resource_path

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_DECIMALS = 4  # of a published value, percent
_LICENCE = "dataset-terms"  # the Hub wants an id where the licence is none of its own
_MALFORMED = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


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
    """`README.md`: front matter with `model-index`, and what a reader must know. Synthetic models have no index.

    Raises:
        InputError: `facts.repo` can be no repository.
    """
    from huggingface_hub import ModelCardData

    name = check_repo(facts.repo).partition("/")[2]
    # What a number is of rooms, or of a model of rooms, is told apart and never in the index.
    rows = [one for one in facts.measurements if not (facts.synthetic or one.synthetic)]
    rooms = [one for one in facts.measurements if facts.synthetic or one.synthetic]
    index = [_eval_result(facts.repo, one) for one in rows if math.isfinite(one.value)]
    # gcbench is MIT, and so is what it makes of its own rooms. Weights of scans: their terms are not ours to grant.
    ours = facts.synthetic and not facts.given_encoder
    data = ModelCardData(
        library_name="gcbench",
        license="mit" if ours else "other",
        license_name=None if ours else _LICENCE,
        license_link=None if ours else f"https://huggingface.co/{facts.repo}#terms",
        tags=["point-cloud", "3d", "sparse-convolution", "self-supervised", "gaussiancross", facts.kind],
        model_name=name if index else None,
        eval_results=index or None,
    )
    body = _template().render(
        facts=facts,
        name=name,
        rows=rows,
        rooms=rooms,
        protocols={one.fingerprint: one.protocol for one in rows},
        one_seed=any(len(one.seeds) == 1 for one in facts.measurements),
        files=sorted({file for one in facts.measurements for file in one.files}),
        training=_training(facts),
        terms=_terms(facts),
        known=facts.dataset in DATASETS and not facts.given_encoder,
        ours=ours,
        versions=", ".join(f"{name} {version}" for name, version in facts.versions.items()),
        decimals=_DECIMALS,
    )
    body = re.sub(r"\n{3,}", "\n\n", body)  # what parts of the template that are not there leave
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


def eval_results(repo: str, measurements: Iterable[Measurement]) -> dict[str, str]:
    """Path -> content of `.eval_results`: a file for each dataset, split, classes and protocol; percent, four decimals.

    Other results of the same protocol get a file of their own (``-2`` ...), as the Hub tells variants apart by file. A
    result that several tables show is told once. Numbers of synthetic rooms are left out.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    variants: dict[str, dict[tuple[str, ...], dict[str, EvalResultEntry]]] = {}
    for one in measurements:
        if one.synthetic or not math.isfinite(one.value):
            continue
        task = f"{one.task}-{_line(one.label_set)}-{_line(one.split)}-{_line(one.metric)}"
        entry = EvalResultEntry(
            dataset_id=dataset_plan(one.dataset).hub_dataset,
            task_id=task,
            value=_value(one),
            date=one.measured.isoformat(),
            source_url=_address(repo, one),
            source_name=", ".join(one.files),
            notes=f"{_cell(one)}/{one.metric}; {one.fingerprint}; {_line(one.protocol)}",
        )
        variants.setdefault(_file_name(one), {}).setdefault(one.files, {}).setdefault(task, entry)
    return {
        f"{EVALUATIONS}/{name}{f'-{number}' if number > 1 else ''}.yaml": yaml.safe_dump(
            eval_result_entries_to_yaml(list(entries.values())), sort_keys=False, allow_unicode=True
        )
        for name, results in variants.items()
        for number, entries in enumerate(results.values(), 1)
    }


def published_numbers(card: str, evaluations: Mapping[str, str]) -> list[PublishedNumber]:
    """What a card and its evaluation files state. They may be anybody's: nothing in them is trusted.

    Args:
        card: content of `README.md`; `evaluations`: path -> content.

    Raises:
        DataError: one of them is not what `model_card` and `eval_results` write; it names the file.
    """
    return _indexed(card) + [number for name, text in evaluations.items() for number in _evaluated(name, text)]


def _indexed(card: str) -> list[PublishedNumber]:
    from huggingface_hub import EvalResult, ModelCard

    found = []
    try:
        if not card.startswith("---") or (parsed := ModelCard(card)).text == card:
            raise ValueError("there is none")
        for result in parsed.data.get("eval_results") or []:
            if not isinstance(result, EvalResult):
                raise TypeError("no model-index")
            about = result.metric_args or {}
            cell = f"{_text(about['cell'])}/{_text(result.metric_type)}"
            files = tuple(_text(file) for file in about["files"])
            found.append(PublishedNumber(CARD, cell, _percent(result.metric_value), _text(about["protocol"]), files))
    except _MALFORMED as error:
        raise DataError(f"The front matter of {CARD} is not what gcbench writes ({_first(error)}).") from error
    return found


def _evaluated(name: str, text: str) -> list[PublishedNumber]:
    from huggingface_hub import parse_eval_result_entries

    found = []
    try:
        content = yaml.safe_load(text)
        entries = parse_eval_result_entries(content)
        if not isinstance(content, list) or len(entries) < len(content):  # it leaves out what is marked as an error
            raise ValueError("it is no list of results")
        for entry in entries:
            cell, fingerprint, _ = _text(entry.notes).split("; ", 2)
            files = tuple(_text(entry.source_name).split(", "))
            found.append(PublishedNumber(name, cell, _percent(entry.value), fingerprint, files))
    except _MALFORMED as error:
        raise DataError(f"{name} is not what gcbench writes ({_first(error)}).") from error
    return found


def _text(value: object) -> str:
    if not isinstance(value, str):  # never `str(value)`: a few lines of YAML can stand for gigabytes
        raise TypeError(f"a {type(value).__name__} instead of a text")
    return value


def _percent(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError("a value that is no number")
    return float(value)


def _eval_result(repo: str, one: Measurement) -> EvalResult:
    from huggingface_hub import EvalResult

    plan = dataset_plan(one.dataset)
    return EvalResult(
        task_type=f"{one.task}-segmentation",
        task_name=f"{one.task.capitalize()} segmentation of point clouds",
        dataset_type=plan.hub_dataset,
        dataset_name=f"{plan.title} ({_line(one.label_set)}, {_line(one.split)})",
        dataset_config=_line(one.label_set),
        dataset_split=_line(one.split),
        metric_type=one.metric,
        metric_name=f"{_line(one.metric)}, {_line(one.title)} ({_line(one.protocol)})",
        metric_value=_value(one),
        # The index joins the results of a dataset and keeps what only the first says of it; a metric keeps its own.
        metric_args={"cell": _cell(one), "protocol": one.fingerprint, "files": list(one.files)},
        source_name="gcbench",
        source_url=_address(repo, one, folder=True),
    )


def _value(one: Measurement) -> float:
    return round(float(one.value), _DECIMALS)


def _address(repo: str, one: Measurement, *, folder: bool = False) -> str:
    place = f"blob/main/{quote(one.files[0])}" if one.files and not folder else f"tree/main/{RESULTS}"
    return f"https://huggingface.co/{repo}/{place}"


def _cell(one: Measurement) -> str:
    return f"{one.table}/{one.row}/{one.column}"


def _file_name(one: Measurement) -> str:
    """Without ending: letters, digits, ``.``, ``_`` and ``-``; as `gcbench.hub.layout` lets a file be called."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{one.label_set}-{one.split}-{one.task}").lstrip("._-")
    return f"{safe[:100]}-{re.sub(r'[^A-Za-z0-9]+', '-', one.fingerprint)[:32]}"


def _training(facts: ModelFacts) -> dict[str, str]:
    said = {
        "recipe": f"{facts.recipe} ({facts.recipe_hash[:12]})" if facts.recipe and facts.recipe_hash else facts.recipe,
        "preset": facts.preset,
        "data": "synthetic rooms" if facts.synthetic else facts.dataset,
        "data fingerprint": facts.data_fingerprint,
        "started from": f"given weights, SHA-256 {facts.given_encoder}" if facts.given_encoder else None,
        "teacher": facts.teacher,
        "steps": None if facts.steps is None else f"{facts.steps:,}",
        "seed": None if facts.seed is None else str(facts.seed),
        "commit of gcbench": facts.commit,
    }
    return {key: value for key, value in said.items() if value}


def _terms(facts: ModelFacts) -> list[str]:
    """Terms of the data that this model, or a number on its card, is of; all of them if nobody knows."""
    if facts.given_encoder:
        return [dataset_plan(name).licence for name in DATASETS]
    known = {one.dataset for one in facts.measurements} | ({facts.dataset} if facts.dataset in DATASETS else set())
    return [dataset_plan(name).licence for name in DATASETS if not known or name in known]


def _line(text: object) -> str:
    return " ".join(str(text).split())


def _escaped(text: object) -> str:
    """Text that stays in its place: in a table's cell, without HTML and Markdown."""
    return html.escape(re.sub(r"([|`*_\[\]\\#~$])", r"\\\1", _line(text)), quote=False)


def _code(text: object) -> str:
    """Text between backticks, also in a table's cell. What would end it becomes ``_``."""
    return re.sub(r"[`|]", "_", _line(text)) or "_"


def _number(value: float | None, form: str = ".1f") -> str:
    return "–" if value is None or not math.isfinite(value) else format(value, form)


def _measured(one: Measurement) -> str:
    words = [_number(one.value) if math.isfinite(one.value) else "undefined"]
    if one.spread is not None and math.isfinite(one.spread):
        words.append(f"± {one.spread:.1f}")
    if one.interval is not None and all(map(math.isfinite, one.interval)):
        words.append(f"[{one.interval[0]:.1f}, {one.interval[1]:.1f}]")
    return " ".join([*words, f"({len(one.seeds)} seed{'s' if len(one.seeds) != 1 else ''})"])


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(  # noqa: S701 - Markdown: `cell` and `code` escape what comes from outside
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {"cell": _escaped, "code": _code, "measured": _measured, "number": _number}
    return environment.from_string(resource_path("reports", "templates", "model_card.md").read_text(encoding="utf-8"))


def _first(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
