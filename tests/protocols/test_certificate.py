"""The certificate of a converted encoder: what it says, and that another encoder does not pass it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from gcbench.errors import DataError, InputError
from gcbench.models.sparse_unet import SparseUNet
from gcbench.protocols.convert import Certificate, convert, load_converted, verify_certificate
from gcbench.protocols.encoders import build_encoder, load_encoder
from gcbench.protocols.golden import TOLERANCE, golden_features, golden_voxels
from gcbench.recipe.schema import Encoder

SIZES = Encoder(in_channels=6, base_channels=8, channels=(8, 16, 24, 16), layers=(1, 2, 1, 1))


def network(seed: int = 0) -> SparseUNet:
    """Weights of a size that makes every layer matter."""
    torch.manual_seed(seed)
    model = build_encoder(SIZES)
    for name, value in model.state_dict().items():
        if value.ndim == 5:
            nn.init.normal_(value, std=0.2)
        elif name.endswith(("running_mean", "bias")):
            nn.init.normal_(value)
    return model


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    state = {f"module.backbone.{name}": value for name, value in network().state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "model.pth")
    convert(tmp_path / "model.pth", tmp_path / "out")
    return tmp_path / "out"


def test_the_golden_voxels_are_what_they_were() -> None:
    """They may never change: every certificate that is out in the world would stop to hold."""
    cells = [(x, y, 4 + (x * x + 3 * y) % 7 // 2) for x in range(32) for y in range(32)]
    cells += [(0, y, z) for y in range(32) for z in range(8, 24)]
    batch = golden_voxels(3)
    assert len(set(cells)) == 1536
    assert batch.grid_coord.tolist() == [list(cell) for cell in cells]
    assert batch.offsets.tolist() == [1536]
    feat = [[(7 * x + 13 * y + 29 * z + 17 * c) % 256 / 127.5 - 1 for c in range(3)] for x, y, z in cells]
    assert torch.equal(batch.feat, torch.tensor(feat, dtype=torch.float64).float())


def test_a_converted_encoder_is_the_one_of_the_checkpoint(converted: Path) -> None:
    model = build_encoder(SIZES)
    load_encoder(model, converted / "model.safetensors")  # what jobs do
    assert all(torch.equal(value, network().state_dict()[name]) for name, value in model.state_dict().items())
    config = json.loads((converted / "config.json").read_text())
    assert config["model_type"] == "gcbench-sparse-unet"
    assert Encoder.model_validate_json(json.dumps({key: config[key] for key in Encoder.model_fields})) == SIZES
    assert (config["pretraining"]["checkpoint"], config["pretraining"]["epoch"]) == ("model.pth", 3)


def test_the_certificate_survives_its_file_and_holds(converted: Path) -> None:
    encoder, certificate = load_converted(converted)
    assert verify_certificate(encoder, certificate) == []
    golden = certificate.golden
    assert (golden.voxels, golden.channels, len(golden.mean), len(golden.std)) == (1536, 16, 16, 16)
    assert [len(row) for row in golden.rows] == [8] * 8
    with torch.no_grad():
        features = network().eval()(golden_voxels(6)).double()
    assert torch.equal(torch.tensor(golden.rows, dtype=torch.float64), features[:8, :8])
    assert golden.mean == pytest.approx(features.mean(dim=0).tolist())
    assert golden.std == pytest.approx(features.std(dim=0, correction=0).tolist())
    assert {"torch", "gcbench", "python"} <= set(certificate.versions)
    assert str(converted.parent) not in (converted / "certificate.json").read_text()


def test_the_mode_of_the_encoder_stays(converted: Path) -> None:
    encoder, certificate = load_converted(converted)
    for mode in (True, False):
        assert verify_certificate(encoder.train(mode), certificate) == []
        assert encoder.training is mode


def test_another_encoder_is_told_apart(converted: Path) -> None:
    _, certificate = load_converted(converted)
    text = "; ".join(verify_certificate(network(1), certificate))
    assert "mean of a channel: off by" in text
    assert "first features: off by" in text
    other = build_encoder(SIZES.model_copy(update={"channels": (8, 16, 24, 12)}))
    assert verify_certificate(other, certificate) == ["1536 x 12 features, the certificate has 1536 x 16"]


@pytest.mark.parametrize(("change", "differs"), [(0.1 * TOLERANCE, False), (10 * TOLERANCE, True)])
def test_sums_in_another_order_pass_and_other_features_do_not(converted: Path, change: float, differs: bool) -> None:
    encoder, certificate = load_converted(converted)
    golden = certificate.golden
    largest = max(abs(value) for row in golden.rows for value in row)
    rows = tuple(tuple(value + change * largest for value in row) for row in golden.rows)
    moved = replace(certificate, golden=replace(golden, rows=rows, digest="0" * 64))
    found = verify_certificate(encoder, moved)
    assert [line.partition(":")[0] for line in found] == (["first features"] if differs else [])


def test_features_that_are_not_finite_are_an_error() -> None:
    model = network()
    model.state_dict()["conv_input.1.running_var"].fill_(-1)
    with pytest.raises(InputError, match="not finite"):
        golden_features(model)


@pytest.mark.parametrize("name", ["certificate.json", "config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, "[]", '{"in_channels": "six"}'])
def test_a_broken_folder(converted: Path, name: str, content: str | None) -> None:
    (converted / name).unlink()
    if content is not None:
        (converted / name).write_text(content)
    with pytest.raises((DataError, InputError), match=str(converted)):
        load_converted(converted)


def test_a_certificate_with_wrong_tables_is_no_match(converted: Path) -> None:
    encoder, certificate = load_converted(converted)
    short = replace(certificate, golden=replace(certificate.golden, mean=(0.0,), digest=""))
    assert verify_certificate(encoder, short) == [
        "mean of a channel: [1, 1] values in the certificate, [1, 16] computed"
    ]
    text = TypeAdapter(Certificate).dump_json(certificate)
    assert TypeAdapter(Certificate).validate_json(text) == certificate


def test_what_is_missing_starts_the_same_every_time_and_leaves_the_callers_seed(tmp_path: Path) -> None:
    state = {name: value for name, value in network().state_dict().items() if not name.startswith("enc.0.block0.conv1")}
    torch.save(state, tmp_path / "model.pth")
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    first, _ = convert(tmp_path / "model.pth", tmp_path / "a", sizes=SIZES, allow_partial=True)
    assert torch.equal(torch.rand(3), wanted)
    second, _ = convert(tmp_path / "model.pth", tmp_path / "b", sizes=SIZES, allow_partial=True)
    assert first == second
    assert first.missing == ("enc.0.block0.conv1.weight",)
