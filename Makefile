# `make demo` and `make test` do everything on a fresh machine: each makes the virtual environment .venv and
# installs into it what it needs. Another interpreter: make demo PYTHON=/path/to/python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A change of these files is a change of what must be installed.
REQUIREMENTS := setup.py pyproject.toml

# albumentations asks the network for its newest version at every import unless told not to.
export NO_ALBUMENTATIONS_UPDATE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test docs figures colab-check torture clean

help:
	@echo "make demo   train on the sample inside the package, then draw curves, mistakes and Grad-CAM"
	@echo "make test   ruff, mypy, the unit tests, and every notebook from top to bottom"
	@echo "make docs   the site in site/: what every function does, which notebook, exercises"
	@echo "make figures  the figures of the README, from the demo run; those of pages need Chromium"
	@echo "make colab-check  ask pip what evalib would change in Colab; needs the package index"
	@echo "make torture  runs killed, stopped and damaged by the hundred: a table of trials and losses (half an hour)"
	@echo "make clean  remove the virtual environment, builds and caches (not runs/)"

demo: $(VENV)/.installed
	$(BIN)/evalib demo

test: $(VENV)/.installed-test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy evalib benchmarks
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

docs: $(VENV)/.installed-docs
	$(BIN)/python docs/build.py site

figures: $(VENV)/.installed-test
	$(BIN)/python images/make_figures.py

colab-check: | $(BIN)/python
	$(BIN)/python tests/colab_check.py

torture: $(VENV)/.installed-test
	$(BIN)/python -m tests.torture

# A stamp is written only after the whole installation: an interrupted one is taken up again.
$(VENV)/.installed: $(REQUIREMENTS) | $(BIN)/python
	$(BIN)/python -m pip install --editable .
	@touch $@

$(VENV)/.installed-test: $(REQUIREMENTS) | $(BIN)/python
	$(BIN)/python -m pip install --editable ".[test]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(REQUIREMENTS) | $(BIN)/python
	$(BIN)/python -m pip install --editable ".[docs]"
	@touch $@ $(VENV)/.installed

$(BIN)/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || { \
	  echo "evalib needs Python 3.10 or newer as $(PYTHON). Install one, or name it: make demo PYTHON=/path/to/python3.12"; \
	  exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment. On Debian and Ubuntu: sudo apt install python3-venv"; \
	  echo "Elsewhere install a complete Python, or name one: make demo PYTHON=/path/to/python3.12"; \
	  exit 1; }

clean:
	rm -rf $(VENV) build dist site evalib.egg-info .pytest_cache .mypy_cache .ruff_cache
	find evalib tests -name __pycache__ -type d -prune -exec rm -rf {} +
