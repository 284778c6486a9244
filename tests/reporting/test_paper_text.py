"""Compares every number, delta, venue and setting of `reports/paper` with the text of the paper.

The text does not come with this project. It is at hand if the environment variable GCBENCH_PAPER names its file, or if
`shared/paper/paper.txt` lies beside the folder of the checkout. It is the text of arXiv 2508.02172 in HTML, in which a
formula stands several times over. Where it is not at hand, these tests are skipped; `test_paper.py` always runs.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from gcbench.reporting.paper import load_paper, load_paper_settings, load_paper_table

BESIDE = Path(__file__).resolve().parents[2].parent / "shared" / "paper" / "paper.txt"
DELTA = re.compile(r"(\d+\.\d)(\+\d+\.\d)\{\}_.*?end_FLOATSUBSCRIPT")
MARKS = re.compile(r"\\(?:rowcolor|cellcolor)\w+|\\mathbf\{\\circ\}|\\bullet|✓")
CITATION = re.compile(r"\(([A-Z][^()]*?), (\d{4}[a-z]?)\)")
CELL = re.compile(r"(?P<value>\d+(?:\.\d+)?|-|)(?P<delta>(?:\+\d+\.\d)?)")
COLUMNS = {
    "table1": [f"{c}/{m}" for c in ("scannet", "scannet200", "s3dis-area5", "s3dis-6fold") for m in ("mIoU", "mAcc")],
    "table2": [
        f"{kind}-{n}/mIoU" for kind, ns in (("scenes", (1, 5, 10, 20)), ("points", (20, 50, 100, 200))) for n in ns
    ],
    "table3": [f"{c}/mIoU" for c in ("scannet", "scannet200", "s3dis-area5", "s3dis-6fold")],
    "table4": [f"{c}/{m}" for c in ("scannet", "scannet200") for m in ("mAP25", "mAP50", "mAP")],
    "table5": [f"{c}/{m}" for c in ("scannet", "scannet200") for m in ("mIoU", "mAcc")],
    "table6": [
        "scannet/mIoU",
        "scannet200/mIoU",
        "average/mIoU",
        *(f"pretraining/{m}" for m in ("PSNR", "memory", "seconds")),
    ],
}
IN_SECTION_4 = {  # settings that stand in a sentence
    "pretrain-views": r"uses (\d+) rendering views",
    "pretrain-view-size": r"resolution of (480 ×\S* 640)",
    "pretrain-opacity-threshold": r"opacity threshold \S+ is set to ([\d.]+)",
    "pretrain-teacher": r"weight from (RADIOv2\.5)",
    "pretrain-inputs": r"consider (\d+)-dimensional attributes",
    "pretrain-gpus": r"using (\d+) NVIDIA",
    "downstream-gpus": r"trained on (\d+) NVIDIA",
}
AGAIN = {
    ("pretrain-optimizer", "Sec. 4.1"): r"with the (\w+) optimizer",
    ("pretrain-lr", "Sec. 4.1"): r"initialized as \S*?(2e\^\{-3\})",
    ("pretrain-batch-size", "Sec. 4.1"): r"batch size of (\d+)\.",
    ("pretrain-epochs", "Sec. 4.1"): r"for (\d+) epochs",
    ("pretrain-mask-ratio", "Sec. 4.1"): r"mask ratio \S+ is set to (\d+%)",
    ("pretrain-mask-ratio", "Sec. 4.3, Masking Ratio"): r"when \S+ equals (\d+%)",
    (
        "pretrain-views",
        "Sec. 4.3, Number of Rendering Views",
    ): r"set \S+ to (\d+) in our experiments to balance the perf",
    (
        "pretrain-opacity-threshold",
        "Sec. 4.3, Opacity Threshold",
    ): r"set \S+ to ([\d.]+) in our experiments to balance rend",
}
HEADINGS = {"Training Details", "Data Augmentation", "ScanNet ScanNet200 S3DIS", "ScanNet ScanNet200"}
SHARES = {"0.1", "1"}  # of parameters and of scenes: no results


@pytest.fixture(scope="module")
def text() -> str:
    named = os.environ.get("GCBENCH_PAPER")
    path = Path(named) if named else BESIDE
    if not named and not path.is_file():
        pytest.skip("the paper's text is not at hand: name its file in GCBENCH_PAPER")
    return path.read_text(encoding="utf-8").replace("\u00a0", " ")


def lines_of(text: str, caption: str) -> list[str]:
    """The lines below a table's caption, up to an empty one or the next caption."""
    lines = text[text.index(f"\n{caption}. ") + 1 :].split("\n")[1:]
    end = next(i for i, line in enumerate(lines) if not line.strip() or line.startswith(("Table ", "Refer to caption")))
    return lines[:end]


