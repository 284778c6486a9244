"""Model cards: read back as they were written, nothing undefined in them, and nobody's text breaks them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, parse_eval_result_entries
from hypothesis import given, settings
from hypothesis import strategies as st

from gcbench.errors import DataError
from gcbench.hub.card import PublishedNumber, eval_results, model_card, published_numbers
from gcbench.hub.facts import Measurement, ModelFacts

NUMBER = Measurement(
    table="table1",
    row="gaussiancross",
    column="scannet",
    title="Table 1: GaussianCross, frozen, ScanNet",
    metric="mIoU",
    value=23.456,
    spread=0.31,
    interval=(21.0, 25.5),
    seeds=(0, 1),
    task="semantic",
    label_set="scannet20",
    dataset="scannet",
    split="val",
    protocol="scannet20 on val, scored on voxels",
    fingerprint="0123456789ab",
    paper=23.3,
    difference=0.156,
    verdict="reproduced",
    why="",
    files=("results/a.json", "results/b.json"),
    measured=datetime(2026, 1, 2, tzinfo=timezone.utc),
)
FACTS = ModelFacts(
    repo="user/name",
    kind="encoder",
    parameters=39_155_904,
    channels=96,
    in_channels=6,
    grid_size=0.02,
    classes=(),
    recipe="pretrain/gaussiancross",
    recipe_hash="abcdefabcdef",
    preset=None,
    seed=0,
    steps=1000,
    dataset="scannet",
    data_fingerprint="feed",
    synthetic=False,
    teacher="radio",
    commit="c" * 40,
    versions={"torch": "2.13.0"},
    converted_from=None,
    weights_sha256="0" * 64,
    measurements=(NUMBER,),
)
RARE: dict[str, Any] = {"recipe": None, "recipe_hash": None, "seed": None, "steps": None, "dataset": None}
RARE |= {"data_fingerprint": None, "teacher": None, "commit": None, "versions": {}}


def test_the_front_matter_is_what_the_hub_reads() -> None:
    data = ModelCard(model_card(FACTS)).data
    assert isinstance(data, ModelCardData)
    assert (data.library_name, data.license) == ("gcbench", "other")
    (result,) = data.eval_results or []
    assert isinstance(result, EvalResult)
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("mIoU", 23.456, "val")
    assert result.source_url == "https://huggingface.co/user/name/blob/main/results/a.json"


def test_a_row_says_everything_about_a_number() -> None:
    row = next(line for line in model_card(FACTS).splitlines() if line.startswith("| Table 1"))
    assert row == (
        "| Table 1: GaussianCross, frozen, ScanNet | mIoU | 23.5 ± 0.3 [21.0, 25.5] (2 seeds) | 23.3 | +0.2 "
        "| reproduced | `0123456789ab` |"
    )


@pytest.mark.parametrize("kind", ["encoder", "segmenter", "instance-segmenter", "pretrainer"])
@pytest.mark.parametrize("synthetic", [False, True])
@pytest.mark.parametrize("changes", [{}, RARE, {"measurements": ()}, {"converted_from": ("a|b.pth", "f" * 64)}])
def test_nothing_undefined_is_in_a_card(kind: Any, synthetic: bool, changes: dict[str, Any]) -> None:
    classes = ("wall", "bed") if "segmenter" in kind else ()
    facts = replace(FACTS, **{"kind": kind, "synthetic": synthetic, "classes": classes, **changes})
    card = model_card(facts)
    for word in ("None", "nan", "{{", "{%", "\n\n\n\n"):
        assert word not in card, word
    assert 'AutoModel.from_pretrained("user/name")' in card
    assert ("Made from synthetic rooms" in card) == synthetic
    assert ("model-index" in card) == (not synthetic and bool(facts.measurements))
    assert ("| paper |" in card) == (not synthetic and bool(facts.measurements))


def test_terms_are_those_of_the_data() -> None:
    assert "ScanNet Terms of Use" in model_card(FACTS) and "Stanford" not in model_card(FACTS)
    both = replace(FACTS, measurements=(NUMBER, replace(NUMBER, dataset="s3dis", label_set="s3dis")))
    assert "Stanford" in model_card(both)
    assert "nobody else's terms" in model_card(replace(FACTS, synthetic=True))


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40), value=st.floats(0, 100))
def test_numbers_are_read_back_whatever_stands_beside_them(text: str, value: float) -> None:
    number = replace(NUMBER, value=value, why=text, title=text, protocol=text.replace("\0", " "))
    card = model_card(replace(FACTS, measurements=(number,), notes=(text,), dataset=text, teacher=text))
    body = card.split("---\n", 2)[2]
    assert "<script" not in body.lower()
    (found,) = published_numbers(card, {})
    expected = PublishedNumber(
        "README.md", "table1/gaussiancross/scannet/mIoU", round(value, 4), "0123456789ab", NUMBER.files
    )
    assert found == expected
    files = eval_results("user/name", [number])
    (evaluated,) = published_numbers("---\n---\n", files)
    assert (evaluated.cell, evaluated.value, evaluated.fingerprint) == (found.cell, found.value, found.fingerprint)


def test_pipes_lines_and_html_stay_in_their_cell() -> None:
    number = replace(NUMBER, title="a | b\n| c", why="<img src=x>\n# no")
    card = model_card(replace(FACTS, measurements=(number,), notes=("one\n\n# two",)))
    (row,) = [line for line in card.splitlines() if line.startswith("| a ")]
    assert row.count(" | ") == 6 and "\\|" in row and "&lt;img" in row
    assert "\n# two" not in card


def test_evaluation_files_are_one_for_each_protocol() -> None:
    others = [
        replace(NUMBER, metric="mAcc"),
        replace(NUMBER, fingerprint="ba9876543210"),
        replace(NUMBER, split="a b/c"),
    ]
    undefined = replace(NUMBER, value=float("nan"), fingerprint="ffffffffffff")
    files = eval_results("user/name", [NUMBER, *others, undefined])
    assert list(files) == [
        ".eval_results/scannet20-val-semantic-0123456789ab.yaml",
        ".eval_results/scannet20-val-semantic-ba9876543210.yaml",
        ".eval_results/scannet20-a-b-c-semantic-0123456789ab.yaml",
    ]
    first, second = parse_eval_result_entries(yaml.safe_load(next(iter(files.values()))))
    assert (first.dataset_id, first.value, first.task_id) == (
        "Pointcept/scannet-compressed",
        23.456,
        "semantic-scannet20-val-mIoU",
    )
    assert second.task_id == "semantic-scannet20-val-mAcc"


@pytest.mark.parametrize("card", ["", "# no front matter", "---\n: [\n---\n", "---\nmodel-index: [3]\n---\n"])
def test_a_card_of_somebody_else_is_refused(card: str) -> None:
    with pytest.raises(DataError, match=r"README\.md is not what gcbench writes"):
        published_numbers(card, {})
