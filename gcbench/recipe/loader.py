"""Reads recipes: YAML with a source beside every value, one level of `extends`, presets, overrides, a content hash.

A leaf is written `key: {value: 0.002, source: "paper: Table S.1"}`. Sources start with `paper:`, `official:`,
`assumed:` or `preset:`; an override on the command line is recorded as `override:`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from gcbench.errors import RecipeError
from gcbench.recipe.schema import RECIPE_KINDS, Recipe
from gcbench.recipe.yaml_files import read_yaml
from gcbench.resources import resource_path

SOURCES = ("paper:", "official:", "assumed:", "preset:", "override:")
_HEADER = ("kind", "title", "extends", "ablation", "values")
_PROBE_SECTION, _TUNING_SECTION = "linear-probe", "fine-tuning"


@dataclass(frozen=True)
class Value:
    """One leaf: what it is and where it comes from."""

    value: Any
    source: str


@dataclass(frozen=True)
class LoadedRecipe:
    """A validated recipe with the source of every value.

    Attributes:
        name: e.g. ``"pretrain/gaussiancross"``.
        preset: e.g. ``"tiny"``, or None.
        recipe: the typed recipe.
        leaves: dotted key -> value and source, in reading order.
    """

    name: str
    preset: str | None
    recipe: Recipe
    leaves: Mapping[str, Value]

    @property
    def hash(self) -> str:
        """Short SHA-256 of the values (not of titles, sources or the order of keys)."""
        values = {key: leaf.value for key, leaf in self.leaves.items()}
        return content_hash({"kind": self.recipe.kind, "values": values})


def content_hash(content: object) -> str:
    """First 12 hex digits of the SHA-256 of canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def recipe_names() -> list[str]:
    """Names of all recipes that come with gcbench, e.g. ``"semantic/scannet"``."""
    root = resource_path("recipes")
    files = (path for kind in RECIPE_KINDS if (root / kind).is_dir() for path in (root / kind).glob("*.yaml"))
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in files if _is_recipe(path))


def preset_names(section: str | None = None) -> list[str]:
    """Names of all presets, or of those that have a section of their own, such as `rooms`."""
    names = sorted(path.stem for path in resource_path("recipes", "presets").glob("*.yaml"))
    return [name for name in names if section is None or section in _read_preset(name)[1]]


def load_recipe(
    name: str,
    *,
    row: Mapping[str, Value] | None = None,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    pretrained: bool = False,
) -> LoadedRecipe:
    """Load and validate a recipe. Later layers win: extended recipe, recipe, preset, table row, overrides.

    A recipe with the key `ablation` (the table or figure it stands for) keeps its own values under a preset: they are
    what it is about.

    Args:
        name: a name from `recipe_names`, or the path of a YAML file.
        row: what a row of a table changes (dotted key -> value), e.g. `probe.frozen`.
        preset: overlay from `recipes/presets/<preset>.yaml`: the section of this recipe's kind, then, for a frozen
            encoder, the section `linear-probe`, or for one that is pre-trained and trained on, `fine-tuning`.
        overrides: ``"section.key=value"`` strings; the value is YAML.
        pretrained: training starts from a pre-trained encoder.

    Raises:
        RecipeError: unknown recipe, key or preset, wrong type, value without a source.
    """
    path = _find(name)
    document = _read(path)
    own = leaves = _own_leaves(path, document)
    if document.get("extends"):
        base_path = _find(str(document["extends"]))
        base = _read(base_path)
        if base.get("extends"):
            raise RecipeError(
                f"{path}: extends '{document['extends']}', which itself extends '{base['extends']}'.",
                "Only one level is allowed: extend the last one directly.",
            )
        if base.get("kind") != document.get("kind"):
            raise RecipeError(
                f"{path}: extends a recipe of kind '{base.get('kind')}', but is '{document.get('kind')}'."
            )
        leaves = {**_own_leaves(base_path, base), **leaves}
    kind = str(document.get("kind"))
    leaves.update(row or {})
    if preset is not None:
        leaves.update(_preset_leaves(preset, kind))
        if leaves.get("probe.frozen", Value(False, "")).value is True:
            leaves.update(_preset_leaves(preset, _PROBE_SECTION))
        elif pretrained:
            leaves.update(_preset_leaves(preset, _TUNING_SECTION))
        if document.get("ablation"):
            leaves.update(own)
        leaves.update(row or {})
    for override in overrides:
        key, leaf = _parse_override(override)
        leaves[key] = leaf
    return LoadedRecipe(
        _short_name(path), preset, _validate(path, kind, str(document.get("title", "")), leaves), leaves
    )


def recipe_from_values(kind: str, title: str, values: Mapping[str, Any]) -> Recipe:
    """Rebuild a recipe from the dotted values that a job file carries."""
    leaves = {key: Value(value, "job") for key, value in values.items()}
    return _validate(Path("job"), kind, title, leaves)


def _is_recipe(path: Path) -> bool:
    with path.open(encoding="utf-8") as stream:
        return any(line.startswith("kind:") for line in stream)


def _find(name: str) -> Path:
    candidate = Path(name)
    if candidate.suffix in (".yaml", ".yml"):
        if candidate.is_file():
            return candidate
        raise RecipeError(
            f"There is no recipe file '{name}'.", "`gcbench recipes list` shows those that come with gcbench."
        )
    if name not in recipe_names():
        raise RecipeError(
            f"There is no recipe '{name}'.", f"Known: {', '.join(recipe_names())}; or give the path of a .yaml file."
        )
    return resource_path("recipes", *f"{name}.yaml".split("/"))


