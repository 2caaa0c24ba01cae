# Variables: PYTHON (3.11 or newer), TORCH (what to install for it; TORCH=torch takes the newest, for a GPU),
# COMFYUI_PATH (a ComfyUI checkout to test against, instead of the one that is fetched), PYTEST_ARGS, ARGS,
# WORKERS (processes that tests run in; 0: in this one), SHOTS (a folder for pictures of test-frontends).
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0
PY := .venv/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
# Test files are shared out to so many processes, of one thread each.
WORKERS ?= 2
# Threads that wait give their core away: without it torch crawls where a second process computes.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help test test-durability test-frontends test-install test-mutation demo lint lint-web bench-step bench-quality bench-siblings bench-robust bench-ranks bench-memory bench-page bench-gpu host clean

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

test: host ## all tests, a real ComfyUI and a real browser included; PYTEST_ARGS="-k lora" selects
	@sh tests/get_chromium.sh
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-durability: host ## runs that are killed, cancelled and starved of disk end as if nothing had happened (minutes)
	$(PY) -m pytest tests/durability -m durability $(PYTEST_ARGS)

test-frontends: host ## the page in three of ComfyUI's frontends (an hour); writes docs/FRONTENDS.md; SHOTS=docs takes its pictures
	@sh tests/get_chromium.sh
	@$(PY) -m fluxduel.tests.get_frontends
	FLUXDUEL_SHOTS=$(SHOTS) OMP_NUM_THREADS=1 $(PY) -m pytest tests/browser/frontends -m slow $(PYTEST_ARGS); \
	status=$$?; $(PY) -m fluxduel.tests.browser.frontends.document; exit $$status

test-install: .venv/installed ## what installing the requirements moves in hosts' environments, and the engine with what it brings
	$(PY) -m pytest tests/unit/test_install.py -m "slow or not slow" -s $(PYTEST_ARGS)

test-mutation: .venv/installed ## plant small faults one by one and count those that no test notices (hours); ARGS="--faults 50"
	OMP_NUM_THREADS=1 $(PY) -m fluxduel.tests.mutation.run $(ARGS)

demo: host ## train both stages on the CPU in a real ComfyUI and show what changed
	$(PY) -m fluxduel.demo.run $(ARGS)

lint: .venv/installed ## ruff
	$(PY) -m ruff check .

lint-web: ## TypeScript's checks of the page's scripts (needs npx, which fetches the compiler)
	npx --yes --package typescript tsc -p web/jsconfig.json

bench-step: .venv/installed ## time of a training step against a plain diffusers + PEFT loop; ARGS are the script's
	$(PY) benchmarks/step.py $(ARGS)

bench-quality: .venv/installed ## does stage 2 win, and over what (an hour; QUICK=1: minutes); writes docs/EXPERIMENTS.md
	$(PY) -m fluxduel.benchmarks.quality.run $(ARGS)

bench-siblings: .venv/installed ## LoRAs on two distilled siblings of the tiny base (an hour and a half); writes its part of docs/EXPERIMENTS.md
	$(PY) -m fluxduel.benchmarks.quality.siblings $(ARGS)

bench-robust: .venv/installed ## twenty seeds of stage 2, and twenty with a discriminator that runs away
	$(PY) -m fluxduel.benchmarks.robustness $(ARGS)

bench-ranks: .venv/installed ## throughput of two ranks, each on a core, against one
	$(PY) -m fluxduel.benchmarks.ranks $(ARGS)

bench-memory: .venv/installed ## memory of training on 100,000 pictures against 20
	$(PY) -m fluxduel.benchmarks.dataset_memory $(ARGS)

bench-page: host ## time of a training step with a page open that shows it, against none
	$(PY) -m fluxduel.benchmarks.page $(ARGS)

bench-gpu: .venv/installed ## memory and time at FLUX.1's full size on one GPU, random weights (8 minutes of an H100); TORCH=torch
	$(PY) -m fluxduel.benchmarks.gpu.run $(ARGS)

host: .venv/installed ## fetch the ComfyUI that tests and demo start, and what it requires
	@$(PY) -m fluxduel.tests.get_host

clean: ## remove everything that these commands made
	rm -rf .venv .host .frontends .demo .bench .pytest_cache .ruff_cache fluxduel.egg-info

# torch first: a torch that is already importable (a venv with --system-site-packages) is kept.
.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "FluxDuel needs Python 3.11 or newer: make PYTHON=python3.12")'
	@echo "Installing into .venv (a few minutes the first time)"
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -c 'import torch' 2>/dev/null || $(PIP) "$(TORCH)"
	$(PY) -c 'import importlib.metadata as m; m.version("torchvision")' 2>/dev/null || $(PIP) --no-deps "$(TORCHVISION)"
	$(PIP) --editable '.[test]'
	$(PY) -c 'import torchvision' 2>/dev/null || $(PY) -m fluxduel.tests.mend_torchvision
	@touch $@
