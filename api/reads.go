package api

import (
	"context"
	"fmt"
	"time"

	"ringback/db"
	"ringback/jobs/clients"
	"ringback/jobs/limit"
)

// readPatience is the longest that a read waits for a slot: many quick reads pass within
// it, and few callers pile up behind slow reads.
const readPatience = 250 * time.Millisecond

// newReads shares the connections for reading among clients. However slow the reads
// of one client are, and however many it asks for, it leaves half of them to the
// others. Writes have connections of their own.
func newReads(connections int, shared bool) *limit.Gate {
	return limit.NewGate(limit.NewHalves(connections, shared), limit.OldestFirst, reasonReads, reasonClientReads)
}

// newReadRates are the rates of reads; nil where clients may read at any rate.
func (a *API) newReadRates() *rates {
	perSecond := a.ClientReads
	if perSecond == 0 || !a.areShared() {
		return nil
	}
	limits := clients.Limits{Rate: perSecond}
	policy := fmt.Sprintf(`"%s";q=%d;w=%d, "%s";q=%d;qu="concurrent-requests"`,
		readRatePolicy, burstSeconds*perSecond, burstSeconds, concurrentReadPolicy, a.reads.Share())
	return &rates{
		reason: reasonReadRate, name: readRatePolicy,
		limits: func(string) clients.Limits { return limits }, policies: func(clients.Limits) string { return policy },
		starts: startsOf(perSecond), weigh: weightOfRead,
	}
}

// weightOfRead counts a page as one GET for each ten requests that it may hold, since it
// costs about as much.
func weightOfRead(c *call) int {
	if c.FullPath() != listPath {
		return 1
	}
	p := parameters{query: c.Request.URL.Query()}
	requests := p.number("limit", defaultPage, maxPage)
	if p.problem() != nil {
		return 1 // a refusal
	}
	return weightOfPage(requests)
}

func weightOfPage(requests int) int { return (requests + 9) / 10 }

// listMany is list for a call about many callbacks. Its page counts as reads, too: at the
// rate of POSTs, a client would have a hundred thousand requests looked at a second.
func (a *API) listMany(c *call, filter db.Filter) (db.Page, error) {
	if a.getting != nil {
		now := time.Now()
		client := a.getting.client(c.client, now)
		if decision, _, _ := client.take(min(weightOfPage(filter.Limit), int(client.limit.Burst)), reasonReadRate, now); !decision.OK() {
			return db.Page{}, decision.Err()
		}
	}
	return a.list(c, filter)
}

// startsOf is how fast the reads of a burst begin: some at once, the rest at twice the rate.
// Two hundred listings at once would take both processors of a small machine from other
// clients for a quarter of a second.
func startsOf(perSecond int) limit.Rate {
	return limit.Rate{PerSecond: 2 * float64(perSecond), Burst: float64(max(1, perSecond/5))}
}

// read runs a client's query once the client has a slot. The database ends a slow statement
// before ctx ends, so that the connection survives.
func (a *API) read(c *call, ask func(ctx context.Context) error) error {
	err := a.inSlot(c, a.reads, readPatience, ask)
	a.Queue.Health().NoteRead(err)
	if err != nil && db.IsUnavailable(err) {
		p := newProblem(unavailable, "The database can't be reached at the moment, or takes too long. Try again.")
		p.reason = reasonAway
		return fmt.Errorf("%w (%w)", p, err)
	}
	return err
}

// inSlot runs the statements of a call once its client has a slot of a gate.
func (a *API) inSlot(c *call, gate *limit.Gate, longest time.Duration, do func(ctx context.Context) error) error {
	client := c.client
	patience := func(limit.Queue) time.Duration { return longest }
	if err := gate.Enter(c.Request.Context(), client, patience).Err(); err != nil {
		return err
	}
	defer gate.Leave(client)
	ctx, cancel := a.databaseContext(c.Request.Context())
	defer cancel()
	return do(ctx)
}

func (a *API) list(c *call, filter db.Filter) (page db.Page, err error) {
	err = a.read(c, func(ctx context.Context) error {
		page, err = db.ListRequests(ctx, a.Reads, filter)
		return err
	})
	return page, err
}
