"""gcbench: GaussianCross (ACM MM 2025), reproducible from the raw data to every table."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"
__all__ = ["AutoModel", "__version__"]


def __getattr__(name: str) -> object:
    """`AutoModel` is imported when it is asked for: the command line starts without torch."""
    if name == "AutoModel":
        return importlib.import_module("gcbench.auto").AutoModel
    raise AttributeError(f"module 'gcbench' has no attribute '{name}'")
