package main

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"ringback/db/dbtest"
	"ringback/work/fingerprint"
)

// Other programs may take all connections of the server, as soon as the service lets one go.
func TestConnectionsThatAreUsedUp(t *testing.T) {
	t.Parallel()
	for name, role := range map[string]string{"ByOtherRoles": "plain", "AndTheReservedOnesToo": "ringback"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := dbtest.NewCluster(t)
			cluster.Execute(t, "CREATE ROLE plain LOGIN PASSWORD 'ringback'")
			cluster.Execute(t, "GRANT ALL ON SCHEMA public TO plain")
			cluster.Set(t, "max_connections", "40")
			cluster.Stop(t)
			cluster.Start(t)
			as := func(role string) string { return strings.Replace(cluster.URL, "ringback:", role+":", 1) }
			p := startHere(t, as("plain"), nil, fingerprint.Do)
			r := newReceiver(t, nil)
			l := startLoad(t, p, r.URL)
			l.awaitAcked(t, 50)

			free := useUpConnections(t, cluster.URL, as(role))
			l.awaitRefused(t)
			p.awaitAnswer(t, "/healthz", "(no_resources)")
			p.awaitMetric(t, `ringback_database_unwritable 1`)
			p.awaitMetric(t, `ringback_database_fault{fault="no_resources"} 1`)
			p.awaitLine(t, "raise max_connections")
			late := startHere(t, as("plain"), nil, fingerprint.Do)
			late.awaitStatus(t, "/healthz", http.StatusServiceUnavailable)
			late.awaitStatus(t, "/livez", http.StatusOK)
			late.awaitMetric(t, `ringback_database_fault{fault="no_resources"} 1`)
			late.awaitLine(t, "raise max_connections")

			free()
			for _, p := range []*program{p, late} {
				p.awaitStatus(t, "/healthz", http.StatusOK)
				p.awaitMetric(t, `ringback_database_fault{fault="no_resources"} 0`)
				p.wantOneFault(t, "no_resources")
			}
			l.awaitAcked(t, 50)
			expectAll(t, r, l.stop())
			wantNoOrphans(t, cluster.URL)
		})
	}
}

// Steps have their connections when others take the rest: reads meet the lack alone.
func TestReadsThatFindNoConnectionAreTold(t *testing.T) {
	t.Parallel()
	cluster := dbtest.NewCluster(t)
	cluster.Execute(t, "CREATE ROLE plain LOGIN PASSWORD 'ringback'")
	cluster.Execute(t, "GRANT ALL ON SCHEMA public TO plain")
	p := startHere(t, strings.Replace(cluster.URL, "ringback:", "plain:", 1), nil, fingerprint.Do)
	p.awaitStatus(t, "/healthz", http.StatusOK)
	cluster.Execute(t, "ALTER ROLE plain CONNECTION LIMIT 1")
	until(t, func() bool {
		var refused atomic.Bool
		var reading sync.WaitGroup
		for range 20 { // more than there are connections for reads
			reading.Go(func() {
				if p.probe("/requests") == http.StatusServiceUnavailable {
					refused.Store(true)
				}
			})
		}
		reading.Wait()
		return refused.Load()
	}, func() string { return "a read to find no connection" })
	p.awaitLine(t, "reason=database_away")
	p.awaitLine(t, "msg=database_fault fault=no_resources step=read")
	if metrics := p.readMetrics(t); strings.Contains(metrics, `ringback_database_faults_total{fault="no_resources"} 0`) || !strings.Contains(metrics, `ringback_http_refusals_total{reason="database_away"}`) {
		t.Errorf("got %s, want the fault and the refusal counted", metrics)
	}
	cluster.Execute(t, "ALTER ROLE plain CONNECTION LIMIT -1")
	p.awaitMetric(t, `ringback_database_fault{fault="no_resources"} 0`)
}

// useUpConnections takes each connection that the server gives to a role, and ends those of
// the service, until free is called.
func useUpConnections(t *testing.T, superuser, as string) (free func()) {
	t.Helper()
	killer, err := pgx.Connect(t.Context(), superuser)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var hoarding sync.WaitGroup
	hoarding.Go(func() {
		hoard := []*pgx.Conn{killer}
		for ctx.Err() == nil {
			if conn, err := pgx.Connect(ctx, as); err == nil {
				hoard = append(hoard, conn)
			} else if _, err := killer.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ringback'"); err != nil && ctx.Err() == nil {
				t.Errorf("ending the service's connections: %v", err)
				break
			}
		}
		for _, conn := range hoard {
			_ = conn.Close(context.Background())
		}
	})
	free = sync.OnceFunc(func() { cancel(); hoarding.Wait() })
	t.Cleanup(free)
	return free
}
