.PHONY: demo test lint types setup clean

# The main job with nothing at hand: a synthetic world, training, official metrics, pictures, a report.
demo: setup
	.venv/bin/bevel demo --output demo

test: setup
	OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --dist loadgroup -q

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: setup
	.venv/bin/mypy

setup:
	@tools/set_up.sh

clean:
	rm -rf .venv demo runs
