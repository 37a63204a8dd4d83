package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"ringback/db/dbtest"
	"ringback/work/fingerprint"
)

// A certificate that expires, and is renewed, as it happens every year.
func TestDatabaseOverTLS(t *testing.T) {
	t.Parallel()
	cluster := dbtest.NewCluster(t)
	authority, tomorrow := dbtest.NewAuthority(t), time.Now().Add(24*time.Hour)
	verified := strings.Replace(cluster.URL, "sslmode=disable", "sslmode=verify-full&sslrootcert="+authority.File, 1)

	wantRefused(t, "a server without TLS", verified, "set ssl = on")
	cluster.SetCertificate(t, authority, tomorrow)
	wantRefused(t, "another authority", strings.Replace(verified, authority.File, dbtest.NewAuthority(t).File, 1), "sslrootcert in DATABASE_URL")
	wantRefused(t, "another host", strings.Replace(verified, "@127.0.0.1:", "@localhost:", 1), "name in DATABASE_URL the host that it is for")

	p := startHere(t, verified, nil, fingerprint.Do)
	r := newReceiver(t, nil)
	l := startLoad(t, p, r.URL)
	l.awaitAcked(t, 50)
	wantAllEncrypted(t, cluster.URL)

	cluster.SetCertificate(t, authority, time.Now().Add(-time.Minute))
	wantRefused(t, "a certificate that has expired", verified, "renew it")
	cluster.Execute(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ringback'")
	l.awaitRefused(t)
	p.awaitStatus(t, "/healthz", http.StatusServiceUnavailable)
	p.awaitMetric(t, `ringback_database_fault{fault="untrusted"} 1`)
	cluster.SetCertificate(t, authority, tomorrow)
	p.awaitStatus(t, "/healthz", http.StatusOK)
	l.awaitAcked(t, 50)
	p.awaitMetric(t, `ringback_database_fault{fault="untrusted"} 0`)
	p.wantOneFault(t, "untrusted")

	cluster.Set(t, "ssl", "off")
	cluster.Execute(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ringback'")
	p.awaitStatus(t, "/healthz", http.StatusServiceUnavailable)
	p.awaitMetric(t, `ringback_database_fault{fault="untrusted"} 1`)
	cluster.Set(t, "ssl", "on")
	p.awaitStatus(t, "/healthz", http.StatusOK)
	p.awaitMetric(t, `ringback_database_fault{fault="untrusted"} 0`)
	expectAll(t, r, l.stop())
	wantNoOrphans(t, cluster.URL)
}

// wantRefused wants a start to end at once with a sentence.
func wantRefused(t *testing.T, what, database, sentence string) {
	t.Helper()
	err := run(t.Context(), []string{"--dev"}, environment(database, nil), io.Discard, io.Discard, works)
	if err == nil || t.Context().Err() != nil || !strings.Contains(err.Error(), sentence) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: got %v, want one line with %q", what, err, sentence)
	}
}

func wantAllEncrypted(t *testing.T, database string) {
	t.Helper()
	var all, encrypted int
	const sql = `
		SELECT count(*), count(*) FILTER (WHERE ssl)
		FROM pg_stat_ssl
		JOIN pg_stat_activity USING (pid)
		WHERE application_name = 'ringback'`
	if err := dbtest.Pool(t, database+"&application_name=test").QueryRow(t.Context(), sql).Scan(&all, &encrypted); err != nil || all == 0 || encrypted != all {
		t.Errorf("got %d of %d connections encrypted, %v, want all", encrypted, all, err)
	}
}
