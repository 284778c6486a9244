"""Boards, entries and their ranking, and that no entry says what its result file does not."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gcbench.data.labels import load_label_set
from gcbench.errors import DataError, InputError, RunError
from gcbench.reporting.leaderboard import board_files, load_board, paper_tables, read_entries
from gcbench.reporting.leaderboard_entries import Stated, add_result, load_leaderboard, slug
from gcbench.reporting.leaderboard_ranking import PAPER_PROTOCOL, Row, Score, board_keys, groups, rank
from gcbench.reporting.leaderboard_render import (
    NEAR,
    SYNTHETIC,
    render_html,
    render_json,
    render_markdown,
    render_terminal,
)
from gcbench.reporting.paper import load_paper_table
from gcbench.runs.evaluations import EvaluationRecord, protocol_fingerprint
from gcbench.runs.results import SemanticResult
from gcbench.runs.schema import split_hash
from tests.reporting.made_up import made_result

POINTS = Stated("points", "single-pass")
VAL = [f"scene{number:04d}_00" for number in range(312)]
Write = Callable[..., Path]


def counts(mIoU: float | None, scenes: list[str], label_set: str) -> dict[str, Any]:
    """Counts that give this mIoU, and accuracies, to the bit: all of it is one class of the first scene."""
    classes = len(load_label_set(label_set))
    none = {part: [0] * classes for part in ("intersection", "union", "target")}
    found = dict.fromkeys(scenes, none)
    if mIoU is not None:
        union = 10**16
        parts = {"intersection": round(mIoU * union), "union": union, "target": union}
        found[scenes[0]] = {part: [value] + [0] * (classes - 1) for part, value in parts.items()}
    return found


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file of `gcbench evaluate`, of all of ScanNet val unless told otherwise, and returns its path."""

    def write_record(
        mIoU: float | None = 0.7, *, scenes: list[str] = VAL, half: float | None = None, **changes: Any
    ) -> Path:
        label_set = changes.get("label_set", "scannet20")
        digits = split_hash(scenes)
        content: dict[str, Any] = {
            "kind": "evaluate-semantic",
            "gcbench": "0.1.0",
            "label_set": label_set,
            "split": None,
            "split_hash": digits,
            "protocol": {
                "name": "scannet-official",
                "version": 1,
                "fingerprint": protocol_fingerprint("semantic", "scannet-official", 1, label_set, digits),
            },
            "predictions": ["predictions"],
            "metrics": dict.fromkeys(("mIoU", "mAcc", "allAcc"), mIoU),
            "classes": {},
            "scenes": counts(mIoU, scenes, label_set),
        }
        if half is not None and mIoU is not None:
            ends = {"mIoU": (mIoU - half, mIoU + half)}
            content["intervals"] = {"level": 0.95, "draws": 1000, "seed": 0, "scenes": ends}
        record = EvaluationRecord.model_validate({**content, **changes})
        path = tmp_path / f"result-{len(list(tmp_path.glob('result-*')))}.json"
        path.write_text(record.model_dump_json())
        return path

    return write_record


@pytest.fixture
def boards(tmp_path: Path) -> Path:
    return tmp_path / "boards"


def put(boards: Path, result: Path, name: str = "My method", column: str = "scannet", **options: Any) -> Path:
    options = {"stated": POINTS, **options}
    return add_result("table3", column, result, name=name, folder=boards, **options)


# The paper's rows


@pytest.mark.parametrize(
    ("table", "cells", "rows", "best"),
    [
        ("table1", 40, 5, ("spunet-scratch", 72.2)),
        ("table2", 48, 6, ("gaussiancross", 32.1)),
        ("table3", 51, 16, ("ponderv2", 77.0)),
        ("table4", 26, 7, ("gaussiancross", 62.7)),
    ],
)
def test_every_cell_of_the_paper_stands_on_its_board(
    table: str, cells: int, rows: int, best: tuple[str, float]
) -> None:
    board = load_board(table)
    paper = load_paper_table(table)
    (group,) = groups(board, [])
    shown = {
        f"{row.paper.paper}/{column}/{metric}": score.value
        for row in group.rows
        if row.paper is not None
        for (column, metric), score in row.scores.items()
    }
    assert shown == {key: cell.value for key, cell in paper.cells.items()}
    assert (len(shown), len(group.rows), group.title) == (cells, rows, PAPER_PROTOCOL)
    first = group.places[0].row
    assert first.paper is not None
    assert group.sort is not None
    assert (first.paper.paper, first.scores[group.sort].value) == (f"{table}/{best[0]}", best[1])
    assert Counter(cell.place for cell in paper.cells.values()).most_common(1)[0][1] == 1
    assert all(f"Table {table[-1]}, row " in cell.place for cell in paper.cells.values())


