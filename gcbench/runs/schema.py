"""What all stored results have in common."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A metric; NaN, "undefined", is `null` in JSON."""
Count = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    """Rejects unknown keys; cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null", allow_inf_nan=True)


def split_hash(scene_names: Iterable[str]) -> str:
    """First 12 hex digits of the SHA-256 of the scene names, sorted, a line each."""
    return hashlib.sha256("\n".join(sorted(scene_names)).encode()).hexdigest()[:12]
