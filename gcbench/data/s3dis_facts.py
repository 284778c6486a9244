"""Facts about the S3DIS release, read from `evaluation/datasets/s3dis.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from gcbench.data.facts import read_facts
from gcbench.resources import resource_path
from gcbench.structures import Float64Array


class _Facts(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Rooms(_Facts):
    """Rooms of a whole release: how many of each type per area, and those that usual copies lack."""

    total: int
    often_absent: tuple[str, ...]
    areas: Mapping[str, Mapping[str, int]]

    def names(self, area: str) -> frozenset[str]:
        """Names of the area's rooms, e.g. ``"office_12"``; empty for an area that is not known."""
        types = self.areas.get(area, {}).items()
        return frozenset(f"{kind}_{number}" for kind, count in types for number in range(1, count + 1))


class Defect(_Facts):
    """One thing that is wrong in the release: a path from its root, and what stands there."""

    file: str
    line: int | None = None
    found: str
    meant: str
    release: str
    source: str


class MeshPart(_Facts):
    """A folder with a mesh, and the 4 x 4 matrix that moves it to its area's place, in the mesh's own axes."""

    folder: str
    transform: tuple[tuple[float, ...], ...] | None = None

    def matrix(self) -> Float64Array:
        return np.eye(4) if self.transform is None else np.array(self.transform, np.float64)


class Meshes(_Facts):
    """Where the meshes of 2D-3D-Semantics lie."""

    file: str
    areas: Mapping[str, tuple[MeshPart, ...]]


class S3DISFacts(_Facts):
    rooms: Rooms
    defects: tuple[Defect, ...] = Field(alias="known_defects")
    meshes: Meshes


@cache
def s3dis_facts() -> S3DISFacts:
    """The facts that come with the package."""
    return read_facts(resource_path("evaluation", "datasets", "s3dis.yaml"), S3DISFacts)
