# make demo: set up and run the main job. make test: set up and pass all tests. Both from a bare machine.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: setup demo test lint types bridge bench performance figures status clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --constraint constraints.txt --progress-bar off --quiet torch
	$(BIN)/pip install --constraint constraints.txt --progress-bar off --quiet --editable '.[demo,dev,reference]'
	touch $@

demo: setup
	$(BIN)/scops demo $(ARGS)

# One thread per process: those of two would fight for two cores.
test: setup lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadscope

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/pyrefly check

# The bridge that is shipped: about an hour on one core of two.
bridge: setup
	$(BIN)/python -m scops.demo.dataset runs/owl-tiny-data --side 224 --variants 6 --scenes 5000 --which 1500 --words 2000
	$(BIN)/scops train scops/recipes/owl-tiny.yaml
	$(BIN)/python -m scops.demo.ship runs/owl-tiny runs/owl-tiny-data

bench: setup
	for what in decode prefill systems train_step data_path start_up growth; do $(BIN)/python -m bench.$$what; done

# What bench/results says, into README.md and docs/.
performance: setup
	$(BIN)/python -m bench.readme

# The architecture of every size, into docs/img/figures.
figures: setup
	$(BIN)/python docs/make_figures.py

status: setup
	$(BIN)/python docs/make_status.py

clean:
	rm -rf .venv
