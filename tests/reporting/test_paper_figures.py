"""Figures 1 and 3: ours and the paper's numbers stand where they belong, and partial results are fine."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from gcbench.errors import InputError
from gcbench.recipe.tables import load_table
from gcbench.reporting import drawing
from gcbench.reporting.paper import PaperValue, load_paper_table
from gcbench.reporting.paper_figures import figure_1, figure_3
from tests.reporting.svg_checks import check_svg, png_size

Numbers = Mapping[tuple[str, str, str], tuple[float, float | None]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Canvas]:
    """The canvases as they were when their bytes were taken."""
    canvases: list[Canvas] = []
    png = drawing.png_of

    def keep(canvas: Canvas, dpi: int = 150) -> bytes:
        canvases.append(canvas)
        return png(canvas, dpi)

    monkeypatch.setattr(drawing, "png_of", keep)
    return canvases


def table(table_id: str, ours: Numbers | None = None, paper: Numbers | None = None) -> Any:
    """What the figures use of a comparison, with these numbers: (row, column, metric) -> (mean, spread)."""
    definition = load_table(table_id)

    def cell(row: Any, column: Any) -> SimpleNamespace:
        def found(numbers: Numbers | None) -> dict[str, tuple[float, float | None]]:
            return {key[2]: value for key, value in (numbers or {}).items() if key[:2] == (row.id, column.id)}

        values = {name: SimpleNamespace(mean=mean, spread=spread) for name, (mean, spread) in found(ours).items()}
        printed = {name: PaperValue(mean, "there") for name, (mean, _) in found(paper).items()}
        entries = (SimpleNamespace(metrics=values),) if values else ()
        return SimpleNamespace(row=row, column=column, paper=printed, entries=entries)

    cells = tuple(tuple(cell(row, column) for column in definition.columns) for row in definition.rows)
    return SimpleNamespace(table=definition, cells=cells, synthetic=False)


def marks(axis: Axes, label: str) -> list[tuple[float, float]]:
    """(x, y) of all marks under that label, sorted."""
    lines = [line for line in axis.get_lines() if line.get_label() == label]
    lines += [bar.lines[0] for bar in axis.containers if bar.get_label() == label and bar.lines[0] is not None]
    return sorted((float(x), float(y)) for line in lines for x, y in zip(*line.get_data(), strict=True))


def test_figure_1_shows_ours_beside_the_paper(drawn: list[Canvas]) -> None:
    key = ("gaussiancross", "scannet", "mIoU")
    probing = {("spunet-scratch", "s3dis-area5", "mIoU"): (66.0, None), ("pc", "scannet", "mIoU"): (5.6, None)}
    figure = figure_1(
        {
            "table3": table("table3", {key: (75.0, 0.4)}, {key: (76.0, None)}),
            "table4": table("table4", {}, {("pointgroup-scratch", "scannet200", "mAP50"): (24.5, None)}),
            "table1": table("table1", {}, probing),
        }
    )
    left, right = drawn[0].axes
    assert [text.get_text() for text in left.get_yticklabels()] == [
        "ScanNet\nsemantic, mIoU",
        "ScanNet200\ninstance, mAP50",
    ]
    ((ours, above),) = marks(left, "GaussianCross, ours")
    ((paper, below),) = marks(left, "GaussianCross, paper")
    assert (ours, paper) == (75.0, 76.0)
    assert above != below, "marks that agree must not hide each other"
    assert [x for x, _ in marks(left, "from scratch, paper")] == [24.5]
    assert [x for x, _ in marks(right, "from scratch, paper")] == [66.0], "other methods are not shown"
    assert "%" in left.get_xlabel()
    check_svg(figure.svg)
    assert png_size(figure.png)[0] == 1440
    assert "synthetic" not in figure.caption


def test_the_caption_says_where_rooms_are_synthetic() -> None:
    comparison = table("table3", {("gaussiancross", "scannet", "mIoU"): (30.0, None)})
    comparison.synthetic = True
    assert "Ours: synthetic rooms, not comparable with the paper." in figure_1({"table3": comparison}).caption


def test_figure_1_needs_one_of_its_tables() -> None:
    with pytest.raises(InputError, match="drawn from table1, table3, table4"):
        figure_1({})


def test_figure_1_of_the_papers_numbers_alone(drawn: list[Canvas]) -> None:
    comparisons = {}
    for name in ("table1", "table3"):
        cells = load_paper_table(name).cells
        paper = {tuple(key.split("/")[1:]): (value.value, None) for key, value in cells.items()}
        comparisons[name] = table(name, {}, paper)  # type: ignore[arg-type]
    figure_1(comparisons)
    cells = load_paper_table("table3").cells
    expected = [value.value for key, value in cells.items() if key.split("/")[1] == "gaussiancross"]
    shown = [x for x, _ in marks(drawn[0].axes[0], "GaussianCross, paper")]
    assert shown == sorted(value for value in expected if value in shown)
    assert len(shown) == 4


LOG = [
    {"event": "evaluation", "step": 0, "psnr_train": 12.0, "psnr_heldout": 11.0},
    {"event": "step", "step": 10, "psnr": 13.0},
    {"event": "evaluation", "step": 20, "psnr_train": 17.0},
]


def test_figure_3_shows_curves_with_the_papers_ends_and_mask_ratios(drawn: list[Canvas]) -> None:
    ours = {("mask-10", "scannet", "mIoU"): (74.0, 0.5), ("full", "scannet", "mIoU"): (75.5, None)}
    paper = {("full", "scannet", "mIoU"): (76.0, None), ("full", "pretraining", "PSNR"): (18.2, None)}
    figure = figure_3(table("fig3", ours, paper), {"full": LOG, "mask-10": LOG})
    above, below = drawn[0].axes
    assert marks(above, "full method (50 % masked)") == [(0, 12), (20, 17)]
    assert [y for _, y in marks(above, "paper")] == [18.2]
    assert marks(above, "paper")[0][0] > 20, "right of the last step"
    assert "dB" in above.get_ylabel()
    assert below.get_title(loc="left") == "Mask ratio, ScanNet"
    (bars,) = below.containers
    assert list(zip(*bars.lines[0].get_data(), strict=True)) == [(10, 74.0), (50, 75.5)]  # type: ignore[attr-defined]
    assert marks(below, "paper") == [(50, 76.0)]
    check_svg(figure.svg)
    assert "trained on" in figure.caption


def test_figure_3_with_a_log_alone(drawn: list[Canvas]) -> None:
    figure_3(table("fig3"), {"without-cuboid": LOG})
    (axis,) = drawn[0].axes
    assert marks(axis, "without cuboid normalisation") == [(0, 12), (20, 17)]


@pytest.mark.parametrize("logs", [{}, {"full": []}, {"full": [{"event": "step", "step": 1, "psnr": 3.0}]}])
def test_figure_3_of_nothing_says_what_to_run(logs: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"nothing to show yet.*reproduce fig3"):
        figure_3(table("fig3"), logs)


def test_the_users_settings_change_nothing() -> None:
    import matplotlib as mpl

    comparison = table("fig3", {("full", "scannet", "mIoU"): (75.5, None)})
    before = figure_3(comparison, {})
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": None, "svg.fonttype": "none"}):
        after = figure_3(comparison, {})
    assert (after.svg, after.png) == (before.svg, before.png)
