"""The paper against itself: what is known is found, what is spoilt is found, and what agrees is not."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from gcbench.errors import DataError
from gcbench.recipe.loader import load_recipe
from gcbench.reporting.audit import Audit, Finding, Kind, audit_paper
from gcbench.reporting.audit_render import audit_as_dict, render_audit_markdown, render_audit_terminal
from gcbench.reporting.paper import Paper, PaperValue, load_paper

KNOWN = [  # id, sum, may be rounding
    ("table3/ponderv2/s3dis-6fold/mIoU", "79.9 - 72.4 = 7.5, printed 7.4", True),
    ("table3/ponder", "CVPR 2023; reference list: ICCV 2023", False),
    ("table3/ponderv2", "arXiv 2024; reference list: arXiv 2023", False),
    ("table4/gaussiancross/scannet/mAP50", "62.7 - 56.9 = 5.8, printed 6.2", False),
    ("table4/gaussiancross/scannet200/mAP25", "38.4 - 32.2 = 6.2, printed 5.8", False),
    ("table7/views-2/average/mIoU", "(75.8 + 33.9) / 2 = 54.85, printed 54.3", False),
    ("table7/views-2/average/mAcc", "(83.7 + 42.8) / 2 = 63.25, printed 62.4", False),
    ("table7/views-8/average/mIoU", "(75.6 + 34.0) / 2 = 54.8, printed 54.6", False),
    ("table7/views-8/average/mAcc", "(83.5 + 42.9) / 2 = 63.2, printed 62.1", False),
    ("semantic-over-msc", "34.3 - 32.0 = 2.3, printed 4.8", False),
    ("semantic-over-ppt-unsup", "34.3 - 30.4 = 3.9, printed 3.2", False),
    ("instance-scannet-gain", "62.7 - 56.9 = 5.8, printed 6.2", False),
    (
        "instance-scannet200-map",
        "20.6 (Table 4, row Ours, ScanNet200, mAP), printed 30.6, which is mAP50 of that row, not mAP",
        False,
    ),
    ("targets-all-scannet200", "34.3 (Table 5, row all three, ScanNet200, mIoU), printed 34.1", False),
    ("teachers-table", "clip, dinov2, radio: in Table 7, printed Table 6", False),
    ("teachers-radio-scannet200", "34.3 (Table 7, RADIO, ScanNet200, mIoU), printed 34.1", False),
    ("scannet200-reference-s2", "Hou et al., 2021; Sec. 4.1: Rozenberszki et al., 2022", False),
    ("scannet200-reference-s3", "Hou et al., 2021; Sec. 4.1: Rozenberszki et al., 2022", False),
]


@pytest.fixture(scope="module")
def paper() -> Paper:
    return load_paper()


@pytest.fixture(scope="module")
def audit() -> Audit:
    return audit_paper()


def with_table(paper: Paper, table: str, **changes: Any) -> Paper:
    return replace(paper, tables={**paper.tables, table: replace(paper.tables[table], **changes)})


def with_cell(paper: Paper, key: str, value: float) -> Paper:
    table = key.split("/")[0]
    cells = paper.tables[table].cells
    return with_table(paper, table, cells={**cells, key: PaperValue(value, cells[key].place)})


def new_findings(paper: Paper, audit: Audit) -> list[Finding]:
    old = {(finding.id, finding.sum) for finding in audit.findings}
    return [finding for finding in audit_paper(paper).findings if (finding.id, finding.sum) not in old]


def test_every_known_disagreement_and_no_other_is_found(audit: Audit) -> None:
    assert [(finding.id, finding.sum, finding.may_be_rounding) for finding in audit.findings] == KNOWN


def test_tables_that_agree_have_no_finding(audit: Audit) -> None:
    tables = {finding.id.split("/")[0] for finding in audit.findings}
    assert tables.isdisjoint({"table1", "table2", "table5", "table6", "fig3"})


def test_how_much_was_checked(audit: Audit, paper: Paper) -> None:
    assert audit.checked[Kind.DELTA] == 48  # 8, 34 and 6 in Tables 2, 3 and 4
    assert audit.checked[Kind.AVERAGE] == 4 + 2 * 6
    assert audit.checked[Kind.STATEMENT] == sum(len(said.of) or 1 for said in paper.statements)
    assert audit.checked[Kind.TWICE] == 4 + 2 * 5 + 2 * 2 + 2 + 1 + 1
    assert audit.checked[Kind.SETTING] == 8
    assert audit.checked[Kind.VENUE] == 15


@pytest.mark.parametrize(
    ("key", "value", "kind", "told"),
    [
        ("table2/gaussiancross/scenes-1/mIoU", 33.1, Kind.DELTA, "33.1 - 26.0 = 7.1, printed 6.1"),
        ("table6/opacity-0.7/average/mIoU", 53.5, Kind.AVERAGE, "(74.8 + 33.0) / 2 = 53.9, printed 53.5"),
        ("table1/spunet-scratch/scannet/mIoU", 72.3, Kind.TWICE, "72.2 (Table 3, row SpUNet, ScanNet Val, mIoU), 72.3"),
        ("fig3/full/pretraining/PSNR", 18.3, Kind.TWICE, "18.3 (Sec. 4.3, Core Designs, of Figure 3 (top)), 18.18"),
        ("table5/image/scannet/mIoU", 75.1, Kind.STATEMENT, "75.1 (Table 5, row colour, ScanNet, mIoU), printed 75.0"),
        ("table3/ponderv2/scannet/mIoU", 77.1, Kind.STATEMENT, "77.1 - 76.0 = 1.1 is not at most 1.0"),
        (
            "table1/msc/s3dis-6fold/mAcc",
            45.5,
            Kind.STATEMENT,
            "45.5 (Table 1, row Ours, S3DIS 6-fold, mAcc) is not above 45.5 (Table 1, row MSC, S3DIS 6-fold, mAcc)",
        ),
    ],
)
def test_a_spoilt_value_is_found(paper: Paper, audit: Audit, key: str, value: float, kind: Kind, told: str) -> None:
    found = new_findings(with_cell(paper, key, value), audit)
    assert [finding for finding in found if finding.kind is kind and finding.sum.startswith(told)]


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_spoilt_delta_is_always_found(paper: Paper, data: st.DataObject) -> None:
    table = data.draw(st.sampled_from(["table2", "table3", "table4"]))
    deltas = list(paper.tables[table].deltas)
    place = data.draw(st.integers(0, len(deltas) - 1))
    off = data.draw(st.integers(1, 99)) / 10
    cells = paper.tables[table].cells
    true = round(cells[deltas[place].cell].value - cells[deltas[place].to].value, 1)
    deltas[place] = replace(deltas[place], value=round(true + off, 1))
    found = {finding.id: finding for finding in audit_paper(with_table(paper, table, deltas=tuple(deltas))).findings}
    assert found[deltas[place].cell].may_be_rounding == (off == 0.1)
    deltas[place] = replace(deltas[place], value=true)
    found = {finding.id: finding for finding in audit_paper(with_table(paper, table, deltas=tuple(deltas))).findings}
    assert deltas[place].cell not in found


@pytest.mark.parametrize(
    ("key", "printed", "rounding"),  # rounding: of each finding
    [
        ("table6/opacity-0.1/average/mIoU", 54.3, []),  # (75.4 + 33.3) / 2 = 54.35
        ("table6/opacity-0.1/average/mIoU", 54.4, []),
        ("table6/opacity-0.1/average/mIoU", 54.2, [False]),
        ("table6/opacity-0.1/average/mIoU", 54.5, [False]),
        ("table6/opacity-0.5/average/mIoU", 54.7, [True]),  # (75.6 + 33.6) / 2 = 54.6
        ("table6/opacity-0.5/average/mIoU", 54.8, [False]),
    ],
)
def test_a_mean_between_two_digits_may_be_printed_as_either(
    paper: Paper, key: str, printed: float, rounding: list[bool]
) -> None:
    found = audit_paper(with_cell(paper, key, printed)).findings
    assert [
        finding.may_be_rounding for finding in found if finding.id == key and finding.kind is Kind.AVERAGE
    ] == rounding


def test_a_setting_that_is_printed_differently_is_found(paper: Paper, audit: Audit) -> None:
    rate = next(setting for setting in paper.settings if setting.id == "pretrain-lr")
    assert (rate.printed, rate.again[0].printed) == ("0.002", "2e-3")  # the same number
    changed = tuple(replace(setting, printed="0.003") if setting is rate else setting for setting in paper.settings)
    (finding,) = new_findings(replace(paper, settings=changed), audit)
    assert (finding.kind, finding.place) == (Kind.SETTING, "Sec. 4.1")
    assert finding.sum == "2e-3; Table S.1, Learning Rate: 0.003"


@pytest.mark.parametrize(
    ("venue", "reference", "is_found"),
    [
        ("CVPR 2025", "arXiv 2024", False),  # published since
        ("CVPR 2023", "arXiv 2024", True),
        ("CVPR 2024", "CVPR 2023", True),
        ("arXiv 2024", "CVPR 2024", True),
        ("arXiv 2024", "arXiv 2023", True),
    ],
)
def test_venues(paper: Paper, venue: str, reference: str, is_found: bool) -> None:
    rows = paper.tables["table3"].rows
    changed = {**rows, "gc": replace(rows["gc"], venue=venue, reference=reference)}
    found = audit_paper(with_table(paper, "table3", rows=changed)).findings
    assert ("table3/gc" in {finding.id for finding in found}) == is_found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": "table3/gaussiancross/scannet/mAcc", "printed": 1.0}, "'table3/gaussiancross/scannet/mAcc'"),
        ({"value": "table3/gc/scannet/mIoU", "above": ("table9/@any/scannet/mIoU",)}, "the table 'table9'"),
        (
            {"value": "table3/gc/scannet/mIoU", "above": ("table3/@magic/scannet/mIoU",)},
            "'table3/@magic/scannet/mIoU' is no",
        ),
        ({"value": "table5/all/scannet/mIoU", "above": ("table5/@supervised/scannet/mIoU",)}, "is no cell"),
        ({"rows": ("table3/nobody",), "printed_table": "table3"}, "the row 'table3/nobody'"),
    ],
)
def test_a_statement_of_what_there_is_not_is_refused(paper: Paper, changes: dict[str, Any], message: str) -> None:
    empty = replace(paper.statements[0], value="", of=(), above=())
    with pytest.raises(DataError, match=message):
        audit_paper(replace(paper, statements=(replace(empty, **changes),)))


def test_the_official_configurations(audit: Audit) -> None:
    differing = {
        recipe.recipe: {d.key: (d.paper, d.official) for d in recipe.differences if d.is_printed}
        for recipe in audit.official.recipes
    }
    betas = ([0.9, 0.95], [0.9, 0.999])
    assert differing == {
        "semantic/scannet": {"optimizer.betas": betas},
        "semantic/scannet-limited": {"optimizer.betas": betas, "optimizer.lr": (0.005, 0.003)},
        "semantic/scannet200": {"optimizer.betas": betas, "data.crop_points": (102400, 100000)},
        "semantic/s3dis": {"optimizer.betas": betas},
        "instance/scannet": {"optimizer.betas": betas, "optimizer.lr": (0.005, 0.006)},
        "instance/scannet200": {"optimizer.betas": betas},
    }
    assert audit.official.without_official == ("pretrain/gaussiancross",)


def test_official_differences_are_the_recipes_own_and_name_both_sources(audit: Audit) -> None:
    for recipe in audit.official.recipes:
        ours, theirs = load_recipe(recipe.recipe).leaves, load_recipe(recipe.official).leaves
        listed = {difference.key for difference in recipe.differences}
        assert listed == {key for key in ours if ours[key].value != theirs[key].value}
        for difference in recipe.differences:
            assert difference.paper_source == ours[difference.key].source
            assert difference.official_source.startswith("official: ")


def test_terminal_shows_every_sum_in_full(audit: Audit) -> None:
    narrow, wide = (Console(width=width, record=True, file=io.StringIO()) for width in (80, 400))
    for console in (narrow, wide):
        console.print(render_audit_terminal(audit))
    assert "…" not in narrow.export_text()
    text = wide.export_text()
    assert "18 findings, of which 1 may be rounding." in text
    assert [finding.sum for finding in audit.findings if finding.sum not in text] == []
    assert "pretrain/gaussiancross: there is no official configuration" in text


def test_markdown(audit: Audit) -> None:
    lines = render_audit_markdown(audit).splitlines()
    assert sum(line.startswith("| Table 7, M = ") for line in lines) == 4
    place, what = "Table 3, row PonderV2, S3DIS 6-fold", "difference to SpUNet"
    assert f"| {place} | {what} | 79.9 - 72.4 = 7.5, printed 7.4 (may be rounding) |" in lines
    pipes = {line.replace("\\|", "").count("|") for line in lines if line.startswith("| ")}
    assert pipes == {4, 5}


def test_markdown_escapes_what_the_data_says(audit: Audit) -> None:
    finding = replace(audit.findings[0], says="a|b <i> *c*")
    text = render_audit_markdown(replace(audit, findings=(finding,)))
    assert "a\\|b &lt;i&gt; \\*c\\*" in text


def test_dictionary(audit: Audit) -> None:
    content = json.loads(json.dumps(audit_as_dict(audit)))
    assert [(one["id"], one["sum"], one["may_be_rounding"]) for one in content["findings"]] == KNOWN
    assert content["checked"]["printed delta"] == 48
    assert content["without_official"] == ["pretrain/gaussiancross"]
    assert {one["recipe"] for one in content["official"]} == {recipe.recipe for recipe in audit.official.recipes}
