# The environment comes from this file alone: Python 3.11 with venv and pip is all a machine needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
INTEROP := .venv-transformers-4.57
TFDS := .venv-tfds
RLDS := .venv-rlds
TENSORFLOW := .venv-tensorflow
MINARI := .venv-minari
LEROBOT := .venv-lerobot
RAY := .venv-ray
TIMM := .venv-timm
LM_EVAL := .venv-lm-eval
INSPECT := .venv-inspect
CLIENTS := .venv-clients
LLAMA := .venv-llama
TRL := .venv-trl
ENVIRONMENTS := .venv-environments
REPLAY := .venv-replay
PACKAGES := data_cards experience medsiglip medgemma evals finetune
export HF_HUB_OFFLINE ?= 1
export TQDM_DISABLE ?=

.PHONY: install demo test check bench kit-table kit-labels system test-faults test-interop test-ray test-timm test-lm-eval test-clients test-llama test-trl test-environments bench-replay bench-replay-dqn clean

install: $(STAMP)

# The pinned torch goes first and alone: asked for by another package, pip would fetch the newest CUDA build.
# pip would compile 15,700 files on one core. This compiles on all, less what is never imported here; the exit status only
# says that some package carries a file for a newer Python.
NOT_COMPILED := /tests/|/transformers/models/(?!auto/|gemma|siglip)
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m compileall -qq -j 0 -x '$(NOT_COMPILED)' $(VENV)/lib || true
	touch $@

demo: $(STAMP)
	$(BIN)/medgemma demo --out demo-out

# Two workers of one thread each are faster on two cores than one of two.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal

test: $(STAMP)
	$(PYTEST)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -m "not slow"

bench: $(STAMP)
	$(BIN)/python -m benchmarks.encoder
	$(BIN)/python -m benchmarks.imaging
	$(BIN)/python -m benchmarks.engine
	LM_EVAL_PYTHON=$(wildcard $(LM_EVAL)/bin/python) $(BIN)/python -m benchmarks.evals
	TRL_PYTHON=$(wildcard $(TRL)/bin/python) $(BIN)/python -m benchmarks.losses
	TRL_PYTHON=$(wildcard $(TRL)/bin/python) $(BIN)/python -m benchmarks.losses --loss divergence

# nano on every task whose data is in the kit, written to docs/kit-table.md. A failed item is named and does not stop it;
# the folder is emptied first, so that no row can be an earlier model's. README.md shows five of its rows; a test compares.
KIT ?= ../shared/data
KIT_RUNS ?= runs/kit
KIT_OPTIONS ?= --limit 100 --max-new-tokens 64
KIT_PROBES ?= --limit 40 --max-new-tokens 64
kit-table: $(STAMP)
	rm -rf $(KIT_RUNS)
	-$(BIN)/medgemma-eval run all-kit --data $(KIT) --out $(KIT_RUNS) $(KIT_OPTIONS)
	-$(BIN)/medgemma-eval reliability all-kit --data $(KIT) --out $(KIT_RUNS) $(KIT_PROBES)
	$(BIN)/medgemma-eval report $(KIT_RUNS)
	$(BIN)/medgemma-eval report $(KIT_RUNS) --markdown --into docs/kit-table.md

# Zero-shot labels and probes of every labelled picture set of the kit, raw pixels beside them, written to docs/kit-labels.md.
kit-labels: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/medgemma-eval labels --data $(KIT) --dtype float32 --device cpu --out docs/kit-labels.md

# Recorders, replays and training runs killed at random points and at every write, disks that are full, files that are cut;
# replays with many threads, limiters against the rule. CI runs it so; `make test-faults LONG=1` is the long form: 1,000 kills
# each, a column of 4 GiB (10 GiB of memory), 1,000 threads for 30 s, 100,000 sequences (10,000 of whole tables).
LONG ?=
KILLS ?= $(if $(LONG),1000,300)
test-faults: $(STAMP)
	EPISODE_KILLS=$(KILLS) TRAINING_KILLS=$(KILLS) EPISODE_LARGE=$(if $(LONG),1,0) $(PYTEST) \
	  tests/experience/test_kills.py tests/experience/storage tests/finetune/training/test_state.py
	REPLAY_KILLS=$(if $(LONG),1000,100) REPLAY_THREADS=$(if $(LONG),1000,100) REPLAY_SECONDS=$(if $(LONG),30,5) \
	  REPLAY_SEQUENCES=$(if $(LONG),100000,3000) REPLAY_SEEDS=$(if $(LONG),20,4) $(PYTEST) tests/experience/replay

