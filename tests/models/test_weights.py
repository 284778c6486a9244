"""Checkpoints of Pointcept become our encoder: any prefix, any layout of spconv, nothing of the file runs."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from gcbench.errors import InputError
from gcbench.models.sparse_unet import SparseUNet
from gcbench.models.weights import Checkpoint, match_encoder, read_checkpoint
from gcbench.recipe.schema import Encoder
from gcbench.structures import PointBatch

SIZES = Encoder(in_channels=6, base_channels=8, channels=(8, 16, 24, 16), layers=(1, 2, 1, 1))
PREFIXES = ("", "module.", "backbone.", "module.backbone.", "student.backbone.", "module.encoder.")


def network(sizes: Encoder = SIZES) -> SparseUNet:
    """Weights of a size that makes every layer matter, batch norm as after a training."""
    generator = torch.Generator().manual_seed(3)
    model = SparseUNet(sizes.in_channels, sizes.base_channels, sizes.channels, sizes.layers)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point():
            value.normal_(0, 0.2, generator=generator)
        else:
            value.fill_(1234)
    return model.eval()


def stored(state: Mapping[str, Tensor], layout: str, prefix: str = "") -> dict[str, Tensor]:
    """The state as a file of that layout has it. A 1x1x1 weight is memory [C, K] in every version of spconv."""

    def move(weight: Tensor) -> Tensor:
        if weight.ndim != 5 or layout == "KRSC":
            return weight
        K, *kernel, C = weight.shape
        if kernel == [1, 1, 1]:
            return weight.reshape(1, 1, 1, *((K, C) if layout == "RSKC" else (C, K)))
        return torch.moveaxis(weight, 0, -2 if layout == "RSKC" else -1).contiguous()

    return {prefix + name: move(value) for name, value in state.items()}


def points(in_channels: int = 6) -> PointBatch:
    generator = torch.Generator().manual_seed(1)
    cells = torch.randperm(16**3, generator=generator)[:300]
    grid = torch.stack((cells // 256, cells // 16 % 16, cells % 16), dim=1).int()
    return PointBatch(grid * 0.02, grid, torch.randn(300, in_channels, generator=generator), torch.tensor([120, 300]))


def save(path: Path, state: Mapping[str, Tensor], **more: Any) -> Path:
    """A checkpoint with the entries that Pointcept writes."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    content = {
        "epoch": 7,
        "state_dict": OrderedDict(state),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "scaler": None,
        "best_metric_value": np.float64(0.71),
    }
    torch.save({**content, **more}, path)
    return path


def loaded(state: Mapping[str, Tensor]) -> SparseUNet:
    model = SparseUNet(SIZES.in_channels, SIZES.base_channels, SIZES.channels, SIZES.layers)
    model.load_state_dict(dict(state))
    return model.eval()


