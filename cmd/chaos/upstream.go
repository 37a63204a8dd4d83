package main

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/receivers"
)

const (
	upstreamWork    = "hostile" // name of the kind of work
	upstreamTimeout = 3 * time.Second
	upstreamLease   = 3 * time.Second
	upstreamRetries = 10
)

// workRun is an attempt that came to the upstream.
type workRun struct {
	Attempt int // the number of the charged attempt
	Turn    int // counts uncharged attempts, too
	Signed  bool
	Manner  manner
	At      time.Time
	Offers  []string // outcomes that the run gives its request

	request string
	address string          // to which the run is reported
	ctx     context.Context // of its call
}

// finish is a report that ends an attempt, if the service takes the report.
type finish struct {
	Turn     int
	Offer    string
	Sent     time.Time // for the first time
	Answered time.Time
	Status   int // of the last answer, 0 for none
}

// upstream is a service that does work badly.
type upstream struct {
	ledger  *ledger
	client  *http.Client
	ctx     context.Context // ends the runs that go on after an answer
	file    string          // that servers get as WORKS
	address string
	server  *http.Server
	count   atomic.Int64
	trouble atomic.Value // the manner of all attempts for a while, or ""
}

func (t *trial) startUpstream(ctx context.Context, folder string) {
	u := &upstream{ledger: t.ledger, client: newClient(), ctx: ctx, file: filepath.Join(folder, "works.json"), address: "127.0.0.1:0"}
	u.trouble.Store(manner(""))
	t.Must(u.listen())
	t.AtEnd(u.close)
	encoded, err := json.Marshal(map[string]map[string]any{upstreamWork: {
		"url": "http://" + u.address + "/do", "secret": receivers.LocalSecret, "retries": upstreamRetries,
		"timeout": upstreamTimeout.String(), "lease": upstreamLease.String(),
	}})
	t.Must(errors.Join(err, os.WriteFile(u.file, encoded, 0o600)))
	t.upstream = u
}

// listen takes connections, after close at the same address.
func (u *upstream) listen() error {
	listener, err := net.Listen("tcp", u.address)
	if err != nil {
		return fmt.Errorf("listening for work: %w", err)
	}
	u.address, u.server = listener.Addr().String(), &http.Server{Handler: http.HandlerFunc(u.serve)}
	go u.server.Serve(listener)
	return nil
}

// close ends all connections.
func (u *upstream) close() error { return u.server.Close() }

// serve notes an attempt, and treats it in a manner.
func (u *upstream) serve(w http.ResponseWriter, call *http.Request) {
	body, err := io.ReadAll(call.Body)
	if err != nil {
		return // the calling process was killed
	}
	var input struct {
		Manners []manner `json:"manners"`
	}
	if err := json.Unmarshal(body, &input); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r := &workRun{
		request: call.Header.Get("Idempotency-Key"), At: time.Now(), Signed: u.ledger.verifier.Takes(body, call.Header),
		address: call.Header.Get("Ringback-Finish"), ctx: call.Context(), Manner: does,
	}
	r.Attempt, _ = strconv.Atoi(call.Header.Get("Ringback-Attempt"))
	r.Turn = turnOf(r.address)
	u.ledger.tell(r.request, func(s *story) {
		if n := len(s.runs); n < len(input.Manners) {
			r.Manner = input.Manners[n]
		}
		if trouble := u.trouble.Load().(manner); trouble != "" {
			r.Manner = trouble
		}
		s.runs = append(s.runs, r)
	})
	manners[r.Manner](u, w, r)
}

// turnOf reads the turn of an attempt from the address of its reports: from the last four of
// the twenty bytes that name the attempt.
func turnOf(address string) int {
	raw, err := base64.RawURLEncoding.DecodeString(path.Base(address))
	if err != nil || len(raw) < 20 {
		return 0
	}
	return int(binary.BigEndian.Uint32(raw[16:20]))
}

