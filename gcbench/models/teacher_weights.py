"""Where a teacher's files are: a local folder, or a model of the Hugging Face Hub at one commit.

Nothing here runs a model's own code or opens a pickle: a model is its `config.json` and its safetensors files. What is
wrong with an id, a revision or a folder is said before the large download, and without retries.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcbench.errors import DataError, GcbenchError, InputError

_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_TIMEOUT = 10.0  # seconds for the Hub's first answer
_OFFLINE_WAYS = (
    "Download it where there is a network (hf download {model}) and give the folder as teacher.model, or use the "
    "classical teacher, which needs no download (teacher.name=classical)."
)


@dataclass(frozen=True)
class ModelFiles:
    """A model on disk.

    Attributes:
        folder: what holds the files.
        revision: the Hub's commit, or `sha256:` and the digest of a local folder's files.
        config: `config.json`.
        preprocessor: `preprocessor_config.json`; empty where there is none.
        weights: the safetensors files.
    """

    folder: Path
    revision: str
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any]
    weights: tuple[Path, ...]


def find_model(model: str, revision: str | None) -> ModelFiles:
    """The files of a model, downloaded where they are not on disk.

    Args:
        model: a local folder, or an id on the Hub (`owner/name`). An existing folder wins.
        revision: a commit, tag or branch on the Hub; None is its main branch, and the only choice for a folder.

    Raises:
        InputError: no such folder, id or revision, or a model without safetensors.
        DataError: the Hub cannot be reached, or a file is missing or broken.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise InputError(
                f"teacher.revision is '{revision}', but teacher.model is the folder {folder}.",
                "Set teacher.revision=null for a folder.",
            )
        return _in_folder(folder, None)
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model:
        raise InputError(f"teacher.model is '{model}', and there is no such folder.", "Check the path.")
    found, commit = _on_hub(model, revision)
    return _in_folder(found, commit)


def _in_folder(folder: Path, commit: str | None) -> ModelFiles:
    if not (folder / _CONFIG).is_file():
        raise InputError(
            f"The folder {folder} has no {_CONFIG}, so it holds no model of transformers.",
            "Give the folder that save_pretrained or the Hub's download wrote.",
        )
    weights = _weight_files(folder)
    used = [folder / _CONFIG, folder / _PREPROCESSOR, *weights]
    return ModelFiles(
        folder=folder,
        revision=commit or _digest([path for path in used if path.is_file()]),
        config=_read_json(folder / _CONFIG),
        preprocessor=_read_json(folder / _PREPROCESSOR) if (folder / _PREPROCESSOR).is_file() else {},
        weights=weights,
    )


def _weight_files(folder: Path) -> tuple[Path, ...]:
    if (folder / _WEIGHTS).is_file():
        return (folder / _WEIGHTS,)
    if not (folder / _INDEX).is_file():
        raise _no_safetensors(str(folder), [path.name for path in folder.iterdir()])
    files = tuple(folder / name for name in _shards(folder / _INDEX))
    for path in files:
        if not path.is_file():
            raise DataError(f"{folder / _INDEX} names {path.name}, which is missing.", "Download the model again.")
    return files


def _shards(index: Path) -> list[str]:
    """The names of the files that a model in several pieces consists of."""
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(
        isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors") for name in names.values()
    ):
        raise DataError(f"{index} is not a list of safetensors files.", "Download the model again.")
    return sorted(set(names.values()))


def _no_safetensors(where: str, names: Sequence[str]) -> GcbenchError:
    pickles = sorted(
        name for name in names if name.endswith((".bin", ".pth", ".pt", ".ckpt", ".tar", ".msgpack", ".h5"))
    )
    kept = f"only {', '.join(pickles)}, which can run code when opened" if pickles else "no weights at all"
    return InputError(
        f"'{where}' has no {_WEIGHTS}: it has {kept}.",
        "Choose a model or a revision with safetensors, or convert it once with save_pretrained and give the folder.",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}).", "Download the model again.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a JSON object.", "Download the model again.")
    return content


def _digest(paths: Sequence[Path]) -> str:
    """`sha256:` and the digest of the files' names, sizes and contents."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def _on_hub(model: str, revision: str | None) -> tuple[Path, str]:
    """The snapshot's folder in the Hub client's cache and its commit; a full commit that is there needs no network."""
    from huggingface_hub.errors import HFValidationError

    try:
        pinned = revision is not None and len(revision) == 40
        kept = _cached(model, revision)
        if kept is not None and pinned:
            return kept
        try:
            names = _ask_hub(model, revision)
        except DataError:
            if kept is None:
                raise
            return kept
        return _download(model, revision, names)
    except HFValidationError as error:
        raise InputError(
            f"teacher.model is '{model}': neither a folder nor an id of the Hugging Face Hub (owner/name).",
            "Check the spelling.",
        ) from error


def _cached(model: str, revision: str | None) -> tuple[Path, str] | None:
    """The snapshot of an earlier download, if it is whole."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model, _CONFIG, revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    try:
        _weight_files(folder)
    except GcbenchError:
        return None
    return folder, folder.name


def _ask_hub(model: str, revision: str | None) -> list[str]:
    """The names of the files of a revision: one request, no retries."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().model_info(model, revision=revision, timeout=_TIMEOUT)
    except GatedRepoError as error:
        raise InputError(
            f"The Hub keeps '{model}' behind a licence that your account has not accepted.",
            "Accept it on the model's page and log in (hf auth login).",
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"The Hub has no model '{model}' that you may see.",
            "Check teacher.model; for a private model log in (hf auth login), or give a local folder.",
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(
            f"'{model}' has no revision '{revision}' on the Hub.", "Give one of its commits, tags or branches."
        ) from error
    except HFValidationError:
        raise
    except Exception as error:  # the client's transport errors share no other base
        raise _unreachable(model, error) from error
    names = [sibling.rfilename for sibling in info.siblings or []]
    if _CONFIG not in names:
        raise InputError(f"'{model}' has no {_CONFIG} on the Hub.", "Choose a model made for transformers.")
    if _WEIGHTS not in names and _INDEX not in names:
        raise _no_safetensors(model, names)
    return names


def _download(model: str, revision: str | None, names: Sequence[str]) -> tuple[Path, str]:
    """The snapshot's folder and its commit; the first file settles the commit of all."""
    from huggingface_hub import hf_hub_download

    try:
        folder = Path(hf_hub_download(model, _CONFIG, revision=revision)).parent
        if _PREPROCESSOR in names:
            hf_hub_download(model, _PREPROCESSOR, revision=folder.name)
        if _WEIGHTS in names:
            hf_hub_download(model, _WEIGHTS, revision=folder.name)
        else:
            for name in _shards(Path(hf_hub_download(model, _INDEX, revision=folder.name))):
                hf_hub_download(model, name, revision=folder.name)
    except GcbenchError:
        raise
    except Exception as error:  # as above
        raise _unreachable(model, error) from error
    return folder, folder.name


def _unreachable(model: str, error: Exception) -> DataError:
    return DataError(
        f"The teacher '{model}' is not on disk, and the Hugging Face Hub did not give it ({type(error).__name__}).",
        _OFFLINE_WAYS.format(model=model),
    )
