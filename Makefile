# make install   set up .venv with everything (quick when nothing changed)
# make video     render the example prompt and an emoji into out/
# make test      lint, types, import rules, docstrings, tests
# make test-all  the same with those that take longest: compiled code, waiting, a curve over trainings
# make test-fast the same without the slow tests: two minutes on two quiet cores
# make lint      the checks without the tests
# make default-model   train the default model again from nothing: hours, resumable; PRESET=gpu on a GPU
# make emoji-model     make the emoji model from nothing, pictures and scores included: hours, resumable; WORLD=popular for forty-eight of them (docs/emoji.md)
# make clean     remove what the above made

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PROMPT ?= a large pink heart moving up and to the left on a teal background
EMOJI ?= a rocket on a navy background

.PHONY: install video test test-all test-fast lint clean default-model emoji-model

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --no-compile $$(grep '^torch==' constraints.txt)
	$(PIP) install --no-compile --editable '.[dev]' --constraint constraints.txt
# by all cores, where pip takes one; of a template of another language in some package no bytecode is made
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib || true
	@touch $@

video: install
	$(BIN)/latent-shift generate "$(PROMPT)" --seed 5 --output out/example.mp4 --force
	$(BIN)/latent-shift generate "$(EMOJI)" --model emoji --seed 1 --output out/emoji.gif --force

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/docstrings.py src

PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations=15

test: lint
	$(PYTEST) -m 'not long'

test-all: lint
	$(PYTEST)

test-fast: lint
	$(PYTEST) -m 'not slow'

default-model: install
	recipes/moving-shapes/default-model.sh $(if $(PRESET),--preset recipes/moving-shapes/presets/$(PRESET).yaml)

emoji-model: install
	recipes/emoji/emoji-model.sh $(or $(WORLD),all)

clean:
	rm -rf .venv out dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
