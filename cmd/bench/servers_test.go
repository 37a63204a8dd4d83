package main

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/db/dbtest"
)

// TestNaive holds the server that ours is compared with to what it is for, and
// the copies of its work to being whole.
func TestNaive(t *testing.T) {
	t.Parallel()
	d := database{"test", dbtest.NewEmpty(t)}
	deliverByNaive(t, d)
	const copies = 20
	if err := d.grow(t.Context(), copies); err != nil {
		t.Fatal(err)
	}
	const sql = `
		SELECT count(DISTINCT request_id)
		FROM request_trace
		WHERE callback_state = 'delivered'
		  AND outcome = 'delivered'
		  AND work_job_state = 'completed'
		  AND callback_job_state = 'completed'
		  AND settled_at <= now()`
	var whole int
	err := d.connect(t.Context(), func(conn *pgx.Conn) error { return conn.QueryRow(t.Context(), sql).Scan(&whole) })
	if err != nil || whole != copies+1 {
		t.Errorf("%d requests are whole (%v), want %d", whole, err, copies+1)
	}
}

// deliverByNaive returns when a request has been accepted, delivered and
// settled, and the server has drained.
func deliverByNaive(t *testing.T, d database) {
	t.Helper()
	receiver, err := startReceiver(defaultReceiver, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer receiver.close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	o := naiveOptions{databaseURL: d.url, role: "all", workers: 5, cooldown: 5 * time.Millisecond}
	go func() { ended <- serveNaive(ctx, o, listener, slog.New(slog.DiscardHandler)) }()
	if err := postOnce("http://"+listener.Addr().String()+"/async", asyncBody(receiver.url)); err != nil {
		t.Error(err)
	}
	waitFor(t, func() bool { return receiver.delivered.Load() == 1 })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestRiverAlone(t *testing.T) {
	t.Parallel()
	o := riverOptions{
		databaseURL: dbtest.NewEmpty(t), workers: 10, cooldown: 2 * time.Millisecond, poll: 20 * time.Millisecond,
		conns: 5, batch: 100, ahead: 100, length: time.Second,
	}
	rate, err := measureRiver(t.Context(), o, slog.New(slog.DiscardHandler))
	if err != nil || rate < 100 {
		t.Errorf("%.0f jobs/s (%v), want 100 in a second", rate, err)
	}
}