def test_no_number_of_the_paper_stands_in_a_board() -> None:
    for path in board_files().values():
        assert re.findall(r"\d\.\d", path.read_text()) == []


def test_the_papers_rows_say_what_the_paper_says() -> None:
    board = load_board("table3")
    assert Counter(row.setting for row in board.rows) == {"scratch": 5, "self-supervised": 8, "supervised": 3}
    row = {row.name: row for row in board.rows}["ARKit LM"]
    assert (row.venue, row.type, row.datasets) == ("CVPR 2025", "3D Sup.", "ALS200, ScanNet/ScanNet200")


# Ranking


def rows_of(values: list[float | None], half: float | None = None) -> list[Row]:
    def score(value: float) -> Score:
        return Score(value) if half is None else Score(value, low=value - half, high=value + half)

    return [Row(str(n), {("c", "m"): score(value)} if value is not None else {}) for n, value in enumerate(values)]


def test_ties_share_a_rank_and_blanks_go_last() -> None:
    places = rank(rows_of([None, 70.04, 70.0, 69.94, 71.0, 69.0]), ("c", "m"))
    assert [(place.row.name, place.rank) for place in places] == [
        ("4", 1),
        ("1", 2),
        ("2", 2),
        ("3", 4),
        ("5", 5),
        ("0", None),
    ]
    assert not any(place.near for place in places)


def test_noise_is_marked_where_it_overlaps() -> None:
    places = rank(rows_of([70.0, 69.0, 60.0], half=0.6), ("c", "m"))
    assert [place.near for place in places] == [False, True, False]
    point = Row("point", {("c", "m"): Score(68.5)})
    assert rank([*rows_of([69.0], half=0.6), point], ("c", "m"))[1].near
    spread = [Row(str(value), {("c", "m"): Score(value, std=0.3, seeds=3)}) for value in (70.0, 69.5, 68.0)]
    assert [place.near for place in rank(spread, ("c", "m"))] == [False, True, False]

    apart = [
        Row("a", {("c", "m"): Score(70.0, low=60.0, high=61.0)}),
        Row("b", {("c", "m"): Score(69.0, low=68.0, high=70.0)}),
    ]
    assert not rank(apart, ("c", "m"))[1].near


@given(st.lists(st.none() | st.floats(0, 100), max_size=12))
def test_a_rank_is_one_more_than_the_rows_that_print_better(values: list[float | None]) -> None:
    places = rank(rows_of(values), ("c", "m"))
    printed = [round(float(f"{value:.1f}") * 10) for value in values if value is not None]
    expected = sorted(1 + sum(other > value for other in printed) for value in printed)
    assert [place.rank for place in places] == [*expected, *[None] * values.count(None)]
    assert {place.row.name for place in places} == {str(number) for number in range(len(values))}


# Adding


def test_two_columns_join_one_entry_and_keep_every_digit(boards: Path, write: Write) -> None:
    path = put(boards, write(0.7512345678912345, half=0.01), link="https://example.org/method")
    assert put(boards, write(0.31, label_set="scannet200"), column="scannet200") == path
    board, (entry,) = load_leaderboard("table3", boards)
    assert (entry.name, entry.link, list(entry.columns)) == (
        "My method",
        "https://example.org/method",
        ["scannet", "scannet200"],
    )
    measured = entry.columns["scannet"].measured
    assert measured.values == {"mIoU": 0.7512345678912345}
    assert measured.intervals == {"mIoU": (0.7512345678912345 - 0.01, 0.7512345678912345 + 0.01)}
    assert len(list((path.parent / "results").iterdir())) == 2
    paper, own = groups(board, [entry])
    assert (len(paper.rows), len(own.rows)) == (16, 1)
    assert own.protocol == {
        "evaluation": "scannet-official",
        "evaluation_version": 1,
        "resolution": "points",
        "inference": "single-pass",
    }


