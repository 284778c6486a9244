"""The proof that a probe's encoder stayed frozen."""

from __future__ import annotations

import torch
from torch import nn

from gcbench.models.segmentation import EncoderState


def test_parameters_and_buffers_are_told_apart() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = EncoderState.of(encoder)
    assert EncoderState.of(encoder) == before
    encoder(torch.randn(8, 3))  # train mode: running statistics move, as under `batchnorm: track`
    tracked = EncoderState.of(encoder)
    assert tracked.parameters == before.parameters
    assert tracked.buffers != before.buffers
    with torch.no_grad():
        encoder[0].weight[0, 0] += 1e-7
    trained = EncoderState.of(encoder)
    assert trained.parameters != before.parameters
    assert trained.buffers == tracked.buffers
    encoder.eval()
    encoder(torch.randn(8, 3))
    assert EncoderState.of(encoder) == trained


def test_a_name_is_a_part_of_the_state() -> None:
    one, other = nn.Sequential(nn.Linear(2, 2)), nn.ModuleDict({"layer": nn.Linear(2, 2)})
    other["layer"].load_state_dict(one[0].state_dict())
    assert EncoderState.of(one).parameters != EncoderState.of(other).parameters
