"""What `gcbench verify` finds, and what may not be published in the first place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gcbench import AutoModel
from gcbench.data.storage import MANIFEST as DATASET
from gcbench.errors import DataError, InputError
from gcbench.files import sha256
from gcbench.hub.layout import MANIFEST, is_publishable, read_manifest, write_manifest
from gcbench.hub.packing import pack_run
from gcbench.hub.publishing import publish_folder
from gcbench.hub.verification import Verification, verify
from gcbench.runs.store import Run
from tests.hub.hub_server import HubServer
from tests.hub.small_models import reproduction, small_encoder, write_encoder

REPO = "user/small"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return reproduction(tmp_path / "out")


@pytest.fixture
def model(run: Run, tmp_path: Path) -> Path:
    pack_run(run.folder, tmp_path / "model", repo=REPO)
    return tmp_path / "model"


def states(verification: Verification) -> dict[str, str]:
    return {check.name: check.state for check in verification.checks}


def failed(model: Path) -> dict[str, str]:
    """What failed, after the manifest was made to fit: only the content is wrong."""
    write_manifest(model, read_manifest(model).model_type)
    return {check.name: check.text for check in verify(str(model)).checks if check.state == "failed"}


def change_json(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_published_model_is_what_it_says(hub: HubServer, model: Path) -> None:
    published = publish_folder(model, REPO)
    found = verify(REPO)
    assert found.passed and found.commit == published.commit
    assert set(states(found).values()) == {"passed"}
    assert "4 numbers are those of the published results" in [check.text for check in found.checks]
    assert verify(REPO, published.commit) == Verification(REPO, published.commit, found.checks)
    with pytest.raises(InputError, match="does not have this revision"):
        verify(REPO, "v9")


def test_a_model_without_evidence(tmp_path: Path) -> None:
    AutoModel.from_pretrained(write_encoder(tmp_path / "encoder")).save_pretrained(tmp_path / "model")
    found = verify(str(tmp_path / "model"))
    assert found.passed
    assert {name for name, state in states(found).items() if state == "absent"} == {
        "results",
        "origin of the results",
        "published numbers",
    }


def test_a_changed_file_is_found_and_nothing_else_is_looked_at(model: Path) -> None:
    card = model / "README.md"
    card.write_text(card.read_text().replace("encoder", "wonder"))
    (check,) = verify(str(model)).checks
    assert check.state == "failed" and check.text.startswith("README.md ")
    (model / "results" / "more.json").write_text("{}")
    assert "results/more.json is not in the manifest" in verify(str(model)).checks[0].text


def test_tampering_on_the_hub_is_found(hub: HubServer, model: Path) -> None:
    publish_folder(model, REPO)
    hub.put(REPO, {"README.md": b"# better"})
    size = read_manifest(model).files["README.md"].size
    assert [check.text for check in verify(REPO).checks] == [f"README.md has 8 bytes, {size:,} were published"]


def test_better_numbers_in_the_card_are_found(model: Path) -> None:
    card = model / "README.md"
    card.write_text(card.read_text().replace("value: 40.824", "value: 60.824"))
    text = failed(model)["published numbers"]
    assert "table1/gaussiancross/scannet/mIoU in README.md is 60.8240, the results say 40.8240" in text


def test_better_numbers_in_an_evaluation_file_are_found(model: Path) -> None:
    (path,) = (model / ".eval_results").iterdir()
    entries = yaml.safe_load(path.read_text())
    entries[0]["value"] = 99.0
    path.write_text(yaml.safe_dump(entries))
    assert f"in .eval_results/{path.name} is 99.0000" in failed(model)["published numbers"]


def test_better_results_do_not_fit_their_scenes(model: Path) -> None:
    def better(content: Any) -> None:
        content["metrics"]["mIoU"] = 0.6

    change_json(next((model / "results").glob("scannet-*.json")), better)
    assert "'mIoU' is 0.6, but its scenes give" in failed(model)["results"]


def test_a_result_of_another_protocol_is_found(model: Path) -> None:
    def other(content: Any) -> None:
        content["protocol"]["inference"] = "tta"

    change_json(next((model / "results").glob("scannet-*.json")), other)
    assert "is not of the protocol" in failed(model)["published numbers"]


def test_results_of_another_encoder_are_found(model: Path) -> None:
    def other(content: Any) -> None:
        content["encoder"]["parameters_before"] = "0" * 16

    change_json(next((model / "results").glob("scannet-*.json")), other)
    assert "is of other weights" in failed(model)["origin of the results"]


def test_numbers_of_synthetic_rooms_are_found(model: Path) -> None:
    def rooms(content: Any) -> None:
        content["provenance"]["synthetic"] = True

    change_json(next((model / "results").glob("scannet-*.json")), rooms)
    assert "is of synthetic rooms, no benchmark result" in failed(model)["published numbers"]


def test_a_missing_result_is_found(model: Path) -> None:
    next((model / "results").glob("scannet-*.json")).unlink()
    assert "names a result that is not published" in failed(model)["published numbers"]


def test_golden_features_of_another_encoder_are_found(model: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(write_encoder(tmp_path / "other", seed=2)).save_pretrained(tmp_path / "second")
    (model / "golden.json").write_bytes((tmp_path / "second" / "golden.json").read_bytes())
    assert "too large for rounding" in failed(model)["golden features"]


@pytest.mark.parametrize(
    ("name", "content", "check"),
    [
        ("golden.json", "{}", "golden features"),
        ("README.md", "# no front matter", "published numbers"),
        ("README.md", "wide", "published numbers"),
        (".eval_results/x.yaml", "wide", "published numbers"),
        ("README.md", "---\nmodel-index: 7\n---\n", "published numbers"),
        ("README.md", "---\nmodel-index:\n- results:\n  - {}\n---\n", "published numbers"),
        ("config.json", "[]", "model"),
        ("results/x.json", "[]", "results"),
        (".eval_results/x.yaml", "- 5", "published numbers"),
        (".eval_results/x.yaml", "{", "published numbers"),
    ],
)
def test_broken_files_are_failures_not_crashes(model: Path, name: str, content: str, check: str) -> None:
    (model / name).write_text(content, encoding="utf-16" if content == "wide" else "utf-8")
    assert check in failed(model)


@pytest.mark.parametrize("content", ["", "[]", '{"files": 3}', '{"schema_version": 9}'])
def test_a_broken_manifest(model: Path, content: str) -> None:
    (model / MANIFEST).write_text(content)
    assert not verify(str(model)).passed


def test_a_manifest_cannot_name_files_elsewhere(model: Path) -> None:
    def outside(content: Any) -> None:
        content["files"]["../../secret"] = {"sha256": "0" * 64, "size": 1}

    change_json(model / MANIFEST, outside)
    assert "names '../../secret', which no model has" in verify(str(model)).checks[0].text


def test_what_is_no_published_model(tmp_path: Path, hub: HubServer) -> None:
    with pytest.raises(InputError, match="was not published by gcbench"):
        verify(str(tmp_path))
    with pytest.raises(InputError, match="no repository 'user/nothing' that you may see"):
        verify("user/nothing")


@pytest.mark.parametrize(
    "name",
    [
        "scans/a.ply",
        "results/../a.json",
        "a.pth",
        "panels/x.png",
        "model.bin",
        "results/a.npz",
        "config.yaml",
        "/config.json",
    ],
)
def test_names_that_are_never_published(name: str) -> None:
    assert not is_publishable(name)


def test_synthetic_rooms_are_no_benchmark(tmp_path: Path) -> None:
    run = reproduction(tmp_path / "rooms", synthetic=True)
    with pytest.raises(InputError, match="no benchmark results") as raised:
        pack_run(run.folder, tmp_path / "model", repo=REPO)
    assert "--demonstration" in raised.value.way_out and not (tmp_path / "model").exists()
    _, facts = pack_run(run.folder, tmp_path / "model", repo=REPO, demonstration=True)
    card = (tmp_path / "model" / "README.md").read_text()
    assert facts.synthetic and "Made from synthetic rooms" in card and "No number on this page is a" in card
    assert "model-index" not in card and not (tmp_path / "model" / ".eval_results").exists()
    assert verify(str(tmp_path / "model")).passed
    loaded = AutoModel.from_pretrained(tmp_path / "model")
    loaded.save_pretrained(tmp_path / "again")
    assert "Made from synthetic rooms" in (tmp_path / "again" / "README.md").read_text()


@pytest.mark.parametrize("options", [{"dirty": True}, {"probe_dirty": True}])
def test_what_nobody_could_make_again_is_refused(tmp_path: Path, options: dict[str, bool]) -> None:
    run = reproduction(tmp_path / "out", **options)
    with pytest.raises(InputError, match="uncommitted changes"):
        pack_run(run.folder, tmp_path / "model", repo=REPO)
    if "probe_dirty" in options:
        pack_run(run.folder, tmp_path / "model", repo=REPO, with_results=False)
        assert "Nothing that was measured" in (tmp_path / "model" / "README.md").read_text()
    else:
        with pytest.raises(InputError, match="uncommitted changes"):
            pack_run(run.folder, tmp_path / "model", repo=REPO, with_results=False)


def test_weights_that_are_not_the_run_s_own_are_refused(run: Run, tmp_path: Path) -> None:
    write_encoder(run.folder / "encoder", seed=9)
    with pytest.raises(InputError, match=r"is not what the run in .* wrote"):
        pack_run(run.folder, tmp_path / "model", repo=REPO)


def test_a_checkpoint_of_another_encoder_is_refused(run: Run, tmp_path: Path) -> None:
    import torch

    (file,) = run.checkpoints.glob("*.pt")
    state = torch.load(file, weights_only=True)
    state["model"].update({f"encoder.{name}": value for name, value in small_encoder(4).state_dict().items()})
    from gcbench.training.checkpoint import Checkpoints

    Checkpoints(run.checkpoints, warn=print).save(101, state)
    with pytest.raises(InputError, match="is not that of its exported encoder"):
        pack_run(run.folder, tmp_path / "model", repo=REPO, whole=True)


def test_a_run_that_is_not_done_is_refused(run: Run, tmp_path: Path) -> None:
    run.result_path.write_text("{}")
    with pytest.raises(InputError, match="is failed") as raised:
        pack_run(run.folder, tmp_path / "model", repo=REPO)
    assert "gcbench runs resume" in raised.value.way_out


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match="is not the folder of a run"):
        pack_run(tmp_path / "data", tmp_path / "model", repo=REPO)
    (tmp_path / "data" / DATASET).write_text("{}")
    with pytest.raises(InputError, match="do not let anyone pass their data on"):
        pack_run(tmp_path / "data", tmp_path / "model", repo=REPO)


def test_a_converted_encoder_is_published_with_its_origin(tmp_path: Path) -> None:
    import torch

    from gcbench.protocols.convert import convert

    state = {f"backbone.{name}": value for name, value in small_encoder().state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "model_last.pth")
    convert(tmp_path / "model_last.pth", tmp_path / "converted")
    _, facts = pack_run(tmp_path / "converted", tmp_path / "model", repo=REPO)
    assert facts.converted_from == ("model_last.pth", sha256(tmp_path / "model_last.pth"))
    assert "gcbench did not train it" in (tmp_path / "model" / "README.md").read_text()
    assert verify(str(tmp_path / "model")).passed
    write_encoder(tmp_path / "other", seed=6)
    (tmp_path / "converted" / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="is not the encoder of its certificate"):
        pack_run(tmp_path / "converted", tmp_path / "again", repo=REPO)


def test_a_folder_is_whole_or_not_there(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise DataError("no")

    monkeypatch.setattr("gcbench.hub.packing.model_card", broken)
    with pytest.raises(DataError):
        pack_run(run.folder, tmp_path / "new" / "model", repo=REPO)
    assert not list((tmp_path / "new").iterdir())
