"""Model cards: read back as they were written, nothing undefined in them, and nobody's text breaks them."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, metadata_load, parse_eval_result_entries
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from gcbench.errors import DataError, InputError
from gcbench.hub.card import PublishedNumber, eval_results, model_card, published_numbers
from gcbench.hub.facts import Measurement, ModelFacts
from gcbench.hub.layout import is_publishable

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
    assert result.source_url == "https://huggingface.co/user/name/tree/main/results"


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
    for word in ("None", "nan", "{{", "{%", "\n\n\n"):
        assert word not in card, word
    assert 'AutoModel.from_pretrained("user/name")' in card
    assert ("Made from synthetic rooms" in card) == synthetic
    assert ("model-index" in card) == (not synthetic and bool(facts.measurements))
    assert ("| paper |" in card) == (not synthetic and bool(facts.measurements))


def test_terms_are_those_of_the_data() -> None:
    assert "ScanNet Terms of Use" in model_card(FACTS) and "Stanford" not in model_card(FACTS)
    both = replace(FACTS, measurements=(NUMBER, replace(NUMBER, dataset="s3dis", label_set="s3dis")))
    assert "Stanford" in model_card(both)
    rooms = model_card(replace(FACTS, synthetic=True))
    assert "nobody else's terms" in rooms and "Stanford" not in rooms and "licence of its own" not in rooms
    assert "The 2D teacher, radio, has a licence of its own." in model_card(FACTS)
    unknown = model_card(replace(FACTS, dataset=None, measurements=()))
    assert "is not recorded" in unknown and "ScanNet Terms of Use" in unknown and "Stanford" in unknown


def test_the_licence_is_ours_to_grant_for_rooms_only() -> None:
    real, rooms = (ModelCard(model_card(replace(FACTS, synthetic=synthetic))).data for synthetic in (False, True))
    assert (real["license"], real["license_name"]) == ("other", "dataset-terms")
    assert real["license_link"] == "https://huggingface.co/user/name#terms" and "\n## Terms\n" in model_card(FACTS)
    assert (rooms["license"], rooms.get("license_name"), rooms.get("license_link")) == ("mit", None, None)


@pytest.mark.parametrize("synthetic", [False, True])
def test_weights_that_were_given_keep_terms_that_nobody_knows(synthetic: bool) -> None:
    facts = replace(FACTS, kind="segmenter", classes=("wall",), synthetic=synthetic, given_encoder="ab12")
    card = model_card(facts)
    assert "| started from | given weights, SHA-256 ab12 |" in card and "never seen a real scan" not in card
    assert "that it started from have seen is not recorded" in card and "nobody else's terms" not in card
    assert ModelCard(card).data["license"] == "other" and "ScanNet Terms" in card and "Stanford" in card


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(max_size=40) | st.sampled_from(["---\n", "a ---\nb", "\n---\n", "x: y", "; ", "'\"", "{a}"]),
    value=st.floats(0, 100),
)
def test_numbers_are_read_back_whatever_stands_beside_them(text: str, value: float) -> None:
    number = replace(NUMBER, value=value, why=text, title=text, protocol=text.replace("\0", " "))
    card = model_card(replace(FACTS, measurements=(number,), notes=(text,), dataset=text, teacher=text))
    (found,) = published_numbers(card, {})
    expected = PublishedNumber(
        "README.md", "table1/gaussiancross/scannet/mIoU", round(value, 4), "0123456789ab", NUMBER.files
    )
    assert found == expected
    files = eval_results("user/name", [number])
    (evaluated,) = published_numbers("---\n{}\n---\n", files)
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


@pytest.mark.parametrize(
    "card", ["", "# no front matter", "---\nlicense: mit\n", "---\n: [\n---\n", "---\nmodel-index: [3]\n---\n"]
)
def test_a_card_of_somebody_else_is_refused(card: str) -> None:
    with pytest.raises(DataError, match=r"README\.md is not what gcbench writes"):
        published_numbers(card, {})


NO_NUMBERS = "---\n{}\n---\n"
OTHER = replace(
    NUMBER,
    table="table3",
    row="finetuned",
    value=75.0,
    fingerprint="ba9876543210",
    files=("results/c.json",),
    seeds=(0,),
)


def front_matter(card: str) -> dict[str, Any]:
    content = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    assert isinstance(content, dict)
    return content


def tokens_of(card: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(card.split("\n---\n", 1)[1])


def test_cells_of_one_dataset_keep_their_own_protocol_and_files() -> None:
    """The index joins the results of a dataset, so what tells them apart must stand with the metric."""
    numbers = (NUMBER, replace(NUMBER, metric="mAcc", value=30.0), OTHER)
    card = model_card(replace(FACTS, measurements=numbers))
    assert len(front_matter(card)["model-index"][0]["results"]) == 1
    expected = [
        (f"{one.table}/{one.row}/{one.column}/{one.metric}", one.value, one.fingerprint, one.files) for one in numbers
    ]
    for found in (published_numbers(card, {}), published_numbers(NO_NUMBERS, eval_results("user/name", numbers))):
        assert [(number.cell, number.value, number.fingerprint, number.files) for number in found] == expected


def test_the_metadata_survive_the_client(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(model_card(replace(FACTS, measurements=(NUMBER, OTHER))), encoding="utf-8")
    loaded = metadata_load(tmp_path / "README.md")
    assert loaded is not None
    name, results = model_index_to_eval_results(loaded["model-index"])
    assert name == "name" and eval_results_to_model_index(name, results) == loaded["model-index"]
    assert [result.metric_value for result in results] == [23.456, 75.0]
    assert set(loaded) == {"library_name", "license", "license_name", "license_link", "tags", "model-index"}
    assert "encoder" in loaded["tags"]


@pytest.mark.parametrize("of", ["model", "number"])
def test_numbers_of_rooms_are_told_apart_and_are_no_results(of: str) -> None:
    number = replace(NUMBER, synthetic=of == "number")
    card = model_card(replace(FACTS, synthetic=of == "model", measurements=(number,)))
    assert published_numbers(card, {}) == [] and "model-index" not in card
    assert "not comparable with anything" in card and "23.3" not in card and "+0.2" not in card
    assert "\n| Table 1: GaussianCross, frozen, ScanNet | mIoU | 23.5 ± 0.3 [21.0, 25.5] (2 seeds) |\n" in card


def test_numbers_of_rooms_beside_real_ones() -> None:
    numbers = [OTHER, replace(NUMBER, synthetic=True, title="Rooms")]
    card = model_card(replace(FACTS, measurements=tuple(numbers)))
    assert [number.value for number in published_numbers(card, {})] == [75.0]
    assert [number.value for number in published_numbers(NO_NUMBERS, eval_results("user/name", numbers))] == [75.0]
    assert (
        card.index("| Table 1: GaussianCross, frozen, ScanNet |")
        < card.index("On synthetic rooms")
        < card.index("| Rooms |")
    )


def test_the_warning_stands_before_everything_else() -> None:
    lines = model_card(replace(FACTS, synthetic=True)).split("\n---\n")[1].strip().splitlines()
    assert lines[0] == "# name" and lines[2].startswith(
        "> **Made from synthetic rooms.** This model is a demonstration"
    )


def test_what_is_not_finite_is_said_in_words_and_left_out_of_the_index() -> None:
    nan = float("nan")
    number = replace(NUMBER, spread=nan, interval=(nan, 2.0), paper=nan, difference=nan)
    card = model_card(replace(FACTS, measurements=(number, replace(NUMBER, metric="mAcc", value=nan))))
    assert "nan" not in card
    assert "| mIoU | 23.5 (2 seeds) | – | – |" in card and "| mAcc | undefined ± 0.3" in card
    assert len(published_numbers(card, {})) == 1
    assert "model-index:" not in model_card(replace(FACTS, measurements=(replace(NUMBER, value=nan),)))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("encoder", "gives every point of an indoor scan a feature"),
        ("segmenter", "gives every point of an indoor scan a class"),
        ("instance-segmenter", "PointGroup"),
        ("pretrainer", "a dense volume, and the heads that turn an indoor scan into 3D Gaussians"),
    ],
)
def test_every_kind_says_what_it_is_and_shows_code_that_parses(kind: Any, said: str) -> None:
    classes = ("wall", "bed") if "segmenter" in kind else ()
    card = model_card(replace(FACTS, kind=kind, classes=classes))
    lines = card.splitlines()
    assert said in lines[lines.index("# name") + 2] and len(lines) < 150
    assert ("model.predict" in card) == ("| classes | 2: wall, bed |" in card) == bool(classes)
    assert ("classes and instances" in card) == (kind == "instance-segmenter")
    (code,) = (token.content for token in tokens_of(card) if token.type == "fence" and token.info == "python")
    ast.parse(code)


ODD = st.text(st.sampled_from("ab 1|`*_[]()<>&\\#~$!-=+.:{}%'\"\n\r\t\u2028é"), max_size=25)


@settings(max_examples=100, deadline=None)
@given(text=ODD)
def test_nobodys_text_changes_how_a_card_is_built(text: str) -> None:
    number = replace(NUMBER, title=text, why=text, verdict=text, protocol=text, metric=text, files=(text,))
    facts = replace(
        FACTS, kind="segmenter", classes=(text, "bed"), notes=(text,), teacher=text, preset=text, recipe=text
    )
    facts = replace(facts, measurements=(number, replace(number, synthetic=True)), versions={text: text})
    facts = replace(facts, converted_from=(text, text), weights_sha256=text, data_fingerprint=text)
    tokens = tokens_of(model_card(facts))
    heads = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    assert heads == ["name", "Load it", "Measured", "Training", "Terms", "Limits", "Citation"]
    assert cells_of(tokens) == cells_of(tokens_of(model_card(plain(facts))))
    kinds = {token.type for token in tokens} | {child.type for token in tokens for child in token.children or ()}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "em_open", "hr", "code_block"}


def plain(facts: ModelFacts) -> ModelFacts:
    """The same with a harmless text wherever `facts` has an odd one."""
    word = "word" if facts.preset else ""  # what is empty has no row
    numbers = tuple(replace(one, title="t", why="w", metric="m", files=("f",)) for one in facts.measurements)
    return replace(
        facts,
        preset=word,
        recipe=word or None,
        teacher=word,
        data_fingerprint=word,
        classes=("a", "b"),
        measurements=numbers,
    )


def cells_of(tokens: list[Token]) -> list[int]:
    """Cells of every row of every table."""
    counts: list[int] = []
    for token in tokens:
        if token.type == "tr_open":
            counts.append(0)
        elif token.type in ("td_open", "th_open"):
            counts[-1] += 1
    return counts


@settings(deadline=None)
@given(split=st.text(max_size=200), label_set=st.text(max_size=20), fingerprint=st.text(min_size=1, max_size=40))
def test_a_file_is_called_what_may_be_published(split: str, label_set: str, fingerprint: str) -> None:
    one = replace(NUMBER, split=split, label_set=label_set, fingerprint=fingerprint)
    files = eval_results("user/name", [one, replace(one, files=("results/c.json",))])
    assert len(files) == 2 and all(is_publishable(name) for name in files)


def test_other_results_of_a_protocol_have_a_file_of_their_own_and_the_same_ones_are_told_once() -> None:
    again = replace(NUMBER, row="other", value=1.0, files=("results/c.json",))
    shown_twice = replace(NUMBER, table="table5")
    files = eval_results("user/name", [NUMBER, again, shown_twice])
    assert [name.rpartition("/")[2] for name in files] == [
        "scannet20-val-semantic-0123456789ab.yaml",
        "scannet20-val-semantic-0123456789ab-2.yaml",
    ]
    assert [number.value for number in published_numbers(NO_NUMBERS, files)] == [23.456, 1.0]


@pytest.mark.parametrize("value", ["true", "'23.4'", ".nan", ".inf", "[1]", "null", "1" + "0" * 400])
def test_what_is_no_number_is_refused(value: str) -> None:
    card = model_card(FACTS).replace("value: 23.456", f"value: {value}")
    with pytest.raises(DataError, match=r"README\.md is not what gcbench writes"):
        published_numbers(card, {})
    ((name, text),) = eval_results("user/name", [NUMBER]).items()
    with pytest.raises(DataError, match=name):
        published_numbers(NO_NUMBERS, {name: text.replace("value: 23.456", f"value: {value}")})


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{key}: &{key} [{', '.join([f'*{before}'] * 9)}]\n" for before, key in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize("where", ["cell", "protocol", "files"])
def test_yaml_that_stands_for_gigabytes_is_refused(where: str) -> None:
    said = {"cell": "x", "protocol": "x", "files": "[x]", where: "*j"}
    arguments = ", ".join(f"{key}: {value}" for key, value in said.items())
    metric = f"{{type: x, value: 1, args: {{{arguments}}}}}"
    index = f"[{{name: x, results: [{{task: {{type: x}}, dataset: {{type: x, name: x}}, metrics: [{metric}]}}]}}]"
    with pytest.raises(DataError, match="a list instead of a text"):
        published_numbers(f"---\n{BOMB}model-index: {index}\n---\n", {})


@pytest.mark.parametrize(
    "text", ["", "7", "- 5", "{", "a: b", "- {error: x, filename: y}", "- !!python/object:os.x {}", "[" * 3000]
)
def test_an_evaluation_file_of_somebody_else_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"^x\.yaml is not what gcbench writes"):
        published_numbers(NO_NUMBERS, {"x.yaml": text})


@pytest.mark.parametrize("repo", ["", "name", 'user/"); import os', "user/a b", "user/a\nb"])
def test_what_can_be_no_repository_gets_no_card(repo: str) -> None:
    with pytest.raises(InputError, match="no repository"):
        model_card(replace(FACTS, repo=repo))


def test_a_card_needs_no_torch() -> None:
    code = "import sys, tests.hub.test_card as t; t.model_card(t.FACTS); print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
