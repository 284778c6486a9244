"""The result schema: what is written comes back, old files load, everything else is refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

from gcbench.errors import RunError
from gcbench.runs import provenance, results
from gcbench.runs.results import PretrainResult, SemanticResult, load_result, parse_result

STORED = Path(__file__).parent / "data"


def test_nan_is_null_and_comes_back(result: SemanticResult) -> None:
    text = result.model_dump_json()
    assert json.loads(text)["metrics"]["allAcc"] is None
    again = parse_result(text)
    assert isinstance(again, SemanticResult)
    assert math.isnan(again.metrics["allAcc"])
    assert math.isnan(again.classes["floor"].iou)
    assert again.model_dump_json() == text


@pytest.mark.parametrize("name", ["semantic-v1.json", "pretrain-v1.json"])
def test_files_of_version_1_load_for_ever(name: str) -> None:
    stored = load_result(STORED / name)
    assert stored.kind == name.split("-")[0]
    if isinstance(stored, PretrainResult):
        assert [point.step for point in stored.psnr] == [100, 200]
        assert math.isnan(stored.psnr[0].psnr_heldout)
    else:
        assert stored.metrics["mIoU"] == 0.25
        assert stored.classes["wall"].acc == 0.75
        assert stored.protocol.fingerprint() == "dbb5af46fd08"


def test_a_newer_schema_migrates_older_files(result: SemanticResult, monkeypatch: pytest.MonkeyPatch) -> None:
    old = json.loads(result.model_dump_json())
    old["schema_version"] = 0
    old["cell_row"] = old.pop("row")

    def rename(content: dict) -> dict:
        return {**{key: value for key, value in content.items() if key != "cell_row"}, "row": content["cell_row"]}

    with pytest.raises(RunError, match="schema_version"):
        parse_result(json.dumps(old))
    monkeypatch.setitem(results._MIGRATIONS, 0, rename)
    assert parse_result(json.dumps(old)) == parse_result(result.model_dump_json())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, "surprise"),
        ({"schema_version": 99}, "Update gcbench"),
        ({"kind": "dance"}, "kind"),
        ({"seed": "one"}, "seed"),
        ({"metrics": {"mIoU": "high"}}, "metrics.mIoU"),
    ],
)
def test_what_is_not_a_result_is_refused(result: SemanticResult, change: dict, message: str) -> None:
    with pytest.raises(RunError, match=message):
        parse_result(json.dumps({**json.loads(result.model_dump_json()), **change}))


def test_broken_files_name_themselves(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none\.json cannot be read"):
        load_result(tmp_path / "none.json")
    (tmp_path / "torn.json").write_text('{"kind": "sem')
    with pytest.raises(RunError, match=r"torn\.json is not JSON"):
        load_result(tmp_path / "torn.json")


def test_the_fingerprint_sees_every_field(result: SemanticResult) -> None:
    protocol = result.protocol
    changes = {
        "label_set": "scannet200",
        "split": "train",
        "split_hash": "xyz",
        "resolution": "points",
        "inference": "tta",
        "ignored": ("wall",),
        "checkpoint": "best",
        "batchnorm": "frozen",
        "level": "encoder-levels",
        "evaluation": "scannet-official",
        "evaluation_version": 2,
    }
    assert set(changes) == set(type(protocol).model_fields)
    prints = {protocol.model_copy(update={key: value}).fingerprint() for key, value in changes.items()}
    assert len(prints | {protocol.fingerprint()}) == len(changes) + 1


def test_provenance_is_gathered(result: SemanticResult) -> None:
    found = result.provenance
    assert {"python", "gcbench", "numpy"} <= set(found.versions)
    assert int(found.hardware["cores"]) >= 1
    assert found.peak_memory_mb > 1
    assert found.ended > found.started
    assert found.wall_seconds == (found.ended - found.started).total_seconds()
    with pytest.raises(ValueError, match="time zone"):
        provenance.collect_provenance(
            recipe="",
            recipe_hash="",
            resolved_recipe={},
            preset=None,
            data_fingerprint="",
            synthetic=True,
            started=datetime(2026, 1, 1),
        )


def test_git_state_is_of_the_checkout_only(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    package = tmp_path / "gcbench"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git("init")
    git("commit", "--allow-empty", "-m", "a repository around an installed package")
    assert provenance.git_state(package) == (None, None)
    git("add", ".")
    git("commit", "-m", "tracked")
    commit, dirty = provenance.git_state(package)
    assert commit is not None
    assert len(commit) == 40
    assert dirty is False
    (package / "__init__.py").write_text("# changed")
    assert provenance.git_state(package) == (commit, True)


def test_no_torch_is_imported() -> None:
    code = (
        "import sys, gcbench.runs.store, gcbench.runs.provenance as p; p.library_versions();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_started_is_stored_in_utc(result: SemanticResult) -> None:
    assert result.provenance.started.utcoffset() == timezone.utc.utcoffset(None)
