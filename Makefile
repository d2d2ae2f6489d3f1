# The project's commands; each sets up what it needs. `make help` lists them.
SHELL := /bin/sh
.DEFAULT_GOAL := help
# The system's Python, also where this Makefile is called by itself with its own venv on PATH
PYTHON ?= $(shell PATH='$(subst $(CURDIR)/.venv/dev/bin:,,$(PATH))' command -v python3)
ARGS ?=
ARCH ?= $(shell dpkg --print-architecture 2>/dev/null || echo amd64)

DEV := .venv/dev
DEMO := .venv/demo
RELEASE := .venv/release
FLAVOUR ?= debian
# ansible and molecule call each other by name
export PATH := $(CURDIR)/$(DEV)/bin:$(PATH)

UV_COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header

# A virtual environment from lock files: $(call venv,DIRECTORY,LOCK FILES)
# --without-pip: works where Debian's python3-venv is not installed.
define venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "setting up $(1)"
	@rm -rf $(1)
	@$(PYTHON) -m venv --without-pip $(1)
	@$(PYTHON) -m pip --quiet --disable-pip-version-check --python $(1)/bin/python install \
		--require-hashes $(foreach lock,$(2),-r $(lock))
	@$(PYTHON) -m pip --quiet --disable-pip-version-check --python $(1)/bin/python install \
		--no-deps --editable agent
	@touch $(1)/ready
endef

.PHONY: help demo test lint unit molecule image image-test release lab lab-down kinto-image wheels bench soak lock clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 14

demo: $(DEMO)/ready ## the whole path with a simulated satellite, about a minute (ARGS=--forever keeps it up)
	@cd agent && exec ../$(DEMO)/bin/python -m rig.demo $(ARGS)

test: ## everything: lint, unit, molecule, the image if it is cached; sets up what it needs, says how long each took
	@rm -f build/times
	@.ci/timed setup $(MAKE) --no-print-directory $(DEV)/ready packages
	@.ci/timed lint $(MAKE) --no-print-directory lint
	@.ci/timed unit $(MAKE) --no-print-directory unit
	@.ci/timed molecule $(MAKE) --no-print-directory molecule
	@.ci/timed image $(MAKE) --no-print-directory image-test ARGS=--cached
	@.ci/timed --summary

.PHONY: packages
packages: ## Debian's packages for the tests (as root)
	@.ci/packages

lint: $(DEV)/ready ## ruff, mypy, ansible-lint, yamllint, shellcheck
	@.ci/lint

unit: $(DEV)/ready $(RELEASE)/ready packages ## the agent's tests, against real PostgreSQL, memcached and Kinto, and the first boot's
	cd image/tests && python -B -m pytest -q test_release.py test_run_stages.py
	cd roles/firstboot/tests && python -B -m pytest -q -p no:cacheprovider .
	cd agent && UNISAT_FORBID_SKIPS=1 python -m pytest $(ARGS)

molecule: $(DEV)/ready packages ## the roles and playbooks on real systemd hosts
	@molecule/run $(ARGS)

image: $(DEV)/ready packages ## the SD card's image in build/image/ (FLAVOUR=debian or raspios, FRESH=1; as root)
	@FLAVOUR="$(FLAVOUR)" image/build.sh

image-test: $(DEV)/ready packages ## boots the image in QEMU and judges it, about an hour (ROUNDS=200 for a release)
	@image/tests/run $(ARGS)

release: $(RELEASE)/ready packages ## packs the image, signs it and lists its parts (FLAVOUR= KEY= URL=)
	@$(RELEASE)/bin/python image/release --flavour "$(FLAVOUR)" --key "$(KEY)" --url "$(URL)" $(ARGS)

lab: $(DEV)/ready packages ## one publisher and one hub to look around in, left running
	@molecule/lab up

lab-down: $(DEV)/ready ## removes the lab
	@molecule/lab down

kinto-image: $(DEV)/ready ## the Kinto container as a tarball in build/ (ARCH=arm64 or amd64)
	@roles/kinto/files/build-image --arch $(ARCH) --archive build/kinto-$(ARCH).tar.gz

bench: $(DEV)/ready packages ## rates and costs, as ratios measured side by side
	@cd agent && exec python -m rig.bench $(ARGS)

soak: $(DEV)/ready packages ## the fault tests with the full counts; hours
	@cd agent && exec python -m rig.soak $(ARGS)

lock: $(DEV)/ready ## compiles the lock files anew
	$(UV_COMPILE) agent/pyproject.toml --output-file agent/requirements.lock
	$(UV_COMPILE) roles/kinto/files/requirements.in --output-file roles/kinto/files/requirements.lock
	$(UV_COMPILE) requirements/dev.in --output-file requirements/dev.lock
	$(UV_COMPILE) requirements/release.in --output-file requirements/release.lock

clean: ## removes what the commands made in this tree
	rm -rf .venv build agent/build agent/src/*.egg-info

KINTO_LOCK := roles/kinto/files/requirements.lock

$(DEV)/ready: requirements/dev.lock agent/requirements.lock $(KINTO_LOCK) agent/pyproject.toml
	$(call venv,$(DEV),requirements/dev.lock agent/requirements.lock $(KINTO_LOCK))

$(DEMO)/ready: agent/requirements.lock $(KINTO_LOCK) agent/pyproject.toml
	$(call venv,$(DEMO),agent/requirements.lock $(KINTO_LOCK))

$(RELEASE)/ready: requirements/release.lock
	$(call venv,$(RELEASE),requirements/release.lock)
