"""What the card of a real folder says of rooms and of encoders that nobody knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gcbench.hub.layout import CARD, EVALUATIONS
from gcbench.hub.packing import pack, pack_run
from gcbench.protocols.model_folders import open_model_folder
from tests.hub import small_models
from tests.reporting.test_report_intervals import scored


def test_a_probe_on_rooms_of_a_real_encoder_is_no_benchmark_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_models, "scored", lambda **facts: scored(**{**facts, "synthetic": True}))
    run = small_models.reproduction(tmp_path / "out")
    _, facts = pack_run(run.folder, tmp_path / "model", repo="user/small")
    assert not facts.synthetic and facts.measurements and all(one.synthetic for one in facts.measurements)
    card = (tmp_path / "model" / CARD).read_text()
    assert "model-index" not in card and "On synthetic rooms" in card
    assert not (tmp_path / "model" / EVALUATIONS).exists()


@pytest.mark.parametrize(("key", "given"), [("given:0123abcd", "0123abcd"), ("feedfeed", None), (None, None)])
def test_an_encoder_that_was_given_is_told(key: str | None, given: str | None, tmp_path: Path) -> None:
    opened = open_model_folder(small_models.write_segmenter(tmp_path / "semantic" / "last.safetensors"))
    opened = replace(opened, config={**opened.config, "origin": {"encoder": key, "synthetic": True}})
    _, facts = pack(opened, tmp_path / "model")
    assert (facts.given_encoder, facts.synthetic) == (given, True)
    card = (tmp_path / "model" / CARD).read_text()
    assert ("license: mit" in card) == (given is None)
