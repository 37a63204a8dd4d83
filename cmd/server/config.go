package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// Config is every setting. The tags are the one place where its name, default
// and meaning stand: --help and README show them.
type Config struct {
	DatabaseURL  string            `env:"DATABASE_URL" envDefault:"postgres://ringback:ringback@127.0.0.1:5433/ringback?sslmode=disable" help:"Postgres, 14 or newer; pool_max_conns in it sizes the pool (20)"`
	HTTPAddr     string            `env:"HTTP_ADDR" envDefault:"127.0.0.1:8080" help:"address of the API; other than loopback only with API_KEYS"`
	AdminAddr    string            `env:"ADMIN_ADDR" envDefault:"127.0.0.1:8081" help:"address of River UI and pprof, which have no login: loopback only; empty for none"`
	APIKeys      map[string]string `env:"API_KEYS" envKeyValSeparator:"=" help:"who may call: client=key,client=key; keys of 16 characters or more"`
	Workers      int               `env:"WORKERS" envDefault:"100" help:"jobs of either kind, work and callback, that run at a time"`
	WorkTimeout  time.Duration     `env:"WORK_TIMEOUT" envDefault:"40s" help:"the longest that one work may run, sync or async"`
	SyncLimit    int               `env:"SYNC_LIMIT" envDefault:"256" help:"sync requests at a time; more are refused with 503"`
	AsyncLimit   int               `env:"ASYNC_LIMIT" envDefault:"256" help:"async requests accepted at a time; more are refused with 503"`
	JobRetention time.Duration     `env:"JOB_RETENTION" envDefault:"24h" help:"how long ended jobs stay in the queue's table, for tracing"`
	StopTimeout  time.Duration     `env:"STOP_TIMEOUT" envDefault:"10s" help:"how long a stopping server waits for open calls, and then for running jobs"`
	LogLevel     slog.Level        `env:"LOG_LEVEL" envDefault:"INFO" help:"DEBUG, INFO, WARN or ERROR"`

	options
}

// readConfig reads and checks everything, and reports all mistakes together,
// before anything opens.
func readConfig(environ map[string]string, o options) (Config, error) {
	config := Config{options: o}
	var wrong []error
	err := env.ParseWithOptions(&config, env.Options{Environment: environ})
	var several env.AggregateError
	if errors.As(err, &several) {
		wrong = append(wrong, several.Errors...)
	} else if err != nil {
		wrong = append(wrong, err)
	}
	if len(wrong) == 0 {
		wrong = config.mistakes()
	}
	if len(wrong) > 0 {
		return config, fmt.Errorf("settings:\n%w", errors.Join(wrong...))
	}
	return config, nil
}

func (c Config) mistakes() (wrong []error) {
	refuse := func(mistake bool, format string, args ...any) {
		if mistake {
			wrong = append(wrong, fmt.Errorf("  "+format, args...))
		}
	}
	refuse(!isAddress(c.HTTPAddr), "HTTP_ADDR must be host:port, not %q", c.HTTPAddr)
	refuse(c.dev && isAddress(c.HTTPAddr) && !isLoopback(c.HTTPAddr), "HTTP_ADDR must be a loopback address with --dev, not %q", c.HTTPAddr)
	refuse(!c.dev && isAddress(c.HTTPAddr) && !isLoopback(c.HTTPAddr) && len(c.APIKeys) == 0,
		"HTTP_ADDR %q is not a loopback address, so API_KEYS must be set", c.HTTPAddr)
	refuse(c.AdminAddr != "" && !isLoopback(c.AdminAddr), "ADMIN_ADDR must be a loopback address and port, or empty, not %q", c.AdminAddr)
	for client, key := range c.APIKeys {
		refuse(client == "" || len(client) > 100, "API_KEYS has a client whose name is not of 1 to 100 bytes")
		refuse(len(key) < 16, "API_KEYS has a key of fewer than 16 characters for client %q", client)
	}
	refuse(c.Workers < 1 || c.Workers > 10_000, "WORKERS must be from 1 to 10000, not %d", c.Workers)
	refuse(c.WorkTimeout < time.Millisecond || c.WorkTimeout > time.Hour, "WORK_TIMEOUT must be from 1ms to 1h, not %s", c.WorkTimeout)
	refuse(c.SyncLimit < 1, "SYNC_LIMIT must be at least 1, not %d", c.SyncLimit)
	refuse(c.AsyncLimit < 1, "ASYNC_LIMIT must be at least 1, not %d", c.AsyncLimit)
	refuse(c.JobRetention < time.Minute, "JOB_RETENTION must be at least 1m, not %s", c.JobRetention)
	refuse(c.StopTimeout < time.Millisecond, "STOP_TIMEOUT must be at least 1ms, not %s", c.StopTimeout)
	return wrong
}

func isAddress(address string) bool {
	_, port, err := net.SplitHostPort(address)
	return err == nil && port != ""
}

func isLoopback(address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
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

func newLogger(config Config, out io.Writer) *slog.Logger {
	settings := &slog.HandlerOptions{Level: config.LogLevel}
	if config.dev {
		return slog.New(slog.NewTextHandler(out, settings))
	}
	return slog.New(slog.NewJSONHandler(out, settings))
}
