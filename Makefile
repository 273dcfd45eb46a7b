# Parley. `make run` and `make test` set everything up by themselves: Python >= 3.11, git and make are enough.
PYTHON ?= python3
VENV := .venv
WORKERS ?= 4
# Versions that were tested together. Those that a Python cannot have (no wheel for it, no compiler) are not insisted on:
# then the newest that setup.cfg allows are taken. `make CONSTRAINTS=` takes these from the beginning.
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
ENGINE ?= $(firstword $(foreach one,docker podman buildah,$(shell command -v $(one))))
UNIT := tests/handlers tests/server tests/store tests/loadtest tests/clients tests/test_*.py
READY := $(VENV)/.ready
TESTABLE := $(VENV)/.testable
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run install-units image test-image dist packages sbom rolling-restart test test-chaos test-webhooks test-failover test-together test-hosts test-hostile test-clients test-web test-upgrade check unit coverage fix mutants lint style types imports bench bench-compare figures docs constraints clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

run: $(READY) ## PostgreSQL, Valkey and the server on http://localhost:5000 (Ctrl-C stops it all)
	@$(BIN)/parley dev

test: export PYTHONDONTWRITEBYTECODE := # the tests start many processes, each of which would compile everything again
test: $(TESTABLE) ## everything: style, types, import contracts, the whole suite (WORKERS=)
	@$(BIN)/pytest -q --collect-only > $(VENV)/collected.txt 2>&1 & \
		$(MAKE) --no-print-directory lint; checked=$$?; wait; exit $$checked # compiled once, not by each worker
	@$(BIN)/pytest -q -n $(WORKERS) --dist worksteal

test-chaos: $(TESTABLE) ## ten minutes of faults on four instances (MINUTES=, SEED=)
	@$(BIN)/pytest -q -s tests/chaos -k long --chaos-minutes $(or $(MINUTES),10) --chaos-seed $(or $(SEED),0)

test-webhooks: $(TESTABLE) ## 20,000 events to a receiver that is killed, from instances that are (EVENTS=, SEED=)
	@$(BIN)/pytest -q -s tests/chaos/test_webhooks.py -k long --webhook-events $(or $(EVENTS),20000) --webhook-seed $(or $(SEED),0)

test-failover: $(TESTABLE) ## failovers of Redis, and ten minutes of those of PostgreSQL, under load, and a table of what clients saw (MINUTES=, SEED=)
	@$(BIN)/pytest -q -s tests/failover -k long --failover-minutes $(or $(MINUTES),10) --failover-seed $(or $(SEED),0)

test-together: $(TESTABLE) ## half an hour in which PostgreSQL fails over while instances and Redis die (MINUTES=, SEED=)
	@$(BIN)/pytest -q -s tests/failover/test_together.py --together-minutes $(or $(MINUTES),30) --together-seed $(or $(SEED),0)

test-hosts: $(TESTABLE) ## five minutes of links between three hosts that are cut, slow and lossy; needs root (MINUTES=, SEED=)
	@$(BIN)/pytest -q -s tests/hosts --hosts-minutes $(or $(MINUTES),5) --hosts-seed $(or $(SEED),0)

test-clients: $(TESTABLE) ## five minutes of faults under 50 people with each client library and the stock client, and many hostile networks (MINUTES=, SEED=, SEEDS=)
	@$(BIN)/pytest -q -s tests/clients -k "long or hostile" --clients-minutes $(or $(MINUTES),5) --clients-seed $(or $(SEED),0) --clients-seeds $(or $(SEEDS),300)

test-hostile: $(TESTABLE) ## ten minutes of hostile clients, and people who must not notice (MINUTES=, SEED=)
	@$(BIN)/pytest -q -s tests/hostile tests/server/rest/test_conformance.py -k 'long or schemathesis' --hostile-minutes $(or $(MINUTES),10) --hostile-seed $(or $(SEED),0)

test-web: $(TESTABLE) ## the page in a real Chromium, with ten thousand messages and a hundred a second, in numbers (MESSAGES=)
	@$(BIN)/pytest -q -s tests/web --web-messages $(or $(MESSAGES),10000)