def test_the_same_column_again_needs_replace(boards: Path, write: Write) -> None:
    path = put(boards, write(0.7))
    before = path.read_bytes()
    with pytest.raises(InputError, match="--replace"):
        put(boards, write(0.8))
    assert path.read_bytes() == before
    put(boards, write(0.8), replace=True)
    (entry,) = load_leaderboard("table3", boards)[1]
    assert entry.columns["scannet"].measured.values["mIoU"] == 0.8
    assert [file.name for file in (path.parent / "results").iterdir()] == [entry.columns["scannet"].result]


def test_a_result_file_that_another_entry_names_is_kept(boards: Path, write: Write) -> None:
    shared = write(0.7)
    put(boards, shared)
    path = put(boards, shared, name="Twin")
    put(boards, write(0.8), replace=True)
    assert len(list((path.parent / "results").iterdir())) == 2
    assert len(load_leaderboard("table3", boards)[1]) == 2


def test_two_files_of_one_name_are_refused(boards: Path, write: Write) -> None:
    path = put(boards, write(0.7))
    path.with_name("copy.yaml").write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="same name, 'My method'"):
        load_leaderboard("table3", boards)


def test_several_seeds_bring_their_spread(boards: Path, write: Write) -> None:
    run: dict[str, Any] = {"predictions": "p", "metrics": dict.fromkeys(("mIoU", "mAcc", "allAcc"), 0.7), "classes": {}}
    run["scenes"] = counts(0.7, VAL, "scannet20")
    spread = {"mIoU": {"mean": 0.7, "std": 0.01, "n": 2}}
    put(boards, write(0.7, seeds=spread, runs=[run, run], scenes=VAL))
    board, entries = load_leaderboard("table3", boards)
    (row,) = groups(board, entries)[1].rows
    score = row.scores["scannet", "mIoU"]
    assert (score.std, score.seeds, score.span) == (1.0, 2, (69.0, 71.0))


