"""gcbench: GaussianCross (ACM MM 2025), reproducible from the raw data to every table."""

from __future__ import annotations

__version__ = "0.1.0"
