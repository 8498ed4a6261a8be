# From a bare clone: `make demo` trains a model, `make test` runs the tests; each first installs
# what is missing. Needs Python 3.11 to 3.13, make and git.

python := .venv/bin/python
pytest := $(python) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile
ready := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow results results-quick docs lint clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile

setup: $(ready) ## install everything into .venv/ and .tools/ (nothing to do the second time)
	@echo 'For `poetry run ...` in this shell: export PATH="$$PWD/.tools/bin:$$PATH"'

demo: setup ## train the embedded language model with the defaults and show it before and after
	$(python) train_dpo/train.py $(ARGS)

test: setup ## run the tests that take minutes
	$(pytest) -m "not slow" $(ARGS)

slow: setup ## run the tests that take longer
	$(pytest) -m slow $(ARGS)

results: setup ## sweeps, their tables, results.ipynb: hours; the same command resumes it
	$(python) -m experiments.results $(ARGS)

results-quick: setup ## the same on a small scale, in runs/quick: minutes
	$(python) -m experiments.results --quick $(ARGS)

docs: setup ## build the documentation site into docs/_build/html
	$(python) -m sphinx -b html -W --keep-going -q docs docs/_build/html

lint: setup ## check style, format and types
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy

clean: ## remove what setup installed
	rm -rf .venv .tools

# A file outside the environment marks it as incomplete: one that was interrupted half-way through a
# package cannot be trusted and is built again.
$(ready): poetry.lock pyproject.toml
	@tools/poetry check --lock
	@if [ -e .tools/installing ]; then rm -rf .venv; fi
	@touch .tools/installing
	@tools/poetry install --no-interaction
	@echo 'Compiling the packages, so that the first start is quick (about a minute)'
	@$(python) -m compileall -qq -j 0 .venv/lib || true  # some files are for later versions of Python
	@rm .tools/installing
	@touch $@
