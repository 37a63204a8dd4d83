package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
)

// manner is how the hostile upstream treats an attempt.
type manner string

// Manners that others know.
const (
	does      manner = "does"
	hangs     manner = "hangs"
	throttles manner = "throttles" // charges nothing
)

// treat answers an attempt, and may finish it later.
type treat func(u *upstream, w http.ResponseWriter, r *workRun)

var manners = map[manner]treat{
	does:      answer,
	"slowly":  slowly,
	"breaks":  breakOff, // the connection, with nothing said
	"cuts":    cut,      // its answer off in the middle
	hangs:     hang,     // until it is given up
	"busy":    refuse,
	throttles: throttle,
	"repeats": repeat, // its answer, on the same connection

	// For good: the request fails.
	"garbles": fail("upstream_failed", http.StatusOK, `{"request":`), // no JSON
	"refuses": fail("refused", http.StatusUnprocessableEntity, ""),
	"fails":   fail("upstream_failed", http.StatusInternalServerError, ""),

	// The others answer 202.
	"finishes": later(200*time.Millisecond, endWithProgress),
	"last":     later(upstreamLease-200*time.Millisecond, endLate), // is silent until its lease is nearly over
	"too-late": later(upstreamLease+2*time.Second, endLate),        // another attempt is made a second after the lease
	"twice":    later(300*time.Millisecond, endTwice),              // with two results at once
	"errs":     later(300*time.Millisecond, endWithError),          // for good
	"silent":   later(0, func(*upstream, *workRun) {}),             // is never heard of again
	"early":    early,                                              // finishes before it answers
}

func mannerNames() []manner { return slices.Sorted(maps.Keys(manners)) }

func answer(u *upstream, w http.ResponseWriter, r *workRun) { fmt.Fprint(w, u.offer(r)) }

func slowly(u *upstream, w http.ResponseWriter, r *workRun) {
	wait(r.ctx, time.Duration(300+rand.IntN(1200))*time.Millisecond)
	answer(u, w, r)
}

func breakOff(*upstream, http.ResponseWriter, *workRun) { panic(http.ErrAbortHandler) }

func cut(_ *upstream, w http.ResponseWriter, _ *workRun) {
	w.Header().Set("Content-Length", "25")
	fmt.Fprint(w, `{"request":"half of it`)
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func hang(_ *upstream, _ http.ResponseWriter, r *workRun) { <-r.ctx.Done() }

func refuse(_ *upstream, w http.ResponseWriter, _ *workRun) {
	w.WriteHeader(http.StatusServiceUnavailable)
}

func throttle(u *upstream, w http.ResponseWriter, r *workRun) {
	w.Header().Set("Retry-After", "1")
	refuse(u, w, r)
}

func repeat(u *upstream, w http.ResponseWriter, r *workRun) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	for _, result := range []string{u.offer(r), `{"request":"another answer"}`} {
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(result), result)
	}
	wait(u.ctx, 50*time.Millisecond) // or the answer is lost with the connection
}

// fail answers so that the request fails with code.
func fail(code string, status int, body string) treat {
	return func(u *upstream, w http.ResponseWriter, r *workRun) {
		u.ledger.note(func() { r.Offers = append(r.Offers, failure(code)) })
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// later answers 202, and goes on after a pause.
func later(pause time.Duration, do func(u *upstream, r *workRun)) treat {
	return func(u *upstream, w http.ResponseWriter, r *workRun) {
		w.WriteHeader(http.StatusAccepted)
		u.ledger.following.Go(func() {
			wait(u.ctx, pause)
			do(u, r)
		})
	}
}

func endLate(u *upstream, r *workRun) { u.end(u.ctx, r) }

func endWithProgress(u *upstream, r *workRun) {
	exchange(u.ctx, u.client, http.MethodPost, r.address, "", json.RawMessage(`{"progress":{"percent":10}}`))
	wait(u.ctx, 300*time.Millisecond)
	u.end(u.ctx, r)
}

func endTwice(u *upstream, r *workRun) {
	u.ledger.following.Go(func() { u.end(u.ctx, r) })
	u.end(u.ctx, r)
}

func endWithError(u *upstream, r *workRun) {
	offer := failure("no_page")
	u.ledger.note(func() { r.Offers = append(r.Offers, offer) })
	u.insist(u.ctx, r, offer, json.RawMessage(`{"error":{"code":"no_page","message":"No such page."}}`))
}

func early(u *upstream, w http.ResponseWriter, r *workRun) {
	u.end(r.ctx, r)
	w.WriteHeader(http.StatusAccepted)
}
