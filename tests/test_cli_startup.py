"""The root command: quick, light, and clear when something goes wrong."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import types
from collections.abc import Callable

import pytest
import typer

import gcbench
from gcbench.cli.main import DEBUG_VARIABLE, VERBS, main
from gcbench.errors import InputError, RunError

HEAVY = ("torch", "numpy", "pydantic_core", "scipy", "numba", "matplotlib", "pyarrow", "datasets", "yaml")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from gcbench.cli.main import main; code = main(['--help'])\n"
        f"sys.stderr.write(','.join(name for name in {HEAVY} if name in sys.modules)); sys.exit(code)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert all(verb in answer.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_answers_help_without_torch(verb: str) -> None:
    code = (
        f"import sys; from gcbench.cli.main import main; code = main([{verb!r}, '--help'])\n"
        "sys.stderr.write('torch' * ('torch' in sys.modules)); sys.exit(code)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert f"gcbench {verb}" in answer.stdout


@pytest.mark.parametrize("module", ["gcbench", "gcbench.cli"])
def test_version_through_python_m(module: str) -> None:
    answer = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (0, f"gcbench {gcbench.__version__}\n")


@pytest.mark.parametrize(("words", "said"), [(["repoduce"], "reproduce"), (["--colour"], "--colour"), ([], "Usage")])
def test_wrong_usage_is_exit_code_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


Raising = Callable[[BaseException], None]


@pytest.fixture
def doctor_raises(monkeypatch: pytest.MonkeyPatch) -> Raising:
    """Put in place of the module of `gcbench doctor` one whose command raises the given error."""
    monkeypatch.delenv(DEBUG_VARIABLE, raising=False)

    def install(error: BaseException) -> None:
        app = typer.Typer(add_completion=False)

        @app.command()
        def command() -> None:
            raise error

        module = types.ModuleType("gcbench.cli.doctor")
        module.app = app  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return install


def wrapped(inner: BaseException) -> RuntimeError:
    outer = RuntimeError("the archive could not be finished")
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (InputError("Key 'lr' is 'x'.", "Give a number."), 2, ["Error: Key 'lr' is 'x'.", "Give a number."]),
        (RunError("[job] failed."), 1, ["Error: [job] failed."]),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/last.pt"),
            74,
            [
                "Error: The disk is full while writing runs/last.pt.",
                "Free some space, then run the same command to go on where it stopped.",
            ],
        ),
        (
            wrapped(OSError(errno.EDQUOT, "quota")),
            74,
            ["Error: The disk is full.", "Free some space, then run the same command to go on where it stopped."],
        ),
        (
            ZeroDivisionError("by zero\nsecond line"),
            70,
            ["Error: ZeroDivisionError: by zero", "See the traceback with: gcbench --debug doctor"],
        ),
        (MemoryError(), 70, ["Error: MemoryError", "See the traceback with: gcbench --debug doctor"]),
        (
            KeyboardInterrupt(),
            130,
            ["Error: Interrupted.", "Run the same command to go on where it stopped."],
        ),
        (typer.Exit(3), 3, []),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_one_message_and_an_exit_code(
    error: BaseException, code: int, lines: list[str], doctor_raises: Raising, capsys: pytest.CaptureFixture[str]
) -> None:
    doctor_raises(error)
    assert main(["doctor"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == lines


@pytest.mark.parametrize("words", [["--debug", "doctor"], ["doctor"]])
def test_debug_shows_the_traceback(
    words: list[str], doctor_raises: Raising, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor_raises(InputError("Key 'lr' is 'x'."))
    monkeypatch.setenv(DEBUG_VARIABLE, "0" if "--debug" in words else "1")
    assert main(words) == 2
    text = capsys.readouterr().err
    assert "Traceback (most recent call last)" in text
    assert text.endswith("Error: Key 'lr' is 'x'.\n")
