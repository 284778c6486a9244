"""How every picture of a report is drawn: its style, its canvas, its bytes. Matplotlib comes with the call.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; series also differ in dash, hatch or marker.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

P = ParamSpec("P")
T = TypeVar("T")

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":")
HATCHES = ("", "//", "..", "xx", "\\\\", "++")
MARKERS = ("o", "s", "D", "^", "v", "P")
PAPER_GREY = "#555555"
_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "path",  # looks alike everywhere: no font is asked for
    "svg.hashsalt": "gcbench",  # equal pictures get equal ids
}
_DOCTYPE = re.compile(r"<!DOCTYPE[^>]*>\s*")  # names a file on another machine


@dataclass(frozen=True)
class DrawnFigure:
    """A picture with its words; `svg` is text, with pictures of pixels inside it."""

    title: str
    caption: str
    png: bytes
    svg: bytes


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Draw in the report's style, whatever the user's own Matplotlib settings are."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        import matplotlib as mpl

        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_STYLE)
            return draw(*args, **kwargs)

    return wrapper


def canvas_of(width: float, height: float) -> Canvas:
    """A figure of that size, inches, drawn by Agg whatever the machine has."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(canvas)
    return canvas


def png_of(canvas: Canvas, dpi: int = 150) -> bytes:
    """The canvas in pixels."""
    stream = io.BytesIO()
    canvas.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()


def svg_of(canvas: Canvas, dpi: int = 150) -> bytes:
    """The canvas as SVG: no script, nothing outside the file, equal bytes for equal pictures."""
    stream = io.StringIO()
    nothing = {"Creator": None, "Date": None, "Format": None, "Type": None}
    canvas.savefig(stream, format="svg", dpi=dpi, metadata=nothing)
    return _DOCTYPE.sub("", stream.getvalue(), count=1).encode()


def finish(canvas: Canvas, title: str, caption: str, dpi: int = 150) -> DrawnFigure:
    """The canvas in both formats, with its words."""
    return DrawnFigure(title, caption, png_of(canvas, dpi), svg_of(canvas, dpi))
