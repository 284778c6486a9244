"""Figure definitions: what a figure of the paper's supplement shows, of which scenes, each choice with its source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gcbench.errors import InputError, RecipeError
from gcbench.recipe.loader import Value, content_hash, flatten_values
from gcbench.recipe.yaml_files import read_yaml
from gcbench.resources import resource_path

Panel = Literal["points", "point-features", "photo", "color", "measured-depth", "depth", "features"]
_HEADER = ("id", "title", "source", "kind", "pretrain", "values", "presets")


class _Definition(BaseModel):
    """What all figures have.

    Attributes:
        pretrain: the pre-training recipe whose encoder is shown.
        data: name of the prepared dataset's folder in the data root.
        splits, scenes: so many scenes, evenly spaced over the list of these splits.
        label_set: where class names come from; None takes no labels.
        elevation, azimuth: where scans are looked at from, degrees: above the floor, and around the z axis.
        cut_height: points higher above the floor, metres, are not drawn; nor are those that face away.
        note: a sentence for the caption, empty if there is nothing to say.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: str = Field(pattern=r"fig[A-Za-z0-9]+")
    title: str
    source: str
    pretrain: str
    data: Literal["scannet", "s3dis", "scannetpp"]
    splits: Annotated[tuple[str, ...], Field(min_length=1)]
    scenes: Annotated[int, Field(ge=1, le=8)]
    elevation: Annotated[float, Field(gt=0, le=90)]
    azimuth: Annotated[float, Field(ge=-180, le=180)]
    cut_height: Annotated[float, Field(gt=0)]
    note: str


class ViewsFigure(_Definition):
    """Rendered views, one row each, beside what `panels` names.

    Attributes:
        views: of each scene, evenly spaced over the chosen frames.
        frames: which frames: never trained on, trained on, or all.
        colors: how features of points become colours: ``pca``, three principal components, or ``umap``, in three
            dimensions. Rendered features are drawn by their principal components.
        umap_points: UMAP learns from so many different features of a scene; the others take the nearest one's colour.
        umap_neighbors: by which UMAP places each feature.
    """

    kind: Literal["views"] = "views"
    panels: Annotated[tuple[Panel, ...], Field(min_length=1, max_length=5)]
    views: Annotated[int, Field(ge=1, le=8)]
    frames: Literal["heldout", "train", "all"]
    colors: Literal["pca", "umap"]
    umap_points: Annotated[int, Field(ge=100)]
    umap_neighbors: Annotated[int, Field(ge=2)]


class SimilarityFigure(_Definition):
    """Cosine similarity of every point's feature to that of one query point, one column for each scene.

    Attributes:
        classes: the query is on an object of the first class that the scene has and no scene before it showed, or else
            of the first that it has. Empty, or a scene without labels: at the scene's median.
    """

    kind: Literal["similarity"] = "similarity"
    label_set: str | None
    classes: tuple[str, ...]


FigureDefinition = Annotated[ViewsFigure | SimilarityFigure, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[ViewsFigure | SimilarityFigure] = TypeAdapter(FigureDefinition)


@dataclass(frozen=True)
class LoadedFigure:
    """A validated definition with the source of every value.

    Attributes:
        preset: e.g. ``"tiny"``, or None.
        leaves: key -> value and source.
    """

    definition: ViewsFigure | SimilarityFigure
    preset: str | None
    leaves: Mapping[str, Value]


def definition_hash(definition: ViewsFigure | SimilarityFigure) -> str:
    """Short SHA-256 of all that decides the picture (not of the title and its place in the paper)."""
    return content_hash(definition.model_dump(mode="json", exclude={"title", "source"}))


def figure_names() -> list[str]:
    """Ids of all figures that show scenes."""
    return sorted(path.stem for path in resource_path("recipes", "figures").glob("*.yaml"))


def load_figure(figure_id: str, preset: str | None = None) -> LoadedFigure:
    """Load a figure's definition. The preset's values, if the figure has any for it, are laid over its own.

    Raises:
        InputError: there is no such figure.
        RecipeError: its file has an unknown or missing key, a wrong type, or a value without a source.
    """
    if figure_id not in figure_names():
        raise InputError(f"There is no figure '{figure_id}'.", f"Known: {', '.join(figure_names())}.")
    return read_figure(resource_path("recipes", "figures", f"{figure_id}.yaml"), preset)


def read_figure(path: Path, preset: str | None = None) -> LoadedFigure:
    """Read a definition from a file, as `load_figure`."""
    document = read_yaml(path)
    unknown = sorted(set(document) - set(_HEADER))
    if unknown:
        raise RecipeError(f"{path}: unknown top-level key '{unknown[0]}'.", f"Allowed: {', '.join(_HEADER)}.")
    leaves = dict(flatten_values(path, document.pop("values", {})))
    overlays = document.pop("presets", {})
    if not isinstance(overlays, dict):
        raise RecipeError(f"{path}: 'presets' must map a preset's name to values.")
    laid = {name: dict(flatten_values(path, values)) for name, values in overlays.items()}
    for name, values in laid.items():
        if set(values) - set(leaves):
            raise RecipeError(f"{path}: preset '{name}' has the key '{min(set(values) - set(leaves))}' alone.")
    leaves.update(laid.get(preset or "", {}))
    if document.get("id") != path.stem:
        raise RecipeError(f"{path}: id is '{document.get('id')}', the file's name says '{path.stem}'.")
    return LoadedFigure(_validate(path, document, leaves), preset, leaves)


def _validate(path: Path, header: Mapping[str, Any], leaves: Mapping[str, Value]) -> ViewsFigure | SimilarityFigure:
    content = {**header, **{key: leaf.value for key, leaf in leaves.items()}}
    try:
        return _ADAPTER.validate_json(json.dumps(content))
    except TypeError as error:
        raise RecipeError(f"{path}: a value is of a type that figures do not have: {error}") from error
    except ValidationError as error:
        lines = [f"{path}: '{'.'.join(map(str, item['loc'][1:]))}': {item['msg']}." for item in error.errors()]
        raise RecipeError("\n".join(lines)) from error
