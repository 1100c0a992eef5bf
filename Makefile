# What is checked before every commit. `launch/test` makes .venv first and then runs `make check`.
BIN := .venv/bin

.PHONY: check format lint types test
check: lint types test

format:
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types:
	$(BIN)/mypy
	$(BIN)/pyright

# One process a core, one thread each: half the time of one process. `pytest` alone runs them one by one.
test:
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto
