"""Differentiable Gaussian splatting: one call, several engines with the same semantics (Eq. 1-3, 14, 15)."""

from __future__ import annotations

from gcbench.splatting.interface import RenderedViews, render

__all__ = ["RenderedViews", "render"]
