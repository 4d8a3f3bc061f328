# Every target sets up what it needs first; `make venv` does only that. See scripts/setup.sh.
SHELL := /bin/bash
BIN := .venv/bin
READY := .venv/.ready
WORKERS ?= 2
ARGS ?=
unexport PYTHONDONTWRITEBYTECODE # tests start hundreds of processes, each of which would compile everything anew

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-ros test-slow bench table lint clean

help:
	@echo 'make venv       set up .venv from requirements.lock (needs Python 3.12 and about 7 GB)'
	@echo 'make demo       learn to lift a cube with two simulated edges and a learner, then measure and film it'
	@echo 'make test       the fast tests, on WORKERS=$(WORKERS) processes; ARGS="-k name" goes to pytest'
	@echo 'make test-ros   the driver for ROS 2 against real rclpy nodes, in .venv-ros'
	@echo 'make test-slow  the long ones, one after the other'
	@echo 'make bench      the benchmarks, printed and in benchmarks/results.jsonl'
	@echo 'make table      imitation, then Flow-SDE and Flow-Noise, on four tasks with three seeds; hours, may be broken off'
	@echo 'make lint       ruff and mypy'
	@echo 'make clean      remove caches and builds; .venv and runs stay'

venv: $(READY)

$(READY): pyproject.toml requirements.lock scripts/setup.sh
	@bash scripts/setup.sh

demo: $(READY)
	@bash scripts/demo.sh

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

# In an environment of its own: rclpy's wheels change how every Python there starts.
test-ros: $(READY)
	@bash scripts/setup_ros.sh
	$(BIN)/python -m pytest -m "slow or not slow" tests/hal/test_ros2.py $(ARGS)

# One after the other: these start processes of their own, and two of them on two cores would measure each other.
test-slow: $(READY)
	$(BIN)/python -m pytest -m slow --timeout 600 --durations 10 --deselect tests/hal/test_ros2.py::test_with_rclpy $(ARGS)

bench: $(READY)
	$(BIN)/python -m benchmarks $(ARGS)

table: $(READY)
	$(BIN)/python -m benchmarks.table $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