mutants: $(TESTABLE) ## plant faults one by one, and see the tests nearest to each catch it (WORDS=)
	@$(BIN)/python -m tests.mutants $(WORDS)

test-upgrade: $(TESTABLE) ## the release before (or FROM=) and this one side by side under load, the migration, and half the way back
	@$(BIN)/pytest -q -s tests/rolling/test_upgrade.py $(if $(FROM),--upgrade-from $(FROM))

rolling-restart: $(TESTABLE) ## four instances restarted one by one under load, in numbers (LISTEN=shared|reuse-port)
	@$(BIN)/pytest -q -s tests/rolling -k four --rolling $(or $(LISTEN),shared)

check: $(TESTABLE) ## style, types, import contracts, and the tests that need no service: before each commit
	@$(MAKE) --no-print-directory --keep-going --jobs style types imports unit

# Four workers on two cores: half their time they wait. Of the installed plugins what these tests need: seconds a worker.
unit: export PYTEST_DISABLE_PLUGIN_AUTOLOAD := 1
unit: export PYTEST_PLUGINS := pytest_trio.plugin,xdist.plugin,_hypothesis_pytestplugin
unit: $(TESTABLE)
	@$(BIN)/pytest -q -n 4 --dist worksteal -m "not services" $(UNIT)

coverage: $(TESTABLE) ## lines and branches that these tests run, in each module that has others (TESTS=)
	@$(BIN)/coverage run -m pytest -q $(if $(TESTS),$(TESTS),-m "not services" $(UNIT))
	@$(BIN)/coverage report

fix: $(TESTABLE) ## what ruff can mend by itself
	@$(BIN)/ruff check --fix --show-fixes .
	@$(BIN)/ruff format .

lint: style types imports ## style, types, import contracts

style: $(TESTABLE)
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .

types: $(TESTABLE)
	@$(BIN)/mypy --no-error-summary

imports: $(TESTABLE)
	@$(BIN)/lint-imports --no-cache > $(VENV)/lint-imports.txt || (cat $(VENV)/lint-imports.txt; exit 1)

bench: $(READY) ## the budgets of the socket path, measured here and now, as ratios (ARGS="--strict --json FILE")
	@$(BIN)/python -m loadtest.bench $(ARGS)

bench-compare: $(READY) ## this tree's server against that of another revision, in turns (REV=, ARGS="--only event --rounds 5")
	@$(BIN)/python -m loadtest.bench.comparison $(REV) $(ARGS)

figures: $(READY) ## the figures of README.md and docs/performance.md, from what was measured (docs/figures/*.json)
	@$(BIN)/python -m loadtest.figures

image: $(READY) ## the container image, with the engine that is here (ENGINE=, BASE=, TAG=)
	@version=$$($(BIN)/parley --version | cut -d' ' -f2) && \
		$(ENGINE) build --file Containerfile --build-arg VERSION=$$version $(if $(BASE),--build-arg BASE=$(BASE)) \
			--tag $(or $(TAG),parley:$$(echo $$version | tr + -)) --tag parley .

test-image: $(TESTABLE) ## the image built in a chroot and started: needs root, debootstrap and buildah, and some minutes (WORK=)
	@$(BIN)/pytest -q -s tests/containers/test_image.py --image $(or $(WORK),$(VENV)/image)

dist: $(VENV)/.packaged ## a wheel and a source distribution of the last commit, the same bytes each time, and what is in an installation (SBOM)
	@$(MAKE) --no-print-directory packages sbom

