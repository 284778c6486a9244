# Nothing needs to be done before `make demo` or `make test`: they make .venv with the first suitable Python they find (3.10 to 3.12)
# and install gcbench there, in the versions of constraints.txt, again only after pyproject.toml or constraints.txt has changed.
#
#   make demo     Table 1 in small on synthetic rooms, without a GPU, into ./demo
#   make test     the tests
#   make lint     ruff, mypy, import-linter
#   make clean    remove .venv and what the tools left
#
# Variables: PYTHON=python3.12 chooses the interpreter, DEMO="..." the demo's arguments, TESTS="tests/scoring -k ap" the tests.
#
# Where packages come from is pip's own configuration (pip config, PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS); nothing here
# names a server. On Linux the general index has torch with CUDA only, which brings gigabytes that a machine without a GPU never uses.
# PyTorch also publishes a CPU build (2.13.0+cpu) in an index of its own: with that index in PIP_EXTRA_INDEX_URL, or the wheel in a folder
# named by PIP_FIND_LINKS, pip takes the CPU build by itself.

DEMO = table1 --preset tiny --columns scannet,s3dis-area5 --out demo
TESTS =

VENV := .venv
BIN := $(VENV)/bin
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
PYTHON = $(shell for name in python3 python3.12 python3.11 python3.10; do \
	"$$name" -c '$(SUITABLE)' >/dev/null 2>&1 && { command -v "$$name"; break; }; done)

.PHONY: demo test lint clean help
help:
	@sed -n '/^#   make/s/^#   //p' Makefile

demo: $(VENV)/.has-demo
	$(BIN)/gcbench reproduce $(DEMO)

# One thread per process and a process per core: half the CPU time of one process with a thread per core.
test: $(VENV)/.has-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal $(TESTS)

lint: $(VENV)/.has-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find gcbench tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# The stamps are taken away before an install and set after it, so one that was interrupted is begun anew in an empty .venv.
$(VENV)/.has-demo: pyproject.toml constraints.txt
	$(call install,.[cpu])
	@touch $@

$(VENV)/.has-dev: pyproject.toml constraints.txt
	$(call install,.[cpu$(,)dev])
	@touch $(VENV)/.has-demo $@

, := ,
define install
@python='$(PYTHON)'; \
"$${python:-false}" -c '$(SUITABLE)' >/dev/null 2>&1 || { \
	echo "No suitable Python: gcbench needs 3.10, 3.11 or 3.12 with its venv module (on Debian and Ubuntu: python3-venv)." >&2; \
	echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }; \
ls $(VENV)/.has-* >/dev/null 2>&1 && [ -x $(BIN)/python ] || "$$python" -m venv --clear $(VENV); \
rm -f $(VENV)/.has-*; \
if ! command -v nvidia-smi >/dev/null 2>&1 && ! $(BIN)/python -m pip config list 2>/dev/null | grep -Eq 'index-url|find-links'; then \
	echo "Note: the general index has torch with its CUDA packages (gigabytes). For the CPU build see the top of the Makefile." >&2; \
fi; \
echo "Installing gcbench into $(VENV) (a few minutes the first time) ..."; \
$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '$(1)'
endef