@pytest.mark.parametrize("layout", ["KRSC", "RSKC", "RSCK"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_an_imported_encoder_has_the_features_of_the_saved_one(tmp_path: Path, prefix: str, layout: str) -> None:
    model = network()
    heads = {"module.seg_head.weight": torch.ones(20, 16), "module.seg_head.bias": torch.ones(20)}
    other = {"module.projection.weight": torch.ones(4, 16)}
    path = save(tmp_path / "model_last.pth", {**heads, **stored(model.state_dict(), layout, prefix), **other})
    checkpoint = read_checkpoint(path)
    match = match_encoder(checkpoint)
    assert (checkpoint.epoch, match.prefix, match.layout, match.sizes) == (7, prefix, layout, SIZES)
    assert (match.share, match.missing, match.extra) == (1, (), ("module.projection.weight",))
    assert match.heads == {"module.seg_head.weight": (20, 16), "module.seg_head.bias": (20,)}
    assert match.total == sum(value.numel() for value in model.state_dict().values() if value.is_floating_point())
    with torch.no_grad():
        assert torch.equal(loaded(match.state)(points()), model(points()))


def test_a_layout_that_is_not_undone_changes_the_features() -> None:
    """The parity above can fail: K and C of a kernel between equal widths, swapped unseen, give other features."""
    model, batch = network(), points()
    state = model.state_dict()
    name = "enc.0.block0.conv1.weight"  # 8 to 8 channels: K and C can be swapped unseen
    state = {**state, name: stored({name: state[name]}, "RSKC")[name].permute(4, 0, 1, 2, 3).contiguous()}
    with torch.no_grad():
        assert not torch.allclose(loaded(state)(batch), model(batch), rtol=1e-2)


def test_a_kernel_of_spconv_1_is_taken_by_its_offsets() -> None:
    """[k, k, k, C, K]: the product of a point at each offset, written out, is that of the imported kernel."""
    model = network()
    kernel = torch.randn(3, 3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    old = {**stored(model.state_dict(), "RSCK"), "enc.0.block0.conv1.weight": kernel}
    match = match_encoder(Checkpoint(Path("old.pth"), old))
    ours = match.state["enc.0.block0.conv1.weight"]
    x = torch.randn(8)
    for r, s, t in ((0, 1, 2), (2, 0, 0), (1, 1, 1)):
        assert torch.allclose(ours[:, r, s, t] @ x, x @ kernel[r, s, t])


def test_a_weight_of_1x1x1_keeps_its_memory() -> None:
    state = network().state_dict()
    name = "dec.0.block0.proj.0.weight"
    for layout in ("RSKC", "RSCK"):
        match = match_encoder(Checkpoint(Path("old.pth"), stored(state, layout)))
        assert torch.equal(match.state[name].flatten(), state[name].flatten())


@given(st.lists(st.sampled_from(["module", "backbone", "student", "encoder", "net", "a_1"]), max_size=4))
def test_any_prefix_is_found_and_smaller_networks_beside_it_are_left(parts: list[str]) -> None:
    prefix = "".join(f"{part}." for part in parts)
    state = {f"{prefix}{name}": value for name, value in network().state_dict().items()}
    beside = {"aside." + name: torch.ones(1) for name in ("conv_input.0.weight", "enc.0.block0.bn1.weight")}
    match = match_encoder(Checkpoint(Path("any.pth"), {**beside, **state}))
    assert (match.prefix, match.share, set(match.extra)) == (prefix, 1, set(beside))


@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_the_tensors_are_found_at_the_top_or_below(tmp_path: Path, key: str | None) -> None:
    tensors = {"a.weight": torch.ones(2), "b": torch.zeros(1)}
    torch.save({key: tensors, "arch": "x"} if key else tensors, tmp_path / "a.pth")
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    assert checkpoint.epoch is None
    assert {name: value.tolist() for name, value in checkpoint.tensors.items()} == {"a.weight": [1, 1], "b": [0]}


def test_safetensors_files_and_files_of_old_torch_are_read(tmp_path: Path) -> None:
    state = network().state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": state}, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.pth"):
        assert match_encoder(read_checkpoint(tmp_path / name), SIZES).share == 1


def test_half_precision_becomes_float32() -> None:
    state = {
        name: value.half() if value.is_floating_point() else value for name, value in network().state_dict().items()
    }
    match = match_encoder(Checkpoint(Path("half.pth"), state))
    kinds = {value.dtype for name, value in match.state.items() if not name.endswith("num_batches_tracked")}
    assert kinds == {torch.float32}
    assert torch.equal(match.state["conv_input.1.bias"], state["conv_input.1.bias"].float())


class _Touch:
    """Runs `touch FILE` when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_file_with_code_is_refused_and_nothing_of_it_runs(tmp_path: Path, kind: str) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "ran"
    content = {"state_dict": {"a": torch.ones(2)}, "scheduler": _Touch(trace)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(_Touch(trace), protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(InputError, match=r"evil\.pth needs code to be opened: 'posix\.system'") as caught:
        read_checkpoint(path)
    assert "safetensors" in caught.value.way_out
    assert not trace.exists()
    torch.load(path, weights_only=False) if kind != "pickle" else pickle.loads(path.read_bytes())
    assert trace.exists()  # it would have


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def write_truncated(path: Path) -> None:
    content = save(path, network().state_dict()).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def write_truncated_safetensors(path: Path) -> None:
    save_file({"a": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_nothing, "is empty"),
        (write_truncated, "cannot be read as a PyTorch file (cut short or damaged)"),
        (write_truncated_safetensors, "cannot be read as safetensors"),
        (lambda path: path.write_text("<!DOCTYPE html><html>404</html>"), "cannot be read as a PyTorch file"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "Git LFS"),
        (lambda path: torch.save([torch.ones(2)], path), "holds a list, not named tensors"),
        (lambda path: torch.save({"epoch": 3, "state_dict": {}}, path), "holds no tensors under none"),
        (lambda path: torch.save({"epoch": 3, "lr": 0.1}, path), "holds no tensors under 'epoch', 'lr'"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: None, "does not exist"),
    ],
)
def test_a_file_that_is_no_checkpoint(tmp_path: Path, write: Callable[[Path], Any], message: str) -> None:
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    assert caught.value.message.startswith(str(path))
    assert message in caught.value.message
    assert caught.value.way_out


def problem(state: Mapping[str, Tensor], sizes: Encoder | None = SIZES, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        match_encoder(Checkpoint(Path("model.pth"), state), sizes, **options)
    assert "model.pth" in caught.value.message
    return str(caught.value)


def test_another_architecture_is_named_by_its_names() -> None:
    names = ("embedding.stem.conv.weight", "enc.enc0.block0.cpe.0.weight", "enc.enc0.block0.attn.qkv.weight")
    text = problem({f"module.backbone.{name}": torch.ones(4, 4) for name in names})
    assert "holds no encoder: none of its 3 tensors" in text
    assert all(name in text for name in names)


def test_a_head_alone_is_no_encoder() -> None:
    text = problem({"module.seg_head.weight": torch.ones(20, 96), "module.seg_head.bias": torch.ones(20)})
    assert "holds no encoder" in text
    assert "module.seg_head.weight" in text


@pytest.mark.parametrize("layout", ["KRSC", "RSCK"])
def test_other_input_channels_are_named(layout: str) -> None:
    state = stored(network(SIZES.model_copy(update={"in_channels": 3})).state_dict(), layout)
    assert "input channels: 3 in the file, 6 expected" in problem(state)
    assert match_encoder(Checkpoint(Path("model.pth"), state)).sizes.in_channels == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_channels": 12}, "base channels: 12 in the file, 8 expected"),
        ({"channels": (8, 16, 32, 16)}, "channels of dec.1: 32 in the file, 24 expected"),
        ({"layers": (1, 2, 1, 3)}, "blocks of dec.0: 3 in the file, 1 expected"),
        ({"channels": (8, 16, 16, 16, 24, 16), "layers": (1,) * 6}, "blocks of enc.2: 1 in the file, none expected"),
    ],
)
def test_other_sizes_are_named(change: dict[str, Any], message: str) -> None:
    state = network(SIZES.model_copy(update=change)).state_dict()
    assert message in problem(state)
    assert match_encoder(Checkpoint(Path("model.pth"), state)).sizes == SIZES.model_copy(update=change)


def test_what_is_missing_is_counted_by_values() -> None:
    state = network().state_dict()
    kept = {name: value for name, value in state.items() if not name.startswith(("dec.", "up."))}
    match = match_encoder(Checkpoint(Path("model.pth"), kept), SIZES)
    values, all_values = (
        sum(value.numel() for value in part.values() if value.is_floating_point()) for part in (kept, state)
    )
    assert match.share == values / all_values
    assert 0 < match.share < 0.8
    assert set(match.missing) == set(state) - set(kept)
    assert "channels of dec.1, channels of dec.0" in problem(kept, None)


def test_fewer_blocks_than_expected_are_missing() -> None:
    state = network(SIZES.model_copy(update={"layers": (1, 1, 1, 1)})).state_dict()
    match = match_encoder(Checkpoint(Path("model.pth"), state), SIZES)
    assert match.share < 1
    assert all(name.startswith("enc.1.block1.") for name in match.missing)


def test_counters_of_batch_norm_are_not_part_of_the_share() -> None:
    state = {name: value for name, value in network().state_dict().items() if "num_batches" not in name}
    match = match_encoder(Checkpoint(Path("old.pth"), state))
    assert match.share == 1
    assert match.missing
    assert all(name.endswith("num_batches_tracked") for name in match.missing)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(value: float) -> None:
    state = network().state_dict()
    state["up.1.1.running_var"][2:4] = value
    assert "up.1.1.running_var of model.pth has 2 values that are not finite" in problem(state)


def test_a_wrong_shape_or_type_is_named() -> None:
    state = network().state_dict()
    name = "dec.0.block0.conv1.weight"
    text = problem({**state, name: torch.ones(16, 3, 3, 3, 16)})
    assert (
        f"{name} of model.pth is float32 [16, 3, 3, 3, 16]; in the layout KRSC it must be float32 [16, 3, 3, 3, 24]"
        in text
    )
    assert "is int8 [8]" in problem({**state, "conv_input.1.bias": torch.ones(8, dtype=torch.int8)})
    assert "no kernel of 5 to 8 channels" in problem({**state, "conv_input.0.weight": torch.ones(8, 3, 3, 3, 6)})


def test_two_encoders_of_one_size_need_a_prefix() -> None:
    state = network().state_dict()
    twins = {f"{side}.backbone.{name}": value for side in ("student", "teacher") for name, value in state.items()}
    assert "holds 2 encoders of one size, after 'student.backbone.', 'teacher.backbone.'" in problem(twins)
    match = match_encoder(Checkpoint(Path("model.pth"), twins), prefix="teacher.backbone.")
    assert (match.share, match.prefix, len(match.extra)) == (1, "teacher.backbone.", len(state))
    assert "no parameter of a sparse U-Net after the prefix 'pupil.'" in problem(twins, prefix="pupil.")


def test_a_layout_that_nothing_decides_must_be_said() -> None:
    state = network().state_dict()
    name = "enc.0.block0.conv1.weight"
    old = {name: stored(state, "RSCK")[name]}  # 8 to 8 channels, and nothing else in the file
    assert f"{name} with shape [3, 3, 3, 8, 8] fits the layouts RSKC and RSCK" in problem(old)
    for layout in ("RSKC", "RSCK"):
        moved = {name: stored(state, layout)[name]}
        match = match_encoder(Checkpoint(Path("model.pth"), moved), SIZES, layout=layout)
        assert torch.equal(match.state[name], state[name])
    assert "in the layout KRSC it must be float32 [8, 3, 3, 3, 8]" in problem(old, layout="KRSC")
