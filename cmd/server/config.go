package main

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/jackc/pgx/v5/pgconn"

	"ringback/db"
	"ringback/jobs/clients"
	"ringback/work"
	"ringback/work/upstream"
)

// Config is every setting. Each name, default and meaning stands in a tag alone: --help
// and README show the tags.
type Config struct {
	DatabaseURL           string        `env:"DATABASE_URL" envDefault:"postgres://ringback:ringback@127.0.0.1:5433/ringback?sslmode=disable" help:"Postgres, 14 or newer; pool_max_conns in it sizes the pool (20), reads have a quarter as many of their own"`
	HTTPAddr              string        `env:"HTTP_ADDR" envDefault:"127.0.0.1:8080" help:"address of the API; other than loopback only once there is a client"`
	AdminAddr             string        `env:"ADMIN_ADDR" envDefault:"127.0.0.1:8081" help:"address of the pages, River UI, metrics and pprof, which have no login: loopback only, or the word none"`
	SecretsKey            clients.Keys  `env:"SECRETS_KEY" help:"seals the signing secrets of clients in the database: 32 bytes in base64 (openssl rand -base64 32); with commas, the first seals and all open"`
	MetricsAddr           string        `env:"METRICS_ADDR" help:"address that serves /metrics and nothing else, such as 0.0.0.0:9090, for scrapers elsewhere; none by default"`
	PlainSecrets          bool          `env:"PLAIN_SECRETS" envDefault:"false" help:"true: without SECRETS_KEY, signing secrets are stored in plain text; otherwise a start without SECRETS_KEY is refused, outside local mode"`
	Workers               int           `env:"WORKERS" help:"jobs under way at a time, for work and for callbacks each. By default 2000, or fewer: as many as fit into a quarter of the memory limit (GOMEMLIMIT, or nine tenths of the container's) at 128 KiB each, but at least 20"`
	WorkTimeout           time.Duration `env:"WORK_TIMEOUT" envDefault:"40s" help:"the longest time of a run of the work, sync or async"`
	WorkLimit             int           `env:"WORK_LIMIT" envDefault:"64" help:"runs of the work at a time, counted for sync and for async requests separately; outside local mode, async runs take three quarters of WORKERS at most; clients share them (jobs/limit/README.md). As many sync requests may wait for a moment, and more are refused with 503"`
	AsyncLimit            int           `env:"ASYNC_LIMIT" envDefault:"1024" help:"async requests that wait for their commit; more are refused with 503"`
	UnfinishedLimit       int           `env:"UNFINISHED_LIMIT" envDefault:"100000" help:"unfinished async requests of all clients whose next step is due within a minute; more are refused with 503, near it those of clients that have many"`
	ClientRate            int           `env:"CLIENT_RATE" envDefault:"50" help:"POSTs a second from a client to a process, with a burst of twice as many; more are refused with 429. A body counts as one for each 64 KiB that it begins. A client may have limits of its own (ringback client set); local mode has none of the CLIENT_ limits, nor DESTINATION_UNFINISHED"`
	ClientReadRate        int           `env:"CLIENT_READ_RATE" envDefault:"100" help:"GETs of requests and of works a second from a client, the same number for every client; more are refused with 429. A list counts as one for each ten requests of its limit, and POST /redeliveries and /discards as a hundred"`
	ClientUnfinished      int           `env:"CLIENT_UNFINISHED" envDefault:"10000" help:"unfinished async requests of a client, whenever their next step is due; more are refused with 429, and so are redeliveries"`
	DestinationUnfinished int           `env:"DESTINATION_UNFINISHED" envDefault:"1000" help:"unfinished async requests of a client with callbacks to the same host and port; more are refused with 429, and so are redeliveries"`
	ClientStorage         size          `env:"CLIENT_STORAGE" envDefault:"20GiB" help:"kept bytes of the requests of a client, with their inputs, results, attempts and jobs; more are refused with 429"`
	ClientDeadLetters     int           `env:"CLIENT_DEAD_LETTERS" envDefault:"100000" help:"kept dead letters of a client; beyond them, async requests are refused with 429"`
	MaxConnections        int           `env:"MAX_CONNECTIONS" help:"connections of callers at a time; beyond them, a new connection closes the longest idle connection. By default 8192, or fewer: as many as fit into a quarter of the memory limit (GOMEMLIMIT, or nine tenths of the container's) at 30 KiB each, and into half of the files that the process may open, but at least 64"`
	ProxyCIDRs            ranges        `env:"PROXY_CIDRS" help:"address ranges of load balancers and proxies in front, which may hold all connections; any other address holds no more than four times as many as are free"`
	Retention             time.Duration `env:"RETENTION" envDefault:"24h" help:"how long requests stay once they have ended, with their attempts and jobs; 0 keeps them forever"`
	DeadLetterRetention   time.Duration `env:"DEAD_LETTER_RETENTION" envDefault:"720h" help:"how long dead letters stay, with their requests, attempts and jobs; 0 keeps them forever"`
	StopTimeout           time.Duration `env:"STOP_TIMEOUT" envDefault:"8s" help:"how long a stopping server waits for open calls, and then for running jobs; it ends within twice this time and 9 s, 25 s by default"`
	LogLevel              slog.Level    `env:"LOG_LEVEL" envDefault:"INFO" help:"DEBUG, INFO, WARN or ERROR"`

	WorkURL     upstreamURL      `env:"WORK_URL" help:"HTTP service that does the work: each input is POSTed there (work/upstream/README.md). It is then the default work, under the name upstream"`
	WorkSecret  upstream.Secrets `env:"WORK_SECRET" help:"secret that signs the calls of WORK_URL and WORKS: whsec_ and the base64 of 24 to 64 bytes; two with a comma between them while a new secret replaces the old"`
	Works       string           `env:"WORKS" help:"JSON file with more such services: {name: {url, schema, timeout, limit, retries, retry_on, lease, secret}}"`
	DefaultWork string           `env:"DEFAULT_WORK" help:"name of the work of /sync and /async; by default upstream where there is a WORK_URL, and otherwise the default of cmd/server/works.go"`

	PublicURL          publicURL `env:"PUBLIC_URL" help:"URL at which services report work that they finish later (work/upstream/README.md), such as https://ringback.internal; by default the address of the API"`
	PublicHosts        hosts     `env:"PUBLIC_HOSTS" help:"public host names and addresses of this service, which no callback may name; the first name introduces it to receivers"`
	CallbackPorts      ports     `env:"CALLBACK_PORTS" help:"ports that callbacks may use besides 443 and 8443; 80 among them allows http"`
	CallbackAllowCIDRs ranges    `env:"CALLBACK_ALLOW_CIDRS" help:"private address ranges that callbacks may go to, on any port: 127.0.0.0/8 is this machine, 10.1.0.0/16 may be your network; http needs 80 in CALLBACK_PORTS, too"`
	CallbackDenyCIDRs  ranges    `env:"CALLBACK_DENY_CIDRS" help:"address ranges that callbacks may not go to, such as a NAT64 prefix of the network"`
	CallbackDNS        resolvers `env:"CALLBACK_DNS" help:"name servers that resolve callback URLs, instead of the system's: address or address:port"`

	CallbackRate    int     `env:"CALLBACK_RATE" envDefault:"0" help:"the most callbacks a second to a receiver from a process, unless ringback receiver allow gave it more; 0 for no limit but the receiver's own answers"`
	CallbackConsent consent `env:"CALLBACK_CONSENT" envDefault:"off" help:"required: a receiver gets callbacks only once it has granted them by the handshake of CloudEvents' HTTP webhook; off: no receiver is asked. The value earned of earlier versions is taken as off"`

	OTelExporterOTLPEndpoint       collectorURL `env:"OTEL_EXPORTER_OTLP_ENDPOINT" help:"OpenTelemetry collector that gets the traces, such as http://127.0.0.1:4318, by OTLP over HTTP at /v1/traces below it. Nothing is traced by default"`
	OTelExporterOTLPTracesEndpoint collectorURL `env:"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" help:"instead of OTEL_EXPORTER_OTLP_ENDPOINT, the whole URL, such as http://127.0.0.1:4318/v1/traces"`
	OTelExporterOTLPHeaders        headers      `env:"OTEL_EXPORTER_OTLP_HEADERS" help:"HTTP headers that the collector wants: name=value,name=value, with values percent-encoded"`
	OTelExporterOTLPTracesHeaders  headers      `env:"OTEL_EXPORTER_OTLP_TRACES_HEADERS" help:"instead of OTEL_EXPORTER_OTLP_HEADERS, for traces alone"`
	OTelExporterOTLPProtocol       string       `env:"OTEL_EXPORTER_OTLP_PROTOCOL" envDefault:"http/protobuf" help:"http/protobuf, the only protocol here"`
	OTelExporterOTLPTracesProtocol string       `env:"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL" help:"instead of OTEL_EXPORTER_OTLP_PROTOCOL, for traces alone"`
	OTelTracesExporter             string       `env:"OTEL_TRACES_EXPORTER" envDefault:"otlp" help:"otlp, or none to trace nothing"`
	OTelTracesSampler              string       `env:"OTEL_TRACES_SAMPLER" envDefault:"parentbased_always_on" help:"which traces are sampled: always_on, always_off, traceidratio, or one of these as parentbased_…, for calls without a decision of their caller"`
	OTelTracesSamplerArg           string       `env:"OTEL_TRACES_SAMPLER_ARG" help:"the part of traces that traceidratio samples, from 0 to 1 (the default)"`
	OTelServiceName                string       `env:"OTEL_SERVICE_NAME" help:"name of this service in traces; by default service.name in OTEL_RESOURCE_ATTRIBUTES, or ringback"`
	OTelResourceAttributes         pairs        `env:"OTEL_RESOURCE_ATTRIBUTES" help:"further attributes of this service in traces: name=value,name=value, with values percent-encoded"`
	OTelSDKDisabled                bool         `env:"OTEL_SDK_DISABLED" envDefault:"false" help:"true: nothing is traced, regardless of the other settings"`

	options

	unsetDatabase bool // DATABASE_URL is the default

	set     work.Set      // written in Go
	catalog *work.Catalog // of WORK_URL, WORKS and works.go
	exposed []string      // kinds of work whose services can't verify their caller
}

