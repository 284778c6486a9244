"""What is printed about a dataset that was just prepared or imported."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from gcbench.errors import DataError

if TYPE_CHECKING:
    from gcbench.data.storage import PreparedDataset

_NOTES = 20


def print_summary(dataset: PreparedDataset) -> None:
    """Print what is in a prepared dataset and what its reader should know.

    Raises:
        DataError: scenes were left out (`--keep-going`); they are listed.
    """
    from rich.console import Console
    from rich.table import Table

    from gcbench.data.scene_jobs import listing
    from gcbench.data.storage import MANIFEST

    console = Console()
    table = Table("split", "scenes", "points", "RGB-D frames", "frames dropped", title=f"{dataset.root}")
    for split, names in dataset.splits.items():
        entries = [dataset.manifest["scenes"][name] for name in names]
        counts = [sum(entry.get(key, 0) for entry in entries) for key in ("points", "frames", "frames_dropped")]
        table.add_row(split, f"{len(names):,}", *(f"{count:,}" for count in counts))
    console.print(table)
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)  # names and notes are not ours
    say(f"labels       {', '.join(dataset.label_sets) or 'none'}")
    for normals, scenes in _normals(dataset).items():
        say(f"normals      {normals}{scenes}")
    say(f"fingerprint  {dataset.fingerprint}{'  (synthetic rooms)' if dataset.synthetic else ''}")
    if dataset.in_place is not None:
        say(f"in place     scenes are read from {dataset.in_place}: keep that folder where it is")
    notes = [*dataset.manifest.get("notes", [])]
    notes += [f"{name}: {note}" for name, entry in dataset.manifest["scenes"].items() for note in entry["notes"]]
    for note in notes[:_NOTES]:
        say(f"note: {note}")
    if len(notes) > _NOTES:
        say(f"... and {len(notes) - _NOTES} more notes in {dataset.root / MANIFEST}")
    failed = dataset.manifest.get("failed", {})
    if failed:
        count = len(failed) + len(dataset.manifest["scenes"])
        raise DataError(
            f"{len(failed)} of {count} scenes are left out:\n{listing(failed)}\n",
            "Mend or remove them and run the same command again: the others are kept.",
        )


def _normals(dataset: PreparedDataset) -> dict[str, str]:
    """Where normals come from -> of how many scenes, where they differ."""
    overall = dataset.manifest["normals"]
    counts = Counter(entry.get("normals", overall) for entry in dataset.manifest["scenes"].values())
    return {source: "" if len(counts) == 1 else f": {count} scenes" for source, count in counts.most_common()}
