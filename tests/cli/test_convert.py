"""`gcbench convert`, through the real command line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gcbench.cli.main import main
from gcbench.models.sparse_unet import SparseUNet
from gcbench.protocols import convert as convert_module

FILES = {"config.json", "model.safetensors", "certificate.json"}


def state(in_channels: int = 6) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = SparseUNet(in_channels, 8, (8, 16, 24, 16), (1, 2, 1, 1))
    return {f"module.backbone.{name}": value for name, value in model.state_dict().items()}


def save(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    torch.save({"epoch": 12, "state_dict": dict(tensors)}, path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save(tmp_path / "model_last.pth", {**state(), "module.seg_head.weight": torch.ones(20, 16)})


def convert(*words: object) -> int:
    return main(["convert", *map(str, words)])


def folders(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if path.is_dir()}


def test_a_checkpoint_becomes_an_encoder(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    out = checkpoint.parent / "encoders" / "mine"
    assert convert(checkpoint, out, "--sizes", "file") == 0
    assert {path.name for path in out.iterdir()} == FILES
    certificate = json.loads((out / "certificate.json").read_text())
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (certificate["file"], certificate["file_sha256"]) == ("model_last.pth", sha256)
    assert (certificate["matched"], certificate["epoch"], certificate["layout"]) == (1.0, 12, "KRSC")
    assert (certificate["missing"], certificate["extra"]) == ([], [])
    assert certificate["heads"] == {"module.seg_head.weight": [20, 16]}
    shown = capsys.readouterr().out
    for words in ("100.00% of", "'module.backbone.'", "module.seg_head.weight [20, 16]", "1536 x 16", sha256):
        assert words in shown


def test_check_holds_and_then_finds_a_changed_weight(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    out = checkpoint.parent / "out"
    assert convert(checkpoint, out, "--sizes", "file") == 0
    assert convert(out, "--check") == 0
    assert "are those of its certificate" in capsys.readouterr().out
    weights = load_file(out / "model.safetensors")
    weights["dec.0.block0.bn2.bias"][3] += 0.01
    save_file(weights, out / "model.safetensors")
    assert convert(out, "--check") == 1
    assert "is not the encoder of its certificate: mean of a channel: off by" in capsys.readouterr().err


def test_the_recipe_s_sizes_are_wanted_unless_the_file_s_are(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = checkpoint.parent / "out"
    assert convert(checkpoint, out) == 2
    assert "base channels: 8 in the file, 32 expected" in capsys.readouterr().err
    three = save(checkpoint.parent / "three.pth", state(3))
    assert convert(three, out) == 2
    assert "input channels: 3 in the file, 6 expected" in capsys.readouterr().err
    assert convert(checkpoint, out, "--sizes", "rooms/rooms") == 2
    assert convert(checkpoint, out, "--sizes", "pretrain/unknown") == 2
    assert not out.exists()


def test_less_than_95_percent_is_taken_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = state()
    half = {name: value for name, value in whole.items() if not name.startswith("module.backbone.enc.")}
    assert convert(save(tmp_path / "half.pth", half), tmp_path / "out", "--sizes", "file") == 2
    assert "cannot be seen" in capsys.readouterr().err
    half["module.backbone.enc.0.block0.bn1.bias"] = whole["module.backbone.enc.0.block0.bn1.bias"]
    half["module.backbone.enc.1.block1.bn1.bias"] = whole["module.backbone.enc.1.block1.bn1.bias"]
    path = save(tmp_path / "half.pth", half)
    assert convert(path, tmp_path / "out", "--sizes", "file") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"{path} lacks 34 parameters of the encoder: enc.0.block0.conv1.weight, enc.0.block0.bn1.weight" in error
    assert "95% are needed" in error
    assert "--allow-partial" in error
    assert folders(tmp_path) == set()
    assert convert(path, tmp_path / "out", "--sizes", "file", "--allow-partial") == 0
    assert "random start" in capsys.readouterr().out
    certificate = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert len(certificate["missing"]) == 34
    assert certificate["matched"] < 0.95


def test_a_folder_that_is_there_is_kept_unless_forced(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = checkpoint.parent / "out"
    out.mkdir()
    assert convert(checkpoint, out, "--sizes", "file") == 0  # an empty folder is nobody's
    before = (out / "certificate.json").stat().st_mtime_ns
    assert convert(checkpoint, out, "--sizes", "file") == 2
    assert "is already there" in capsys.readouterr().err
    assert (out / "certificate.json").stat().st_mtime_ns == before
    assert convert(checkpoint, out, "--sizes", "file", "--force") == 0
    assert (out / "certificate.json").stat().st_mtime_ns > before
    (out / "thesis.tex").write_text("years")
    assert convert(checkpoint, out, "--sizes", "file", "--force") == 2
    assert (out / "thesis.tex").read_text() == "years"


def test_a_failure_while_writing_leaves_the_old_folder(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = checkpoint.parent / "out"
    assert convert(checkpoint, out, "--sizes", "file") == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(path: Path, content: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(convert_module, "write_atomic", fail)
    assert convert(checkpoint, out, "--sizes", "file", "--force") == 70
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert folders(out.parent) == {"out"}


@pytest.mark.parametrize("words", [["model_last.pth"], ["a", "b", "--check"]])
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(*words) == 2
    assert "Use: gcbench convert FILE OUT" in capsys.readouterr().err
