"""All figures of a reproduction: the paper's, drawn from what was measured, and those of the pre-trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gcbench.errors import InputError
from gcbench.files import write_atomic
from gcbench.reporting.comparison import Comparison
from gcbench.reporting.drawing import DrawnFigure
from gcbench.reporting.paper_figures import figure_1, figure_3
from gcbench.reporting.recorded import Recorded
from gcbench.reporting.render import Figure
from gcbench.reporting.run_figures import draw_pretraining
from gcbench.runs.results import PretrainResult
from gcbench.runs.store import Run, RunStore

_CURVES = "fig3"


def paper_figures(recorded: Recorded, comparisons: Sequence[Comparison]) -> dict[str, Figure]:
    """Figures of the paper by id, as far as something was measured for them."""
    tables = {one.table.id: one for one in comparisons}
    found: dict[str, Figure] = {}
    measured = {name: one for name, one in tables.items() if one.entries}
    if drawn := _figure_1(measured):
        found["fig1"] = _figure(drawn)
    if _CURVES in measured:
        found[_CURVES] = _figure(figure_3(measured[_CURVES], _pretraining_logs(recorded)))
    for run in RunStore(recorded.out / "runs").runs("figure"):
        for stored in run.figures() if run.is_done else ():
            found[stored.path.stem] = Figure(stored.title, stored.caption, stored.path, stored.svg)
    return found


def write_figures(figures: Mapping[str, Figure], folder: Path) -> None:
    """Write each as PNG, and as SVG where there is one."""
    for name, figure in figures.items():
        write_atomic(folder / f"{name}.png", _bytes(figure.png))
        if figure.svg is not None:
            write_atomic(folder / f"{name}.svg", _bytes(figure.svg))


def pretraining_figures(recorded: Recorded, tables: Sequence[str]) -> list[Figure]:
    """The pictures of the tables' pre-trainings, drawn now if there are none; of several seeds those of the first."""
    found: list[Figure] = []
    for run in recorded.pretrainings(list(tables)):
        stored = [Figure(f"{one.title} ({run.folder.name})", one.caption, one.path, one.svg) for one in run.figures()]
        found += stored or draw_pretraining(run)
    return found


def _figure_1(comparisons: Mapping[str, Comparison]) -> DrawnFigure | None:
    try:
        return figure_1(comparisons)
    except InputError:
        return None  # none of its tables was measured


def _pretraining_logs(recorded: Recorded) -> dict[str, list[dict[str, object]]]:
    """Row of Figure 3 -> log of its pre-training, of the lowest seed."""
    first: dict[str, tuple[int, Run]] = {}
    for cell in recorded.cells(_CURVES):
        known = first.get(cell.row)
        if isinstance(cell.result, PretrainResult) and (known is None or cell.seed < known[0]):
            first[cell.row] = (cell.seed, cell.run)
    return {row: run.records() for row, (_, run) in first.items()}


def _figure(drawn: DrawnFigure) -> Figure:
    return Figure(drawn.title, drawn.caption, drawn.png, drawn.svg)


def _bytes(image: bytes | Path) -> bytes:
    return image if isinstance(image, bytes) else image.read_bytes()