# From the commit and nothing else of this folder. Without a prerequisite: tests build other clones with their own tools.
packages:
	@rm -rf dist $(VENV)/source && mkdir -p dist $(VENV)/source
	@git archive HEAD | tar -x -C $(VENV)/source
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --no-isolation --outdir dist $(VENV)/source > $(VENV)/build.txt 2>&1 || \
		(cat $(VENV)/build.txt; exit 1)
	@rm -rf $(VENV)/source && ls dist/*

# Of an installation of the wheel with the extras for production, in the versions of constraints.txt.
sbom: $(VENV)/.packaged
	@$(PYTHON) -m venv --clear --without-pip $(VENV)/slim
	@$(BIN)/python -m pip --python $(VENV)/slim/bin/python install --quiet --disable-pip-version-check --constraint constraints.txt "$$(ls dist/*.whl)[s3,otel]"
	@$(BIN)/cyclonedx-py environment --output-reproducible --output-format JSON --output-file dist/parley.cdx.json $(VENV)/slim/bin/python
	@$(BIN)/python .ci/sbom.py dist/parley.cdx.json
	@ls dist/parley.cdx.json

# docs/operations.md and what it links to, so that links work in the installed copies, too.
PAGES = $(wildcard *.md docs/*.* */README.md clients/*/README.md examples/*.* examples/*/*.md examples/*/*.py examples/*/*.cs examples/*/*.java examples/react/*.js*)

install-units: ## systemd units and the files beside them (DESTDIR=)
	@install -d $(DESTDIR)/etc/systemd/system $(DESTDIR)/etc/sysctl.d $(DESTDIR)/etc/security/limits.d
	@install -m 0644 systemd/parley*.service systemd/parley*.socket systemd/parley*.target systemd/parley*.timer $(DESTDIR)/etc/systemd/system/
	@install -m 0644 systemd/sysctl.d/60-parley.conf $(DESTDIR)/etc/sysctl.d/
	@install -m 0644 systemd/limits.d/60-parley.conf $(DESTDIR)/etc/security/limits.d/
	@install -d -m 0755 $(DESTDIR)/etc/parley && install -d -m 0700 $(DESTDIR)/etc/parley/credentials
	@test -e $(DESTDIR)/etc/parley/parley.toml || install -m 0644 systemd/parley.toml $(DESTDIR)/etc/parley/
	@for page in $(PAGES); do install -D -m 0644 $$page $(DESTDIR)/usr/share/doc/parley/$$page || exit 1; done
	@rm -f $(DESTDIR)/usr/share/doc/parley/operations.md # where it was before the others came with it

docs: $(READY) ## the pages that are made from the code
	@$(BIN)/python -m server.config.page > docs/settings.md

constraints: $(VENV)/.made ## constraints.txt anew: the newest versions that setup.cfg allows
	@$(PYTHON) -m venv --clear $(VENV)/fresh
	@$(VENV)/fresh/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@{ sed -n '/^#/p' constraints.txt; $(VENV)/fresh/bin/python -m pip freeze --all --exclude pip --exclude-editable --exclude parley; } > $(VENV)/constraints
	@mv $(VENV)/constraints constraints.txt && rm -rf $(VENV)/fresh

clean: ## forget the environment (not the data in .parley)
	find server store handlers loadtest clients/python tests -name __pycache__ -prune -exec rm -rf {} + # they would keep folders that are gone
	find server store handlers loadtest clients/python tests -type d -empty -delete
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis node_modules tests/interop/node_modules tests/web/node_modules tests/web/shots clients/javascript/node_modules clients/javascript/types examples/java/lib examples/node_modules examples/react/node_modules examples/react/main.js

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Parley needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12"; exit 1; }
	@echo "making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# $(call install,WHAT)
define install
	@if [ -z "$(CONSTRAINTS)" ] || ! $(PIP) --constraint $(CONSTRAINTS) --editable $(1); then \
		[ -z "$(CONSTRAINTS)" ] || echo "not every version in $(CONSTRAINTS) can be had here: taking the newest that setup.cfg allows"; \
		$(PIP) --editable $(1); \
	fi
endef

$(READY): $(VENV)/.made setup.cfg setup.py pyproject.toml $(CONSTRAINTS)
	@echo "installing Parley into $(VENV) (a minute or two the first time) ..."
	$(call install,'.[dev]')
	@touch $@

$(VENV)/.packaged: $(READY)
	$(call install,'.[dist]')
	@touch $@

$(TESTABLE): $(READY)
	@echo "installing what the tests need ..."
	$(call install,'.[test]')
	@touch $@
