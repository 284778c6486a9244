"""Steps that are not finite: statistics go back to where they were, and a batch is kept as one can read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from gcbench.training.faults import Buffers, save_batch, scene_names


def network() -> nn.Module:
    """Norms of each kind that holds statistics, and a layer without."""
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False))


def test_a_spoilt_forward_pass_leaves_no_trace_in_statistics() -> None:
    model = network().train()
    model(torch.randn(8, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    buffers = Buffers(model)
    buffers.remember()
    model(torch.full((8, 4), float("nan")))
    assert model.get_buffer("0.running_mean").isnan().all()
    buffers.restore()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model.get_buffer("0.num_batches_tracked") == 1


def test_buffers_follow_the_newest_copy_and_stay_the_same_tensors() -> None:
    model = nn.BatchNorm1d(2)
    buffers, running_mean = Buffers(model), model.get_buffer("running_mean")
    for value in (1.0, 2.0):
        running_mean.fill_(value)
        buffers.remember()
    running_mean.fill_(3.0)
    buffers.restore()
    assert running_mean.tolist() == [2.0, 2.0]
    assert model.get_buffer("running_mean") is running_mean  # others hold it too


def test_a_model_without_buffers() -> None:
    buffers = Buffers(nn.Linear(2, 2))
    buffers.remember()
    buffers.restore()


@dataclass(frozen=True)
class Points:
    coord: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    points: Points
    views: dict[str, list[Tensor]]
    scale: float
    teacher: None = None


def pair(first: str, second: str) -> Pair:
    coord = torch.tensor([[0.0, float("nan"), float("inf")], [-0.0, 1e-40, 3.0]])
    return Pair(Points(coord, (first, second)), {"depth": [torch.arange(3), torch.zeros(0, 2)]}, 0.5)


def test_a_kept_batch_has_all_tensors_by_the_names_of_what_holds_them(tmp_path: Path) -> None:
    batch, path = pair("scene0001_00", "scene0002_00"), tmp_path / "faults" / "step.safetensors"
    save_batch(path, [batch, (torch.tensor([True, False]),)], {"step": 7, "process": 1})
    with safe_open(path, "pt") as kept:
        tensors, texts = {name: kept.get_tensor(name) for name in kept.keys()}, kept.metadata()  # noqa: SIM118 - no dict
    assert sorted(tensors) == ["0.points.coord", "0.views.depth.0", "0.views.depth.1", "1.0"]
    assert torch.equal(tensors["0.points.coord"].view(torch.int32), batch.points.coord.view(torch.int32))  # NaN too
    assert tensors["0.views.depth.0"].dtype == torch.int64 and tensors["0.views.depth.1"].shape == (0, 2)
    assert tensors["1.0"].tolist() == [True, False]
    assert texts == {
        "format": "pt",
        "step": "7",
        "process": "1",
        "0.points.names.0": '"scene0001_00"',
        "0.points.names.1": '"scene0002_00"',
        "0.scale": "0.5",
    }


def test_a_batch_that_is_one_tensor(tmp_path: Path) -> None:
    rows = torch.randn(3, 4)
    save_batch(tmp_path / "one.safetensors", rows.t(), {})
    with safe_open(tmp_path / "one.safetensors", "pt") as kept:
        assert torch.equal(kept.get_tensor("value"), rows.t())


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_scenes_are_named_in_their_order(name: str) -> None:
    assert scene_names([pair(name, "b"), pair("c", name)]) == [name, "b", "c", name]


def test_scenes_are_told_only_where_a_batch_names_them() -> None:
    assert scene_names([torch.zeros(2), {"kind": "train"}, 3]) == []
    assert scene_names({"names": ["a", "b"], "unnames": ["c"]}) == ["a", "b"]
