"""What a user sees while a job runs: a bar in a terminal, a line per evaluation elsewhere."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from gcbench.cli.progress import JobProgress

EVENTS: list[dict[str, Any]] = [
    {"event": "started", "total": 100},
    {"event": "evaluation", "step": 0, "total": 100, "psnr_heldout": 12.34, "psnr_train": 12.5},
    {"event": "warning", "kind": "no-depth", "message": "Scene 'a[b]': no view has valid depth."},
    {
        **{"event": "step", "step": 50, "total": 100, "loss": 0.5, "image": 0.1, "depth": 0.2, "semantic": 0.3},
        **{"psnr": 20.0, "seconds": 2.0, "memory_mb": 1234.5, "kept": 9876.0, "warnings": {"no-depth": 1}},
    },
    {"event": "evaluation", "step": 50, "total": 100, "psnr_heldout": 18.0, "psnr_train": 19.0},
]


def shown(*, terminal: bool, evaluations: bool) -> str:
    stream = io.StringIO()
    progress = JobProgress(Console(file=stream, force_terminal=terminal, width=240), 1, evaluations=evaluations)
    progress.start(1, "pre-training x")
    for event in EVENTS:
        progress.event(event)
    progress.end("done")
    return stream.getvalue()


def test_a_log_has_a_line_per_evaluation() -> None:
    lines = shown(terminal=False, evaluations=True).splitlines()
    assert lines[0] == "step      0/100  held-out PSNR 12.3 dB  of views trained on 12.5 dB"
    assert lines[1] == "Scene 'a[b]': no view has valid depth."
    assert lines[2] == (
        "step     50/100  held-out PSNR 18.0 dB  of views trained on 19.0 dB  loss 0.500  2.00 s/step  1,234 MB  "
        "9,876 Gaussians  about 2 min left"
    )
    assert len(lines) == 4 and "done" in lines[3]
    assert len(shown(terminal=False, evaluations=False).splitlines()) == 2


@pytest.mark.parametrize("words", ["50/100", "2.00 s/step", "PSNR 20.0 dB", "1,234 MB", "9,876 Gaussians"])
def test_a_terminal_shows_a_live_bar(words: str) -> None:
    assert words in shown(terminal=True, evaluations=True)
