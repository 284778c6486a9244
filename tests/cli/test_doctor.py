"""`gcbench doctor` runs each engine, and reports what is broken instead of breaking."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from gcbench.cli import doctor, engine_checks
from gcbench.cli.engine_checks import CHECKS, Check, perform, run_check
from gcbench.errors import require

RUNNER = CliRunner()


@pytest.mark.parametrize("name", ["torch", "sparse-cpu", "splatting-cpu"])
def test_the_cpu_engines_work(name: str) -> None:
    check = perform(name)
    assert check.status == "ok", check.detail


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["gpus", "sparse-cuda", "splatting-cuda"])
def test_the_cuda_engines_do_not_fail(name: str) -> None:
    assert run_check(name).status != "failed"


def test_a_check_in_its_own_process_answers_the_same() -> None:
    assert run_check("torch") == perform("torch")


def replace_check(monkeypatch: pytest.MonkeyPatch, function: object) -> None:
    monkeypatch.setitem(CHECKS, "torch", ("engine", function, "Mend it."))


def test_a_wrong_result_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong() -> str:
        raise ArithmeticError("the depth is wrong\nmore")

    replace_check(monkeypatch, wrong)
    assert perform("torch") == Check("engine", "failed", "ArithmeticError: the depth is wrong", "Mend it.")


def test_an_absent_library_is_no_failure_but_a_broken_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gsplat", None)  # makes its import raise ModuleNotFoundError
    replace_check(monkeypatch, lambda: require("gsplat", "cu126", "splatting").__name__)
    check = perform("torch")
    assert (check.status, check.advice) == ("note", "Install it with: pip install 'gcbench[cu126]'")
    replace_check(monkeypatch, lambda: require("its_own_part", "cu126", "splatting").__name__)
    assert perform("torch").status == "failed"


@pytest.mark.parametrize(
    ("body", "limit", "said"),
    [
        ("import os; os.abort()", 30, "SIGABRT"),
        ("import sys; sys.exit('no symbol x')", 30, "exit code 1; no symbol x"),
        ("import time; time.sleep(60)", 0.5, "no answer within 0.5 s"),
    ],
)
def test_a_process_that_dies_or_hangs_is_a_failure(
    body: str, limit: float, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!{sys.executable}\n{body}\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    check = run_check("torch", limit)
    assert check.status == "failed"
    assert said in check.detail
    assert check.advice == CHECKS["torch"][2]


def test_base_packages_must_fit_and_extras_may_be_absent() -> None:
    requirements = [
        Requirement("pytest>=1"),
        Requirement("typer>=999"),
        Requirement("no-such-base>=1"),
        Requirement("no-such-extra; extra == 'teachers'"),
        Requirement("no-such-tool; python_version < '4' and extra == 'track'"),
        Requirement("spoken-of-by-the-engines; extra == 'cu126'"),
        Requirement("not-for-this-python; python_version < '3' and extra == 'teachers'"),
    ]
    checks = {check.name: check for check in doctor.check_packages(requirements)}
    assert {name: check.status for name, check in checks.items()} == {
        "python": "ok",
        "pytest": "ok",
        "typer": "failed",
        "no-such-base": "failed",
        "extra 'teachers'": "note",
        "extra 'track'": "note",
    }
    assert checks["no-such-base"].advice == "pip install 'no-such-base>=1'"
    assert checks["extra 'teachers'"].advice == "pip install 'gcbench[teachers]'"


def test_running_from_a_folder_is_said() -> None:
    assert [check.status for check in doctor.check_packages(None)] == ["ok", "note"]


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("note", 0), ("failed", 1)])
def test_only_a_failure_is_exit_code_1(
    status: engine_checks.Status, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "run_check", lambda name: Check(name, status, "what [was] found", "the way out"))
    monkeypatch.setattr(doctor, "installed_requirements", list)
    answer = RUNNER.invoke(doctor.app, ["--json"])
    assert answer.exit_code == code
    report = json.loads(answer.stdout)
    assert report["ok"] is (code == 0)
    assert [check["name"] for check in report["engines"]] == list(CHECKS)
    table = RUNNER.invoke(doctor.app, [])
    assert table.exit_code == code
    assert "what [was] found" in table.stdout
    assert ("the way out" in table.stdout) is (status != "ok")
