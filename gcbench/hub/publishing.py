"""One commit on the Hub for one published model.

The commit names its parent, so that two publishers never overwrite each other. Weights that were uploaded before a
connection broke are not uploaded again, and a commit whose answer was lost is found again by its manifest.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gcbench.errors import DataError, InputError
from gcbench.hub.client import ConflictError, Tell, Wait, call, check_repo
from gcbench.hub.layout import MANIFEST, Manifest, check_unchanged, files_in, read_manifest
from gcbench.hub.packing import pack
from gcbench.protocols.encoder_files import CONFIG, WEIGHTS
from gcbench.protocols.model_folders import OpenedModel

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi


@dataclass(frozen=True)
class Published:
    """What has come of it.

    Attributes:
        repo: ``user/name``.
        commit: 40 digits.
        url: of the repository at this commit.
        is_new: False if the repository held exactly this before, so that nothing was committed.
        tag: that now names the commit, if one was asked for.
    """

    repo: str
    commit: str
    url: str
    is_new: bool
    tag: str | None = None


@dataclass(frozen=True)
class _Remote:
    """The main branch: its head, its files, and the manifest in it if it is a published model."""

    head: str
    names: frozenset[str]
    manifest: Manifest | None
    private: bool


def push(opened: OpenedModel, repo: str, *, private: bool, token: str | None, tag: str | None) -> str:
    """Publish a model without evidence; returns its address. Raises as `publish_folder`."""
    check_repo(repo)
    with tempfile.TemporaryDirectory(prefix="gcbench-") as place:
        folder = Path(place) / "model"
        pack(opened, folder, repo=repo)
        return publish_folder(folder, repo, private=private, token=token, tag=tag).url


def publish_folder(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    token: str | None = None,
    tag: str | None = None,
    message: str = "",
    tell: Tell = lambda _: None,
    wait: Wait = time.sleep,
) -> Published:
    """Publish a packed folder in one commit; the same again changes nothing.

    Args:
        folder: of `gcbench.hub.packing`.
        repo: ``user/name``; it is made if it is not there.
        private: only for a repository that is made; an existing one stays as it is.
        token: None takes that of the client.
        tag: a name for the commit, such as ``v1.0``.
        message: of the commit.
        tell: hears about retries and what is done.
        wait: sleeps between retries.

    Raises:
        InputError: no token, no permission, the repository holds another model, or the tag is taken.
        ConflictError: somebody else has committed in the meantime; their commit stays, nothing of ours is there.
        DataError: the folder was changed since it was packed, or the Hub cannot be reached.
        RunError: the Hub refused.
    """
    from huggingface_hub import HfApi

    check_repo(repo)
    manifest = read_manifest(folder)
    names = [name for name in files_in(folder) if name != MANIFEST]
    check_unchanged(folder, manifest, sorted({*names, *manifest.files}), str(folder))
    hub = _Hub(HfApi(token=token), repo, tell, wait)
    hub.create(private)
    remote = hub.remote()
    _check_owner(repo, remote)
    if remote.private != private:
        tell(f"{repo} is {'private' if remote.private else 'public'} already, and stays so")
    same = remote.manifest is not None and remote.manifest.files == manifest.files and remote.names >= {*names}
    if tag is not None:
        hub.check_tag(tag, remote.head if same else None)
    if same:
        commit = remote.head
    else:
        commit = hub.commit(folder, [*names, MANIFEST], manifest, remote, message or f"{manifest.model_type}: publish")
    if tag is not None:
        hub.tag(tag, commit)
    return Published(repo, commit, f"{hub.api.endpoint}/{repo}/tree/{commit}", not same, tag)


def _check_owner(repo: str, remote: _Remote) -> None:
    if remote.manifest is None and remote.names & {CONFIG, WEIGHTS}:
        raise InputError(
            f"'{repo}' holds a model that gcbench did not publish, which would be overwritten.",
            "Choose another repository, or remove its files first.",
        )


@dataclass(frozen=True)
class _Hub:
    """The calls of one publishing."""

    api: HfApi
    repo: str
    tell: Tell
    wait: Wait

    def create(self, private: bool) -> None:
        call(
            "making the repository",
            lambda: self.api.create_repo(self.repo, private=private, exist_ok=True),
            repo=self.repo,
            tell=self.tell,
            wait=self.wait,
        )

    def remote(self) -> _Remote:
        info = call(
            "reading its head",
            lambda: self.api.model_info(self.repo, revision="main"),
            repo=self.repo,
            tell=self.tell,
            wait=self.wait,
        )
        names = frozenset(sibling.rfilename for sibling in info.siblings or [])
        head = str(info.sha)
        return _Remote(head, names, self._manifest(head) if MANIFEST in names else None, bool(info.private))

    def _manifest(self, commit: str) -> Manifest | None:
        """The manifest at a commit; None if it is none of ours."""
        with tempfile.TemporaryDirectory(prefix="gcbench-") as place:
            call(
                f"downloading {MANIFEST}",
                lambda: self.api.hf_hub_download(self.repo, MANIFEST, revision=commit, local_dir=place),
                repo=self.repo,
                tell=self.tell,
                wait=self.wait,
            )
            try:
                return read_manifest(Path(place))
            except DataError:
                return None

    def commit(self, folder: Path, names: Sequence[str], manifest: Manifest, remote: _Remote, message: str) -> str:
        """All files at once, on top of the head that was read; what was published before and is gone is removed."""
        gone = sorted((set(remote.manifest.files) if remote.manifest else set()) & remote.names - set(names))

        def attempt() -> str:
            operations = _operations(folder, names, gone)  # the client marks those it has used
            info = self.api.create_commit(
                self.repo, operations, commit_message=message, revision="main", parent_commit=remote.head
            )
            return str(info.oid)

        try:
            return call("committing", attempt, repo=self.repo, tell=self.tell, wait=self.wait)
        except ConflictError as error:
            now = self.remote()
            if now.manifest is not None and now.manifest.files == manifest.files:
                return now.head  # it was ours: the answer to an earlier attempt was lost
            raise ConflictError(
                f"Somebody else has committed to '{self.repo}' while this was published (now {now.head[:12]}). Their "
                "commit stays, and nothing of this one is there.",
                "Look at theirs, then run the same command again to publish on top of it.",
            ) from error

    def check_tag(self, tag: str, commit: str | None) -> None:
        """Refuse a tag that already names something else than `commit`."""
        refs = call(
            "reading its tags",
            lambda: self.api.list_repo_refs(self.repo),
            repo=self.repo,
            tell=self.tell,
            wait=self.wait,
        )
        taken = {ref.name: ref.target_commit for ref in refs.tags}
        if tag in taken and taken[tag] != commit:
            raise InputError(
                f"'{self.repo}' has a tag '{tag}' already, on {taken[tag][:12]}.", "Choose another; tags never move."
            )

    def tag(self, tag: str, commit: str) -> None:
        call(
            f"tagging {tag}",
            lambda: self.api.create_tag(self.repo, tag=tag, revision=commit, exist_ok=True),
            repo=self.repo,
            tell=self.tell,
            wait=self.wait,
        )


def _operations(
    folder: Path, names: Sequence[str], gone: Sequence[str]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names]
    return [*added, *(CommitOperationDelete(path_in_repo=name) for name in gone)]
