"""Plain JSON in files that are whole or not there."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gcbench.errors import RunError
from gcbench.files import write_atomic


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`write_atomic` of readable JSON; NaN becomes null, a path its text."""
    write_atomic(path, (json.dumps(plain(content), indent=1, allow_nan=False) + "\n").encode())


def plain(value: Any) -> Any:
    """A value as JSON has it: NumPy scalars as numbers, NaN as None, what JSON does not know as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if hasattr(value, "item"):  # a NumPy or torch scalar
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        RunError: it is missing or broken.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}", "Remove the run's folder to run again.") from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: the top level must be an object.", "Remove the run's folder to run again.")
    return content
