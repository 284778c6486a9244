"""Random generators: the same seed draws the same, and a state goes through a checkpoint file and draws on."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gcbench.training.generators import generator_states, seed_generators, set_generator_states

Draws = tuple[float, float, float, float, float]


def draw() -> Draws:
    """One number of each generator, and of each that keeps a second one in reserve."""
    return (
        random.random(),
        random.gauss(0.0, 1.0),
        float(np.random.rand()),  # noqa: NPY002 - libraries may use it
        float(np.random.randn()),  # noqa: NPY002
        float(torch.randn(())),
    )


@given(st.integers(0, 2**63 - 1))
def test_a_seed_decides_all_draws(seed: int) -> None:
    seed_generators(seed)
    first = draw()
    seed_generators(seed)
    assert draw() == first
    seed_generators(seed ^ 1)
    assert all(one != other for one, other in zip(draw(), first, strict=True))


@given(st.integers(0, 1000), st.integers(0, 3))
def test_a_state_that_was_in_a_file_draws_on_to_the_bit(seed: int, drawn: int) -> None:
    """Between two Gaussian draws too, where half of a pair waits; the file is read without pickled objects."""
    seed_generators(seed)
    for _ in range(drawn):
        draw()
    buffer = io.BytesIO()
    torch.save(generator_states(), buffer)
    following = [draw() for _ in range(3)]
    seed_generators(seed + 1)
    buffer.seek(0)
    set_generator_states(torch.load(buffer, weights_only=True))
    assert [draw() for _ in range(3)] == following


def test_taking_a_state_draws_nothing() -> None:
    seed_generators(5)
    plain = [draw(), draw()]
    seed_generators(5)
    watched = [draw()]
    generator_states()
    assert [*watched, draw()] == plain


def test_a_state_is_a_copy() -> None:
    seed_generators(5)
    states = generator_states()
    first = draw()
    for _ in range(700):  # further than NumPy's and Python's words go before they are made anew
        draw()
    set_generator_states(states)
    assert draw() == first


def test_a_state_of_a_gpu_is_left_out_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    states = generator_states()
    assert states["cuda"] is None
    following = draw()
    set_generator_states({**states, "cuda": torch.zeros(16, dtype=torch.uint8)})
    assert draw() == following