// offer makes a result that no other run has, and notes it before the run answers with it.
func (u *upstream) offer(r *workRun) string {
	result := fmt.Sprintf(`{"request":%q,"run":%d}`, r.request, u.count.Add(1))
	u.ledger.note(func() { r.Offers = append(r.Offers, result) })
	return result
}

// end finishes an attempt with a result of its own.
func (u *upstream) end(ctx context.Context, r *workRun) {
	offer := u.offer(r)
	u.insist(ctx, r, offer, map[string]any{"result": json.RawMessage(offer)})
}

// insist sends a report until it is answered.
func (u *upstream) insist(ctx context.Context, r *workRun, offer string, body any) {
	f := &finish{Turn: r.Turn, Offer: offer, Sent: time.Now()}
	u.ledger.tell(r.request, func(s *story) { s.finishes = append(s.finishes, f) })
	for ctx.Err() == nil {
		status, _ := exchange(ctx, u.client, http.MethodPost, r.address, "", body)
		u.ledger.note(func() { f.Status, f.Answered = max(0, status), time.Now() })
		if status > 0 && status < http.StatusInternalServerError {
			return
		}
		load.Pause(ctx, 500*time.Millisecond)
	}
}

// manner is how the hostile upstream treats an attempt.
type manner string

// Manners that others know.
const (
	does      manner = "does"
	hangs     manner = "hangs"
	throttles manner = "throttles" // uncharged
)

// treat answers an attempt, and may finish it later.
type treat func(u *upstream, w http.ResponseWriter, r *workRun)

var manners = map[manner]treat{
	does:      answer,
	"slowly":  slowly,
	"breaks":  breakOff, // ends the connection without an answer
	"cuts":    cut,      // ends the connection in the middle of the answer
	hangs:     hang,     // until the service gives the attempt up
	"busy":    refuse,
	throttles: throttle,
	"repeats": repeat, // answers twice on the same connection

	// The request fails:
	"garbles": fail("upstream_failed", http.StatusOK, `{"request":`), // no JSON
	"refuses": fail("refused", http.StatusUnprocessableEntity, ""),
	"fails":   fail("upstream_failed", http.StatusInternalServerError, ""),

	// The upstream answers 202:
	"finishes": later(200*time.Millisecond, endWithProgress),
	"last":     later(upstreamLease-200*time.Millisecond, endLate), // reports when the lease is nearly over
	"too-late": later(upstreamLease+2*time.Second, endLate),        // another attempt is made a second after the lease
	"twice":    later(300*time.Millisecond, endTwice),              // reports two results at once
	"errs":     later(300*time.Millisecond, endWithError),          // the request fails
	"silent":   later(0, func(*upstream, *workRun) {}),             // never reports
	"early":    early,                                              // reports before it answers
}

func mannerNames() []manner { return slices.Sorted(maps.Keys(manners)) }

func answer(u *upstream, w http.ResponseWriter, r *workRun) { fmt.Fprint(w, u.offer(r)) }

func slowly(u *upstream, w http.ResponseWriter, r *workRun) {
	load.Pause(r.ctx, time.Duration(300+rand.IntN(1200))*time.Millisecond)
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
	// Both answers are sent at once: a second answer that comes as the next call is sent counts
	// as the answer to that call, as work/upstream/README.md says.
	var answers []byte
	for _, result := range []string{u.offer(r), `{"request":"another answer"}`} {
		answers = fmt.Appendf(answers, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(result), result)
	}
	_, _ = conn.Write(answers)
	load.Pause(u.ctx, 50*time.Millisecond) // or the answer would be lost with the connection
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
			load.Pause(u.ctx, pause)
			do(u, r)
		})
	}
}

func endLate(u *upstream, r *workRun) { u.end(u.ctx, r) }

func endWithProgress(u *upstream, r *workRun) {
	exchange(u.ctx, u.client, http.MethodPost, r.address, "", json.RawMessage(`{"progress":{"percent":10}}`))
	load.Pause(u.ctx, 300*time.Millisecond)
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
