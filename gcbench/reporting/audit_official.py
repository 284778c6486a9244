"""The paper's settings against the authors' published configurations, key by key.

A recipe states the paper's values, its variant `-official` those of the configuration; both name their sources.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gcbench.recipe.loader import Value, load_recipe, recipe_names
from gcbench.reporting.paper import PaperSetting

_SUFFIX = "-official"


@dataclass(frozen=True)
class OfficialDifference:
    """A key with two values.

    Attributes:
        paper_source, official_source: where each value is from. A source that starts with ``assumed:`` means that the
            paper is silent.
    """

    key: str
    paper: Any
    official: Any
    paper_source: str
    official_source: str

    @property
    def is_printed(self) -> bool:
        """Whether the paper prints its value."""
        return self.paper_source.startswith("paper:")


@dataclass(frozen=True)
class RecipeDifferences:
    """A recipe beside its official variant.

    Attributes:
        printed: keys whose value the paper prints.
        filled: keys that the paper does not print and the recipe takes from the official configuration.
    """

    recipe: str
    official: str
    differences: tuple[OfficialDifference, ...]
    printed: int
    filled: int


@dataclass(frozen=True)
class OfficialComparison:
    """All recipes that the paper's settings are of, and those of them without an official configuration."""

    recipes: tuple[RecipeDifferences, ...]
    without_official: tuple[str, ...]


def compare_official(settings: Iterable[PaperSetting]) -> OfficialComparison:
    """Compare every recipe that the paper's settings name with its official variant.

    Raises:
        RecipeError: a recipe is not what it must be, or there is none of that name.
    """
    names = list(dict.fromkeys(name for setting in settings for name in setting.recipes))
    known = set(recipe_names())
    with_official = [name for name in names if f"{name}{_SUFFIX}" in known]
    return OfficialComparison(
        recipes=tuple(_compare(name) for name in with_official),
        without_official=tuple(name for name in names if name not in with_official),
    )


def _compare(name: str) -> RecipeDifferences:
    ours, theirs = load_recipe(name).leaves, load_recipe(f"{name}{_SUFFIX}").leaves
    nothing = Value(None, "not set")
    pairs = {key: (ours.get(key, nothing), theirs.get(key, nothing)) for key in {**ours, **theirs}}
    differences = tuple(
        OfficialDifference(key, one.value, two.value, one.source, two.source)
        for key, (one, two) in pairs.items()
        if one.value != two.value
    )
    sources = [leaf.source.split(":")[0] for leaf in ours.values()]
    return RecipeDifferences(
        name, f"{name}{_SUFFIX}", differences, printed=sources.count("paper"), filled=sources.count("official")
    )
