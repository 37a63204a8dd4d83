package db_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"ringback/db"
	"ringback/db/dbtest"
)

// closedDatabase is the URL of a database that takes no connections.
func closedDatabase(t *testing.T) string {
	t.Helper()
	url := dbtest.NewEmpty(t)
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	sql := "ALTER DATABASE " + pgx.Identifier{config.Database}.Sanitize() + " ALLOW_CONNECTIONS false"
	if err := query(t.Context(), connect(t, dbtest.NewEmpty(t)), sql); err != nil {
		t.Fatal(err)
	}
	return url
}

func TestFaultOf(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err  error
		want db.Fault
	}{
		{nil, ""},
		{errors.New("something else"), ""},
		{context.Canceled, ""},
		{&pgconn.PgError{Code: "23505"}, ""},
		{&pgconn.PgError{Code: "40P01"}, ""},
		{&pgconn.PgError{Code: "25006"}, db.ReadOnly},
		{&pgconn.PgError{Code: "53100"}, db.DiskFull},
		{&pgconn.PgError{Code: "53300"}, db.NoResources},
		{&pgconn.PgError{Code: "55P03"}, db.Locked},
		{&pgconn.PgError{Code: "57014"}, db.Slow},
		{&pgconn.PgError{Code: "57P03"}, db.Away},
		{fmt.Errorf("committing: %w", context.DeadlineExceeded), db.Slow},
	} {
		if got := db.FaultOf(test.err); got != test.want {
			t.Errorf("FaultOf(%v): got %q, want %q", test.err, got, test.want)
		}
	}
	if err := ping(t, closedPort(t)); db.FaultOf(err) != db.Away {
		t.Errorf("FaultOf(%v): got %q, want %q", err, db.FaultOf(err), db.Away)
	}
	config, err := pgx.ParseConfig(dbtest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	config.DialFunc = func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.EMFILE)}
	}
	if _, err := pgx.ConnectConfig(t.Context(), config); db.FaultOf(err) != db.NoResources {
		t.Errorf("FaultOf(%v): got %q, want %q, since the database may be there", err, db.FaultOf(err), db.NoResources)
	}
	config, err = pgx.ParseConfig(closedDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pgx.ConnectConfig(t.Context(), config); db.FaultOf(err) != db.Denied {
		t.Errorf("FaultOf(%v): got %q, want %q, since the schema is as it should be", err, db.FaultOf(err), db.Denied)
	}
	for _, fault := range []db.Fault{db.Away, db.ReadOnly, db.DiskFull, db.NoResources, db.Locked, db.Slow} {
		if db.Faults[fault] == "" {
			t.Errorf("%s has no remedy", fault)
		}
	}
}
