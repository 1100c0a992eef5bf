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

test:
	$(BIN)/pytest
