# Every target sets up what it needs, so that each works on a bare clone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo reproduce test lint parity bench-gpu clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(READY)
	$(BIN)/python -m experiments.demo --out demo

# The supplement's experiments at the scale of a CPU, in under an hour
reproduce: $(READY)
	$(BIN)/python -m experiments.reproduce --out reproduce

test: $(READY)
	$(BIN)/python -m pytest
	$(BIN)/python -m pytest -m browser

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Compare with the reference implementation: make parity GOLDENS=folder
parity: $(READY)
	$(BIN)/python tests/parity.py $(GOLDENS)

# Every speed that a GPU is judged by: sizes of the paper's Table 3, random weights, about 15 minutes
BENCH := $(BIN)/python -m experiments.benchmark
PAPER := --device cuda --width 1152 --depth 28 --heads 16
bench-gpu: $(READY)
	$(BENCH) table2 --device cuda
	$(BENCH) sample $(PAPER) --differences "[5,50]"
	$(BENCH) sample $(PAPER) --differences "[5]" --compile true
	$(BENCH) sample $(PAPER) --differences "[5]" --batch 32 --compile true
	$(BENCH) train $(PAPER) --batch 0 --compile true
	$(BENCH) decode --device cuda --resolution 256 --width 1024 --depth 24 --heads 16 --pixel_width 128 --bf16 true
	$(BENCH) memory --device cuda
	$(BIN)/python -m pytest -m gpu

clean:
	rm -rf $(VENV) demo reproduce build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
