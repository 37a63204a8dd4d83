package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"ringback/cmd/internal/receivers"
)

// manner is how the hostile upstream treats an attempt.
type manner string

const (
	does      manner = "does"      // the work, at once
	slowly    manner = "slowly"    // takes its time
	breaks    manner = "breaks"    // the connection, with nothing said
	cuts      manner = "cuts"      // its answer off in the middle
	hangs     manner = "hangs"     // until it is given up
	isBusy    manner = "busy"      // 503
	throttles manner = "throttles" // 503 with Retry-After
	repeats   manner = "repeats"   // its answer, on the same connection
	garbles   manner = "garbles"   // answers 200 with no JSON, for good
	refuses   manner = "refuses"   // 422, for good
	fails     manner = "fails"     // 500, for good

	// The others answer 202.
	finishes manner = "finishes" // soon, after some progress
	last     manner = "last"     // is silent until its lease is nearly over
	tooLate  manner = "too-late" // finishes when it was given up
	twice    manner = "twice"    // finishes with two results at once
	errs     manner = "errs"     // finishes with an error, for good
	silent   manner = "silent"   // is never heard of again
	early    manner = "early"    // finishes before it answers

	// hangsAWhile is the manner of all attempts while upstreamHang lasts.
	hangsAWhile manner = "hangs-a-while"
)

func manners() []manner {
	return []manner{
		slowly, breaks, cuts, hangs, isBusy, throttles, repeats, garbles, refuses, fails,
		finishes, last, tooLate, twice, errs, silent, early,
	}
}

const (
	upstreamWork    = "hostile" // its name
	upstreamTimeout = 3 * time.Second
	upstreamLease   = 3 * time.Second
	upstreamRetries = 10
)

// workRun is an attempt that came to the upstream.
type workRun struct {
	Request string    `json:"request"`
	Attempt int       `json:"attempt"` // as it was charged
	Turn    int       `json:"turn"`    // counts attempts that charged nothing, too
	Signed  bool      `json:"signed"`
	Manner  manner    `json:"manner"`
	At      time.Time `json:"at"`
	Offers  []string  `json:"offers"` // the results that its request may end with
}

// finish is a report that ends an attempt, as far as the service takes it.
type finish struct {
	Request  string    `json:"request"`
	Turn     int       `json:"turn"`
	Offer    string    `json:"offer"`
	Sent     time.Time `json:"sent"` // first
	Answered time.Time `json:"answered"`
	Status   int       `json:"status"` // of the last sending, 0 for none
}

// upstream is a service that does work badly.
type upstream struct {
	history *history
	webhook *standardwebhooks.Webhook
	client  *http.Client
	ctx     context.Context // ends the runs that go on after an answer
	folder  string          // of the settings
	address string
	count   atomic.Int64
	trouble trouble

	dying  sync.Mutex // held while nobody listens
	mu     sync.Mutex
	server *http.Server
}

// trouble is the manner that all attempts have for a while, instead of their own.
type trouble struct {
	mu   sync.Mutex
	is   map[kind]int
	over chan struct{} // closed when there is none any more
}

func (t *trouble) begin(k kind) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.is) == 0 {
		t.is, t.over = map[kind]int{}, make(chan struct{})
	}
	t.is[k]++
}

func (t *trouble) end(k kind) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.is[k]--; t.is[k] == 0 {
		delete(t.is, k)
	}
	if len(t.is) == 0 {
		close(t.over)
	}
}

func (t *trouble) has(k kind) (over <-chan struct{}, has bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.over, t.is[k] > 0
}

// signed tells whether a call is signed as it should be, by a server whose clock may be
// wrong where clocks are skewed.
func (u *upstream) signed(body []byte, header http.Header) bool {
	if u.history.Skewed {
		return u.webhook.VerifyIgnoringTimestamp(body, header) == nil
	}
	return u.webhook.Verify(body, header) == nil
}

func startUpstream(ctx context.Context, h *history) (*upstream, error) {
	webhook, err := standardwebhooks.NewWebhook(receivers.LocalSecret)
	if err != nil {
		return nil, fmt.Errorf("reading the local secret: %w", err)
	}
	folder, err := os.MkdirTemp("", "chaos-upstream-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for the upstream's settings: %w", err)
	}
	// No connection is kept, as with callers: each sending has to be noted.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: answerTimeout}
	u := &upstream{history: h, webhook: webhook, client: client, ctx: ctx, folder: folder, address: "127.0.0.1:0"}
	if err := u.listen(); err != nil {
		return nil, errors.Join(err, u.close())
	}
	works := map[string]map[string]any{upstreamWork: {
		"url": "http://" + u.address + "/do", "secret": receivers.LocalSecret, "retries": upstreamRetries,
		"timeout": upstreamTimeout.String(), "lease": upstreamLease.String(),
	}}
	encoded, err := json.Marshal(works)
	if err == nil {
		err = os.WriteFile(u.file(), encoded, 0o600)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("writing the upstream's settings: %w", err), u.close())
	}
	return u, nil
}

