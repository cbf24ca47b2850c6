# Set-up and checks. `make demo` and `make test` are all that a fresh machine needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test lint docs proofs clean

demo: $(VENV)/.installed
	$(BIN)/truing run quickstart

# Tests use tiny models, for which a second thread costs more than it gives: two processes, each with its own files.
test: export OMP_NUM_THREADS := 1
test: $(VENV)/.installed-test
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadscope --cov --cov-report=term:skip-covered

docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict

proofs: $(VENV)/.installed-test
	PYTHONPATH=. $(BIN)/python benchmarks/proofs.py
	PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python benchmarks/proofs_training.py --jobs 2
	PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python benchmarks/proofs_inference.py --jobs 2
	PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python benchmarks/proofs_measures.py --jobs 2

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build dist site .coverage .pytest_cache .mypy_cache .ruff_cache
