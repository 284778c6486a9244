"""Label sets: the classes a number is measured on, read from `evaluation/labels/*.yaml`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gcbench.data.facts import read_facts
from gcbench.errors import DataError
from gcbench.resources import resource_path
from gcbench.structures import IGNORE_INDEX, Int16Array, LabelSet, UInt8Array

_Channel = Annotated[int, Field(ge=0, le=255)]


class _Class(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    id: int
    name: str
    group: str | None = None
    color: Annotated[list[_Channel], Field(min_length=3, max_length=3)] | None = None


class _LabelFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    dataset: str
    source: str
    colors: str | None = None
    fallback: str | None = None
    classes: list[_Class]

    @model_validator(mode="after")
    def _consistent(self) -> _LabelFile:
        names = [item.name for item in self.classes]
        for what, values in (("name", names), ("id", [str(item.id) for item in self.classes])):
            twice = [value for position, value in enumerate(values) if value in values[:position]]
            if twice:
                raise ValueError(f"class {what} '{twice[0]}' stands twice")
        if not names:
            raise ValueError("there is no class")
        if self.colors is not None and not all(item.color for item in self.classes):
            raise ValueError("'colors' names a source, but a class has no color")
        if self.fallback is not None and self.fallback not in names:
            raise ValueError(f"fallback {self.fallback!r} is not one of the classes")
        return self


def label_set_names() -> tuple[str, ...]:
    """Names of the label sets that come with the package."""
    return tuple(sorted(path.stem for path in resource_path("evaluation", "labels").glob("*.yaml")))


def load_label_set(name: str) -> LabelSet:
    """The label set of that name, e.g. ``"scannet200"``.

    Raises:
        DataError: there is no such label set, or its file is broken.
    """
    content = _read(name)
    groups: dict[str, list[int]] = {}
    for index, item in enumerate(content.classes):
        if item.group is not None:
            groups.setdefault(item.group, []).append(index)
    return LabelSet(
        name=content.name,
        dataset=content.dataset,
        classes=tuple(item.name for item in content.classes),
        ids=tuple(item.id for item in content.classes),
        groups={group: tuple(indices) for group, indices in groups.items()},
    )


def fallback_class(name: str) -> int:
    """Class index that takes the names the label set does not have (S3DIS: clutter).

    Raises:
        DataError: the label set has no such class.
    """
    content = _read(name)
    if content.fallback is None:
        raise DataError(f"Label set '{name}' has no fallback class.")
    return [item.name for item in content.classes].index(content.fallback)


def class_colors(name: str) -> UInt8Array:
    """Customary colours of a label set's K classes: [K, 3] RGB; where they come from stands in its file.

    Raises:
        DataError: there is no such label set, its file is broken, or it gives no colours.
    """
    content = _read(name)
    if content.colors is None:
        raise DataError(
            f"Label set '{name}' has no colours.", "Give each class a `color` and the file `colors`, a source."
        )
    return np.array([item.color for item in content.classes], np.uint8)


def raw_id_lookup(label_set: LabelSet) -> Int16Array:
    """Table [max id + 1] from raw id to class index; -1 where the id is no class."""
    table = np.full(max(label_set.ids) + 1, IGNORE_INDEX, np.int16)
    table[list(label_set.ids)] = np.arange(len(label_set), dtype=np.int16)
    return table


def _read(name: str) -> _LabelFile:
    if name not in label_set_names():
        raise DataError(f"There is no label set '{name}'.", f"Known: {', '.join(label_set_names())}.")
    return _parse(resource_path("evaluation", "labels", f"{name}.yaml"))


@cache
def _parse(path: Path) -> _LabelFile:
    content = read_facts(path, _LabelFile)
    if content.name != path.stem:
        raise DataError(f"{path}: 'name' is '{content.name}', it must be '{path.stem}' as the file is called.")
    return content