def _short_name(path: Path) -> str:
    root = resource_path("recipes").resolve()
    if path.resolve().is_relative_to(root):
        return path.resolve().relative_to(root).with_suffix("").as_posix()
    return path.stem


def _read(path: Path) -> dict[str, Any]:
    document = read_yaml(path)
    unknown = set(document) - set(_HEADER)
    if unknown:
        raise RecipeError(f"{path}: unknown top-level key '{sorted(unknown)[0]}'.", f"Allowed: {', '.join(_HEADER)}.")
    if document.get("kind") not in RECIPE_KINDS:
        raise RecipeError(f"{path}: kind is '{document.get('kind')}'.", f"Allowed: {', '.join(RECIPE_KINDS)}.")
    return document


def _own_leaves(path: Path, document: Mapping[str, Any]) -> dict[str, Value]:
    return dict(flatten_values(path, document.get("values") or {}))


def flatten_values(path: Path, node: Any, prefix: str = "") -> Iterator[tuple[str, Value]]:
    """Walk a tree of `{value, source}` leaves; yields (dotted key, value).

    Raises:
        RecipeError: a leaf without a source.
    """
    if not isinstance(node, dict):
        raise RecipeError(
            f"{path}: '{prefix}' has no source.",
            'Write it as {value: ..., source: "paper: ..."}; every value names one.',
        )
    if "value" in node:
        source = node.get("source")
        if set(node) != {"value", "source"} or not isinstance(source, str) or not source.startswith(SOURCES):
            raise RecipeError(
                f"{path}: '{prefix}' needs exactly 'value' and a 'source' that starts with {', '.join(SOURCES[:4])}."
            )
        yield prefix, Value(node["value"], source)
        return
    for key, child in node.items():
        yield from flatten_values(path, child, f"{prefix}.{key}" if prefix else str(key))


def _preset_leaves(preset: str, section: str) -> dict[str, Value]:
    """A section of a preset, laid over the same section of the preset that it extends."""
    path, document = _read_preset(preset)
    if section not in document:
        return {}
    base = document.get("extends")
    if base is not None and _read_preset(base)[1].get("extends"):
        raise RecipeError(f"{path}: extends '{base}', which itself extends another preset.")
    return {**(_preset_leaves(base, section) if base else {}), **dict(flatten_values(path, document[section]))}


def _read_preset(preset: str) -> tuple[Path, dict[str, Any]]:
    if preset not in preset_names():
        raise RecipeError(f"There is no preset '{preset}'.", f"Known: {', '.join(preset_names())}.")
    path = resource_path("recipes", "presets", f"{preset}.yaml")
    document = read_yaml(path)
    allowed = ("title", "extends", *RECIPE_KINDS, _PROBE_SECTION, _TUNING_SECTION)
    unknown = set(document) - set(allowed)
    if unknown:
        raise RecipeError(f"{path}: unknown key '{sorted(unknown)[0]}'.", f"Allowed: {', '.join(allowed)}.")
    return path, document


def _parse_override(text: str) -> tuple[str, Value]:
    key, separator, raw = text.partition("=")
    if not separator or not key.strip():
        raise RecipeError(
            f"'{text}' is not an override.", "Write --set section.key=value, e.g. --set schedule.steps=300."
        )
    try:
        return key.strip(), Value(yaml.safe_load(raw), "override: command line")
    except yaml.YAMLError as error:
        raise RecipeError(f"'{text}': the value is not YAML: {error}") from error


def _validate(path: Path, kind: str, title: str, leaves: Mapping[str, Value]) -> Recipe:
    tree: dict[str, Any] = {"kind": kind, "title": title}
    for key, leaf in leaves.items():
        node = tree
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise RecipeError(f"{path}: '{key}' is a value of its own, it has no keys.")
        node[last] = leaf.value
    model = RECIPE_KINDS[kind]
    try:
        return model.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        raise RecipeError(_explain(path, model, error, leaves)) from error
    except TypeError as error:
        raise RecipeError(f"{path}: a value is of a type that recipes do not have: {error}") from error


def _explain(path: Path, model: type[BaseModel], error: ValidationError, leaves: Mapping[str, Value]) -> str:
    lines = []
    for item in error.errors():
        keys = [str(part) for part in item["loc"]]
        whole = [".".join(keys[:end]) for end in range(len(keys), 0, -1)]
        key = next((name for name in whole if name in leaves), whole[0])  # of a list, not the place in it
        value = leaves[key].value if key in leaves else item["input"]
        origin = leaves[key].source if key in leaves and leaves[key].source.startswith(("override", "preset")) else ""
        where = f"{path}{f' ({origin})' if origin else ''}: '{key}'"
        if item["type"] == "extra_forbidden":
            lines.append(f"{where} is not a key of this recipe. Allowed: {', '.join(_allowed(model, keys[:-1]))}.")
        elif item["type"] == "missing":
            lines.append(f"{where} is missing.")
        else:
            hint = " (YAML reads 3e-4 as text: write 3.0e-4)" if _looks_like_number(item["input"]) else ""
            if value is False and "'no'" in item["msg"]:
                hint = ' (YAML reads no as false: write "no", with its quotes)'
            lines.append(f"{where} is {value!r}: {item['msg']}{hint}.")
    return "\n".join(lines)


def _looks_like_number(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def _allowed(model: type[BaseModel], parents: Iterable[str]) -> list[str]:
    current: type[BaseModel] = model
    for parent in parents:
        annotation = current.model_fields[parent].annotation if parent in current.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        current = annotation
    return sorted(set(current.model_fields) - {"kind", "title"})
