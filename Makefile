# Everything runs in a virtual environment of its own: .venv, made at first use.
PYTHON ?= python3
RUN = .venv/bin/python


.PHONY: demo test test-slow lint docs versions dist lock clean

demo: .venv/installed
	$(RUN) -m experiments run --dataset digits --methods MP LAP LAP-backward-seq --seeds 3 \
		--train-steps 1000 --retrain-steps 500 --keep --out results/demo
	$(RUN) -m experiments.benchmarks shrink --results results/demo --seeds 1 --out results/demo/small

# As many processes as there are cores; a file's tests stay together.
test: .venv/installed
	$(RUN) -m pytest -n auto --dist loadfile

# An hour and more: a sweep that is killed at thirty random moments, and the long ones of others
# (tests/slow.txt).
test-slow: .venv/installed
	$(RUN) -m pytest -m slow

lint: .venv/installed
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

# A static site that opens without a network; warnings and broken links are errors.
docs: .venv/docs
	.venv/bin/sphinx-build -W --keep-going -b html docs build/docs

# The tests on the newest jax that pip picks for Python 3.11, 3.12 and 3.13, as far as they are here.
versions:
	.ci/versions $(VERSIONS)

# A wheel and an sdist in dist/, each tried in an environment of its own.
dist: .venv/installed
	.ci/dist

# The versions that all environments get, of every Python; without the address of any index.
lock: .venv/installed
	$(RUN) -m pip install --quiet uv
	$(RUN) -m uv pip compile --quiet pyproject.toml --extra dev --extra docs --universal --python-version 3.11 \
		--upgrade --no-header --no-annotate --no-emit-index-url --no-emit-find-links -o constraints.txt

clean:
	rm -rf .venv .venv-* build dist results/demo

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lap_jax needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -d .venv || $(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv/docs: .venv/installed
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@
