"""Whether a result was made with the settings of the table's own recipe: what its cell in the paper is read as."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gcbench.reporting.compare import Departures, Found
from gcbench.resources import resource_path

if TYPE_CHECKING:
    from gcbench.recipe.tables import Table, TableColumn, TableRow
    from gcbench.runs.results import PretrainResult, TableResult

# sections of a recipe that make a number another one
PROTOCOL_SECTIONS = ("evaluation", "data", "schedule", "probe")
_OF_MACHINE = "run"  # precision, workers, logging: no setting of the paper
_SHOWN = 6


class TableSettings:
    """The settings that the cells of a table are read as; call it with a result for what it does differently.

    Args:
        table: a table of the recipes.

    Raises:
        RecipeError: a recipe of the table is broken.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self._rows = {row.id: row for row in table.rows}
        self._columns = {column.id: column for column in table.columns}
        self._values: dict[tuple[str, str], Mapping[str, Any]] = {}

    def __call__(self, found: Found) -> Departures:
        """What differs. Results under a preset, or of a cell that the table does not have, are not looked at."""
        row, column = self._rows.get(found.row), self._columns.get(found.column)
        result = found.result
        if row is None or column is None or result.provenance.preset is not None or result.provenance.synthetic:
            return Departures()
        name = row.pretrain if column.kind == "pretraining" else column.recipe
        if name is None:
            return Departures()
        protocol: list[str] = []
        if result.kind != "pretrain":
            protocol += self._scored(result, column)
        expected = self._expected(name, None if column.kind == "pretraining" else row)
        settings, others = _differences(result.provenance.resolved_recipe, expected)
        encoder: PretrainResult | None = getattr(found, "encoder", None)
        if encoder is not None and row.pretrain is not None:
            settings_before, others_before = _differences(
                encoder.provenance.resolved_recipe, self._expected(row.pretrain, None)
            )
            settings += [f"pre-training: {text}" for text in settings_before]
            others += [f"pre-training: {text}" for text in others_before]
        return Departures(tuple(protocol + settings), tuple(others))

    def _scored(self, result: TableResult, column: TableColumn) -> Iterator[str]:
        """What was scored on, where it is not what the column says."""
        protocol = result.protocol
        if protocol.label_set != column.label_set:
            yield f"label set {protocol.label_set}, not {column.label_set}"
        split = "+".join(column.folds[0].val) if len(column.folds) == 1 else f"{len(column.folds)} folds"
        if protocol.split != split:
            yield f"split {protocol.split}, not {split}"
        expected = self._scene_count(column)
        if expected is not None and len(result.scenes) not in expected:
            yield f"scored on {len(result.scenes)} scenes, not on {' or '.join(map(str, expected))}"

    def _scene_count(self, column: TableColumn) -> tuple[int, ...] | None:
        """How many scenes the column's splits have, all numbers that count as complete; None where it is not known."""
        splits = [split for fold in column.folds for split in fold.val]
        if column.data == "s3dis":
            from gcbench.data.s3dis_facts import s3dis_facts

            rooms = s3dis_facts().rooms
            total = sum(len(rooms.names(area)) for area in splits)
            absent = sum(name.split("/")[0] in splits for name in rooms.often_absent)
            return tuple(dict.fromkeys((total, total - absent)))
        counts = [self._scannet_scenes.get(split) for split in splits]
        known = [count for count in counts if count is not None]
        return (sum(known),) if known and len(known) == len(counts) else None

    @cached_property
    def _scannet_scenes(self) -> dict[str, int]:
        from gcbench.recipe.yaml_files import read_yaml

        files = read_yaml(resource_path("evaluation", "splits", "scannet.yaml"))["files"]
        return {file["split"]: file["entries"] for file in files if "split" in file}

    def _expected(self, name: str, row: TableRow | None) -> Mapping[str, Any]:
        from gcbench.recipe.loader import load_recipe

        key = (name, row.id if row else "")
        if key not in self._values:
            loaded = load_recipe(
                name, row=row.values if row else None, pretrained=row is not None and row.pretrain is not None
            )
            self._values[key] = {dotted: leaf.value for dotted, leaf in loaded.leaves.items()}
        return self._values[key]


def _differences(values: Mapping[str, Any], expected: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Values of a recipe as run that are not the expected ones, in words: of the protocol, and of all the rest.

    A key that only one of them has is of another version of gcbench; it is named among the rest.
    """
    protocol: list[str] = []
    others: list[str] = []
    for key in sorted(values.keys() | expected.keys()):
        section = key.partition(".")[0]
        if section == _OF_MACHINE or (key in values and key in expected and _same(values[key], expected[key])):
            continue
        if key in values and key in expected:
            text = f"{key} is {_short(values[key])}, not {_short(expected[key])}"
            (protocol if section in PROTOCOL_SECTIONS else others).append(text)
        else:
            others.append(f"{key} is only in {'its' if key in values else 'the table’s'} recipe")
    return protocol, others if len(others) <= _SHOWN else [*others[:_SHOWN], f"{len(others) - _SHOWN} more differences"]


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON has it: a stored tuple comes back as a list."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _short(value: Any) -> str:
    return "unset" if value is None else str(value)
