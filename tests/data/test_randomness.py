"""No random number without an explicit generator: nothing under gcbench/data touches a global random state."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import gcbench.data

MODULES = sorted(Path(gcbench.data.__file__).parent.glob("*.py"))
NUMPY_ALLOWED = {"default_rng", "Generator", "SeedSequence", "BitGenerator", "PCG64"}
TORCH_DRAWS = {"rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like"}
TORCH_DRAWS |= {"bernoulli", "multinomial", "normal", "poisson"}
TORCH_DRAWS_INTO = {
    "uniform_",
    "normal_",
    "random_",
    "bernoulli_",
    "exponential_",
    "log_normal_",
    "cauchy_",
    "geometric_",
}
TORCH_SEEDS = {"manual_seed", "seed", "set_rng_state"}


def global_draws(source: str) -> list[str]:
    """Expressions of a module that draw from, or seed, a global state or the operating system."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [
                f"import {alias.name}" for alias in node.names if alias.name.split(".")[0] in ("random", "secrets")
            ]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("random", "secrets"):
            found.append(f"from {node.module} import")
        elif isinstance(node, ast.ImportFrom) and node.module == "numpy.random":
            found += [alias.name for alias in node.names if alias.name not in NUMPY_ALLOWED]
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            owner, _, last = name.rpartition(".")
            numpy_global = owner in ("np.random", "numpy.random") and last not in NUMPY_ALLOWED
            if numpy_global or (owner in ("torch", "torch.random", "torch.cuda") and last in TORCH_SEEDS):
                found.append(name)
        elif isinstance(node, ast.Call):
            owner, _, last = ast.unparse(node.func).rpartition(".")
            explicit = any(keyword.arg == "generator" for keyword in node.keywords)
            torch_draw = (owner == "torch" and last in TORCH_DRAWS) or last in TORCH_DRAWS_INTO
            unseeded = last == "default_rng" and not node.args and not node.keywords
            if (torch_draw and not explicit) or unseeded:
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_no_module_uses_a_global_random_state(module: Path) -> None:
    assert global_draws(module.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import random",
        "from random import shuffle",
        "np.random.rand(3)",
        "numpy.random.seed(0)",
        "from numpy.random import randint",
        "rng = np.random.default_rng()",
        "torch.manual_seed(0)",
        "torch.randperm(4)",
        "noise.normal_()",
    ],
)
def test_the_check_finds_what_it_is_for(source: str) -> None:
    assert len(global_draws(source)) == 1


def test_the_check_allows_explicit_generators() -> None:
    allowed = "rng = np.random.default_rng(3)\nrng.random(4)\ntorch.randn(3, generator=g)\ng = torch.Generator()"
    assert global_draws(allowed + "\ng.manual_seed(0)\nx: np.random.Generator = rng") == []
