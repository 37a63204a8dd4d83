package main

import (
	"net/http"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"ringback/db"
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

// watchHealth counts and logs the faults that the steps meet at the database.
func watchHealth(registerer prometheus.Registerer, health *db.Health) {
	auto := promauto.With(registerer)
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ringback_database_unwritable", Help: "1 while nothing can be accepted for a fault of the database.",
	}, func() float64 { return oneIf(health.Trouble() != "") })
	for fault := range db.Faults {
		labels := prometheus.Labels{"fault": string(fault)}
		auto.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "ringback_database_fault", Help: "1 while a step of this process meets the fault.", ConstLabels: labels,
		}, func() float64 { return oneIf(health.Lasts(fault)) })
		auto.NewCounterFunc(prometheus.CounterOpts{
			Name: "ringback_database_faults_total", Help: "Times that a step met the fault.", ConstLabels: labels,
		}, func() float64 { return float64(health.Met(fault)) })
	}
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
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
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}
