package main

import (
	"net/http"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// newRegistry holds the metrics of this process. Nothing is asked of the
// database when they are read.
func newRegistry(pools map[string]*pgxpool.Pool) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	promauto.With(registry).NewGauge(prometheus.GaugeOpts{
		Name: "ringback_build_info", Help: "1, labelled with the version.",
		ConstLabels: prometheus.Labels{"version": version()},
	}).Set(1)
	for name, pool := range pools {
		watchPool(registry, name, pool)
	}
	return registry
}

// watchPool tells how many connections of a pool are in use, idle, and allowed.
func watchPool(registerer prometheus.Registerer, name string, pool *pgxpool.Pool) {
	states := map[string]func(*pgxpool.Stat) int32{
		"in_use": (*pgxpool.Stat).AcquiredConns, "idle": (*pgxpool.Stat).IdleConns, "max": (*pgxpool.Stat).MaxConns,
	}
	for state, count := range states {
		promauto.With(registerer).NewGaugeFunc(prometheus.GaugeOpts{
			Name: "ringback_database_connections", Help: "Connections of a pool, by state; max is how many there may be.",
			ConstLabels: prometheus.Labels{"pool": name, "state": state},
		}, func() float64 { return float64(count(pool.Stat())) })
	}
}

func metricsHandler(registry *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}
