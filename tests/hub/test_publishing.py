"""Publishing over HTTP: one commit, the same again, faults on the way, two at once, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gcbench import AutoModel
from gcbench.errors import GcbenchError, InputError, RunError
from gcbench.hub.client import ATTEMPTS, ConflictError, UnreachableError
from gcbench.hub.layout import MANIFEST, read_manifest
from gcbench.hub.packing import pack_run
from gcbench.hub.publishing import Published, publish_folder
from gcbench.protocols.model_folders import open_model_folder
from tests.hub.hub_server import Fault, HubServer
from tests.hub.small_models import reproduction, scene, write_encoder

REPO = "user/small"
COMMIT = r"/commit/main$"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("packed")
    pack_run(reproduction(place / "out").folder, place / "model", repo=REPO)
    return place / "model"


def publish(folder: Path, **options: object) -> tuple[Published, list[float], list[str]]:
    """The outcome, the pauses and what was told."""
    pauses: list[float] = []
    told: list[str] = []
    published = publish_folder(folder, REPO, wait=pauses.append, tell=told.append, **options)  # type: ignore[arg-type]
    return published, pauses, told


def published_files(hub: HubServer) -> dict[str, bytes]:
    return {name: file.content for name, file in hub.repositories[REPO].head.files.items()}


def folder_files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_commit_holds_all_files(hub: HubServer, packed: Path) -> None:
    published, pauses, _ = publish(packed, tag="v1.0", message="First")
    repository = hub.repositories[REPO]
    assert [commit.title for commit in repository.commits] == ["initial commit", "First"]
    assert published == Published(
        REPO, repository.head.oid, f"{hub.url}/{REPO}/tree/{repository.head.oid}", True, "v1.0"
    )
    assert published_files(hub) == folder_files(packed)
    assert repository.tags == {"v1.0": repository.head.oid}
    assert pauses == [] and not repository.private


def test_nothing_but_weights_settings_and_results_leaves_the_machine(hub: HubServer, packed: Path) -> None:
    publish(packed)
    assert set(published_files(hub)) == {
        *("README.md", "config.json", "curves.png", "golden.json", "manifest.json", "model.safetensors", "recipe.json"),
        *(f"results/{name}.json" for name in ("scannet-gaussiancross-seed0-01234567", "small-7ee002de")),
        ".eval_results/scannet20-val-semantic-dbb5af46fd08.yaml",
    }


def test_the_same_again_changes_nothing(hub: HubServer, packed: Path) -> None:
    first, _, _ = publish(packed)
    again, _, _ = publish(packed)
    assert (again.commit, again.is_new) == (first.commit, False)
    assert len(hub.repositories[REPO].commits) == 2


def test_another_version_takes_away_what_is_gone_and_leaves_what_is_not_ours(
    hub: HubServer, packed: Path, tmp_path: Path
) -> None:
    publish(packed)
    hub.put(REPO, {"LICENSE": b"terms"}, "by hand")
    run = reproduction(tmp_path / "out")
    pack_run(run.folder, tmp_path / "model", repo=REPO, with_results=False)
    publish(tmp_path / "model")
    names = set(published_files(hub))
    assert "LICENSE" in names
    assert names - {"LICENSE"} == set(folder_files(tmp_path / "model"))
    assert not [name for name in names if name.startswith(".eval_results")]


@pytest.mark.parametrize(
    ("method", "path", "kind", "status"),
    [
        ("POST", COMMIT, "status", 503),
        ("POST", COMMIT, "status", 429),
        ("POST", COMMIT, "refuse", 0),
        ("POST", "/api/repos/create", "status", 503),
        ("GET", "/revision/main", "status", 502),
        ("POST", "/preupload/", "status", 503),
        ("POST", "/objects/batch", "status", 503),
        ("PUT", "/objects/", "refuse", 0),
        ("PUT", "/objects/", "status", 503),
        ("POST", "/tag/", "status", 503),
        ("GET", "/refs", "status", 500),
    ],
)
def test_what_may_pass_is_tried_again(
    hub: HubServer, packed: Path, method: str, path: str, kind: Fault, status: int
) -> None:
    hub.fail(method, path, kind, status=status, times=2, headers={"Retry-After": "0"})
    published, _, _ = publish(packed, tag="v1")
    assert published.is_new and hub.faults_left == 0
    assert published_files(hub) == folder_files(packed)
    assert len(hub.repositories[REPO].commits) == 2


def test_a_commit_whose_answer_was_lost_is_found_again(hub: HubServer, packed: Path) -> None:
    hub.fail("POST", COMMIT, "lost-answer")
    published, _, told = publish(packed)
    assert len(hub.repositories[REPO].commits) == 2
    assert published.commit == hub.repositories[REPO].head.oid
    assert "trying again" in told[0]


def test_an_upload_goes_on_where_it_broke_off(hub: HubServer, packed: Path) -> None:
    hub.fail("POST", COMMIT, times=ATTEMPTS)
    with pytest.raises(UnreachableError, match=f"after {ATTEMPTS} attempts"):
        publish(packed)
    assert len(hub.repositories[REPO].commits) == 1
    hub.requests.clear()
    publish(packed)
    assert not [path for method, path, _ in hub.requests if method == "PUT"]  # the weights are there already
    assert published_files(hub) == folder_files(packed)


def test_the_second_of_two_publishers_is_told_and_nothing_is_lost(hub: HubServer, packed: Path, tmp_path: Path) -> None:
    write_encoder(tmp_path / "other", seed=5)
    others = AutoModel.from_pretrained(tmp_path / "other")
    hub.before("POST", COMMIT, lambda: others.push_to_hub(REPO))
    with pytest.raises(ConflictError, match="Somebody else has committed") as raised:
        publish(packed)
    assert "run the same command again" in raised.value.way_out
    assert len(hub.repositories[REPO].commits) == 2
    assert json.loads(hub.read(REPO, "manifest.json"))["files"] != json.loads((packed / MANIFEST).read_text())["files"]
    publish(packed)
    assert published_files(hub) == folder_files(packed)
    assert len(hub.repositories[REPO].commits) == 3


def test_a_tag_never_moves(hub: HubServer, packed: Path) -> None:
    publish(packed, tag="v1")
    publish(packed, tag="v1")
    hub.put(REPO, {"README.md": b"changed by hand"})
    before = hub.repositories[REPO].head.oid
    with pytest.raises(InputError, match="has a tag 'v1' already"):
        publish(packed, tag="v1")
    assert hub.repositories[REPO].head.oid == before


def test_a_model_of_somebody_else_is_not_overwritten(hub: HubServer, packed: Path) -> None:
    hub.put(REPO, {"config.json": b"{}", "model.safetensors": b"other"})
    with pytest.raises(InputError, match="did not publish, which would be overwritten"):
        publish(packed)
    assert hub.read(REPO, "model.safetensors") == b"other"


def test_an_existing_repository_keeps_its_visibility(hub: HubServer, packed: Path) -> None:
    hub.put(REPO, {})
    _, _, told = publish(packed, private=True)
    assert told == [f"{REPO} is public already, and stays so"]


def test_a_private_repository(hub: HubServer, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(packed, private=True)
    assert hub.repositories[REPO].private
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match="no repository 'user/small' that you may see"):
        AutoModel.from_pretrained(REPO)
    assert AutoModel.from_pretrained(REPO, token=hub.token).kind == "encoder"


@pytest.mark.parametrize(
    ("repo", "token", "message"),
    [
        (REPO, "hf_" + "x" * 34, "does not know who you are"),
        ("another/small", None, "does not permit"),
        ("small", None, "is no repository of the Hugging Face Hub"),
        ("user/../small", None, "is no repository of the Hugging Face Hub"),
    ],
)
def test_who_may_not_publish_is_told(hub: HubServer, packed: Path, repo: str, token: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        publish_folder(packed, repo, token=token, wait=lambda _: None)
    assert hub.repositories == {}


def test_without_a_token(hub: HubServer, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match="does not know who you are") as raised:
        publish(packed)
    assert "hf auth login" in raised.value.way_out


def test_a_folder_that_was_changed_after_packing_is_refused(hub: HubServer, packed: Path, tmp_path: Path) -> None:
    for name, content in folder_files(packed).items():
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(content)
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(GcbenchError, match=r"model\.safetensors is not what was published"):
        publish(tmp_path / "model")
    (tmp_path / "model" / "scene0000_00.ply").write_bytes(b"ply")
    with pytest.raises(InputError, match=r"scene0000_00.ply is no file of a published model"):
        publish(tmp_path / "model")
    assert hub.repositories == {}


def test_tokens_are_nowhere(
    hub: HubServer, packed: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in files, output or errors, whatever fails; and they are sent only to the Hub itself."""
    texts: list[str] = []
    for path in ("/api/repos/create", "/revision/main", "/preupload/", "/objects/batch", COMMIT, "/tag/", "/refs"):
        for status in (400, 401, 403, 404, 409, 412, 500):
            hub.repositories.clear()
            method = "GET" if path in ("/revision/main", "/refs") else "POST"
            hub.fail(method, path, status=status, times=20)
            try:
                publish(packed, tag="v1")
            except GcbenchError as error:
                texts += [str(error), repr(error), str(error.__cause__)]
            hub._faults.clear()
    assert texts
    captured = capfd.readouterr()
    texts += [captured.out, captured.err, *(content.decode("latin-1") for content in folder_files(tmp_path).values())]
    texts += [content.decode("latin-1") for content in folder_files(packed).values()]
    assert not [text for text in texts if hub.token in text]


