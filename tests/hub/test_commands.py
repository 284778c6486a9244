"""`gcbench publish` and `gcbench verify`, as commands, against a Hub on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gcbench import AutoModel
from tests.hub.hub_server import HubServer
from tests.hub.small_models import reproduction, scene, write_encoder, write_segmenter


def gcbench(*arguments: str | Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gcbench", *map(str, arguments)]
    return subprocess.run(command, env={**env, "COLUMNS": "100"}, capture_output=True, text=True)


def test_publish_load_and_verify(hub: HubServer, hub_environment: dict[str, str], tmp_path: Path) -> None:
    run = reproduction(tmp_path / "out")
    arguments = ("publish", run.folder, "--repo", "user/small", "--tag", "v1")
    shown = gcbench(*arguments, "--dry-run", "--out", tmp_path / "model", env=hub_environment)
    assert shown.returncode == 0, shown.stderr
    assert "Nothing was sent" in shown.stdout and "model.safetensors" in shown.stdout and hub.requests == []
    assert (tmp_path / "model" / "README.md").is_file()

    done = gcbench(*arguments, env=hub_environment)
    assert done.returncode == 0, done.stderr
    commit = hub.repositories["user/small"].head.oid
    assert f"Published: {hub.url}/user/small/tree/{commit}, tag v1" in done.stdout
    assert "4 numbers" in done.stdout or "2 numbers" in done.stdout

    again = gcbench(*arguments, env=hub_environment)
    assert again.returncode == 0 and "Already published, nothing was changed" in again.stdout

    checked = gcbench("verify", "user/small", "--revision", "v1", "--json", env=hub_environment)
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["passed"] is True and json.loads(checked.stdout)["commit"] == commit

    hub.put("user/small", {"README.md": b"# better"})
    found = gcbench("verify", "user/small", env=hub_environment)
    assert found.returncode == 1 and "It is not what it says." in found.stdout
    for one in (shown, done, again, checked, found):
        assert hub.token not in one.stdout + one.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repo", "nothing"], "Its id is user/name"),
        (["--repo", "another/small"], "Your token does not permit"),
    ],
)
def test_refusals_are_said_in_two_lines(
    hub: HubServer, hub_environment: dict[str, str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    run = reproduction(tmp_path / "out")
    refused = gcbench("publish", run.folder, *arguments, env=hub_environment)
    assert refused.returncode == 2
    assert message in " ".join(refused.stderr.split()) and "Traceback" not in refused.stderr
    assert hub.token not in refused.stderr + refused.stdout


def test_a_missing_run(hub_environment: dict[str, str], tmp_path: Path) -> None:
    refused = gcbench("publish", tmp_path / "nothing", "--repo", "user/a", env=hub_environment)
    assert refused.returncode == 2 and "is not the folder of a run" in refused.stderr
    unknown = gcbench("verify", "user/nothing", env=hub_environment)
    assert unknown.returncode == 2 and "no repository 'user/nothing'" in unknown.stderr


def test_scenes_are_encoded_and_predicted_with_a_model_of_the_hub(
    hub: HubServer, hub_environment: dict[str, str], tmp_path: Path
) -> None:
    coord, color, normal = scene()
    np.savez(tmp_path / "room.npz", coord=coord, color=color, normal=normal)
    models = {
        "encoder": write_encoder(tmp_path / "e"),
        "segmenter": write_segmenter(tmp_path / "s" / "last.safetensors"),
    }
    for name, path in models.items():
        AutoModel.from_pretrained(path).push_to_hub(f"user/{name}", tag="v1")
        out = tmp_path / f"{name}.safetensors"
        done = gcbench("encode", tmp_path / "room.npz", "--model", f"user/{name}@v1", "--out", out, env=hub_environment)
        assert done.returncode == 0, done.stderr
        local = tmp_path / "local.safetensors"
        assert (
            gcbench("encode", tmp_path / "room.npz", "--model", path, "--out", local, env=hub_environment).returncode
            == 0
        )
        assert torch.equal(load_file(out)["features"], load_file(local)["features"])
    arguments = ("predict", tmp_path / "room.npz", "--out", tmp_path / "out.ply", "--model")
    done = gcbench(*arguments, "user/segmenter", env=hub_environment)
    assert done.returncode == 0 and (tmp_path / "out.ply").is_file(), done.stderr
    refused = gcbench(*arguments, "user/nothing", env=hub_environment)
    assert refused.returncode == 2
    assert "There is no 'user/nothing' on this machine, and: The Hub has no" in " ".join(refused.stderr.split())


@pytest.mark.parametrize("verb", ["publish", "verify"])
def test_help_has_examples(verb: str, hub_environment: dict[str, str]) -> None:
    shown = gcbench(verb, "--help", env=hub_environment)
    assert shown.returncode == 0 and f"gcbench {verb} " in shown.stdout and "Examples" in shown.stdout
