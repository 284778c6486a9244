"""Pictures in a run folder, with and without SVG."""

from __future__ import annotations

from pathlib import Path

import pytest

from gcbench.errors import InputError
from gcbench.runs.store import Run, RunStore


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return RunStore(tmp_path).run("figure", "figS1", "0123456789abcdef")


def test_a_figure_is_kept_with_its_words_and_its_svg(run: Run) -> None:
    path = run.save_figure("b", b"png", title="T", caption="C", svg=b"<svg/>")
    run.save_figure("a", b"other", title="U", caption="D")
    first, second = run.figures()
    assert (first.title, first.svg) == ("U", None)
    assert (second.path, second.title, second.caption) == (path, "T", "C")
    assert second.svg is not None
    assert second.svg.read_bytes() == b"<svg/>"


def test_an_older_svg_never_stands_beside_a_newer_png(run: Run) -> None:
    run.save_figure("a", b"png", title="T", caption="C", svg=b"<svg/>")
    run.save_figure("a", b"newer", title="T", caption="C")
    assert run.figures()[0].svg is None


def test_a_name_cannot_lead_out_of_the_folder(run: Run) -> None:
    with pytest.raises(InputError, match="figure's name"):
        run.save_figure("../a", b"png", title="T", caption="C", svg=b"<svg/>")