// noAdmin as ADMIN_ADDR means no admin pages. (Empty is as good as not set.)
const noAdmin = "none"

// readConfig reads and checks everything, and reports all mistakes together,
// before anything opens.
func readConfig(environ map[string]string, o options, set work.Set) (Config, error) {
	memory := debug.SetMemoryLimit(-1)
	config := Config{
		options: o, set: set, unsetDatabase: environ["DATABASE_URL"] == "",
		Workers: defaultWorkers(memory), MaxConnections: defaultConnections(memory, openFiles()),
	}
	wrong, err := parse(&config, environ)
	if err != nil {
		return config, err
	}
	config.check(func(mistake bool, setting, format string, args ...any) {
		if _, known := wrong[setting]; mistake && !known {
			wrong[setting] = fmt.Sprintf(format, args...)
		}
	})
	config.readWorks(wrong)
	if len(wrong) == 0 {
		return config, nil
	}
	var report strings.Builder
	for _, setting := range slices.Sorted(maps.Keys(wrong)) {
		fmt.Fprintf(&report, "\n  %s %s", setting, wrong[setting])
	}
	return config, fmt.Errorf("settings:%s", report.String())
}

// tried adds to an error of connecting which database was tried, and how to get one.
func (c Config) tried(err error) error {
	var answer *pgconn.PgError
	switch place := db.WithoutPassword(c.DatabaseURL); {
	case !db.IsConnectError(err):
		return err
	case c.unsetDatabase:
		return fmt.Errorf("%w: DATABASE_URL is not set, so %s was tried, which `make up` starts", err, place)
	case errors.As(err, &answer):
		return fmt.Errorf("%w: DATABASE_URL names %s", err, place)
	default:
		return fmt.Errorf("%w: DATABASE_URL names %s: start that database, or name another; `make up` starts the one that is tried without DATABASE_URL", err, place)
	}
}