def table_rows(text: str, caption: str, columns: int) -> list[tuple[str, list[str], list[str]]]:
    """Rows with as many values as the table has columns: what stands before them, values, deltas ('' where none)."""
    rows = []
    for line in lines_of(text, caption):
        tokens = DELTA.sub(r"\1\2", CITATION.sub("", MARKS.sub("", line))).split()
        cells = [CELL.fullmatch(token) for token in tokens[-columns:]]
        if len(cells) == columns and all(cells):
            values = [cell["value"] for cell in cells if cell]
            rows.append((" ".join(tokens[:-columns]), values, [cell["delta"] for cell in cells if cell]))
    return rows


def as_printed(table: str, row: str, place: str) -> str:
    """The cell of the YAML as the paper prints it, a dash for a blank."""
    paper, key = load_paper_table(table), f"{table}/{row}/{place}"
    if key in paper.blanks:
        return "-"
    return f"{paper.cells[key].value:.{paper.decimals_of(place.split('/')[1])}f}"


@pytest.mark.parametrize("table", ["table1", "table2", "table3", "table4"])
def test_tables_of_methods(text: str, table: str) -> None:
    paper, columns = load_paper_table(table), COLUMNS[table]
    printed = table_rows(text, f"Table {table[-1]}", len(columns))
    deltas = {delta.cell: f"{delta.value:+.1f}" for delta in paper.deltas}
    if table == "table2":  # the deltas are a row of their own, below that of the method
        name, _, differences = printed.pop()
        assert name.startswith("Δ")
        printed[-1] = (*printed[-1][:2], differences)
    assert [before for before, _, _ in printed] == [
        " ".join(filter(None, (row.name, row.venue or ("-" if row.datasets else ""), row.datasets, row.type)))
        for row in paper.rows.values()
    ]
    for row, (_, values, differences) in zip(paper.rows, printed, strict=True):
        assert [as_printed(table, row, column) for column in columns] == values, row
        assert [deltas.pop(f"{table}/{row}/{column}", "") for column in columns] == differences, row
    assert deltas == {}
    assert len(paper.cells) + len(paper.blanks) == len(printed) * len(columns)


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        ("table5", ["image", "image-depth", "image-semantic", "all"]),
        ("table6", ["opacity-0.1", "opacity-0.3", "opacity-0.5", "opacity-0.7"]),
    ],
)
def test_ablations(text: str, table: str, rows: list[str]) -> None:
    printed = table_rows(text, f"Table {table[-1]}", len(COLUMNS[table]))
    assert [before for before, _, _ in printed] == [
        row.removeprefix("opacity-") if table == "table6" else "" for row in rows
    ]
    for row, (_, values, _) in zip(rows, printed, strict=True):
        assert [as_printed(table, row, column) for column in COLUMNS[table]] == values, row
    assert len(load_paper_table(table).cells) == len(rows) * len(COLUMNS[table])


def test_table_7_which_is_printed_with_a_column_for_each_model(text: str) -> None:
    models = ["views-2", "views-5", "views-8", "clip", "dinov2", "radio"]
    printed = table_rows(text, "Table 7", len(models))
    names = {"ScanNet": "scannet", "ScanNet200": "scannet200", "Average": "average"}
    column = ""
    for before, values, _ in printed:
        *dataset, metric = before.split()
        column = names[dataset[0]] if dataset else column
        assert [as_printed("table7", model, f"{column}/{metric}") for model in models] == values
    assert len(load_paper_table("table7").cells) == len(printed) * len(models) == 36


def test_figure_3(text: str) -> None:
    paper = load_paper_table("fig3")
    values = {key.split("/")[1]: cell.value for key, cell in paper.cells.items() if key.endswith("PSNR")}
    dropped = re.search(r"\(([\d.]+) v\.s\. ([\d.]+)\), indicating", text)
    without = re.search(r"achieves a PSNR of ([\d.]+),", text)
    assert dropped and without
    assert values == {
        "without-cuboid": float(dropped[1]),
        "full": float(dropped[2]),
        "without-offsets": float(without[1]),
    }