func (u *upstream) file() string { return filepath.Join(u.folder, "works.json") }

// settings are the settings of the servers whose work the upstream does.
func (u *upstream) settings() []string { return []string{"WORKS=" + u.file()} }

// listen takes connections, at the address that it had before.
func (u *upstream) listen() error {
	listener, err := net.Listen("tcp", u.address)
	if err != nil {
		return fmt.Errorf("listening for work: %w", err)
	}
	server := &http.Server{Handler: http.HandlerFunc(u.serve)}
	u.mu.Lock()
	u.address, u.server = listener.Addr().String(), server
	u.mu.Unlock()
	go server.Serve(listener)
	return nil
}

// die ends all connections.
func (u *upstream) die() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.server == nil {
		return nil
	}
	return u.server.Close()
}

func (u *upstream) close() error { return errors.Join(u.die(), os.RemoveAll(u.folder)) }

// suffer gives the upstream a trouble for a while.
func (u *upstream) suffer(ctx context.Context, k kind, length time.Duration) error {
	u.trouble.begin(k)
	defer u.trouble.end(k)
	if k != upstreamAway {
		wait(ctx, length)
		return nil
	}
	u.dying.Lock() // twice at a time is once after the other
	defer u.dying.Unlock()
	if err := u.die(); err != nil {
		return err
	}
	wait(ctx, length)
	return u.listen()
}

func (u *upstream) suffers(k kind) bool {
	_, has := u.trouble.has(k)
	return has
}

// serve is an attempt that comes.
func (u *upstream) serve(w http.ResponseWriter, call *http.Request) {
	body, err := io.ReadAll(call.Body)
	if err != nil {
		return // of a caller that was killed
	}
	var input struct {
		Manners []manner `json:"manners"`
	}
	if err := json.Unmarshal(body, &input); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r := &workRun{Request: call.Header.Get("Idempotency-Key"), At: time.Now(), Signed: u.signed(body, call.Header)}
	r.Attempt, _ = strconv.Atoi(call.Header.Get("Ringback-Attempt"))
	r.Turn = turnOf(call.Header.Get("Ringback-Finish"))
	r.Manner = u.manner(input.Manners, r.Request)
	u.history.addRun(r)
	u.treat(w, call, r)
}

// turnOf reads the turn of an attempt from the address at which it is finished: the last
// four of the twenty bytes that name it.
func turnOf(finish string) int {
	raw, err := base64.RawURLEncoding.DecodeString(path.Base(finish))
	if err != nil || len(raw) < 20 {
		return 0
	}
	return int(binary.BigEndian.Uint32(raw[16:20]))
}

// manner is the manner of a request's next run.
func (u *upstream) manner(wanted []manner, request string) manner {
	switch {
	case u.suffers(upstreamBusy):
		return throttles
	case u.suffers(upstreamHang):
		return hangsAWhile
	}
	if n := u.history.runsOf(request); n < len(wanted) {
		return wanted[n]
	}
	return does
}

// offer is a result that no other run has.
func (u *upstream) offer(r *workRun) string {
	result := fmt.Sprintf(`{"request":%q,"run":%d}`, r.Request, u.count.Add(1))
	u.history.addOffer(r, result)
	return result
}

// failure is the result of a failed request, beside real results.
func failure(code string) string { return "error " + code }

func (u *upstream) treat(w http.ResponseWriter, call *http.Request, r *workRun) {
	switch r.Manner {
	case does:
	case slowly:
		wait(call.Context(), time.Duration(300+u.count.Load()%5*300)*time.Millisecond)
	case breaks:
		panic(http.ErrAbortHandler)
	case hangs:
		<-call.Context().Done()
		return
	case hangsAWhile:
		over, _ := u.trouble.has(upstreamHang)
		select {
		case <-over:
		case <-call.Context().Done():
			return
		}
	case isBusy:
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case throttles:
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case cuts, repeats:
		u.writeRaw(w, r)
		return
	case garbles, refuses, fails:
		u.failFor(w, r)
		return
	default:
		u.goOn(w, r, call.Header.Get("Ringback-Finish"))
		return
	}
	fmt.Fprint(w, u.offer(r))
}