// parse reads the settings and returns the mistakes, by setting.
func parse(config *Config, environ map[string]string) (map[string]string, error) {
	wrong := map[string]string{}
	err := env.ParseWithOptions(config, env.Options{Environment: environ})
	var several env.AggregateError
	if err != nil && !errors.As(err, &several) {
		return nil, fmt.Errorf("reading settings: %w", err)
	}
	for _, err := range several.Errors {
		var mistake env.ParseError
		if !errors.As(err, &mistake) {
			return nil, fmt.Errorf("reading settings: %w", err)
		}
		field, _ := reflect.TypeFor[Config]().FieldByName(mistake.Name)
		setting := field.Tag.Get("env")
		switch mistake.Type {
		case reflect.TypeFor[int]():
			wrong[setting] = fmt.Sprintf("must be a whole number, not %q", environ[setting])
		case reflect.TypeFor[bool]():
			wrong[setting] = fmt.Sprintf("must be true or false, not %q", environ[setting])
		case reflect.TypeFor[time.Duration]():
			wrong[setting] = fmt.Sprintf("must be a duration such as 1m30s, not %q", environ[setting])
		case reflect.TypeFor[slog.Level]():
			wrong[setting] = fmt.Sprintf("must be DEBUG, INFO, WARN or ERROR, not %q", environ[setting])
		default:
			wrong[setting] = mistake.Err.Error()
		}
	}
	return wrong, nil
}