# Our folders in the oldest transformers that Hub users of Gemma 3 run; our episodes in tensorflow-datasets without
# TensorFlow, and with it beside rlds, whose pins are the only ones that import together; what Minari and LeRobot write
# (LeRobot without the torchvision that it asks for).
test-interop: $(STAMP)
	test -e $(INTEROP)/.installed || { $(PYTHON) -m venv $(INTEROP) && \
	  $(INTEROP)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 && \
	  $(INTEROP)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==4.57.3 pillow sentencepiece protobuf && \
	  touch $(INTEROP)/.installed; }
	test -e $(TFDS)/.installed || { $(PYTHON) -m venv $(TFDS) && \
	  $(TFDS)/bin/pip install --quiet --disable-pip-version-check tensorflow-datasets==4.9.10 array_record pillow && \
	  touch $(TFDS)/.installed; }
	test -e $(RLDS)/.installed || { $(PYTHON) -m venv $(RLDS) && \
	  $(RLDS)/bin/pip install --quiet --disable-pip-version-check "dm-reverb[tensorflow]==0.14.0" rlds==0.1.8 \
	    tensorflow-datasets==4.9.6 importlib_resources tensorflow-metadata==1.15.0 "pyarrow<19" && \
	  touch $(RLDS)/.installed; }
	test -e $(TENSORFLOW)/.installed || { $(PYTHON) -m venv $(TENSORFLOW) && \
	  $(TENSORFLOW)/bin/pip install --quiet --disable-pip-version-check tensorflow-datasets==4.9.10 tensorflow==2.21.0 array_record pillow && \
	  touch $(TENSORFLOW)/.installed; }
	test -e $(MINARI)/.installed || { $(PYTHON) -m venv $(MINARI) && \
	  $(MINARI)/bin/pip install --quiet --disable-pip-version-check "minari[hdf5,arrow]==0.5.4" pillow && \
	  touch $(MINARI)/.installed; }
	test -e $(LEROBOT)/.installed || { $(PYTHON) -m venv $(LEROBOT) && \
	  $(LEROBOT)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 && \
	  $(LEROBOT)/bin/pip install --quiet --disable-pip-version-check --no-deps lerobot==0.4.4 && \
	  $(LEROBOT)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 "numpy<2.3" "datasets<5" \
	    "huggingface-hub<0.36" "av<16" jsonlines "packaging<26" pillow draccus==0.10.0 einops deepdiff termcolor accelerate && \
	  touch $(LEROBOT)/.installed; }
	INTEROP_PYTHON=$(INTEROP)/bin/python EPISODES_TFDS_PYTHON=$(TFDS)/bin/python EPISODES_RLDS_PYTHON=$(RLDS)/bin/python \
	  EPISODES_TENSORFLOW_PYTHON=$(TENSORFLOW)/bin/python EPISODES_MINARI_PYTHON=$(MINARI)/bin/python \
	  EPISODES_LEROBOT_PYTHON=$(LEROBOT)/bin/python \
	  $(BIN)/pytest tests/interop

# The calls of a replay with its tables in Ray actors, data by value and in groups in the object store, and what only actors
# can do: die, be several, serve many processes. Ray needs nothing of the rest of the package.
ON_RAY := $(addprefix tests/experience/replay/test_,calls.py replay.py writers.py fields.py extensions.py fill.py watch.py)
test-ray: export REPLAY_CLIENTS ?= $(if $(LONG),16,4)
test-ray: export REPLAY_SECONDS ?= $(if $(LONG),30,2)
test-ray: export REPLAY_KILLS ?= $(if $(LONG),100,6)
test-ray:
	test -e $(RAY)/.installed || { $(PYTHON) -m venv $(RAY) && \
	  $(RAY)/bin/pip install --quiet --disable-pip-version-check ray==2.60.0 numpy pyarrow pytest pydantic pyyaml typer && \
	  touch $(RAY)/.installed; }
	REPLAY_ON_RAY=1 $(RAY)/bin/pytest --noconftest -p tests.ray.everywhere $(ON_RAY)
	REPLAY_ON_RAY=groups $(RAY)/bin/pytest --noconftest -p tests.ray.everywhere $(ON_RAY) tests/ray

# Replay beside torchrl and cpprb: speeds, and what DQN learns from each.
$(REPLAY)/.installed:
	$(PYTHON) -m venv $(REPLAY)
	$(REPLAY)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(REPLAY)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 torchrl==0.14.1 tensordict==0.14.3 \
	  cpprb==11.0.0 gymnasium==1.4.0 pyarrow pydantic pyyaml typer
	touch $@

