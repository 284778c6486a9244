"""Pictures: the right things are drawn, and bad input is named."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas
from PIL import Image

from gcbench.errors import InputError
from gcbench.reporting import drawing, figures
from gcbench.reporting.compare import TableSpec, compare
from gcbench.reporting.figures import PanelRow, bar_table, loss_curves, render_panel
from gcbench.reporting.paper import PaperTable
from gcbench.runs.results import SemanticResult
from tests.reporting.svg_checks import check_svg

SIZE = (12, 16)
LOSSES = {"colour": "image", "depth": "depth"}
PSNR = {"held-out views": "psnr_heldout"}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Canvas]:
    """The canvases as they were when their bytes were taken."""
    canvases: list[Canvas] = []
    png = drawing.png_of

    def keep(canvas: Canvas, dpi: int = 150) -> bytes:
        canvases.append(canvas)
        return png(canvas, dpi)

    monkeypatch.setattr(figures, "png_of", keep)
    monkeypatch.setattr(drawing, "png_of", keep)
    return canvases


def view(**changes: object) -> PanelRow:
    generator = np.random.default_rng(0)
    values = {
        "title": "scene0000_00, frame 0",
        "photo": generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8),
        "rendered": generator.random((*SIZE, 3)),
        "depth": np.pad(generator.random((SIZE[0] - 1, SIZE[1])) + 1, ((1, 0), (0, 0))),
        "rendered_depth": generator.random(SIZE) + 1,
        "psnr": 17.25,
    }
    return PanelRow(**{**values, **changes})  # type: ignore[arg-type]


def size(png: bytes) -> tuple[int, int]:
    with Image.open(BytesIO(png)) as image:
        assert image.format == "PNG"
        return image.size


def test_a_panel_shows_each_view_in_a_row(drawn: list[Canvas]) -> None:
    features = np.random.default_rng(1).random((*SIZE, 5))
    width, height = size(render_panel([view(), view(features=features)]))
    titles = [axis.get_title() for axis in drawn[0].axes]
    assert titles[:5] == ["Photo", "Rendered colour", "Depth camera", "Rendered depth", "Features (PCA)"]
    labels = [axis.get_xlabel() for axis in drawn[0].axes]
    assert labels.count("PSNR 17.25 dB") == 2
    assert width > height


def test_depths_of_a_view_share_a_scale_and_holes_are_masked(drawn: list[Canvas]) -> None:
    row = view()
    render_panel([row])
    true, rendered = drawn[0].axes[2].images[0], drawn[0].axes[3].images[0]
    measured = row.depth[row.depth > 0]
    assert true.get_clim() == rendered.get_clim() == (measured.min(), measured.max())
    assert np.ma.getmaskarray(true.get_array())[0].all()
    assert not np.ma.getmaskarray(true.get_array())[1:].any()


def test_views_share_the_colours_of_features_and_one_may_have_none(drawn: list[Canvas]) -> None:
    features = np.random.default_rng(2).random((*SIZE, 6))
    render_panel([view(features=features), view(), view(features=features)])
    first, none, last = (drawn[0].axes[number].images for number in (4, 9, 14))
    assert not none
    assert first[0].get_array().shape == (*SIZE, 3)
    np.testing.assert_array_equal(first[0].get_array(), last[0].get_array())


@pytest.mark.parametrize("name", ["photo", "rendered", "rendered_depth", "features"])
def test_images_of_another_size_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is \\(3, 4\\)"):
        render_panel([view(**{name: np.zeros((3, 4, 3))})])
    with pytest.raises(InputError, match="no view"):
        render_panel([])


def test_a_view_without_any_depth_can_be_drawn() -> None:
    size(render_panel([view(depth=np.zeros(SIZE), psnr=None)]))


def test_curves_take_the_last_record_of_a_step(drawn: list[Canvas]) -> None:
    records = [
        {"event": "started"},
        {"step": 2, "image": 0.5, "depth": None},
        {"step": 1, "image": 0.9, "depth": 2.0},
        {"step": 2, "image": 0.4, "depth": 1.0},
        {"step": 2, "psnr_heldout": 15.0},
    ]
    figure = loss_curves(records, losses=LOSSES, psnr=PSNR, title="A run", caption="Its curves.")
    size(figure.png)
    check_svg(figure.svg)
    left, right = drawn[0].axes
    assert [line.get_label() for line in left.lines] == ["colour", "depth"]
    assert [tuple(line.get_xydata()[-1]) for line in left.lines] == [(2, 0.4), (2, 1.0)]
    assert (left.get_xlabel(), left.get_yscale()) == ("step", "log")
    assert right.get_ylabel() == "PSNR (dB)"
    assert right.lines[0].get_xydata().tolist() == [[2, 15.0]]


def test_a_log_without_curves_is_named() -> None:
    with pytest.raises(InputError, match="Looked for: image, depth, psnr_heldout"):
        loss_curves([{"event": "started"}], losses=LOSSES, psnr=PSNR, title="", caption="")


def lines_across(canvas: Canvas) -> list[float]:
    lines = [part for part in canvas.axes[0].collections if part.get_gid() == figures.PAPER_LABEL]
    return [float(line.get_paths()[0].vertices[0][1]) for line in lines]


def test_bars_show_the_paper_only_where_it_may_be_compared(
    table: TableSpec, paper: PaperTable, make: Callable[..., SemanticResult], drawn: list[Canvas]
) -> None:
    real = [make(), make(column="two", mIoU=0.4), make(row="floor", mIoU=0.02)]
    size(bar_table(compare(table, real, paper), "mIoU"))
    assert sorted(lines_across(drawn[0])) == [20.0, 40.0]
    rooms = [make(synthetic=True), make(column="two", synthetic=True)]
    size(bar_table(compare(table, rooms, paper), "mIoU"))
    assert lines_across(drawn[1]) == []
    assert "paper" not in [text.get_text() for text in drawn[1].legends[0].get_texts()]


def test_bars_are_of_what_was_run(
    table: TableSpec, paper: PaperTable, make: Callable[..., SemanticResult], drawn: list[Canvas]
) -> None:
    comparison = compare(table, [make(seed=0, mIoU=0.1), make(seed=1, mIoU=0.2)], paper)
    bar_table(comparison, "mIoU")
    axis = drawn[0].axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["One"]
    assert [patch.get_height() for patch in axis.patches] == pytest.approx([15.0])
    with pytest.raises(InputError, match="Known: mIoU, mAcc"):
        bar_table(comparison, "speed")
    with pytest.raises(InputError, match="Nothing of this table"):
        bar_table(compare(table, [], paper), "mIoU")


def test_drawing_leaves_the_users_settings_alone() -> None:
    before = dict(mpl.rcParams)
    render_panel([view()])
    assert dict(mpl.rcParams) == before
