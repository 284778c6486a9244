"""Retries and errors of the Hub's client."""

from __future__ import annotations

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError

from gcbench.errors import DataError, GcbenchError, InputError, RunError
from gcbench.hub.client import ATTEMPTS, ConflictError, UnreachableError, call, check_repo, without_tokens

TOKEN = "hf_" + "aB3" * 11 + "x"


def answer(status: int, **headers: str) -> HfHubHTTPError:
    request = httpx2.Request("GET", f"https://hub/{TOKEN}")
    response = httpx2.Response(status, headers=headers, request=request)
    return HfHubHTTPError(f"{status} for {TOKEN}", response=response)


class Flaky:
    """Raises these, then gives 7."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return 7


@pytest.mark.parametrize(
    "error",
    [
        answer(429),
        answer(503),
        answer(500),
        httpx2.ConnectError("no"),
        httpx2.ReadTimeout("slow"),
        ConnectionError("x"),
    ],
)
def test_what_may_pass_is_tried_again(error: Exception) -> None:
    action, pauses = Flaky(error, error), []
    assert call("asking", action, repo="user/a", wait=pauses.append) == 7
    assert action.calls == 3 and 0.7 < pauses[0] < 1.3 < pauses[1] < 2.6


def test_the_hub_says_how_long_to_wait() -> None:
    pauses: list[float] = []
    told: list[str] = []
    call("asking", Flaky(answer(429, **{"Retry-After": "7"})), repo="user/a", wait=pauses.append, tell=told.append)
    assert pauses == [7.0]
    assert told == ["The Hub answered 429 while asking; trying again in 7 s"]
    call("asking", Flaky(answer(429, **{"Retry-After": "99999"})), repo="user/a", wait=pauses.append)
    assert pauses[1] == 120.0


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (answer(401), InputError, "does not know who you are"),
        (answer(403), InputError, "does not permit asking in 'user/a'"),
        (answer(404), InputError, "no repository 'user/a' that you may see"),
        (answer(409), ConflictError, "Somebody else"),
        (answer(412), ConflictError, "Somebody else"),
        (answer(418), RunError, r"asking failed: 418 for hf_[*]{3} "),
        (ValueError(f"odd {TOKEN}"), RunError, r"asking failed: odd hf_[*]{3} "),
    ],
)
def test_what_does_not_pass_is_said_at_once(error: Exception, kind: type[GcbenchError], message: str) -> None:
    action = Flaky(error)
    with pytest.raises(kind, match=message) as raised:
        call("asking", action, repo="user/a", wait=lambda _: None)
    assert action.calls == 1 and raised.value.way_out
    assert TOKEN not in str(raised.value) and raised.value.__suppress_context__


def test_it_gives_up_in_the_end() -> None:
    action = Flaky(*[answer(503)] * ATTEMPTS)
    with pytest.raises(UnreachableError, match=f"after {ATTEMPTS} attempts"):
        call("asking", action, repo="user/a", wait=lambda _: None)
    assert action.calls == ATTEMPTS


def test_our_own_errors_pass_through() -> None:
    action = Flaky(DataError("mine"))
    with pytest.raises(DataError, match="mine"):
        call("asking", action, repo="user/a")
    assert action.calls == 1


@pytest.mark.parametrize("text", [TOKEN, f"Bearer {TOKEN}.", f"https://user:{TOKEN}@hub/x", f"a{'b'} hf_abcdefghij"])
def test_tokens_are_blacked_out(text: str) -> None:
    assert "hf_***" in without_tokens(text) and TOKEN not in without_tokens(text)


@pytest.mark.parametrize("repo", ["user/a", "a-b/c.d_e", "User1/X"])
def test_repositories(repo: str) -> None:
    assert check_repo(repo) == repo


@pytest.mark.parametrize(
    "repo",
    ["", "a", "a/b/c", "/a", "a/", "../a", "a/..", "a b/c", "a/b.git", "a--b/c", "/etc/x", "a/" + "x" * 97],
)
def test_what_is_no_repository(repo: str) -> None:
    with pytest.raises(InputError, match="Its id is user/name"):
        check_repo(repo)
