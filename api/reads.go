package api

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"ringback/db"
)

// Names of the policies for reads, as in the headers and in the problem.
const (
	readRatePolicy       = "reads"
	concurrentReadPolicy = "concurrent-reads"
)

// readPatience is the longest that a read waits for its turn: many quick reads
// pass within it, and few callers pile up behind slow ones.
const readPatience = 250 * time.Millisecond

// reads shares the connections for reading among clients. A client has a bounded
// number of reads under way, and its other reads wait for a moment. However slow
// the reads of one client are, and however many it asks for, the others find
// connections. Writes have connections of their own.
type reads struct {
	slots     chan struct{} // as many as there are connections
	share     int           // of one client
	perSecond int           // reads of one client, with a burst of twice as many; 0 for no quotas
	policy    string        // the header RateLimit-Policy
	readers   sync.Map      // *reader by client; no more than there are clients
}

// reader is what one client reads.
type reader struct {
	slots chan struct{}
	rate  *callRate
}

// newReads gives a client half of the connections, or all where quotas are off.
func newReads(connections, perSecond int) *reads {
	r := &reads{slots: make(chan struct{}, connections), share: max(1, connections/2), perSecond: perSecond}
	if perSecond == 0 {
		r.share = connections
	}
	r.policy = fmt.Sprintf(`"%s";q=%d;w=%d, "%s";q=%d;qu="concurrent-requests"`,
		readRatePolicy, burstSeconds*perSecond, burstSeconds, concurrentReadPolicy, r.share)
	return r
}

func (r *reads) of(client string) *reader {
	if known, ok := r.readers.Load(client); ok {
		return known.(*reader)
	}
	fresh := &reader{make(chan struct{}, r.share), newCallRate(r.perSecond)}
	known, _ := r.readers.LoadOrStore(client, fresh)
	return known.(*reader)
}

// enter waits for a slot of the client, then for a slot of the process. No client
// waits for the latter with more reads than its share, so clients take turns. It
// returns a problem when no slot gets free in time; otherwise leave must follow.
func (r *reads) enter(ctx context.Context, client string) (leave func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	own := r.of(client).slots
	if !take(ctx, own) {
		return nil, refuse(reasonClientReads, r.share)
	}
	if !take(ctx, r.slots) {
		<-own
		return nil, refuse(reasonReads)
	}
	return func() { <-r.slots; <-own }, nil
}

func take(ctx context.Context, slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	default:
	}
	select {
	case slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// limitReads refuses the reads of a client that sends too many, and tells with
// every answer to one how much is left, as limit does for POSTs.
func (a *API) limitReads(c *gin.Context) {
	if a.reads.perSecond == 0 {
		return
	}
	allowed, left, reset := a.reads.of(c.GetString(clientKey)).rate.take(time.Now())
	c.Header("RateLimit-Policy", a.reads.policy)
	c.Header("RateLimit", fmt.Sprintf(`"%s";r=%d;t=%d`, readRatePolicy, left, reset))
	if !allowed {
		problem := refuse(reasonReadRate, a.reads.perSecond)
		problem.retryAfter = reset
		a.writeProblem(c, problem)
	}
}

// read asks the database for what a client wants to see, when it has a slot. The
// database ends a slow statement before ctx ends, so that the connection survives.
func (a *API) read(c *gin.Context, ask func(ctx context.Context) error) error {
	leave, err := a.reads.enter(c.Request.Context(), c.GetString(clientKey))
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := databaseContext(c.Request.Context())
	defer cancel()
	err = ask(ctx)
	if err != nil && db.IsUnavailable(err) {
		return fmt.Errorf("%w (%w)", newProblem("unavailable", "The database can't be reached at the moment, or takes too long. Try again."), err)
	}
	return err
}

func (a *API) list(c *gin.Context, filter db.Filter) (page db.Page, err error) {
	err = a.read(c, func(ctx context.Context) error {
		page, err = db.ListRequests(ctx, a.Reads, filter)
		return err
	})
	return page, err
}