def test_published_and_loaded_features_are_equal_to_the_bit(hub: HubServer, packed: Path) -> None:
    publish(packed)
    model = AutoModel.from_pretrained(REPO, check=True)
    assert torch.equal(model.encode(*scene()), AutoModel.from_pretrained(packed).encode(*scene()))
    assert model.source.commit == hub.repositories[REPO].head.oid


def test_the_whole_pretrainer(hub: HubServer, tmp_path: Path) -> None:
    run = reproduction(tmp_path / "out")
    pack_run(run.folder, tmp_path / "model", repo=REPO, whole=True)
    publish(tmp_path / "model")
    model = AutoModel.from_pretrained(REPO, check=True)
    assert model.kind == "pretrainer"
    encoder = open_model_folder(run.folder)
    assert all(
        torch.equal(value, model.encoder.state_dict()[name]) for name, value in encoder.encoder.state_dict().items()
    )


def test_manifests_of_packed_folders_are_complete(packed: Path) -> None:
    assert set(read_manifest(packed).files) | {MANIFEST} == set(folder_files(packed))


def test_an_unknown_refusal_is_an_error_for_users(hub: HubServer, packed: Path) -> None:
    hub.fail("POST", COMMIT, status=418)
    with pytest.raises(RunError, match="committing failed"):
        publish(packed)
