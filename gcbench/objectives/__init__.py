"""Losses, on plain tensors."""

from __future__ import annotations
