"""The furniture catalogue and the room types, read from `recipes/rooms/*.yaml` and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from gcbench.data.rooms import fittings, furniture
from gcbench.errors import DataError
from gcbench.resources import resource_path

Range = tuple[float, float]
Place = Literal[
    "opening", "wall", "free", "beside", "around", "front", "along", "on", "in", "hang", "above", "flank", "span"
]
_NEEDS_PARENT = ("beside", "around", "front", "along", "on", "in", "above", "flank")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the compiled one is ten times as fast
_Model = TypeVar("_Model", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelRow(_Strict):
    """One row of the label table; see ScanNet's `scannetv2-labels.combined.tsv` for the columns."""

    id: int
    raw_category: str
    category: str
    nyu40id: int
    nyu40class: str
    eigen13id: int
    eigen13class: str


class LabelTable(_Strict):
    """`labels.yaml`: the label table's columns and rows, and the names of the surfaces of the room itself."""

    source: str
    columns: tuple[str, ...]
    surfaces: dict[Literal["floor", "wall", "ceiling"], str]
    s3dis_surfaces: dict[Literal["floor", "wall", "ceiling"], str]
    rows: tuple[LabelRow, ...]


class Item(_Strict):
    """One kind of object.

    Attributes:
        shape: name of a function of `furniture` or `fittings`.
        size: ranges of width, depth and height, metres.
        label: raw category; None is never annotated.
        s3dis: its class there.
        z: range of the height of its lower edge, for what hangs.
        clear: metres to keep free in front of it.
    """

    shape: str
    size: tuple[Range, Range, Range]
    label: str | None
    s3dis: str
    z: Range = (0.0, 0.0)
    clear: float = 0.0

    @model_validator(mode="after")
    def _known_shape(self) -> Item:
        if not any(callable(getattr(module, self.shape, None)) for module in (furniture, fittings)):
            raise ValueError(f"no shape named {self.shape!r}")
        if any(low > high or low <= 0 for low, high in self.size):
            raise ValueError(f"size {self.size}: each range is [low, high] with 0 < low <= high")
        return self


class Content(_Strict):
    """One line of a room type: how many of which item, and where.

    Attributes:
        item: a key of `items`, or several to draw from.
        place: where it goes; `of` names the item it goes with.
        count: how many (lowest, highest), per room; with a parent in `each` mode per parent.
        required: lowest number without which the room is laid out anew.
    """

    item: str | tuple[str, ...]
    place: Place
    of: str | tuple[str, ...] | None = None
    count: tuple[int, int] = (1, 1)
    each: bool = False
    required: int = 0

    @property
    def items(self) -> tuple[str, ...]:
        return (self.item,) if isinstance(self.item, str) else self.item

    @property
    def parents(self) -> tuple[str, ...]:
        return (self.of,) if isinstance(self.of, str) else self.of or ()

    @model_validator(mode="after")
    def _has_parent(self) -> Content:
        if (self.place in _NEEDS_PARENT) != (self.of is not None):
            raise ValueError(f"{self.item!r}: place {self.place!r} and of {self.of!r} do not go together")
        return self


class RoomType(_Strict):
    """A kind of room: ranges of its two sides in metres, how often it is L-shaped, what it holds."""

    width: Range
    depth: Range
    l_shape: float
    contents: tuple[Content, ...]


class RoomBook(_Strict):
    """`rooms.yaml`: the room types of each layout, in the order in which they take turns."""

    height: Range
    shared: tuple[Content, ...]
    scannet: tuple[str, ...]
    s3dis: tuple[str, ...]
    types: dict[str, RoomType]


class Furniture(_Strict):
    """`furniture.yaml`."""

    items: dict[str, Item]


class Catalogue(_Strict):
    """All three files, consistent with each other."""

    labels: LabelTable
    furniture: Furniture
    rooms: RoomBook

    @model_validator(mode="after")
    def _consistent(self) -> Catalogue:
        known = {row.raw_category for row in self.labels.rows}
        used = {item.label for item in self.furniture.items.values() if item.label} | set(self.labels.surfaces.values())
        if used - known:
            raise ValueError(f"labels.yaml has no row for {sorted(used - known)}")
        names = {
            name
            for contents in (self.rooms.shared, *(kind.contents for kind in self.rooms.types.values()))
            for content in contents
            for name in (*content.items, *content.parents)
        }
        if names - set(self.furniture.items):
            raise ValueError(f"furniture.yaml has no item {sorted(names - set(self.furniture.items))}")
        missing = {*self.rooms.scannet, *self.rooms.s3dis} - set(self.rooms.types)
        if missing:
            raise ValueError(f"rooms.yaml has no type {sorted(missing)}")
        return self


def load_catalogue(folder: Path | None = None) -> Catalogue:
    """Read `labels.yaml`, `furniture.yaml` and `rooms.yaml` from a folder (default: `recipes/rooms`).

    Raises:
        DataError: a file is missing or wrong; it, the key and the value are named.
    """
    root = resource_path("recipes", "rooms") if folder is None else folder
    labels = _read(root / "labels.yaml", LabelTable)
    furniture, rooms = _read(root / "furniture.yaml", Furniture), _read(root / "rooms.yaml", RoomBook)
    try:
        return Catalogue(labels=labels, furniture=furniture, rooms=rooms)
    except ValidationError as error:
        raise DataError(f"{root}: {error.errors()[0]['msg']}.", "Mend the room catalogue.") from error


def _read(path: Path, model: type[_Model]) -> _Model:
    try:
        return model.model_validate(yaml.load(path.read_text(encoding="utf-8"), _LOADER))  # noqa: S506 (a safe loader)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).", "Give the folder of a room catalogue.") from error
    except yaml.YAMLError as error:
        raise DataError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: {where}: {first['msg']}.", "Mend the room catalogue.") from error