func (c Config) check(refuse func(mistake bool, setting, format string, args ...any)) {
	badURL := db.CheckURL(c.DatabaseURL)
	refuse(badURL != nil, "DATABASE_URL", "%v", badURL)
	refuse(!isAddress(c.HTTPAddr), "HTTP_ADDR", "must be host:port, not %q", c.HTTPAddr)
	refuse(c.dev && !isLoopback(c.HTTPAddr), "HTTP_ADDR", "must be a loopback address with --dev, not %q", c.HTTPAddr)
	refuse(c.AdminAddr != noAdmin && !(isAddress(c.AdminAddr) && isLoopback(c.AdminAddr)),
		"ADMIN_ADDR", "must be a loopback address with a port, or %s, not %q", noAdmin, c.AdminAddr)
	refuse(c.MetricsAddr != "" && !isAddress(c.MetricsAddr), "METRICS_ADDR", "must be host:port, not %q", c.MetricsAddr)
	refuse(c.storesSecrets() && len(c.SecretsKey) == 0 && !c.PlainSecrets,
		"SECRETS_KEY", "must be set: 32 bytes in base64, from openssl rand -base64 32 (or set PLAIN_SECRETS to true, if signing secrets are meant to be stored as they are)")
	refuse(c.Workers < 1 || c.Workers > 10_000, "WORKERS", "must be from 1 to 10000, not %d", c.Workers)
	refuse(c.WorkTimeout < time.Millisecond || c.WorkTimeout > time.Hour, "WORK_TIMEOUT", "must be from 1ms to 1h, not %s", c.WorkTimeout)
	refuse(c.WorkLimit < 1 || c.WorkLimit > 10_000, "WORK_LIMIT", "must be from 1 to 10000, not %d", c.WorkLimit)
	refuse(c.AsyncLimit < 1 || c.AsyncLimit > 100_000, "ASYNC_LIMIT", "must be from 1 to 100000, not %d", c.AsyncLimit)
	refuse(c.UnfinishedLimit < 1 || c.UnfinishedLimit > 10_000_000, "UNFINISHED_LIMIT", "must be from 1 to 10000000, not %d", c.UnfinishedLimit)
	refuse(c.ClientRate < 1 || c.ClientRate > maxClientRate, "CLIENT_RATE", "must be from 1 to %d, not %d", maxClientRate, c.ClientRate)
	refuse(c.ClientReadRate < 1 || c.ClientReadRate > maxClientRate, "CLIENT_READ_RATE", "must be from 1 to %d, not %d", maxClientRate, c.ClientReadRate)
	refuse(c.ClientUnfinished < 1 || c.ClientUnfinished > maxClientCount, "CLIENT_UNFINISHED", "must be from 1 to %d, not %d", maxClientCount, c.ClientUnfinished)
	refuse(c.DestinationUnfinished < 1 || c.DestinationUnfinished > maxClientCount, "DESTINATION_UNFINISHED", "must be from 1 to %d, not %d", maxClientCount, c.DestinationUnfinished)
	refuse(c.ClientStorage < 1 || c.ClientStorage > maxClientStorage, "CLIENT_STORAGE", "must be from 1 to %d bytes, not %d", maxClientStorage, c.ClientStorage)
	refuse(c.ClientDeadLetters < 1 || c.ClientDeadLetters > maxClientCount, "CLIENT_DEAD_LETTERS", "must be from 1 to %d, not %d", maxClientCount, c.ClientDeadLetters)
	refuse(c.DeadLetterRetention != 0 && c.DeadLetterRetention < time.Minute, "DEAD_LETTER_RETENTION", "must be 0 or at least 1m, not %s", c.DeadLetterRetention)
	refuse(c.MaxConnections < 1 || c.MaxConnections > 1_000_000, "MAX_CONNECTIONS", "must be from 1 to 1000000, not %d", c.MaxConnections)
	refuse(c.CallbackRate < 0 || c.CallbackRate > 1_000_000, "CALLBACK_RATE", "must be from 0 to 1000000, not %d", c.CallbackRate)
	refuse(c.Retention != 0 && c.Retention < time.Minute, "RETENTION", "must be 0 or at least 1m, not %s", c.Retention)
	c.checkTraces(refuse)
	refuse(c.StopTimeout < time.Millisecond, "STOP_TIMEOUT", "must be at least 1ms, not %s", c.StopTimeout)
}

