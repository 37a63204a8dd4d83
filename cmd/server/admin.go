package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
	"time"

	"riverqueue.com/riverui"

	"ringback/jobs"
)

// newAdmin returns the server of the admin listener, or nil when there is none.
func newAdmin(config Config, pages http.Handler, logger *slog.Logger) *http.Server {
	if config.AdminAddr == noAdmin {
		return nil
	}
	return &http.Server{
		Handler:           localOnly(http.NewCrossOriginProtection().Handler(unframed(pages))),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       75 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

// newMetricsServer returns the server of the listener for metrics alone, or nil when
// there is none. It may be open to a network: nothing else is there.
func newMetricsServer(config Config, metrics http.Handler, logger *slog.Logger) *http.Server {
	if config.MetricsAddr == "" {
		return nil
	}
	return &http.Server{
		Handler:           metricsOnly(metrics),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       75 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

// newPages returns the operator's pages, River UI, metrics and pprof.
func newPages(ctx context.Context, queue *jobs.Queue, pages, metrics http.Handler, logger *slog.Logger) (http.Handler, error) {
	ui, err := riverui.NewHandler(&riverui.HandlerOpts{
		Endpoints: riverui.NewEndpoints(queue.River(), nil), Logger: logger, Prefix: "/riverui",
	})
	if err != nil {
		return nil, fmt.Errorf("setting up River UI: %w", err)
	}
	if err := ui.Start(ctx); err != nil {
		return nil, fmt.Errorf("starting River UI: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/riverui/", ui)
	mux.Handle("/", pages)
	mux.Handle("/metrics", metrics)
	mux.Handle("/debug/pprof/", notFromPages(pprof.Index))
	mux.Handle("/debug/pprof/cmdline", notFromPages(pprof.Cmdline))
	mux.Handle("/debug/pprof/profile", notFromPages(pprof.Profile))
	mux.Handle("/debug/pprof/symbol", notFromPages(pprof.Symbol))
	mux.Handle("/debug/pprof/trace", notFromPages(pprof.Trace))
	return mux, nil
}

// metricsOnly serves the metrics until the pages are there.
func metricsOnly(metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	return mux
}

// unframed keeps pages out of the frames of others, in which a click may be meant for
// something else.
func unframed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "frame-ancestors 'none'")
		w.Header().Set("X-Frame-Options", "DENY")
		next.ServeHTTP(w, r)
	})
}

// notFromPages refuses calls that a page of another origin makes: even a GET can
// start a profile.
func notFromPages(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The others are same-origin, and none, where somebody typed the address. Another
		// port of this machine is another origin of the same site.
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
			http.Error(w, "Open this page by its address.", http.StatusForbidden)
			return
		}
		next(w, r)
	})
}

// localOnly refuses calls by any name but this machine's. The admin pages, and the API in local
// mode, have no login. Without localOnly, a page on the web could reach them through a browser on
// this machine, by a name of its own that resolves to loopback (DNS rebinding).
func localOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "" && !isLocal(r.Host) { // browsers always name a host; some probes speak HTTP/1.0
			http.Error(w, "This server has no login, so it takes calls to a loopback address or to localhost alone. The Host of this call is another.", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isLocal tells whether a Host header names this machine, in any letter case, with any
// port.
func isLocal(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1] // an IPv6 address without a port
	}
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