bench-replay: $(REPLAY)/.installed
	OMP_NUM_THREADS=1 $(REPLAY)/bin/python -m benchmarks.replay --peers $(REPLAY)/bin/python
	$(REPLAY)/bin/python -m benchmarks.replay --journal

bench-replay-dqn: $(REPLAY)/.installed
	OMP_NUM_THREADS=1 $(REPLAY)/bin/python -m benchmarks.replay_dqn

# timm brings torchvision, whose compiled part breaks beside a CPU torch: what the user then sees.
test-timm: $(STAMP)
	test -e $(TIMM)/.installed || { $(PYTHON) -m venv $(TIMM) && \
	  $(TIMM)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0 && \
	  $(TIMM)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,timm]" && \
	  touch $(TIMM)/.installed; }
	$(TIMM)/bin/pytest tests/timm

# lm-evaluation-harness as the oracle of the likelihood rows: the same prompts, options and likelihoods, item by item; its
# readers of answers and inspect_ai's beside ours (benchmarks/gauntlet.py).
test-lm-eval: $(STAMP)
	test -e $(LM_EVAL)/.installed || { $(PYTHON) -m venv $(LM_EVAL) && \
	  $(LM_EVAL)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0 && \
	  $(LM_EVAL)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt "lm_eval[hf]==0.4.13" && \
	  touch $(LM_EVAL)/.installed; }
	test -e $(INSPECT)/.installed || { $(PYTHON) -m venv $(INSPECT) && \
	  $(INSPECT)/bin/pip install --quiet --disable-pip-version-check inspect_ai==0.3.285 && \
	  touch $(INSPECT)/.installed; }
	LM_EVAL_PYTHON=$(LM_EVAL)/bin/python INSPECT_PYTHON=$(INSPECT)/bin/python $(BIN)/pytest tests/lm_eval

# TRL's trainer, whose pins are its own, as the peer of the losses (benchmarks/losses.py) and as the host of our collator.
# Liger's divergence from a teacher is plain torch; its other parts want triton.
$(TRL)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(TRL)
	$(TRL)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(TRL)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[train]" \
	  trl==1.16.0 pytest
	$(TRL)/bin/pip install --quiet --disable-pip-version-check --no-deps liger-kernel==0.8.5
	touch $@

test-trl: $(TRL)/.installed
	$(TRL)/bin/pytest tests/trl

# Tasks as `verifiers` tasksets, whose forty packages stay in an environment of their own.
test-environments:
	test -e $(ENVIRONMENTS)/.installed || { $(PYTHON) -m venv $(ENVIRONMENTS) && \
	  $(ENVIRONMENTS)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0 && \
	  $(ENVIRONMENTS)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	    --editable ".[environments]" verifiers==0.3.1 pytest filelock && \
	  touch $(ENVIRONMENTS)/.installed; }
	$(ENVIRONMENTS)/bin/pytest tests/verifiers

# Other people's clients against the server, and schemathesis over its OpenAPI.
test-clients: $(STAMP)
	test -e $(CLIENTS)/.installed || { $(PYTHON) -m venv $(CLIENTS) && \
	  $(CLIENTS)/bin/pip install --quiet --disable-pip-version-check openai==3.57.0 ollama==0.6.3 langchain-openai==1.7.4 \
	    schemathesis==4.32.5 && \
	  touch $(CLIENTS)/.installed; }
	CLIENTS_PYTHON=$(CLIENTS)/bin/python $(BIN)/pytest tests/clients

# llama.cpp's own server, from a wheel that holds it, over the GGUF files that we write.
test-llama: $(STAMP)
	test -e $(LLAMA)/.installed || { $(PYTHON) -m venv $(LLAMA) && \
	  $(LLAMA)/bin/pip install --quiet --disable-pip-version-check xllamacpp==2026.10.11549 && touch $(LLAMA)/.installed; }
	LLAMA_PYTHON=$(LLAMA)/bin/python $(BIN)/pytest tests/llama

# Debian packages that some tests use.
system:
	apt-get update
	apt-get install --yes --no-install-recommends chromium dcmtk ffmpeg

clean:
	rm -rf $(VENV) $(INTEROP) $(TFDS) $(RLDS) $(TENSORFLOW) $(MINARI) $(LEROBOT) $(RAY) $(TIMM) $(LM_EVAL) $(INSPECT) $(CLIENTS) $(LLAMA) $(TRL) $(ENVIRONMENTS) build dist *.egg-info
