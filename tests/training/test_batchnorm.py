"""Batch norm over all processes: values, gradients and statistics are those of one norm over all rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gcbench.training.batchnorm import synchronise, synchronised
from gcbench.training.launch import Launch, run_worker

WORKER = """
import json, sys, torch
from torch import distributed, nn
from gcbench.training.batchnorm import synchronise, synchronised
from gcbench.training.launch import end_worker

distributed.init_process_group("gloo")
rank = distributed.get_rank()
for name, (make, shape, cuts) in {
    "rows": (lambda: nn.BatchNorm1d(3, momentum=0.3), (11, 3), (4, 7)),
    "none in one process": (lambda: nn.BatchNorm1d(3), (6, 3), (0, 6)),
    "far from zero": (lambda: nn.BatchNorm1d(3), (200, 3), (150, 50)),
    "sequences": (lambda: nn.BatchNorm1d(3, affine=False), (5, 3, 4), (2, 3)),
    "volumes": (lambda: nn.BatchNorm3d(3, eps=0.1), (3, 3, 2, 4, 2), (1, 2)),
}.items():
    torch.manual_seed(5)
    alone, shared = make(), make()
    rows, slopes = torch.randn(shape) + (1000.0 if name == "far from zero" else 2.0), torch.randn(shape)
    whole = rows.clone().requires_grad_()
    (alone(whole) * slopes).sum().backward()
    first = 0 if rank == 0 else cuts[0]
    mine = slice(first, first + cuts[rank])
    part = rows[mine].clone().requires_grad_()
    synchronise(shared)
    with synchronised():
        output = shared(part)
        (output * slopes[mine]).sum().backward()
    pairs = {"gradient": (part.grad, whole.grad[mine])}
    with torch.no_grad():
        pairs["output"] = (output, make()(rows)[mine])
    for key in alone.state_dict():
        pairs[key] = (shared.state_dict()[key], alone.state_dict()[key])
    for key, parameter in shared.named_parameters():
        distributed.all_reduce(parameter.grad)  # as DDP does, but for its mean
        pairs[key + " gradient"] = (parameter.grad, alone.get_parameter(key).grad)
    far = {key: (one.double() - other.double()).abs().max().item() if one.numel() else 0.0
           for key, (one, other) in pairs.items()}
    print(json.dumps({"event": name, "rank": rank, "far": far}), flush=True)
    distributed.barrier()
end_worker(0)
"""
CASES = ("rows", "none in one process", "far from zero", "sequences", "volumes")


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, float]]]:
    """By case and process: how far two processes are from one norm."""
    folder = tmp_path_factory.mktemp("norms")
    (folder / "norms_worker.py").write_text(WORKER)
    (folder / "job.json").touch()
    events: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).parents[2]}")
        run_worker("norms_worker", folder / "job.json", folder / "log", events.append, Launch(2, cpu=True))
    return {case: [event["far"] for event in events if event["event"] == case] for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_norm_as_one(case: str, differences: dict[str, list[dict[str, float]]]) -> None:
    """To rounding of float32: that of 200 values about 1000, summed, where they are far from zero."""
    assert len(differences[case]) == 2
    for far in differences[case]:
        assert {"output", "gradient", "running_mean", "running_var", "num_batches_tracked"} <= far.keys()
        for key, difference in far.items():
            assert difference <= (1e-2 if case == "far from zero" else 1e-5), (key, json.dumps(far))


def networks() -> tuple[nn.Module, nn.Module]:
    """Two of the same weights; one has been synchronised."""
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4)))
    torch.manual_seed(1)
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4)))
    synchronise(other)
    return plain, other


def test_names_and_tensors_stay_and_it_may_be_done_twice() -> None:
    plain, other = networks()
    kinds = [type(module) for module in other.modules()]
    synchronise(other)
    assert [type(module) for module in other.modules()] == kinds
    assert sum(isinstance(module, nn.BatchNorm1d) for module in other.modules()) == 2
    assert plain.state_dict().keys() == other.state_dict().keys()
    plain.load_state_dict(other.state_dict())


@pytest.mark.parametrize("within", [False, True])
def test_one_process_norms_as_ever(within: bool) -> None:
    """Outside of `synchronised`, and within it where there is no other process."""
    plain, other = (network[:2] for network in networks())  # type: ignore[index]
    rows = torch.randn(6, 3)
    if within:
        with synchronised():
            output = other(rows)
    else:
        output = other(rows)
    assert torch.equal(output, plain(rows))
    assert torch.equal(other[1].running_var, plain[1].running_var)


def test_a_norm_of_single_scenes_is_left_alone() -> None:
    norm, usual = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    norm.per_scene = True  # type: ignore[assignment]
    synchronise(nn.Sequential(norm, usual))
    assert type(norm) is nn.BatchNorm1d
    assert type(usual) is not nn.BatchNorm1d
