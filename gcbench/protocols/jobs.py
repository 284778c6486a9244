"""Job files: everything one worker process needs, in one JSON file. Importing this module imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gcbench.errors import RunError
from gcbench.recipe.figures import FigureDefinition, definition_hash
from gcbench.recipe.loader import LoadedRecipe, content_hash, recipe_from_values
from gcbench.recipe.schema import Recipe


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class JobRecipe(_Strict):
    """A resolved recipe inside a job file."""

    name: str
    kind: str
    title: str
    preset: str | None
    hash: str
    values: dict[str, Any]
    sources: dict[str, str]

    @classmethod
    def of(cls, loaded: LoadedRecipe) -> JobRecipe:
        """The recipe as a job carries it."""
        return cls(
            name=loaded.name,
            kind=loaded.recipe.kind,
            title=loaded.recipe.title,
            preset=loaded.preset,
            hash=loaded.hash,
            values={key: leaf.value for key, leaf in loaded.leaves.items()},
            sources={key: leaf.source for key, leaf in loaded.leaves.items()},
        )

    def build(self) -> Recipe:
        """The typed recipe."""
        return recipe_from_values(self.kind, self.title, self.values)


class RoomsJob(_Strict):
    """Make synthetic rooms in a raw layout."""

    kind: Literal["rooms"] = "rooms"
    name: str
    layout: Literal["scannet", "s3dis"]
    out: Path
    recipe: JobRecipe

    @property
    def key(self) -> str:
        return rooms_key(self.layout, self.recipe)


def rooms_key(layout: str, recipe: JobRecipe) -> str:
    """The key of the rooms of one layout: the other layout's values do not count."""
    values = {key: value for key, value in recipe.values.items() if key.startswith(f"{layout}.")}
    return content_hash({"kind": "rooms", "layout": layout, "values": values})


class PrepareJob(_Strict):
    """Prepare a raw dataset."""

    kind: Literal["prepare"] = "prepare"
    name: str
    layout: Literal["scannet", "s3dis"]
    raw: Path
    out: Path
    source_key: str

    @property
    def key(self) -> str:
        return content_hash({"kind": self.kind, "layout": self.layout, "source": self.source_key})


def room_jobs(layout: Literal["scannet", "s3dis"], recipe: JobRecipe, folder: Path) -> tuple[RoomsJob, PrepareJob]:
    """The jobs that make the rooms of a recipe and prepare them, in folders of their own below `folder`."""
    prepared = folder / f"{layout}-{rooms_key(layout, recipe)[:8]}"
    rooms = RoomsJob(name=layout, layout=layout, out=prepared.with_name(f"{prepared.name}-raw"), recipe=recipe)
    return rooms, PrepareJob(name=layout, layout=layout, raw=rooms.out, out=prepared, source_key=rooms.key)


class PretrainJob(_Strict):
    """Pre-train an encoder."""

    kind: Literal["pretrain"] = "pretrain"
    name: str
    recipe: JobRecipe
    data: Path
    data_key: str
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return content_hash({"kind": self.kind, "recipe": self.recipe.hash, "data": self.data_key, "seed": self.seed})


class _TableJob(_Strict):
    """Train and score one fold of one cell of a table.

    Attributes:
        fold: the fold's name where the cell has several, else None.
        limit: the data-efficient set that is trained on, such as ``scenes-10``; None takes all of `train`.
        limit_key: of what the set holds.
        encoder: exported encoder weights to start from, or None for a random start.
        encoder_key: the key of the job that makes them, or ``given:`` and the SHA-256 of the weights.
        notes: what a reader of the result must know.
    """

    name: str
    table: str
    row: str
    column: str
    fold: str | None
    recipe: JobRecipe
    data: Path
    data_key: str
    label_set: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    limit: str | None = None
    limit_key: str | None = None
    encoder: Path | None
    encoder_key: str | None
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        content = {
            "kind": self.recipe.kind,
            "recipe": self.recipe.hash,
            "data": self.data_key,
            "labels": self.label_set,
            "train": self.train,
            "val": self.val,
            "limit": (self.limit, self.limit_key),
            "encoder": self.encoder_key,
            "seed": self.seed,
        }
        return content_hash(content)


class SemanticJob(_TableJob):
    """Semantic segmentation."""

    kind: Literal["semantic"] = "semantic"


class InstanceJob(_TableJob):
    """Instance segmentation."""

    kind: Literal["instance"] = "instance"


class FoldsJob(_Strict):
    """Put the folds of one cell together: counts are summed over folds before any ratio is taken.

    Attributes:
        folds: the result files of the folds.
        fold_keys: their job keys.
    """

    kind: Literal["folds"] = "folds"
    name: str
    table: str
    row: str
    column: str
    label_set: str
    protocol: str
    folds: tuple[Path, ...]
    fold_keys: tuple[str, ...]
    seed: int

    @property
    def key(self) -> str:
        return content_hash({"kind": self.kind, "column": self.column, "folds": self.fold_keys})


class SceneFigureJob(_Strict):
    """Draw a figure of scenes with a pre-trained model.

    Attributes:
        definition: what it shows, as resolved under a preset.
        data, data_key: the prepared dataset that the definition names, and its key.
        pretraining: the run folder of the pre-training, and `pretraining_key`, its job's key.
        seed: of UMAP.
    """

    kind: Literal["figure"] = "figure"
    name: str
    definition: FigureDefinition
    data: Path
    data_key: str
    pretraining: Path
    pretraining_key: str
    seed: int

    @property
    def key(self) -> str:
        content = {
            "kind": self.kind,
            "definition": definition_hash(self.definition),
            "data": self.data_key,
            "pretraining": self.pretraining_key,
            "seed": self.seed,
        }
        return content_hash(content)


WORKER = "gcbench.protocols.worker"
SegmentationJob = SemanticJob | InstanceJob
Job = RoomsJob | PrepareJob | PretrainJob | SegmentationJob | FoldsJob | SceneFigureJob
_ADAPTER: TypeAdapter[Job] = TypeAdapter(Annotated[Job, Field(discriminator="kind")])


def read_job(path: Path) -> Job:
    """Read a job file.

    Raises:
        RunError: it is missing or not a job.
    """
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise RunError(f"{path} is not a usable job file: {error}") from error
