"""What has to be got before a table can be made, and what of it is there already: files, sizes, steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from gcbench.data.plan_facts import (
    DATASETS,
    Alternative,
    DatasetPlan,
    Makes,
    Size,
    Step,
    dataset_plan,
    needed,
    table_names,
)
from gcbench.data.storage import MANIFEST, PreparedDataset
from gcbench.errors import DataError, InputError

_PREPARED = "prepared "
_SYNTHETIC = "SYNTHETIC.json"  # marks raw synthetic rooms


class PlannedStep(BaseModel):
    """A step that is left to do.

    Attributes:
        files: how many are still to be downloaded, and `download_gb` their size.
        unpacked_gb: what unpacking adds on disk.
        prepared_gb: what it adds to the prepared dataset.
        estimated: True if the size of its download or of what it prepares is.
        sizes: each size with how it is known.
    """

    number: int = 0
    dataset: str
    id: str
    title: str
    command: str
    files: int = 0
    download_gb: float = 0.0
    unpacked_gb: float = 0.0
    prepared_gb: float = 0.0
    estimated: bool = False
    sizes: list[str] = Field(default_factory=list)


class PlannedAlternative(BaseModel):
    """Another way.

    Attributes:
        replaces: numbers of the steps that are not needed then.
        download_gb: of the whole plan, with this alternative alone.
    """

    dataset: str
    id: str
    title: str
    consequence: str
    replaces: list[int]
    steps: list[PlannedStep]
    download_gb: float


class Plan(BaseModel):
    """What is left to do for a table.

    Attributes:
        uses: dataset -> what the table takes from it.
        licences: dataset -> its terms.
        present: what was found in the folders given.
        download_gb: of the steps.
        smallest_gb: with every alternative that fits.
        prepared_gb: the prepared datasets that the steps make.
        peak_disk_gb: downloads, unpacked and prepared files, all kept.
    """

    format_version: Literal[1] = 1
    table: str
    uses: dict[str, str]
    licences: dict[str, str]
    present: list[str]
    steps: list[PlannedStep]
    alternatives: list[PlannedAlternative]
    download_gb: float
    smallest_gb: float
    prepared_gb: float
    peak_disk_gb: float


class Found(BaseModel):
    """How much of something a folder has, e.g. 1513 of 1613 meshes."""

    what: str
    where: str
    found: int
    expected: int

    @property
    def whole(self) -> bool:
        """True if nothing lacks."""
        return self.found >= self.expected


def raw_files(facts: DatasetPlan, folder: Path) -> dict[str, Found]:
    """Step -> how many of its files lie in a raw folder or in one of its subfolders; steps without any are left out.

    Synthetic rooms are no part of the dataset: of them, nothing is counted.
    """
    counts: dict[str, Found] = {}
    if (folder / _SYNTHETIC).exists():
        return counts
    for step in (*facts.steps, *(step for item in facts.alternatives for step in item.steps)):
        found = max(sum(len(list(folder.glob(below + pattern))) for pattern in step.finds) for below in ("", "*/"))
        if found:
            what = f"{facts.title}: {step.title}"
            counts[step.id] = Found(what=what, where=str(folder), found=found, expected=step.expected)
    return counts


def plan_table(table: str, have: Sequence[Path] = ()) -> Plan:
    """The steps to the data of a table.

    Args:
        table: e.g. ``"table1"``.
        have: folders with raw or prepared data; what is whole there is left out, parts are counted.

    Raises:
        InputError: there is no plan for that table.
        DataError: one of the folders is not there.
    """
    plans = [facts for name in DATASETS if table in (facts := dataset_plan(name)).tables]
    if not plans:
        raise InputError(f"There is no plan for '{table}'.", f"Known: {', '.join(table_names())}.")
    present: list[Found] = []
    ways: list[_Ways] = []
    for facts in plans:
        there = _there(facts, have)
        present += there.values()
        ways.append(_Ways(facts, table, there))
    steps = [step for way in ways for step in way.steps]
    for number, step in enumerate(steps, start=1):
        step.number = number
    alternatives = [
        way.planned(item, sum(step.download_gb for other in ways if other is not way for step in other.steps))
        for way in ways
        for item in way.alternatives
    ]
    return Plan(
        table=table,
        uses={facts.title: facts.tables[table] for facts in plans},
        licences={facts.title: facts.licence for facts in plans},
        present=[f"{item.found:,} of {item.expected:,}  {item.what} ({item.where})" for item in present],
        steps=steps,
        alternatives=alternatives,
        download_gb=_downloads(steps),
        smallest_gb=sum(_downloads(way.smallest()) for way in ways),
        prepared_gb=sum(step.prepared_gb for step in steps),
        peak_disk_gb=sum(step.download_gb + step.unpacked_gb + step.prepared_gb for step in steps),
    )


class _Ways:
    """What is left to do for a dataset, the usual way and with its alternatives."""

    def __init__(self, facts: DatasetPlan, table: str, there: Mapping[str, Found]) -> None:
        self._facts, self._table, self._there = facts, table, there
        taken = [item for item in facts.alternatives if item.steps and any(self._has(step) for step in item.steps)]
        self._taken = taken[:1]  # it is on disk already
        self.steps = self._left(self._taken)
        left = {step.id for step in self.steps}
        self.alternatives = [
            item for item in facts.alternatives if not self._taken and needed(item, table) and left & {*item.replaces}
        ]

    def planned(self, item: Alternative, elsewhere_gb: float) -> PlannedAlternative:
        """An alternative with the numbers of the steps that it replaces."""
        steps = self._left([item])
        return PlannedAlternative(
            dataset=self._facts.title,
            id=item.id,
            title=item.title,
            consequence=item.consequence,
            replaces=[step.number for step in self.steps if step.id in item.replaces],
            steps=[step for step in steps if step.id in {own.id for own in item.steps}],
            download_gb=_downloads(steps) + elsewhere_gb,
        )

    def smallest(self) -> list[PlannedStep]:
        """The steps with all alternatives, in their order, that do not replace the same steps."""
        chosen: list[Alternative] = list(self._taken)
        for item in self.alternatives:
            if not {*item.replaces} & {old for other in chosen for old in other.replaces}:
                chosen.append(item)
        return self._left(chosen)

    def _left(self, chosen: Sequence[Alternative]) -> list[PlannedStep]:
        steps = self._facts.steps_for(self._table, chosen)
        made = {step.makes for step in steps if step.makes}
        kinds = [self._there.get(_PREPARED + kind) for kind in made]
        prepared = all(found is not None and found.whole for found in kinds)
        planned = [
            self._planned(step, made)
            for step in steps
            if not self._has(step) and not (prepared and (step.makes or step.prepares))
        ]
        first = next((at for at, step in enumerate(steps) if step.download), 0)
        access = {step.id for step in steps[:first]} if not _downloads(planned) else set()
        return [step for step in planned if step.id not in access]

    def _has(self, step: Step) -> bool:
        return step.id in self._there and self._there[step.id].whole

    def _planned(self, step: Step, made: set[Makes]) -> PlannedStep:
        found = self._there.get(step.id)
        share = 1 - (found.found / found.expected if found else 0)
        prepared = [size for kind, size in step.prepares.items() if kind in made]
        named = [("download", step.download), ("unpacked", step.unpacked), *(("prepared", size) for size in prepared)]
        sizes = [(name, size) for name, size in named if size is not None]
        return PlannedStep(
            dataset=self._facts.title,
            id=step.id,
            title=step.title,
            command=step.command,
            files=round(step.download.files * share) if step.download else 0,
            download_gb=step.download.total * share if step.download else 0.0,
            unpacked_gb=step.unpacked.total if step.unpacked else 0.0,
            prepared_gb=sum(size.total for size in prepared),
            estimated=any(size.basis == "estimated" and name != "unpacked" for name, size in sizes),
            sizes=[f"{name} {_text(size)}" for name, size in sizes],
        )


def _there(facts: DatasetPlan, have: Sequence[Path]) -> dict[str, Found]:
    """Step, or ``"prepared points"`` and ``"prepared frames"`` -> the most that one of the folders has."""
    best: dict[str, Found] = {}
    for folder in have:
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder}.", "Name folders that you have with --have.")
        found = _prepared(facts, folder) if (folder / MANIFEST).is_file() else raw_files(facts, folder)
        for key, item in found.items():
            if key not in best or item.found > best[key].found:
                best[key] = item
    return best


def _prepared(facts: DatasetPlan, folder: Path) -> dict[str, Found]:
    dataset = PreparedDataset.open(folder)
    if dataset.layout != facts.layout or dataset.synthetic:
        return {}
    names = list(dataset.manifest["scenes"])
    counts = {"points": len(names), "frames": sum(dataset.frame_count(name) > 0 for name in names)}
    expected = {step.makes: step.expected for step in reversed(facts.steps) if step.makes}  # the first one counts
    return {
        _PREPARED + kind: Found(
            what=f"{facts.title}: prepared scenes with {kind}", where=str(folder), found=count, expected=expected[kind]
        )
        for kind, count in counts.items()
        if count and kind in expected
    }


def _downloads(steps: Sequence[PlannedStep]) -> float:
    return sum(step.download_gb for step in steps)


def _text(size: Size) -> str:
    """E.g. ``"1.2 GB, estimated: 1,513 scenes x ...; why"``."""
    why = f"{size.formula}; {size.source}" if size.formula else size.source
    return f"{size.total:.3g} GB, {size.basis}: {why}"
