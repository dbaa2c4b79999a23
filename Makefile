# The front door. CMake and Ninja do the work underneath.
BUILD ?= build
PREFIX ?= /usr/local
JOBS ?= $(shell nproc)
LIMIT ?=
FUZZ_SECONDS ?= 60

MXLM = $(BUILD)/mxlm
export BUILD JOBS LIMIT

.DEFAULT_GOAL := help
.PHONY: help deps model build run run-full check check-arm check-exhaustive sanitize fuzz \
        format format-check install clean

help: ## show this list
	@echo 'make TARGET [BUILD=build] [JOBS=$(JOBS)] [PREFIX=$(PREFIX)]'
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  %-17s %s\n", $$1, $$2 }' Makefile

deps: ## install the Debian or Ubuntu packages that are missing
	@scripts/install-deps.sh

model: ## fetch the SmolLM2-135M checkpoint into the cache and print its path
	@scripts/fetch-model.sh

build: ## build the program: build/mxlm
	@cmake -G Ninja -S . -B $(BUILD) -DCMAKE_BUILD_TYPE=Release >/dev/null
	@ninja -C $(BUILD) -j $(JOBS) mxlm_app

run: ## quantize a real model, evaluate both, compare (LIMIT=N documents)
	@scripts/install-deps.sh
	@$(MAKE) --no-print-directory build
	@scripts/run.sh

run-full: ## the same over all 5,153 documents of lambada_openai
	@$(MAKE) --no-print-directory run LIMIT=0

check: ## everything that passes or fails
	@scripts/install-deps.sh
	@scripts/check.sh

check-arm: ## cross-compile for 64-bit ARM and test under qemu (about 5 minutes)
	@scripts/install-deps.sh arm
	@scripts/check-arm.sh

check-exhaustive: ## all 2^32 floats through the formats (long)
	@scripts/check.sh exhaustive

sanitize: ## build with ASan and UBSan and run all the tests
	@scripts/check.sh sanitize

fuzz: ## run each fuzz target for FUZZ_SECONDS (needs clang)
	@scripts/install-deps.sh fuzz
	@cmake -G Ninja -S . -B $(BUILD)/fuzz -DCMAKE_C_COMPILER=clang -DMXLM_FUZZ=ON -DMXLM_TESTS=OFF \
	  -DMXLM_FUZZ_SECONDS=$(FUZZ_SECONDS) >/dev/null
	@ninja -C $(BUILD)/fuzz -j $(JOBS) fuzz_run

format: ## rewrite the C files in the tree's style
	@git ls-files '*.c' '*.h' | xargs clang-format -i

format-check: ## fail when a C file is not in the tree's style
	@git ls-files '*.c' '*.h' | xargs clang-format --dry-run -Werror

install: build ## install the program under PREFIX
	@cmake --install $(BUILD) --prefix $(PREFIX)

clean: ## remove what was built (results/ and the cache stay)
	@rm -rf $(BUILD)
