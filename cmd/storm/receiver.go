package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	maxCallbackBytes = 256 << 10 // four times what the service promises at most
	maxListed        = 10        // missing ids that are printed
)

// fate is what the server said about an async request.
type fate uint8

const (
	unsent fate = iota
	unsure      // sent, but not answered in a way that tells whether it was accepted
	refused
	acknowledged
)

// slot is one async request and its callbacks. The first callback may come
// before the acknowledgement.
type slot struct {
	intended time.Time
	fate     fate
	id       string // acknowledged

	callbacks  int
	first      callback
	firstAfter time.Duration // intended send time to the first callback
	sawOtherID bool          // a later callback carried another id than the first
}

// callback is what the receiver looks at.
type callback struct {
	Data struct{ ID, Status string }
}

// receiver takes the callbacks of one run.
type receiver struct {
	server  *http.Server
	run     string // part of each path: an earlier run may have had the same port
	baseURL string // known once it listens

	mu          sync.Mutex
	slots       []slot
	strays      int           // callbacks to a path that this run never gave away
	calledBack  int           // slots
	outstanding int           // slots acknowledged and not called back
	settled     chan struct{} // once asked for; closed when nothing is outstanding
}

func newReceiver(slots int) *receiver {
	r := &receiver{run: rand.Text(), slots: make([]slot, slots)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /callbacks/{run}/{slot}", r.serveCallback)
	mux.HandleFunc("/", r.serveStray)
	r.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0), // broken connections would tear the progress lines apart
	}
	return r
}

func (r *receiver) listen() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	r.baseURL = fmt.Sprintf("http://%s/callbacks/%s/", listener.Addr(), r.run)
	go func() { _ = r.server.Serve(listener) }() // returns when close is called
	return nil
}

func (r *receiver) close() { _ = r.server.Close() }

// expect returns the callback URL of a slot whose request is about to leave.
func (r *receiver) expect(number int, intended time.Time) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.slots[number].intended, r.slots[number].fate = intended, unsure
	return r.baseURL + strconv.Itoa(number)
}

// settle notes what the server answered to the request of a slot.
func (r *receiver) settle(number int, answer answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	slot := &r.slots[number]
	switch {
	case answer.unsure:
	case answer.id == "":
		slot.fate = refused
	default:
		slot.fate, slot.id = acknowledged, answer.id
		if slot.callbacks == 0 {
			r.outstanding++
		}
	}
}

// allCalledBack returns a channel that is closed when every acknowledged
// request is called back. It is called once, after the last settle.
func (r *receiver) allCalledBack() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settled = make(chan struct{})
	if r.outstanding == 0 {
		close(r.settled)
	}
	return r.settled
}

func (r *receiver) progress() (calledBack int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calledBack
}

func (r *receiver) serveCallback(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, request.Body, maxCallbackBytes))
	if err != nil {
		http.Error(w, "unreadable", http.StatusBadRequest)
		return
	}
	number, err := strconv.Atoi(request.PathValue("slot"))
	if err != nil || number < 0 || number >= len(r.slots) || request.PathValue("run") != r.run {
		r.serveStray(w, request)
		return
	}
	var called callback
	_ = json.Unmarshal(body, &called) // what can't be read has no id, which is a mismatch
	r.record(number, called)
	w.WriteHeader(http.StatusNoContent)
}

// serveStray counts a callback that isn't of this run. It answers that nobody
// waits for it any more, so that it isn't tried again.
func (r *receiver) serveStray(w http.ResponseWriter, _ *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.strays++
	w.WriteHeader(http.StatusGone)
}

func (r *receiver) record(number int, called callback) {
	r.mu.Lock()
	defer r.mu.Unlock()
	slot := &r.slots[number]
	slot.callbacks++
	if slot.callbacks > 1 {
		slot.sawOtherID = slot.sawOtherID || called.Data.ID != slot.first.Data.ID
		return
	}
	slot.first, slot.firstAfter = called, time.Since(slot.intended)
	r.calledBack++
	if slot.fate != acknowledged {
		return
	}
	r.outstanding--
	if r.outstanding == 0 && r.settled != nil {
		close(r.settled)
	}
}

// callbackTally is what became of the async requests. Acknowledged ones are
// delivered, missing or mismatched.
type callbackTally struct {
	delivered, missing, mismatched int
	duplicated                     int      // callbacks beyond the first of their request
	unacknowledged                 int      // requests called back whose acknowledgement got lost
	orphans                        int      // callbacks of no request that this run sent and the server took
	workFailed                     int      // requests called back to say that their work failed
	missingIDs                     []string // the first maxListed
	after                          *histogram
}

func (r *receiver) tally() callbackTally {
	r.mu.Lock()
	defer r.mu.Unlock()
	tally := callbackTally{orphans: r.strays, after: newHistogram()}
	for i := range r.slots {
		tally.add(&r.slots[i])
	}
	return tally
}

func (t *callbackTally) add(slot *slot) {
	switch {
	case slot.fate == unsent || slot.fate == refused:
		t.orphans += slot.callbacks
		return
	case slot.callbacks > 0:
		t.addCalledBack(slot)
	case slot.fate == acknowledged:
		t.missing++
		if len(t.missingIDs) < maxListed {
			t.missingIDs = append(t.missingIDs, slot.id)
		}
	}
}

func (t *callbackTally) addCalledBack(slot *slot) {
	t.duplicated += slot.callbacks - 1
	if slot.first.Data.Status != "succeeded" {
		t.workFailed++
	}
	switch {
	case slot.sawOtherID || slot.fate == acknowledged && slot.first.Data.ID != slot.id:
		t.mismatched++
	case slot.fate == acknowledged:
		t.delivered++
		t.after.record(slot.firstAfter)
	default:
		t.unacknowledged++
	}
}
