"""PointGroup's heads, and proposals against the rules, point by point."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcbench.models.pointgroup import PointGroup, Proposals, propose
from gcbench.models.sparse_unet import SparseUNet
from tests.models.box_room import room_points, voxelised

SMALL: dict[str, Any] = {"grid_size": 0.02, "radius": 1.5, "cluster_minimum": 3, "proposal_minimum": 4, "ignored": (0,)}


def twin(coord: np.ndarray, offsets: np.ndarray, probabilities: np.ndarray) -> list[tuple[int, float, list[int]]]:
    """Every pair of points, a flood over those that are near, one proposal after the other."""
    ignored, least, more_than = SMALL["ignored"], SMALL["cluster_minimum"], SMALL["proposal_minimum"]
    shifted = (coord + offsets).astype(np.float32) / np.float32(0.02)
    classes = probabilities.argmax(axis=1)
    left = {n for n in range(len(coord)) if classes[n] not in ignored}
    found = []
    while left:
        component, waiting = set(), [min(left)]
        while waiting:
            at = waiting.pop()
            if at in component:
                continue
            component.add(at)
            near = {
                n
                for n in left
                if classes[n] == classes[at] and ((shifted[n].astype(float) - shifted[at]) ** 2).sum() < 2.25
            }
            waiting += near - component
        left -= component
        members = sorted(component)
        if len(members) >= least and len(members) > more_than:
            score = float(np.mean([probabilities[n, classes[members[0]]] for n in members]))
            found.append((int(classes[members[0]]), score, members))
    return found


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(0, 60))
def test_proposals_are_the_rules(seed: int, points: int) -> None:
    draw = np.random.default_rng(seed)
    coord = draw.uniform(0, 0.2, (points, 3)).astype(np.float32)
    offsets = draw.normal(0, 0.02, (points, 3)).astype(np.float32)
    logits = torch.from_numpy(draw.normal(0, 1, (points, 3)))
    found = propose(torch.from_numpy(coord), torch.from_numpy(offsets), logits, **SMALL)
    expected = twin(coord, offsets, logits.float().softmax(1).numpy())
    assert [members.tolist() for members in found.masks()] == [members for _, _, members in expected]
    assert found.classes.tolist() == [number for number, _, _ in expected]
    assert found.scores.tolist() == pytest.approx([score for _, score, _ in expected], rel=1e-6)


def test_offsets_bring_an_instance_together() -> None:
    """Two chairs of 50 scattered points each, whose offsets point to their centres."""
    draw = np.random.default_rng(0)
    coord = torch.from_numpy(draw.uniform(0, 2, (100, 3)).astype(np.float32))
    centre = torch.tensor([[0.5, 0.5, 0.5], [1.5, 1.5, 0.5]]).repeat_interleave(50, dim=0)
    logits = torch.tensor([0.0, 4.0, 0.0]).repeat(100, 1)
    found = propose(coord, centre - coord, logits, **SMALL)
    assert [len(members) for members in found.masks()] == [50, 50]
    assert found.classes.tolist() == [1, 1]
    assert found.scores == pytest.approx(logits.softmax(1)[:2, 1].numpy())
    assert len(propose(coord, torch.zeros_like(coord), logits, **SMALL).classes) == 0


def test_nothing_to_group() -> None:
    none = propose(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, 3), **SMALL)
    assert (none.masks(), len(none.classes), len(none.of_point)) == ([], 0, 0)
    walls = propose(torch.zeros(9, 3), torch.zeros(9, 3), torch.tensor([1.0, 0, 0]).repeat(9, 1), **SMALL)
    assert walls.of_point.tolist() == [-1] * 9


def test_proposals_go_back_to_other_points() -> None:
    proposals = Proposals(np.array([4, 7]), np.float32([0.5, 0.25]), np.array([1, -1, 0, 1]))
    back = proposals.at(np.array([3, 3, 1, 2, 0]))
    assert [members.tolist() for members in back.masks()] == [[3], [0, 1, 4]]
    assert back.classes.tolist() == [4, 7]
    assert proposals.at(np.array([1])).masks()[0].tolist() == []  # a proposal may lose all its points


def test_the_network_has_the_official_names_and_moves_both_heads() -> None:
    torch.manual_seed(0)
    model = PointGroup(SparseUNet(6, 8, (8, 8, 8, 8), (1, 1, 1, 1)), 5)
    names = {name.split(".")[0] for name in model.state_dict()}
    assert names == {"encoder", "seg_head", "bias_head"}
    assert model.bias_head[1].eps == 1e-3
    batch = voxelised(room_points(500))
    logits, offsets = model(batch)
    assert logits.shape == (len(batch.coord), 5)
    assert offsets.shape == (len(batch.coord), 3)
    (logits.square().mean() + offsets.square().mean()).backward()
    for name, parameter in itertools.chain(model.seg_head.named_parameters(), model.bias_head.named_parameters()):
        assert parameter.grad is not None, name
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())
