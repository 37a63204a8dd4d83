# What a person runs here is what CI runs: .ci/run is `make test fuzz chaos demo`.
#
# DATABASE_URL, if set, is the database to use; otherwise scripts/postgres.sh
# brings one up. POSTGRES_PORT moves that one away from 5433, and POSTGRES=18 makes it
# one of that version (`make test POSTGRES=18`).

# Inside a recipe only: set for the whole file, it would tell scripts/postgres.sh
# that somebody else runs the database.
database = DATABASE_URL="$$(scripts/postgres.sh url)"

# Without a home, as in some services and containers, Go finds no place for what it builds and
# fetches. `make clean` removes this place, which is writable for that.
ifndef HOME
export HOME := $(CURDIR)/bin/.home
export GOFLAGS := $(GOFLAGS) -modcacherw
endif

.PHONY: help up run demo test lint fuzz storm bench down clean psql trace fmt go cc browser node pooler promtool clock disk examples id

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

up: ## a Postgres to use: DATABASE_URL, else Docker, else a private cluster in .postgres/
	@scripts/postgres.sh up

run: go up ## the server in local mode; ARGS="…" for its flags
	@[ -e bin/ringback ] || echo "building the server, which takes a minute or more the first time"
	@CGO_ENABLED=0 go build -tags nomsgpack -trimpath -o bin/ringback ./cmd/server
	@$(database) exec bin/ringback --dev $(ARGS)

demo: go up ## ninety seconds that show what is promised, and check it; DEMO=fast in twenty
	@CGO_ENABLED=0 go build -tags nomsgpack -trimpath -o bin/ringback ./cmd/server
	@CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/demo
	@$(database) exec bin/demo $(ARGS)

test: go cc browser pooler promtool clock disk examples node up ## everything that CI runs, apart from fuzz and chaos
	@go vet -tags nomsgpack ./...
	@scripts/lint.sh test
	@scripts/lint-api.sh
	@scripts/lint-operate.sh
	@$(database) scripts/test.sh

lint: go ## form, mistakes and known vulnerabilities of the Go code; `make test` runs it, too
	@scripts/lint.sh

fuzz: go ## hostile input, for a minute or 3 × FUZZTIME; finds stay in testdata
	@scripts/fuzz.sh $(or $(FUZZTIME),20s) ./jobs/webhook

storm: go ## load against a running server, calm, storm, calm; ARGS="…" for its flags
	@CGO_ENABLED=0 go build -trimpath -o bin/storm ./cmd/storm
	@exec bin/storm -profile storm $(if $(HTTP_ADDR),-target http://$(HTTP_ADDR)) $(ARGS)

bench: go ## the figures that README quotes, in 80 minutes, or BENCH=short in seven; ARGS="…" for its flags
	@scripts/bench.sh $(ARGS)

chaos: go ## faults of every kind under load, then an audit, in CHAOS=short or ARGS="-runs 20"
	@scripts/chaos.sh $(ARGS)

down: ## stop that Postgres, keep its data
	@scripts/postgres.sh down

clean: ## stop it, remove its data and what was built
	@scripts/postgres.sh clean
	@rm -rf bin .postgresql-*

psql: up ## a prompt on the database; ARGS="…" for psql's flags
	@scripts/postgres.sh psql $(ARGS)

# The script goes over stdin because psql may be running in a container.
trace: id up ## ID=…: what happened to one request
	@scripts/postgres.sh psql -X -q -v ON_ERROR_STOP=1 -v id="$$ID" -f - <scripts/trace.sql

fmt: go ## format the Go code
	@scripts/lint.sh format

# Not left to the go command: one that is too old may not even read go.mod.
go:
	@command -v go >/dev/null || { echo "go: not found: install Go, see https://go.dev/dl" >&2; exit 1; }
	@want="go$$(awk '$$1 == "go" { print $$2 }' go.mod)"; have="$$(go env GOVERSION)"; \
	test "$$(printf '%s\n' "$$want" "$$have" | sort -V | head -n 1)" = "$$want" || \
		{ echo "go: $$want or newer is needed, this is $${have:-older}: see https://go.dev/dl" >&2; exit 1; }

cc:
	@command -v $$(go env CC) >/dev/null || scripts/apt.sh gcc libc6-dev || \
		{ echo "cc: the race detector needs a C compiler: install gcc or clang" >&2; exit 1; }

# The tests of the pages skip without one.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
		scripts/apt.sh chromium || \
		printf '\nNOT TESTED: the pages and storm'"'"'s HTML report, since there is no Chromium here and it could not be installed.\n\n' >&2

# What lints the API's document, and what checks the TypeScript client.
node: api/node_modules/.package-lock.json

api/node_modules/.package-lock.json: api/package-lock.json
	@{ command -v npm >/dev/null || scripts/apt.sh nodejs npm; } && npm ci --prefix api --ignore-scripts --no-audit --no-fund --silent || \
		printf '\nNOT TESTED: the form of api/openapi.yaml, and the client in TypeScript, since npm is not here or could not install what they need.\n\n' >&2

# The tests of the upstreams that are written in them skip without one.
examples:
	@command -v python3 >/dev/null && command -v node >/dev/null || scripts/apt.sh python3 nodejs || \
		printf '\nNOT TESTED: the examples of work/upstream, since there is no Python or no Node.js here and they could not be installed.\n\n' >&2

# The tests behind PgBouncer skip without it. Debian puts it where only root looks.
pooler:
	@command -v pgbouncer >/dev/null || test -x /usr/sbin/pgbouncer || scripts/apt.sh pgbouncer || \
		printf '\nNOT TESTED: PgBouncer, which is not here and could not be installed.\n\n' >&2

promtool:
	@command -v promtool >/dev/null || scripts/apt.sh prometheus || \
		printf '\nNOT TESTED: when the alerts fire, since there is no promtool here and it could not be installed.\n\n' >&2

# The test of clocks that differ holds no more than that it can't be had, without it.
clock:
	@scripts/postgres.sh faketime >/dev/null 2>&1 || \
		printf '\nNOT TESTED: a database whose clock differs, since libfaketime is not here and could not be installed.\n\n' >&2

# The test of a disk that is full mounts one in memory.
disk:
	@folder="$$(mktemp -d)" && { mount -t tmpfs -o size=64k tmpfs "$$folder" 2>/dev/null && umount "$$folder" || \
		printf '\nNOT TESTED: a disk that is full, since no file system may be mounted here (root may).\n\n' >&2; }; rmdir "$$folder"

# The shell reads ID from its environment, where make puts it, and lets through
# nothing that it could take for more than a word.
id:
	@case "$$ID" in '' | *[!0-9a-fA-F-]*) echo "ID must be the UUID of a request, as in make trace ID=01a21ee9-6313-78c8-9511-0237f2243bcc" >&2; exit 2 ;; esac