def test_venues_in_the_reference_list(text: str) -> None:
    cited = {}
    for line in lines_of(text, "Table 3"):
        found = CITATION.search(line)
        if found:
            name = CITATION.sub("", MARKS.sub("", line)).strip()
            cited[name] = f"{found[1]} ({found[2]})"
    rows = [row for row in load_paper_table("table3").rows.values() if row.reference]
    assert len(rows) == len(cited) == 15
    for row in rows:
        key = next(key for name, key in cited.items() if name.startswith(f"{row.name} "))
        entry = next(line for line in text.split("\n") if line.startswith(f"  • {key} "))
        venue, year = row.reference.split()
        assert f"({venue})" in entry or (venue == "arXiv" and "arXiv preprint" in entry), row.id
        assert re.search(rf"[( ,.]{year}[a-z]?[).]", entry), row.id


def test_settings_of_the_supplement(text: str) -> None:
    settings = [setting for setting in load_paper_settings() if setting.place.startswith("Table S.")]
    for table in ("Table S.1", "Table S.2", "Table S.3"):
        own = {
            setting.place.removeprefix(f"{table}, "): setting for setting in settings if setting.place.startswith(table)
        }
        printed = supplement(text, table)
        assert {place.partition(", column ")[0] for place in own} == set(printed)
        for place, setting in own.items():
            label, _, column = place.partition(", column ")
            columns = ["ScanNet", "ScanNet200", "S3DIS"]
            value = printed[label].split()[columns.index(column)] if column else printed[label]
            assert setting.printed == value, place


def supplement(text: str, caption: str) -> dict[str, str]:
    """Label -> what is printed beside it, of one of the tables of settings."""
    labels = {
        setting.place.partition(", column ")[0].removeprefix(f"{caption}, ")
        for setting in load_paper_settings()
        if setting.place.startswith(caption)
    }
    found = {}
    for line in lines_of(text, caption)[1:]:
        plain = re.sub(r"^(Random Rotation )?([xyz])\2italic_\2,", r"Random Rotation \2", line.strip())
        plain = re.sub(
            r"\[[^\\\]]*\](\[[^\]]*\])\[[^\]]*\]", lambda match: match[1].replace("\\", "").replace(",", ", "), plain
        )
        label = max((label for label in labels if plain.startswith(f"{label} ")), key=len, default="")
        if label:
            found[label] = plain.removeprefix(label).strip().replace("p :", "p:")
        else:
            assert line in HEADINGS, "a setting that is missing"
    return found


def test_settings_in_the_text(text: str) -> None:
    for setting in load_paper_settings():
        if not setting.place.startswith("Table S."):
            found = re.search(IN_SECTION_4[setting.id], text)
            assert found, setting.id
            assert re.sub(r"×\S*", "x", found[1]) == setting.printed
        for again in setting.again:
            found = re.search(AGAIN[setting.id, again.place], text)
            assert found, (setting.id, again.place)
            assert re.sub(r"e\^\{(-\d)\}", r"e\1", found[1]) == again.printed


def section(text: str, place: str) -> str:
    """The prose of a section or of one of its paragraphs, without tables and captions."""
    if place == "Abstract":
        return text[text.index("\nAbstract.") : text.index("\n1. Introduction")]
    number, _, paragraph = place.removeprefix("Sec. ").partition(", ")
    begin = re.search(rf"^{re.escape(number)}\. [A-Z3]", text, re.MULTILINE)
    assert begin, place
    end = re.search(r"^\d\.(\d\.)*(\d\.)? ", text[begin.end() :], re.MULTILINE)
    assert end
    prose = [line for line in text[begin.end() : begin.end() + end.start()].split("\n") if line.count(". ") > 1]
    return "\n".join(line for line in prose if line.startswith(paragraph) and not line.startswith("Table"))


def test_printed_numbers_of_the_statements_and_no_other(text: str) -> None:
    said: dict[str, set[str]] = {}
    for statement in load_paper().statements:
        if not statement.place.startswith("Table"):
            numbers = [number for number in (statement.printed, statement.at_most) if number is not None]
            said.setdefault(statement.place, set()).update(f"{number:g}" for number in numbers)
    for place, numbers in said.items():
        found = {f"{float(match):g}" for match in re.findall(r"(\d+(?:\.\d+)?)%", section(text, place))}
        assert numbers - found == set(), place
        assert found - numbers - SHARES == set(), place


def test_statements_of_tables_and_references(text: str) -> None:
    assert "Results in Tab. 6 indicate" in section(text, "Sec. 4.3, Visual Foundation Models")
    assert "ScanNet200 (Rozenberszki et al., 2022)" in section(text, "Sec. 4.1, Backbone")
    for table in ("Table S.2", "Table S.3"):
        caption = next(line for line in text.split("\n") if line.startswith(f"{table}. "))
        assert "ScanNet200 (Hou et al., 2021)" in caption
