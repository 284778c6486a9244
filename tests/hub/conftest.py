"""A Hub on this machine, with an empty cache and a token of its own; nothing reaches the network."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, file_download, hf_api
from huggingface_hub.utils import _cache_assets, _cache_manager, _git_credential, _http, close_session

from tests.hub.hub_server import HubServer

HOSTS = "127.0.0.1,localhost"


def is_of_the_user(name: str) -> bool:
    """Whether a variable of the environment leads the client elsewhere: its own settings, and proxies."""
    upper = name.upper()
    client = upper.startswith(("HF_", "HUGGING", "TRANSFORMERS_OFFLINE", "DISABLE_TELEMETRY"))
    return client or upper.endswith("_PROXY")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the client would wait between its own attempts; it does not."""
    asked: list[float] = []
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", SimpleNamespace(**{**vars(time), "sleep": asked.append}))
    return asked


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> Iterator[HubServer]:
    """The server; the client of this process talks to it, logged in as its user."""
    for name in filter(is_of_the_user, list(os.environ)):
        monkeypatch.delenv(name)
    home, cache = tmp_path / "hub-home", tmp_path / "hub-cache"
    with HubServer() as server:
        # what the client reads from its constants when it is called
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(cache),
            "HUGGINGFACE_HUB_CACHE": str(cache),
            "HF_ASSETS_CACHE": str(home / "assets"),
            "HF_XET_CACHE": str(home / "xet"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
            "AGENT_HARNESSES_PATH": str(home / "registry.json"),
            "CHECK_FOR_UPDATE_DONE_PATH": str(home / "update"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": False,
            "HF_HUB_DISABLE_PROGRESS_BARS": True,
        }.items():
            monkeypatch.setattr(constants, name, value)
        # what its modules copied when they were imported
        monkeypatch.setattr(hf_api.api, "endpoint", server.url)  # behind huggingface_hub.create_repo and the like
        monkeypatch.setattr(_git_credential, "ENDPOINT", server.url)
        monkeypatch.setattr(_cache_manager, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(_cache_assets, "HF_ASSETS_CACHE", str(home / "assets"))
        bars = importlib.import_module("huggingface_hub.utils.tqdm")  # the package has a class of this name
        monkeypatch.setattr(bars, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setenv("HF_TOKEN", server.token)
        monkeypatch.setenv("NO_PROXY", HOSTS)
        close_session()  # a client made earlier has the proxies of its time
        yield server
        close_session()
        assert server.errors == []


@pytest.fixture
def hub_environment(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    """The environment of a command that talks to the server, with a cache of its own."""
    return {
        **{name: value for name, value in os.environ.items() if not is_of_the_user(name)},
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": hub.token,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "NO_PROXY": HOSTS,
    }