def test_a_result_of_our_own_run_knows_its_protocol(tmp_path: Path, boards: Path) -> None:
    result = made_result(mIoU=0.5).result
    assert isinstance(result, SemanticResult)
    scenes = dict.fromkeys(VAL, result.scenes["scene"])
    path = tmp_path / "result.json"
    path.write_text(result.model_copy(update={"scenes": scenes}).model_dump_json())
    with pytest.raises(InputError, match="resolution is 'voxels', not 'points'"):
        put(boards, path, stated=Stated(resolution="points"))
    put(boards, path, stated=Stated())
    (entry,) = load_leaderboard("table3", boards)[1]
    measured = entry.columns["scannet"].measured
    assert (measured.fingerprint, measured.protocol["batchnorm"]) == (result.protocol.fingerprint(), "track")
    path.write_text(result.model_copy(update={"scenes": scenes, "fold": "Area_1"}).model_dump_json())
    with pytest.raises(InputError, match="one fold, 'Area_1'"):
        put(boards, path, name="Fold", stated=Stated())


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"label_set": "scannet200"}, {}, "label set 'scannet200'"),
        ({"split": "test"}, {}, "split 'test'"),
        ({"missing": ["scene0000_00"]}, {}, "1 scenes have no prediction"),
        ({"scenes": VAL[:3]}, {}, "3 scenes; the column 'scannet' has 312"),
        ({"mIoU": None}, {}, "'mIoU' is missing or undefined"),
        ({"mIoU": 70.0}, {}, "values.mIoU"),
        ({"kind": "evaluate-instance"}, {}, "key 'kind' is 'evaluate-instance'"),
        ({}, {"stated": Stated("points")}, "does not say its inference"),
        ({}, {"stated": Stated()}, "does not say its resolution"),
        ({}, {"column": "kitti"}, "no column 'kitti'"),
        ({}, {"name": "evil\x1b[2J"}, "control characters"),
        ({}, {"name": " "}, "visible text"),
        ({}, {"link": "javascript:alert(1)"}, "http"),
    ],
)
def test_what_does_not_fit_is_refused(
    boards: Path, write: Write, changes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        put(boards, write(**changes), **options)
    assert not boards.exists()


def test_metrics_that_the_scenes_do_not_give_are_refused(boards: Path, write: Write) -> None:
    better = dict.fromkeys(("mIoU", "mAcc", "allAcc"), 0.7 + 2**-53)
    with pytest.raises(InputError, match=r"'mIoU' is 0\.7\d+, but its scenes give 0\.7"):
        put(boards, write(0.7, metrics=better))
    spoilt = write(0.7)
    content = json.loads(spoilt.read_text())
    content["scenes"][VAL[0]]["intersection"][0] *= 2
    spoilt.write_text(json.dumps(content))
    with pytest.raises(InputError, match="break 0 <= intersection <= target <= union"):
        put(boards, spoilt)
    content["scenes"][VAL[0]] = []
    spoilt.write_text(json.dumps(content))
    with pytest.raises(InputError, match="its scenes are no counts"):
        put(boards, spoilt)
    assert not boards.exists()


def test_what_is_no_result_is_refused(tmp_path: Path, boards: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json cannot be read"):
        put(boards, tmp_path / "none.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(RunError, match="not JSON"):
        put(boards, tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(RunError, match="not JSON"):
        put(boards, tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"kind": "pretrain"}')
    with pytest.raises(InputError, match="key 'kind' is 'pretrain'"):
        put(boards, tmp_path / "a.json")


def test_rooms_of_s3dis_are_counted_with_and_without_the_one_that_is_often_absent(boards: Path, write: Write) -> None:
    for rooms in (66, 67, 68):
        names = [f"Area_5/room_{number}" for number in range(rooms)]
        result = write(label_set="s3dis", split="Area_5", scenes=names)
        if rooms == 66:
            with pytest.raises(InputError, match="66 scenes; the column 's3dis-area5' has 67 or 68"):
                put(boards, result, column="s3dis-area5")
        else:
            put(boards / str(rooms), result, column="s3dis-area5")


def test_numbers_of_other_scenes_are_not_ranked_together(boards: Path, write: Write) -> None:
    put(boards, write(0.7))
    others = [f"other{number}" for number in range(312)]
    with pytest.raises(InputError, match="different scenes"):
        put(boards, write(0.7, scenes=others), name="Other")
    put(boards, write(0.7, scenes=others), name="Other", stated=Stated("voxels", "tta"))
    assert len(groups(*load_leaderboard("table3", boards))) == 3


def test_synthetic_numbers_stand_in_a_group_of_their_own(boards: Path, write: Write) -> None:
    put(boards, write(0.7))
    put(boards, write(0.99, scenes=["room_0"], synthetic=True), name="Toy")
    _, real, synthetic = groups(*load_leaderboard("table3", boards))
    assert [row.name for row in real.rows] == ["My method"]
    assert [row.name for row in synthetic.rows] == ["Toy"]
    assert (real.synthetic, synthetic.synthetic) == (False, True)


def test_slugs() -> None:
    assert slug("My method (v2)") == slug("../my METHOD/v2") == "my-method-v2"
    assert re.fullmatch(r"entry-[0-9a-f]{8}", slug("方法"))


def test_two_names_with_one_slug_do_not_mix(boards: Path, write: Write) -> None:
    put(boards, write(0.7))
    with pytest.raises(InputError, match="entry of 'My method'"):
        put(boards, write(0.8), name="my-method", replace=True)


# Checking again


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def test_a_changed_result_file_is_named(boards: Path, write: Write) -> None:
    path = put(boards, write(0.7))
    (file,) = (path.parent / "results").iterdir()
    original = file.read_bytes()
    file.write_bytes(original.replace(b"0.7", b"0.9"))
    with pytest.raises(DataError, match=f"{file.name} is not the file that was added"):
        load_leaderboard("table3", boards)
    file.write_bytes(original)
    load_leaderboard("table3", boards)
    file.unlink()
    with pytest.raises(DataError, match=f"missing: .*{file.name}"):
        load_leaderboard("table3", boards)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("values", {"mIoU": 0.9}, "'values' is"),
        ("intervals", {"mIoU": [0.1, 0.9]}, "'intervals' is"),
        ("synthetic", True, "'synthetic' is"),
        ("fingerprint", "0" * 12, "'fingerprint' is"),
        ("seeds", {"mIoU": {"mean": 0.7, "std": 0.1, "n": 3}}, "'seeds' is"),
    ],
)
def test_an_entry_that_says_something_else_is_named(
    boards: Path, write: Write, key: str, value: object, message: str
) -> None:
    path = put(boards, write(0.7, half=0.01))
    edit(path, lambda content: content["columns"]["scannet"]["measured"].update({key: value}))
    with pytest.raises(DataError, match=message) as raised:
        load_leaderboard("table3", boards)
    assert path.name in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(rank=1), "key 'rank'"),
        (lambda content: content.update(source="paper"), "key 'source'"),
        (lambda content: content.update(link="ftp://example.org"), "key 'link'"),
        (lambda content: content["columns"]["scannet"].update(result="../../../etc/passwd"), "result"),
        (lambda content: content["columns"]["scannet"].update(date=5), "date"),
        (lambda content: content["columns"].update(kitti=content["columns"].pop("scannet")), "no column 'kitti'"),
    ],
)
def test_a_broken_entry_is_named(
    boards: Path, write: Write, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = put(boards, write(0.7))
    edit(path, change)
    with pytest.raises(InputError, match=message) as raised:
        read_entries(load_board("table3"), boards)
    assert path.name in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda board: board.update(id="other"), "key 'id'"),
        (lambda board: board.update(rank_by="F1"), "rank_by 'F1'"),
        (lambda board: board["columns"].append(board["columns"][0]), "no id twice"),
        (lambda board: board["rows"].append(board["rows"][0]), "stands twice"),
        (lambda board: board["rows"][0].update(value=71.5), "value"),
    ],
)
def test_a_broken_board_is_named(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    path = tmp_path / "table3.yaml"
    path.write_text(board_files()["table3"].read_text())
    edit(path, change)
    with pytest.raises(InputError, match=message) as raised:
        load_board("table3", tmp_path)
    assert str(path) in str(raised.value)


def test_a_row_that_the_paper_lacks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table3.yaml"
    path.write_text(board_files()["table3"].read_text().replace("table3/gs3", "table3/gs4"))
    with pytest.raises(DataError, match="table3/gs4"):
        paper_tables(load_board("table3", tmp_path))


# Showing


@pytest.fixture
def full(boards: Path, write: Write) -> Path:
    """A board with a name and a link that try to get out, a row within noise of it, and a synthetic one."""
    put(boards, write(0.7512, half=0.01), name="A|<script>*x*", link='https://example.org/?a=1&b="><script>')
    put(boards, write(0.7499, half=0.01), name="Beta")
    put(boards, write(0.2, scenes=["room_0"], synthetic=True), name="Toy")
    return boards


class Page(HTMLParser):
    """Tags with their attributes, and the rows of every table as lists of texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] = f"{self.rows[-1][-1]} {data}".strip()


def test_html_is_one_safe_page(full: Path) -> None:
    board, entries = load_leaderboard("table3", full)
    text = render_html(board, groups(board, entries))
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "default-src 'none'" in text
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links == ['https://example.org/?a=1&b="><script>']
    assert not any(
        attrs.get("src") or (tag in ("link", "iframe") and attrs.get("href") != "data:,") for tag, attrs in page.tags
    )
    assert [row[:3] for row in page.rows if row[1:2] and "script" in row[1]] == [
        ["1", "A|<script>*x*", "75.1 74.1–76.1"]
    ]
    assert [row[0] for row in page.rows if row[1:2] == ["Beta"]] == ["~2"]
    assert SYNTHETIC in text
    assert NEAR in text


def test_html_carries_the_order_and_rank_of_every_column(full: Path) -> None:
    board, entries = load_leaderboard("table3", full)
    ranked = groups(board, entries)
    cells = [attrs for tag, attrs in Page(render_html(board, ranked)).tags if tag == "td" and "data-order" in attrs]
    assert len(cells) == sum(len(row.scores) for group in ranked for row in group.rows)
    best = [cell for cell in cells if cell["data-order"] == "0"]
    assert len(best) == sum(len(group.keys) for group in ranked)
    assert all(cell["data-rank"] == "1" for cell in best)
    assert [cell["data-order"] for cell in cells if cell["data-rank"] == "~2"] == ["1"]


def test_the_page_allows_its_own_script_only(full: Path) -> None:
    board, entries = load_leaderboard("table3", full)
    text = render_html(board, groups(board, entries))
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text


def test_markdown_escapes_names_and_links(full: Path) -> None:
    text = render_markdown(*_ranked(full))
    (line,) = [line for line in text.splitlines() if "script" in line]
    name = r"[A\|&lt;script&gt;\*x\*]"
    address = 'https://example.org/?a=1&b="%3E%3Cscript%3E'
    assert line.startswith(f"| 1 | {name}(<{address}>) | **75.1**<br><sub>74.1–76.1</sub> |")
    assert "| \\~2 | Beta |" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {7}


@pytest.mark.parametrize("table", ["table1", "table2", "table3", "table4"])
def test_a_terminal_of_80_columns_is_enough(table: str) -> None:
    board = load_board(table)
    console = Console(width=80, no_color=True)
    with console.capture() as captured:
        console.print(render_terminal(board, groups(board, [])))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    for row in board.rows:  # no name is broken and no row takes two lines
        assert sum(f" {row.name} " in line for line in lines) == 1
    assert sum(bool(re.match(r" *\d+ [○●◆] ", line)) for line in lines) == len(board.rows)


def test_the_terminal_shows_noise_and_protocols(full: Path) -> None:
    console = Console(width=80, no_color=True)
    with console.capture() as captured:
        console.print(render_terminal(*_ranked(full)))
    text = captured.get()
    assert "~2 Beta" in text
    assert "74.1–76.1" in text
    assert "Measured: scannet-official v1, scored on points, single pass" in text
    assert "Synthetic: scannet-official v1" in text


def test_json_has_everything(full: Path) -> None:
    content = json.loads(render_json(*_ranked(full)))
    paper, measured, synthetic = content["groups"]
    assert (paper["protocol"], measured["ranked_by"], synthetic["synthetic"]) == (None, "scannet/mIoU", True)
    assert [(row["rank"], row["name"], row["within_noise_of_previous"]) for row in measured["rows"]] == [
        (1, "A|<script>*x*", False),
        (2, "Beta", True),
    ]
    assert measured["rows"][1]["scores"]["scannet/mIoU"]["value"] == pytest.approx(74.99)


def test_sorting_by_another_column(full: Path) -> None:
    board, entries = load_leaderboard("table3", full)
    paper, measured, _ = groups(board, entries, "scannet200")
    assert paper.places[0].row.name == "GaussianCross"
    assert {place.rank for place in measured.places} == {None}
    for sort, message in (("kitti", "no column 'kitti'"), ("scannet/F1", "no metric 'F1'")):
        with pytest.raises(InputError, match=message):
            groups(board, entries, sort)


def test_the_first_covered_column_is_sorted_by(boards: Path, write: Write) -> None:
    put(boards, write(0.31, label_set="scannet200"), column="scannet200")
    assert groups(*load_leaderboard("table3", boards))[1].sort == ("scannet200", "mIoU")


def test_a_board_of_ones_own_needs_no_paper(tmp_path: Path, write: Write) -> None:
    own = yaml.safe_load(board_files()["table3"].read_text())
    own.update(
        id="mine", rows=[], columns=[{"id": "ours", "title": "Ours", "label_set": "scannet20", "splits": ["val"]}]
    )
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own))
    add_result("mine", "ours", write(scenes=["a", "b"]), name="One", stated=POINTS, folder=tmp_path)
    board, entries = load_leaderboard("mine", tmp_path)
    (group,) = groups(board, entries)
    assert [(place.rank, place.row.name) for place in group.places] == [(1, "One")]
    assert board_keys(board) == [("ours", "mIoU")]


def _ranked(folder: Path) -> tuple[Any, Any]:
    board, entries = load_leaderboard("table3", folder)
    return board, groups(board, entries)
