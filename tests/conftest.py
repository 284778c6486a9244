"""What holds for every test: few threads, repeatable examples, and GPU tests only where a GPU is."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Set before anything imports torch or numba; where several tests run at once, `make test` says fewer.
os.environ.setdefault("OMP_NUM_THREADS", "2")

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU where there is none; pytest counts it as deselected."""
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting:
        return
    import torch

    if not torch.cuda.is_available():
        config.hook.pytest_deselected(items=wanting)
        items[:] = [item for item in items if item not in wanting]
