"""A recipe as it ran beside the paper's, key by key; and what one changed key is worth, where a run tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gcbench.recipe.loader import LoadedRecipe
from gcbench.reporting.stored_jobs import WITHOUT_EFFECT, StoredRecipe

ABSENT = "absent"


@dataclass(frozen=True)
class KeyDifference:
    """One key whose value is not the paper's.

    Attributes:
        ours, paper: the values; `ABSENT` where a recipe of another version of gcbench does not have the key.
        ours_source, paper_source: where they come from, e.g. ``"preset: ..."`` and ``"paper: Table S.2"``.
        without_effect: it decides how a training runs, and nothing of what it learns.
    """

    key: str
    ours: Any
    paper: Any
    ours_source: str
    paper_source: str

    @property
    def section(self) -> str:
        """The part of the recipe, e.g. ``"optimizer"``."""
        return self.key.partition(".")[0]

    @property
    def without_effect(self) -> bool:
        return self.key in WITHOUT_EFFECT


@dataclass(frozen=True)
class RecipeComparison:
    """A recipe that ran and the paper's for the same cell.

    Attributes:
        kind: ``semantic``, ``instance`` or ``pretrain``.
        ours, paper: names of the recipes; with the preset, if one was laid over.
        differences: in the order of the paper's recipe.
    """

    kind: str
    ours: str
    paper: str
    differences: tuple[KeyDifference, ...]


def compare_recipe(ours: StoredRecipe, paper: LoadedRecipe) -> RecipeComparison:
    """Ours beside the paper's."""
    keys = dict.fromkeys((*paper.leaves, *ours.values))
    found = []
    for key in keys:
        leaf = paper.leaves.get(key)
        stated = ABSENT if leaf is None else leaf.value
        ran = ours.values.get(key, ABSENT)
        if not same(ran, stated):
            source = "" if leaf is None else leaf.source
            found.append(KeyDifference(key, ran, stated, ours.sources.get(key, ""), source))
    preset = f", preset {ours.preset}" if ours.preset else ""
    return RecipeComparison(ours.kind, f"{ours.name}{preset}", paper.name, tuple(found))


def changed_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> Sequence[str]:
    """Keys of which the two have other values, or that only one of them has."""
    return [key for key in dict.fromkeys((*one, *other)) if not same(one.get(key, ABSENT), other.get(key, ABSENT))]


def same(one: Any, other: Any) -> bool:
    """Equal as YAML reads them: a list is a tuple, 1 is 1.0, but true is not 1."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