// The most that a client's limits may be, of the settings and of its own.
const (
	maxClientRate    = 1_000_000
	maxClientCount   = 10_000_000
	maxClientStorage = 1 << 60
)

// size is a number of bytes.
type size int64

// UnmarshalText reads a whole number of bytes, or of KiB, MiB, GiB or TiB.
func (s *size) UnmarshalText(text []byte) error {
	number, shift := string(text), 0
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if n, ok := strings.CutSuffix(number, unit); ok {
			number, shift = n, 10*(i+1)
			break
		}
	}
	count, err := strconv.ParseInt(number, 10, 64)
	if err != nil || count < 0 || count > maxClientStorage>>shift {
		return fmt.Errorf("must be a number of bytes up to %d, such as 500MiB or 20GiB, not %q", int64(maxClientStorage), text)
	}
	*s = size(count << shift)
	return nil
}

// clientLimits are the limits of clients that have none of their own.
func (c Config) clientLimits() clients.Limits {
	return clients.Limits{
		Rate: c.ClientRate, Unfinished: c.ClientUnfinished, PerDestination: c.DestinationUnfinished, Storage: int64(c.ClientStorage), DeadLetters: c.ClientDeadLetters,
	}
}

func isAddress(address string) bool {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if host == "localhost" {
		return err == nil
	}
	ip, parseErr := netip.ParseAddr(host)
	return err == nil && parseErr == nil && ip.IsLoopback()
}

// settingsTable is the Markdown table of all settings that README shows.
func settingsTable() string {
	var table strings.Builder
	table.WriteString("| setting | default | meaning |\n|---|---|---|\n")
	for field := range reflect.TypeFor[Config]().Fields() {
		if name := field.Tag.Get("env"); name != "" {
			defaultValue := field.Tag.Get("envDefault")
			if defaultValue != "" {
				defaultValue = "`" + defaultValue + "`"
			}
			fmt.Fprintf(&table, "| `%s` | %s | %s |\n", name, defaultValue, field.Tag.Get("help"))
		}
	}
	return table.String()
}
