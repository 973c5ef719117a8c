# The whole contributor interface; CI calls these.

PYTHON ?= python3
PORT := 5000
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK := 1
# Who has no name here, or no home that can be read (a service, a container), gets them.
export USER ?= $(shell id -un 2>/dev/null || id -u)
ifneq ($(shell test -r "$$HOME" -a -x "$$HOME" && echo there),there)
export HOME := $(CURDIR)/.aecore/home
export PIP_NO_CACHE_DIR := 1
endif

.PHONY: install repro compare compare-full test test-slow check ui lock

install: $(VENV)/installed  ## make .venv and install the locked versions; tell DVC where there is no git
	@python -m flows.checkout

$(VENV)/installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

repro: install  ## run the pipeline on what params.yaml names, publish it and show what it finds
	python -m aecore check
	python -m dvc repro
	python -m aecore publish
	python -m aecore tour

compare: install  ## every autoencoder of the lecture, one seed, short: one table and one figure (benchmarks/runs/)
	python benchmarks/compare.py run quick

compare-full: install  ## three seeds, long enough to converge: docs/compare-full.md
	python benchmarks/compare.py run full

test: install  ## the fast tests: no network, no GPU, no server
	python -m pytest -m "not slow"

test-slow: install  ## servers, schedules and kill drills
	python -m pytest -m slow --timeout=1200

check: install  ## lint and types
	python -m ruff check .
	python -m ruff format --check .
	python -m mypy

ui: install  ## MLflow's pages on http://127.0.0.1:5000, or `make ui PORT=5001`
	python -m aecore ui --port $(PORT)

lock: install  ## write requirements.lock from what is installed on Linux x86-64; what only fits there says so
	python -m pip freeze --exclude-editable --exclude aecore > requirements.tmp
	sed -nE "s/^faiss-gpu(==.*)/faiss-cpu\1; sys_platform != 'linux' or platform_machine != 'x86_64'/p" requirements.tmp > requirements.lock
	sed -E "/^(nvidia-|cuda-|triton|faiss-gpu)/ s/$$/; sys_platform == 'linux' and platform_machine == 'x86_64'/" requirements.tmp >> requirements.lock
	LC_ALL=C sort -f -o requirements.lock requirements.lock
	rm requirements.tmp
