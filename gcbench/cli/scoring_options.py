"""Options that verbs on predictions share."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer


class Kind(str, Enum):
    """What is scored or submitted."""

    semantic = "semantic"
    instance = "instance"


class Ids(str, Enum):
    """What the labels of array files are."""

    raw = "raw"
    indices = "indices"


IdsOption = Annotated[Ids, typer.Option("--ids", help="Labels in array files: raw ids as in text, or class indices.")]
