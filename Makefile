# make demo   set up an environment here, compile the example model, run it on real digits
# make test   install what the tests need and pass them (CI=true: the slow ones too)
# make nightly  every test, in an hour or two
# make fuzz   10,000 random models on every target and 100,000 damaged files, from FUZZ_SEED on; hours
# make clean  remove what these made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := .demo
# Without a C compiler the artifacts are linked by the one in the ziglang package.
CC_FOUND := $(shell command -v cc || command -v gcc || command -v clang)
EXTRAS := $(if $(CC_FOUND),,cross)
PYTEST_ARGS ?= -n 2 -m "$(if $(filter true,$(CI)),not nightly,not slow and not nightly)"

FUZZ_SEED ?= 0
FUZZ = PYTHONPATH=tests $(BIN)/python
FUZZ_ARGS = --seed $(FUZZ_SEED) --workers $(shell nproc) --out fuzz-out

.PHONY: demo test nightly fuzz clean

demo: $(VENV)/installed
	$(BIN)/tilewright compile examples/digits/digits.onnx -o $(DEMO)/digits --report $(DEMO)/digits.html
	@echo
	$(BIN)/python examples/digits/demo.py $(DEMO)/digits
	@echo
	@echo "artifact  $(CURDIR)/$(DEMO)/digits"
	@echo "header    $(CURDIR)/$(DEMO)/digits/digits.h"
	@echo "report    $(CURDIR)/$(DEMO)/digits.html"

test: $(VENV)/tests-installed
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pytest $(PYTEST_ARGS)

nightly: $(VENV)/tests-installed
	$(BIN)/pytest -n 2

fuzz: $(VENV)/tests-installed
	$(FUZZ) tests/fuzz/damaged.py $(FUZZ_ARGS) --count 100000
	$(FUZZ) tests/fuzz/graphs.py $(FUZZ_ARGS) --count 10000 --targets interpreter,cpu,reference
	$(FUZZ) tests/fuzz/graphs.py $(FUZZ_ARGS) --count 10000 --targets library,cuda,xla,tvm,fpga

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Tilewright needs Python 3.10 or newer; name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "$(PYTHON) cannot make environments; on Debian: apt install python3-venv"; exit 1; }

$(VENV)/installed: setup.py pyproject.toml | $(VENV)/bin/pip
	@echo "C compiler: $(if $(CC_FOUND),$(CC_FOUND),none found; installing the ziglang package as the linker)"
	$(BIN)/pip install --quiet --editable '.$(if $(EXTRAS),[$(EXTRAS)])'
	@touch $@

$(VENV)/tests-installed: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[test$(if $(EXTRAS),$(comma)$(EXTRAS))]'
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) fuzz-out

comma := ,
