# make demo   install into .venv and augment 100 photographs with the photo model that ships (no GPU, no download of data)
# make demo-digits   the same of 1797 handwritten digits, which most commands in the docs go on with
# make demo-inpaint   holes in digits, repaired by the same model
# make studio   a page in the browser where the same photographs are fused live
# make cluster-demo   three Ray nodes here, one of them killed in the middle of augment
# make test   the tests of every job and module (minutes); make test-all: the slow ones too (kills, several nodes, browser)
# make lint   ruff, sizes, mypy, import-linter; make fuzz: damaged input for every reader; make bench: the quick measurements; make docs: the manuals as a site
PYTHON ?= python3
VENV ?= .venv
OUT ?= out
PYTEST_ARGS ?=
SEED ?= 0
COUNT ?= 5000
BENCHMARKS ?= $(wildcard benchmarks/*.py)

BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo photo-model demo-digits demo-inpaint studio cluster-demo test test-all test-slow test-shared lint fuzz bench docs demo-model base-models wheel clean
.DELETE_ON_ERROR:

# a stamp is older than pyproject.toml when the dependencies may have changed; the sources need no new install
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "installing noiseweave into $(VENV) (torch and Ray are large: some minutes the first time) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing the development tools into $(VENV) ..."
	@$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@echo "installing mkdocs into $(VENV) ..."
	@$(PIP) -e '.[docs]'
	@touch $@

$(VENV)/.installed-studio: $(VENV)/.installed
	@echo "installing Gradio into $(VENV) ..."
	@$(PIP) -e '.[studio]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/noiseweave augment --config configs/augment-flowers.yaml --pairing.max_pairs 150 --cluster.address inline \
		--input examples/flowers --output $(OUT)/demo/flowers

demo-digits: $(VENV)/.installed
	$(BIN)/noiseweave pack --dataset digits --size 16 --output $(OUT)/demo/digits
	$(BIN)/noiseweave augment --config configs/augment-digits.yaml \
		--input $(OUT)/demo/digits/shards --output $(OUT)/demo/augmented

demo-inpaint: $(VENV)/.installed
	$(BIN)/python scripts/digits_with_holes.py $(OUT)/demo/broken
	$(BIN)/noiseweave inpaint --config configs/inpaint-digits.yaml --images $(OUT)/demo/broken/images \
		--masks $(OUT)/demo/broken/masks --output $(OUT)/demo/inpainted

studio: $(VENV)/.installed-studio
	$(BIN)/noiseweave studio --model.name flowers-flow --input examples/flowers --output $(OUT)/studio

cluster-demo: $(VENV)/.installed
	$(BIN)/python scripts/cluster_demo.py $(OUT)/cluster-demo

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-all: $(VENV)/.installed-dev
	$(PYTEST) $(PYTEST_ARGS)

# the parts of test-all that .ci/run does one after another; test-shared needs photos that no user has
test-slow: $(VENV)/.installed-dev
	$(PYTEST) -m "slow and not shared" $(PYTEST_ARGS)

test-shared: $(VENV)/.installed-dev
	$(PYTEST) -m shared $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python scripts/check_sizes.py noiseweave
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports

# mutations of all that is read, a function of SEED and their numbers; minutes
fuzz: $(VENV)/.installed-dev
	PYTHONPATH=.:tests:tests/jobs $(BIN)/python -m fuzz --seed $(SEED) --count $(COUNT)

bench: $(VENV)/.installed-dev
	@set -e; for file in $(BENCHMARKS); do echo "== $$file"; $(BIN)/python $$file; done

# build/site/index.html; a dead link, or a page that the navigation does not name, ends it
docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict

demo-model: $(VENV)/.installed
	$(BIN)/noiseweave pack --dataset digits --size 16 --output $(OUT)/digits
	$(BIN)/noiseweave train --config configs/demo-model.yaml \
		--input $(OUT)/digits/shards --output $(OUT)/demo-model

# flowers-flow anew, from a folder with one of photographs for each class: hours on two cores
photo-model: $(VENV)/.installed
	@[ -n "$(PHOTOS)" ] || { echo "make photo-model PHOTOS=folder: give a folder with one of photographs for each class" >&2; exit 2; }
	$(BIN)/noiseweave pack --input "$(PHOTOS)" --size 256 --output $(OUT)/photo-model/photos
	$(BIN)/noiseweave train --config configs/train-photos-flow.yaml --model.classes -1 \
		--input $(OUT)/photo-model/photos/shards --output $(OUT)/photo-model/first
	$(BIN)/noiseweave train --config configs/tune-photos-flow.yaml --init $(OUT)/photo-model/first \
		--steps 7000 --ema 0.9995 --seed 1 --optimizer.warmup 300 \
		--input $(OUT)/photo-model/photos/shards --output $(OUT)/photo-model/second
	[ -e $(OUT)/photo-model/grown ] || $(BIN)/python scripts/grow_model.py $(OUT)/photo-model/second $(OUT)/photo-model/grown
	$(BIN)/noiseweave train --config configs/tune-photos-flow.yaml --init $(OUT)/photo-model/grown \
		--steps 4300 --seed 1 --optimizer.lr 8e-4 \
		--input $(OUT)/photo-model/photos/shards --output $(OUT)/photo-model/third
	$(BIN)/noiseweave train --config configs/tune-photos-flow.yaml --init $(OUT)/photo-model/third \
		--steps 6600 --ema 0.9995 --seed 2 \
		--input $(OUT)/photo-model/photos/shards --output $(OUT)/photo-model/model

# one model of each kind on half of the digits, scored on the other half: about an hour on two cores
base-models: $(VENV)/.installed-dev
	$(BIN)/noiseweave pack --dataset digits --size 16 --shard_samples 150 --validation 0.5 --output $(OUT)/half
	set -e; for kind in vae dcgan flow digits-classes mixing; do \
		$(BIN)/noiseweave train --config configs/train-$$kind.yaml \
			--input $(OUT)/half/shards --output $(OUT)/base/$$kind; done
	$(BIN)/noiseweave train --config configs/train-flow.yaml --objective.coupling optimal_transport \
		--input $(OUT)/half/shards --output $(OUT)/base/flow-ot
	$(BIN)/python benchmarks/base_models.py --models $(OUT)/base --docs docs

wheel: $(VENV)/.installed-dev
	$(BIN)/python -m build --wheel

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find noiseweave tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