// writeRaw writes half an answer, or two.
func (u *upstream) writeRaw(w http.ResponseWriter, r *workRun) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	answer := func(result string) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(result), result)
	}
	if r.Manner == cuts {
		whole := answer(`{"request":"half of it"}`)
		_, _ = io.WriteString(conn, whole[:len(whole)-3])
		return
	}
	_, _ = io.WriteString(conn, answer(u.offer(r))+answer(`{"request":"another answer"}`))
	wait(u.ctx, 50*time.Millisecond) // or the answer is lost with the connection
}

// failFor answers with an error that fails a request.
func (u *upstream) failFor(w http.ResponseWriter, r *workRun) {
	switch r.Manner {
	case garbles:
		u.history.addOffer(r, failure("upstream_failed"))
		fmt.Fprint(w, `{"request":`)
	case refuses:
		u.history.addOffer(r, failure("refused"))
		w.WriteHeader(http.StatusUnprocessableEntity)
	case fails:
		u.history.addOffer(r, failure("upstream_failed"))
		w.WriteHeader(http.StatusInternalServerError)
	}
}

// goOn answers 202, and finishes in its manner.
func (u *upstream) goOn(w http.ResponseWriter, r *workRun, address string) {
	if r.Manner == early {
		offer := u.offer(r)
		f := u.newFinish(r, offer)
		if u.send(f, address, reportOf(offer)); !f.isOver() {
			u.history.following.Go(func() { u.insist(f, address, reportOf(offer)) })
		}
	}
	w.WriteHeader(http.StatusAccepted)
	switch r.Manner {
	case finishes:
		u.after(200*time.Millisecond, func() {
			u.post(address, `{"progress":{"percent":10}}`)
			wait(u.ctx, 300*time.Millisecond)
			u.end(r, address)
		})
	case last:
		u.after(upstreamLease-200*time.Millisecond, func() { u.end(r, address) })
	case tooLate: // another attempt is made a second after the lease
		u.after(upstreamLease+2*time.Second, func() { u.end(r, address) })
	case twice:
		u.after(300*time.Millisecond, func() {
			u.history.following.Go(func() { u.end(r, address) })
			u.end(r, address)
		})
	case errs:
		u.after(300*time.Millisecond, func() {
			u.history.addOffer(r, failure("no_page"))
			u.insist(u.newFinish(r, failure("no_page")), address, `{"error":{"code":"no_page","message":"No such page."}}`)
		})
	}
}

func reportOf(offer string) string { return `{"result":` + offer + `}` }

func (u *upstream) after(pause time.Duration, do func()) {
	u.history.following.Go(func() {
		wait(u.ctx, pause)
		do()
	})
}

// end finishes with a result of its own.
func (u *upstream) end(r *workRun, address string) {
	offer := u.offer(r)
	u.insist(u.newFinish(r, offer), address, reportOf(offer))
}

func (u *upstream) newFinish(r *workRun, offer string) *finish {
	f := &finish{Request: r.Request, Turn: r.Turn, Offer: offer, Sent: time.Now()}
	u.history.addFinish(f)
	return f
}

// isOver tells whether the report was answered with any status that ends it.
func (f *finish) isOver() bool { return f.Status != 0 && f.Status < 500 }

// insist sends a report until it is answered.
func (u *upstream) insist(f *finish, address, body string) {
	for u.ctx.Err() == nil {
		if u.send(f, address, body); f.isOver() {
			return
		}
		wait(u.ctx, 500*time.Millisecond)
	}
}

func (u *upstream) send(f *finish, address, body string) {
	status := u.post(address, body)
	u.history.mu.Lock()
	defer u.history.mu.Unlock()
	f.Status, f.Answered = status, time.Now()
}

// post returns status 0 for no answer.
func (u *upstream) post(address, body string) int {
	request, err := http.NewRequestWithContext(u.ctx, http.MethodPost, address, strings.NewReader(body))
	if err != nil {
		return http.StatusNotFound // it was told nonsense
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := u.client.Do(request)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode
}

func (h *history) addRun(r *workRun) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Runs = append(h.Runs, r)
}

// runsOf is how many attempts of a request have come.
func (h *history) runsOf(request string) (count int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.Runs {
		if r.Request == request {
			count++
		}
	}
	return count
}

// addOffer notes a run's answer before the run sends it.
func (h *history) addOffer(r *workRun, offer string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r.Offers = append(r.Offers, offer)
}

func (h *history) addFinish(f *finish) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Finishes = append(h.Finishes, f)
}

// compacted is JSON without white space.
func compacted(text json.RawMessage) string {
	var compact bytes.Buffer
	if json.Compact(&compact, text) != nil {
		return string(text)
	}
	return compact.String()
}
