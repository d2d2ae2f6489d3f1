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

UV := .venv/uv/bin/uv
# The machine's certificates, as pip: a school's proxy may have one of its own.
export UV_SYSTEM_CERTS := 1
UV_COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header

# A virtual environment from lock files: $(call venv,DIRECTORY,LOCK FILES)
define venv
	@echo "setting up $(1)"
	@$(UV) venv --quiet --clear --python "$(PYTHON)" $(1)
	@$(UV) pip install --quiet --python $(1) --require-hashes $(foreach lock,$(2),-r $(lock))
	@$(UV) pip install --quiet --python $(1) --no-deps --editable agent
	@touch $(1)/ready
endef

DASHBOARD := build/dashboard/index.html
NPM_READY := dashboard/node_modules/.package-lock.json

.PHONY: help demo test lint dashboard dashboard-test screenshots unit molecule image image-test release update lab lab-down kinto-image wheels bench bench-hub soak lock clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 14

demo: $(DEMO)/ready ## the whole path with a simulated satellite, about a minute (ARGS=--forever keeps it up)
	@$(MAKE) --no-print-directory dashboard || echo "the demo goes on without its web page" >&2
	@cd agent && exec ../$(DEMO)/bin/python -m rig.demo $(ARGS)

test: ## everything: lint, unit, dashboard, molecule, the image if it is cached; sets up what it needs, says how long each took
	@rm -f build/times
	@.ci/timed setup $(MAKE) --no-print-directory $(DEV)/ready $(RELEASE)/ready packages dashboard
	@.ci/timed lint $(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory --jobs=2 test-programs test-hosts
	@.ci/timed image $(MAKE) --no-print-directory image-test ARGS=--cached
	@.ci/timed --summary

# Side by side: each of the two waits for something most of the time.
.PHONY: test-programs test-hosts
test-programs:
	@.ci/timed unit $(MAKE) --no-print-directory unit
	@.ci/timed dashboard $(MAKE) --no-print-directory dashboard-test
test-hosts:
	@.ci/timed molecule $(MAKE) --no-print-directory molecule

.PHONY: packages
packages: ## Debian's packages for the tests (as root)
	@.ci/packages

lint: $(DEV)/ready $(NPM_READY) ## ruff, mypy, ansible-lint, yamllint, shellcheck, tsc, eslint, prettier
	@.ci/lint

unit: $(DEV)/ready $(RELEASE)/ready packages ## the tests of agent, kinto/ and settings program, against real PostgreSQL, memcached, Kinto and nginx
	cd image/tests && python -B -m pytest -q test_release.py test_run_stages.py
	cd playbooks/tests && python -B -m pytest -q -p no:cacheprovider .
	cd roles/station/tests && python -B -m pytest -q -p no:cacheprovider .
	cd roles/update/tests && python -B -m pytest -q -p no:cacheprovider .
	cd kinto/tests && python -B -m pytest -q
	cd agent && UNISAT_FORBID_SKIPS=1 python -m pytest $(ARGS)

dashboard: $(DASHBOARD) ## the web pages in build/dashboard/, which the role dashboard copies

dashboard-test: $(DASHBOARD) $(DEV)/ready packages ## the pages' tests, in a browser against agent, Kinto and nginx
	@PYTHON="$(PYTHON)" dashboard/npm --silent run unit
	@PYTHON="$(PYTHON)" dashboard/npm --silent run browser

screenshots: $(DASHBOARD) $(DEV)/ready packages ## pictures of the pages in every state, in build/screenshots/
	@PYTHON="$(PYTHON)" dashboard/npm --silent run screenshots

molecule: $(DEV)/ready packages ## the roles and playbooks on real systemd hosts
	@molecule/run $(ARGS)

image: $(DEV)/ready packages ## the SD card's image in build/image/ (FLAVOUR=debian or raspios, FRESH=1; as root)
	@FLAVOUR="$(FLAVOUR)" image/build.sh

image-test: $(DEV)/ready packages ## boots the image in QEMU and judges it, about an hour (ROUNDS=200 for a release)
	@image/tests/run $(ARGS)

release: $(RELEASE)/ready packages ## packs the image, signs it and lists its parts (FLAVOUR= KEY= URL=)
	@$(RELEASE)/bin/python image/release --flavour "$(FLAVOUR)" --key "$(KEY)" --url "$(URL)" $(ARGS)

update: $(DEV)/ready $(DASHBOARD) ## the signed bundle by which stations update themselves (KEY= ARCH=arm64 or amd64, PERCENT=0)
	@image/update --key "$(KEY)" --arch $(ARCH) --percent $(or $(PERCENT),0) $(ARGS)

lab: $(DEV)/ready packages ## one publisher and one hub to look around in, left running
	@molecule/lab up

lab-down: $(DEV)/ready ## removes the lab
	@molecule/lab down

kinto-image: $(DEV)/ready ## the Kinto container as a tarball in build/ (ARCH=arm64 or amd64)
	@kinto/build-image --arch $(ARCH) --archive build/kinto-$(ARCH).tar.gz

bench: $(DEV)/ready packages ## rates and costs, as ratios measured side by side
	@cd agent && python -m rig.bench $(ARGS) && python -m rig.scale

bench-hub: $(DEV)/ready packages ## what a hub costs: ingest beside Kinto's own batches, live records, storms
	@cd kinto && PYTHONPATH=.:../agent python -B -m bench $(ARGS)

soak: $(DEV)/ready packages ## the fault tests with the full counts; hours
	@cd agent && export UNISAT_SCALE_ROWS=2000000 && python -m rig.soak $(ARGS) && \
		python -m pytest -q tests/test_scale.py && python -m rig.scale

lock: $(DEV)/ready ## compiles the lock files anew
	$(UV_COMPILE) agent/pyproject.toml --output-file agent/requirements.lock
	$(UV_COMPILE) kinto/requirements.in --output-file kinto/requirements.lock
	$(UV_COMPILE) requirements/demo.in --output-file requirements/demo.lock
	$(UV_COMPILE) requirements/dev.in --output-file requirements/dev.lock
	$(UV_COMPILE) kinto/archive.in --output-file kinto/archive.lock
	$(UV_COMPILE) requirements/node.in --output-file requirements/node.lock
	$(UV_COMPILE) requirements/release.in --output-file requirements/release.lock

clean: ## removes what the commands made in this tree
	rm -rf .venv build dashboard/node_modules agent/build agent/src/*.egg-info

KINTO_LOCK := kinto/requirements.lock

# Ten times as fast as pip; works where Debian's python3-venv is not installed.
$(UV): requirements/dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@rm -rf .venv/uv && mkdir -p .venv/uv
	@sed -n '/^uv==/,/^ *#/p' requirements/dev.lock >.venv/uv/requirements
	@$(PYTHON) -m pip --quiet --disable-pip-version-check install --target .venv/uv --require-hashes -r .venv/uv/requirements
	@touch $(UV)

$(DEV)/ready: $(UV) requirements/dev.lock agent/requirements.lock $(KINTO_LOCK) agent/pyproject.toml
	$(call venv,$(DEV),requirements/dev.lock agent/requirements.lock $(KINTO_LOCK))

$(DEMO)/ready: $(UV) requirements/demo.lock agent/requirements.lock $(KINTO_LOCK) agent/pyproject.toml
	$(call venv,$(DEMO),requirements/demo.lock agent/requirements.lock $(KINTO_LOCK))

$(NPM_READY): dashboard/package-lock.json
	@PYTHON="$(PYTHON)" dashboard/npm ci --silent

$(DASHBOARD): $(NPM_READY) dashboard/index.html dashboard/network.html dashboard/vite.config.ts $(shell find dashboard/src dashboard/public -type f 2>/dev/null)
	@PYTHON="$(PYTHON)" dashboard/npm --silent run build -- --logLevel warn

$(RELEASE)/ready: $(UV) requirements/release.lock
	$(call venv,$(RELEASE),requirements/release.lock)
