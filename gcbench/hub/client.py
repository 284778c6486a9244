"""Calls of the Hugging Face Hub's client: retried where that helps, and with errors that say what to do.

No error that leaves this module holds a token. Importing it imports no torch, and the client only when it is called.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from gcbench.errors import DataError, GcbenchError, InputError, RunError

ATTEMPTS = 5
_FIRST_WAIT, _LONGEST_WAIT, _LONGEST_ASKED = 1.0, 16.0, 120.0  # seconds
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_TOKEN = re.compile(r"\b(hf|api_org|oauth)_[A-Za-z0-9]{8,}\b")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9._-]{1,96}")
_T = TypeVar("_T")

Wait = Callable[[float], None]
Tell = Callable[[str], None]


class ConflictError(RunError):
    """Somebody else has committed to a repository in the meantime."""


class UnreachableError(DataError):
    """The Hub does not answer, or may not be asked."""


def check_repo(repo: str) -> str:
    """The id of a repository, ``user/name``.

    Raises:
        InputError: it cannot be one.
    """
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo or repo.endswith((".git", ".ipynb", ".", "-")):
        raise InputError(f"'{repo}' is no repository of the Hugging Face Hub.", "Its id is user/name.")
    return repo


def call(
    what: str,
    action: Callable[[], _T],
    *,
    repo: str,
    attempts: int = ATTEMPTS,
    wait: Wait = time.sleep,
    tell: Tell = lambda _: None,
) -> _T:
    """Do something on the Hub; what may pass (429, 5xx, a cut connection) is tried again.

    Args:
        what: for messages: ``"downloading config.json"``.
        action: calls the client; it may be called several times.
        repo: whose it is.
        attempts: how often at most.
        wait: sleeps; `tell`: hears about every retry.

    Raises:
        InputError: there is no such repository, revision or file, or it may not be read.
        ConflictError: the parent commit is no longer the head.
        UnreachableError: the Hub is not reached, or answered with errors until the end.
        RunError: it refused.
    """
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except GcbenchError:  # noqa: PERF203 - trying again is what the loop is for
            raise
        except Exception as error:  # the client's errors, and those of its transport, share no other base
            if attempt == attempts or not _may_pass(error):
                _raise(what, repo, error, attempt)
            pause = _pause(error, attempt)
            tell(f"{_short(error)} while {what}; trying again in {pause:.0f} s")
            wait(pause)
    raise AssertionError("unreachable")


def without_tokens(text: str) -> str:
    """The text with every token blacked out."""
    return _TOKEN.sub(r"\1_***", text)


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def _is_transport(error: BaseException) -> bool:
    """A connection that was refused, cut or too slow, whatever HTTP library is below the client."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"TransportError", "ConnectionError", "TimeoutError"}) or "Consistency check" in str(error)


def _is_offline(error: BaseException) -> bool:
    return type(error).__name__ in {"OfflineModeIsEnabled", "LocalEntryNotFoundError"}


def _may_pass(error: BaseException) -> bool:
    if type(error).__name__ == "OfflineModeIsEnabled":
        return False
    status = _status(error)
    if status is not None:
        return status in _PASSING
    cause = error.__cause__
    return _is_transport(error) or (cause is not None and cause is not error and _may_pass(cause))


def _pause(error: BaseException, attempt: int) -> float:
    """Seconds to wait: what the Hub asks for, else twice as long each time."""
    headers: Any = getattr(getattr(error, "response", None), "headers", None) or {}
    asked = str(headers.get("Retry-After", ""))
    if asked.isdigit():
        return min(float(asked), _LONGEST_ASKED)
    waited: float = min(_FIRST_WAIT * 2 ** (attempt - 1), _LONGEST_WAIT)
    return waited * random.uniform(0.75, 1.25)  # noqa: S311 - spreads those who wait


def _short(error: BaseException) -> str:
    status = _status(error)
    return f"The Hub answered {status}" if status is not None else f"The connection failed ({type(error).__name__})"


def _raise(what: str, repo: str, error: Exception, attempts: int) -> NoReturn:
    name, status = type(error).__name__, _status(error)
    if name == "GatedRepoError":
        raise InputError(
            f"The Hub keeps '{repo}' behind terms that your account has not accepted.",
            "Accept them on the page of the repository, and log in: hf auth login",
        ) from None
    if name == "RepositoryNotFoundError" or (status == 404 and name == "HfHubHTTPError"):
        raise InputError(
            f"The Hub has no repository '{repo}' that you may see.",
            "Check the spelling; for a private one log in (hf auth login), or set HF_TOKEN.",
        ) from None
    if name == "RevisionNotFoundError":
        raise InputError(
            f"'{repo}' does not have this revision on the Hub (while {what}).",
            "Give a branch, a tag or a commit of all 40 digits.",
        ) from None
    if name in {"RemoteEntryNotFoundError", "EntryNotFoundError"}:
        raise InputError(f"'{repo}' lacks a file on the Hub (while {what}).", "Check its page.") from None
    if status == 412 or status == 409:
        raise ConflictError(
            f"Somebody else has committed to '{repo}' in the meantime.", "Look at it, then run again."
        ) from None
    if status == 401 or name == "LocalTokenNotFoundError":
        raise InputError(
            f"The Hub does not know who you are (while {what}): no token, or one that is not valid.",
            "Log in with hf auth login, or set HF_TOKEN to a token that may write.",
        ) from None
    if status == 403:
        raise InputError(
            f"Your token does not permit {what} in '{repo}'.",
            "Take a token that may write, and a repository of your own or of your organisation.",
        ) from None
    if _is_offline(error) or _is_transport(error) or status in _PASSING or _may_pass(error):
        tried = f" after {attempts} attempts" if attempts > 1 else ""
        raise UnreachableError(
            f"The Hugging Face Hub cannot be reached while {what}{tried} ({_short(error) if status else name}).",
            "Try again later; what was finished is kept. Without a network, load from a folder or the cache.",
        ) from None
    if name == "HFValidationError":
        raise InputError(f"'{repo}' is no repository of the Hugging Face Hub.", "Its id is user/name.") from None
    first = next(iter(without_tokens(str(error)).strip().splitlines()), name)
    way_out = "Try again; if it stays so, look at https://status.huggingface.co"
    raise RunError(f"{what} failed: {first}", way_out) from None
