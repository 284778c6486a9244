"""Errors carry a message, a way out and an exit code."""

from __future__ import annotations

import math

import pytest

from gcbench.errors import (
    DataError,
    GcbenchError,
    InputError,
    MissingExtraError,
    RecipeError,
    RefusedError,
    RunError,
    refusing,
    require,
)


def test_message_and_way_out_stay_apart() -> None:
    error = DataError("'a.ply' is cut off.", "Download it again.")
    assert (error.message, error.way_out) == ("'a.ply' is cut off.", "Download it again.")
    assert str(error) == "'a.ply' is cut off. Download it again."
    assert str(RunError("It failed.")) == "It failed."


@pytest.mark.parametrize(
    ("kind", "base", "exit_code"),
    [
        (InputError, ValueError, 2),
        (RecipeError, InputError, 2),
        (RefusedError, InputError, 2),
        (DataError, ValueError, 1),
        (RunError, RuntimeError, 1),
        (MissingExtraError, ImportError, 1),
    ],
)
def test_errors_are_also_what_python_calls_them(
    kind: type[GcbenchError], base: type[Exception], exit_code: int
) -> None:
    assert issubclass(kind, GcbenchError)
    assert issubclass(kind, base)
    assert kind.exit_code == exit_code


@pytest.mark.parametrize("kind", [InputError, DataError, MissingExtraError, RecipeError])
def test_wrong_input_is_refused_with_the_same_words(kind: type[GcbenchError]) -> None:
    with pytest.raises(RefusedError) as caught, refusing():
        raise kind("'a.ply' is cut off.", "Download it again.")
    assert (caught.value.message, caught.value.way_out) == ("'a.ply' is cut off.", "Download it again.")
    assert isinstance(caught.value.__cause__, kind)


def test_what_is_no_fault_of_the_input_is_not_refused() -> None:
    with pytest.raises(RunError), refusing():
        raise RunError("It failed.")


def test_require_returns_the_module() -> None:
    assert require("math", "cpu", "arithmetic") is math


def test_require_names_package_purpose_and_extra() -> None:
    with pytest.raises(MissingExtraError) as caught:
        require("no_such_library.part", "cpu", "sparse convolution")
    assert "sparse convolution needs the Python package 'no_such_library'" in caught.value.message
    assert caught.value.way_out == "Install it with: pip install 'gcbench[cpu]'"
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
