# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# One process a core. A process that is done takes tests from the others; a module's fixtures are rarely made twice.
PYTEST := -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal
UV := 'uv>=0.13,<0.14'

.PHONY: demo docs test test-lowest mutants lint lock clean

demo: .venv/installed
	$(BIN)/python evaluate.py --config demo.yaml

test: .venv/installed
	$(BIN)/python $(PYTEST)

# The same tests with the oldest direct dependencies that pyproject.toml admits (docs/versions.md). Python 3.11.
test-lowest: .venv-lowest/installed
	.venv-lowest/bin/python $(PYTEST)

# Small changes to the code that decides results, each of which a test should notice: takes hours, goes on where it was stopped.
# A part: make mutants ONLY='hetpure/noise.py hetpure/schedule.py'
mutants: .venv/mutants
	OMP_NUM_THREADS=1 $(BIN)/python -P tests/mutants.py $(ONLY)

# The documentation as a site: site/index.html. A broken link, a missing page or a docstring that does not fit its function fails.
docs: .venv/installed
	$(BIN)/python -m mkdocs build --quiet --strict

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# requirements.lock: the versions that are installed here, with what they need and every file's hash. Linux, x86_64.
lock: .venv/installed
	$(BIN)/python -m pip freeze --exclude-editable > .venv/frozen.txt
	$(BIN)/python -m pip install --quiet $(UV)
	$(BIN)/uv pip compile --quiet pyproject.toml --extra dev --constraint .venv/frozen.txt --python $(BIN)/python \
		--python-platform x86_64-manylinux_2_28 --generate-hashes --no-annotate \
		--custom-compile-command 'make lock' --output-file requirements.lock

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hetpure needs Python 3.11 or later: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

.venv-lowest/installed: pyproject.toml
	rm -rf .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet $(UV)
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable '.[dev]'
	touch $@

.venv/mutants: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[dev,mutants]'
	touch $@

clean:
	rm -rf .venv .venv-lowest mutants runs site .pytest_cache .ruff_cache
