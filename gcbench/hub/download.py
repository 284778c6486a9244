"""Fetching a published model from the Hub, or from the cache of its client. Imports no torch.

What a repository is is told by its list of files and its small files, before the weights are downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcbench.errors import DataError, InputError
from gcbench.hub.client import ATTEMPTS, Tell, UnreachableError, call, check_repo
from gcbench.hub.layout import MANIFEST, NEEDED, changed_files, check_unchanged, read_manifest
from gcbench.protocols.encoder_files import CONFIG, WEIGHTS

_PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".tar")


@dataclass(frozen=True)
class Place:
    """How the Hub is asked.

    Attributes:
        token: None takes the one that the client knows (HF_TOKEN, or `hf auth login`); False asks without one.
        cache_dir: None is the client's own cache.
        offline: only the cache is looked into.
        tell: hears about retries.
    """

    token: str | bool | None = None
    cache_dir: Path | None = None
    offline: bool = False
    tell: Tell = lambda _: None


@dataclass(frozen=True)
class Snapshot:
    """Files of a repository at one commit, on disk."""

    repo: str
    commit: str
    folder: Path


def fetch_model(
    repo: str,
    revision: str | None,
    place: Place,
    *,
    check_config: Callable[[dict[str, Any], str], None],
    extra: Sequence[str] = (),
) -> Snapshot:
    """The files that loading a model needs, whole and unchanged.

    Args:
        repo: ``user/name``.
        revision: branch, tag or commit; None is the main branch.
        place: token, cache, offline.
        check_config: refuses the content of a `config.json`; gets it and where it is from.
        extra: further files that are wanted if they are there.

    Raises:
        InputError: no such repository or revision, or it holds no model of gcbench.
        DataError: a file is missing or not what was published, or the Hub cannot be reached and the model is not in
            the cache.
    """
    check_repo(repo)
    where = f"{repo}@{revision}" if revision else repo
    cached = _cached(repo, revision, place, NEEDED) is not None
    if not place.offline and not (_is_commit(revision) and cached):
        try:  # what is cached will do, so nobody waits for a Hub that is down
            check_listing(repo, list_files(repo, revision, place, attempts=1 if cached else ATTEMPTS), where)
        except UnreachableError:
            if not cached:
                raise
            place = Place(place.token, place.cache_dir, True, place.tell)
    config = _file(repo, CONFIG, revision, place)
    try:
        content = json.loads(config.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{CONFIG} of '{where}' is not JSON.", "Ask who published it.") from error
    if not isinstance(content, dict):
        raise DataError(f"{CONFIG} of '{where}' is not a JSON object.", "Ask who published it.")
    check_config(content, f"{CONFIG} of '{where}'")
    folder, commit = config.parent, config.parent.name
    for name in (MANIFEST, WEIGHTS):
        _file(repo, name, commit, place)
    manifest = read_manifest(folder)
    wanted = [CONFIG, WEIGHTS, *(name for name in extra if name in manifest.files)]
    for name in wanted[2:]:
        _file(repo, name, commit, place)
    for name in changed_files(folder, manifest, wanted):
        if not place.offline:  # damaged on the way, or in the cache: the Hub's own copy decides
            _file(repo, name, commit, place, again=True)
    check_unchanged(folder, manifest, wanted, where)
    return Snapshot(repo, commit, folder)


def fetch_file(repo: str, name: str, revision: str | None, place: Place) -> Snapshot:
    """One named file of a repository, whatever it is; its folder and commit.

    Raises:
        InputError, DataError: as `fetch_model`.
    """
    check_repo(repo)
    if name.startswith("/") or ".." in Path(name).parts or "\\" in name:
        raise InputError(f"'{name}' is no path in a repository.", "Give one such as model/model_last.pth.")
    path = _file(repo, name, revision, place)
    folder = path
    for _ in Path(name).parts:
        folder = folder.parent
    return Snapshot(repo, folder.name, folder)


def list_files(repo: str, revision: str | None, place: Place, *, attempts: int = ATTEMPTS) -> list[str]:
    """All files of a repository at a revision.

    Raises:
        InputError: there is no such repository or revision.
        UnreachableError: the Hub does not answer.
    """
    from huggingface_hub import HfApi

    def ask() -> list[str]:
        info = HfApi(token=place.token).model_info(repo, revision=revision, timeout=20)
        return [sibling.rfilename for sibling in info.siblings or []]

    return call(f"asking for {revision or 'its files'}", ask, repo=repo, attempts=attempts, tell=place.tell)


def check_listing(repo: str, names: Sequence[str], where: str) -> None:
    """Refuse a repository that holds no model of gcbench, by the names of its files.

    Raises:
        InputError: pickles only, another library's model, or a file is missing; the way out is named.
    """
    missing = [name for name in NEEDED if name not in names]
    if not missing:
        return
    pickles = sorted(name for name in names if name.endswith(_PICKLES))
    if pickles and WEIGHTS not in names:
        shown = ", ".join(pickles[:4]) + (f" and {len(pickles) - 4} more" if len(pickles) > 4 else "")
        raise InputError(
            f"'{where}' has pickle files only ({shown}), which could run code when they are opened.",
            f"If one is a Pointcept checkpoint, name it; it is opened without running anything: "
            f'AutoModel.from_pretrained("{repo}", file="{pickles[0]}")',
        )
    if missing == [MANIFEST]:
        raise InputError(
            f"'{where}' has no {MANIFEST}, so nobody can tell whether its files are what was published.",
            "If you trust it, download it (hf download) and load the folder.",
        )
    raise InputError(
        f"'{where}' is no whole model of gcbench: {', '.join(missing)} is missing.",
        "Check its page; a model that `gcbench publish` wrote has it.",
    )


def _file(repo: str, name: str, revision: str | None, place: Place, *, again: bool = False) -> Path:
    from huggingface_hub import hf_hub_download

    def download() -> str:
        return hf_hub_download(
            repo,
            name,
            revision=revision,
            token=place.token,
            cache_dir=place.cache_dir,
            local_files_only=place.offline,
            force_download=again,
        )

    if place.offline:
        found = _cached(repo, revision, place, (name,))
        if found is None:
            raise UnreachableError(
                f"'{repo}'{f' at {revision}' if revision else ''} is not in the cache ({name} is missing).",
                "Load it once where there is a network.",
            )
        return found / name
    return Path(call(f"downloading {name}", download, repo=repo, tell=place.tell))


def _cached(repo: str, revision: str | None, place: Place, names: Sequence[str]) -> Path | None:
    """The snapshot's folder if all these files are there."""
    from huggingface_hub import try_to_load_from_cache

    folder: Path | None = None
    for name in names:
        found = try_to_load_from_cache(repo, name, cache_dir=place.cache_dir, revision=revision)
        if not isinstance(found, str):
            return None
        folder = Path(found.removesuffix(name))
    return folder


def _is_commit(revision: str | None) -> bool:
    return revision is not None and len(revision) == 40 and all(digit in "0123456789abcdef" for digit in revision)
