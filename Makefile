# `make help` lists what there is. Set-up happens once and is reused.

PYTHON  := python3
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
INSTALL := install --disable-pip-version-check --progress-bar off -q
PRODUCT := elpv-mono
DATA    := var/data/$(PRODUCT)
MODELS  := var/models
CHECKPOINT := var/checkpoints/$(PRODUCT)
FIGURES := var/$(PRODUCT).json
DEBIAN  := buildah chromium debootstrap mosquitto prometheus prometheus-alertmanager runc wine wine64

.PHONY: help run setup test test-system test-gpu image-test debian check format rules proto lock sbom audit bench bench-quality soak fuzz clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: $(FIGURES)  ## set up, then train, export, measure and serve the example: solar cells
	@printf '\n'; cat $(FIGURES:.json=.txt); printf '\n'
	@exec $(BIN)/drd-serve --models $(MODELS)

setup: $(READY)  ## the virtual environment

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 15) or sys.exit( \
	  f"Python 3.11 to 3.14 is needed, and $(PYTHON) is {sys.version.split()[0]}: make PYTHON=python3.14, say")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip $(INSTALL) -r requirements/dev.txt
	$(BIN)/pip $(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(DATA): | $(READY)
	$(BIN)/python -m training.example $@

$(CHECKPOINT)/checkpoint.json: | $(DATA)
	$(BIN)/drd-train $(DATA) --product $(PRODUCT) --out $(CHECKPOINT) --recipe quick

$(MODELS)/$(PRODUCT)/1/manifest.json: | $(CHECKPOINT)/checkpoint.json
	$(BIN)/drd-export $(CHECKPOINT) --to $(MODELS) --version 1

$(FIGURES): | $(MODELS)/$(PRODUCT)/1/manifest.json
	$(BIN)/drd-evaluate $(MODELS)/$(PRODUCT)/1 $(DATA) --json $@.part > $(@:.json=.txt)
	@mv $@.part $@

test: $(READY)  ## the test suite
	$(BIN)/pytest -m 'not system'

test-system: $(READY) debian  ## what needs more than this environment: other environments, minutes
	$(BIN)/pytest -m system

GPU     := .venv-gpu
test-gpu: $(GPU)/.ready  ## what needs an NVIDIA GPU: engines, training, and a table of images per second
	$(GPU)/bin/pytest --show-capture=stdout tests/gpu
	$(GPU)/bin/python -m tests.bench.gpu

$(GPU)/.ready: requirements/dev.txt requirements/export-gpu.txt pyproject.toml  # ONNX Runtime's two packages exclude each other
	$(PYTHON) -m venv $(GPU)
	$(GPU)/bin/pip $(INSTALL) -r requirements/dev.txt
	$(GPU)/bin/pip uninstall -q -y onnxruntime
	$(GPU)/bin/pip $(INSTALL) -r requirements/export-gpu.txt
	$(GPU)/bin/pip $(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

image-test: $(READY) debian  ## the service's image, built and started for real
	$(BIN)/pytest -m system tests/deploy/test_image.py

debian:  # what system tests need that pip has not
	@dpkg-query -W $(DEBIAN) >/dev/null 2>&1 || { \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 $(DEBIAN); }

check: $(READY)  ## formatter, linter, strict types, import contracts, generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 training export service/client deploy/examples/*.py
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/service/test_generated_code.py

format: $(READY)  ## apply the formatter and what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

RULES   := deploy/kubernetes/components/monitoring/rules.yaml
rules: $(RULES)  ## Prometheus' rules as Kubernetes takes them, from deploy/prometheus/rules

$(RULES): deploy/prometheus/rules/drd.yml Makefile
	@printf '%s\n' '# Made by `make rules` from $<.' 'apiVersion: monitoring.coreos.com/v1' \
	  'kind: PrometheusRule' 'metadata: {name: drd-inspect}' 'spec:' > $@
	@sed '/./s/^/  /' $< >> $@

proto: $(READY)  ## the checked-in gRPC code, from proto/inspection.proto
	$(BIN)/python proto/generate.py

LOCKED  := dev=dev export=export,openvino,client service=service,openvino service-gpu=service-gpu,tensorrt-rtx \
           export-gpu=export-gpu,openvino training=training supply=supply
lock: $(READY)  ## pin requirements/*.txt again from pyproject.toml
	@set -e; for set in $(LOCKED); do \
	  $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    $$(echo "$${set#*=}" | sed 's/[^,]*/--extra &/g; s/,/ /g') pyproject.toml -o requirements/$${set%%=*}.txt; done

SETS    := service
SBOM    := var/sbom
sbom: $(SBOM)/tools  ## what the service is made of: var/sbom/service.cdx.json, CycloneDX; SETS='service training' for more
	@set -e; for set in $(SETS); do \
	  $(PYTHON) -m venv --clear $(SBOM)/$$set; \
	  $(SBOM)/$$set/bin/pip install -q --require-hashes --progress-bar off -r requirements/$$set.txt; \
	  $(SBOM)/$$set/bin/pip uninstall -q -y pip setuptools; \
	  $(SBOM)/tools/bin/cyclonedx-py environment $(SBOM)/$$set/bin/python \
	    --pyproject pyproject.toml --mc-type application --output-reproducible -o $(SBOM)/$$set.cdx.json; \
	  echo "$(SBOM)/$$set.cdx.json"; done

audit: $(SBOM)/tools  ## known vulnerabilities of what is pinned, as far as advisories can be reached from here
	@$(SBOM)/tools/bin/python requirements/audit.py

$(SBOM)/tools: requirements/supply.txt  # tools that nothing else needs, in an environment of their own
	@$(PYTHON) -m venv --clear $@
	@$@/bin/pip install -q --require-hashes --progress-bar off -r $<
	@touch $@

soak: $(READY)  ## the service under everything at once; MINUTES=30; memory, threads and files in var/soak
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),30)

fuzz: $(READY)  ## coverage-guided fuzzing of the image reader and the manifest reader; MINUTES=5 for each
	$(BIN)/python -m tests.hostile.fuzz images --minutes $(or $(MINUTES),5)
	$(BIN)/python -m tests.hostile.fuzz manifests --minutes $(or $(MINUTES),5)

bench: $(FIGURES)  ## tables: engines, serving, a training step, 100,000 requests (measure on a quiet machine)
	$(BIN)/python -m tests.bench.training
	$(BIN)/python -m tests.bench.runtimes $(MODELS)/$(PRODUCT)/1
	$(BIN)/python -m tests.bench.serving $(MODELS)/$(PRODUCT)/1
	$(BIN)/python -m tests.bench.callers

bench-quality: | $(DATA)  ## the ablation ladder, RD to the recipe, on the example; other data: tests/bench/quality.py --help
	$(BIN)/python -m tests.bench.quality $(DATA)

clean:  ## remove what `make run` made (the environment stays)
	rm -rf var
