"""What a dataset's files are, how large, and which table needs them; read from `evaluation/datasets/*.yaml`.

Sizes are decimal gigabytes. Each is measured or estimated, and says by whom or how.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gcbench.data.facts import read_facts
from gcbench.resources import resource_path

Makes = Literal["points", "frames"]
DATASETS = ("scannet", "s3dis")
_GIGA = 1e9


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Size(_Facts):
    """A size: `gb`, or a product of named factors in bytes; and how it is known."""

    gb: float | None = Field(default=None, gt=0)
    product: dict[str, float] = Field(default_factory=dict)
    basis: Literal["measured", "estimated"]
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _one(self) -> Size:
        if (self.gb is None) == (not self.product):
            raise ValueError("give either gb or product")
        return self

    @property
    def total(self) -> float:
        """Decimal gigabytes."""
        return math.prod(self.product.values()) / _GIGA if self.gb is None else self.gb

    @property
    def formula(self) -> str:
        """The factors in words; empty for a plain size."""
        return " x ".join(f"{_number(value)} {name.replace('_', ' ')}" for name, value in self.product.items())


class Download(Size):
    """Size and number of the files of one kind."""

    files: int = Field(gt=0)


class Step(_Facts):
    """One thing to do."""

    id: str
    title: str
    command: str
    needed_by: list[str] | None = None
    finds: list[str] = Field(default_factory=list)
    found_files: int | None = Field(default=None, gt=0)
    makes: Makes | None = None
    download: Download | None = None
    unpacked: Size | None = None
    prepares: dict[Makes, Size] = Field(default_factory=dict)

    @property
    def expected(self) -> int:
        """How many matches of `finds` a whole download has."""
        return self.found_files or (self.download.files if self.download else 0)


class Alternative(_Facts):
    """Steps in place of others, and what that means for the table."""

    id: str
    title: str
    replaces: list[str]
    consequence: str
    needed_by: list[str] | None = None
    steps: list[Step] = Field(default_factory=list)


class DatasetPlan(_Facts):
    """How to get one dataset."""

    title: str
    layout: Literal["scannet", "s3dis"]
    licence: str
    hub_dataset: str
    source: str
    tables: dict[str, str]
    steps: list[Step]
    alternatives: list[Alternative]

    @model_validator(mode="after")
    def _consistent(self) -> DatasetPlan:
        ids = [step.id for step in self.steps]
        items: list[Step | Alternative] = [*self.steps, *self.alternatives]
        named = [table for item in items for table in item.needed_by or ()]
        unknown = {*named} - {*self.tables} | {old for item in self.alternatives for old in item.replaces} - {*ids}
        if unknown or len(set(ids)) < len(ids):
            raise ValueError(f"unknown tables or steps, or two steps of one id: {sorted(unknown) or ids}")
        return self

    def steps_for(self, table: str, alternatives: Sequence[Alternative] = ()) -> list[Step]:
        """The steps for one table; an alternative's steps stand where the first one that it replaces stood."""
        steps = [step for step in self.steps if needed(step, table)]
        for chosen in alternatives:
            place = next((at for at, step in enumerate(steps) if step.id in chosen.replaces), len(steps))
            kept = [step for step in steps if step.id not in chosen.replaces]
            steps = [*kept[:place], *chosen.steps, *kept[place:]]
        return steps


def table_names() -> tuple[str, ...]:
    """Tables and figures that there is a plan for."""
    names = {table for name in DATASETS for table in dataset_plan(name).tables}
    return tuple(sorted(names, key=lambda name: (not name.startswith("table"), name)))


def dataset_plan(name: str) -> DatasetPlan:
    """How to get a dataset, ``"scannet"`` or ``"s3dis"``.

    Raises:
        DataError: the package's file is broken.
    """
    return _parse(resource_path("evaluation", "datasets", f"{name}.yaml"))


def needed(item: Step | Alternative, table: str) -> bool:
    """True if that table needs the step or has the alternative."""
    return item.needed_by is None or table in item.needed_by


def _number(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() else f"{value:g}"


@cache
def _parse(path: Path) -> DatasetPlan:
    return read_facts(path, DatasetPlan, "plan")
