package api

import (
	"context"
	"time"

	"ringback/jobs/limit"
)

// changePatience is the longest that a change waits for a slot. A client's burst of changes
// passes within it, where each takes some milliseconds.
const changePatience = 500 * time.Millisecond

// newChanges shares the connections that changes of requests take among clients. A change
// (a cancellation, a redelivery, a discard) is a transaction of its own. The pool serves the
// batches of all clients, too: cancellations of one client at its rate took all connections of
// a busy machine, and requests of other clients were refused. However many changes a client
// asks for, it leaves half of the slots to the others.
func newChanges(slots int, shared bool) *limit.Gate {
	return limit.NewGate(limit.NewHalves(slots, shared), limit.OldestFirst, reasonChanges, reasonClientChanges)
}

// change runs the statements of a call that changes requests, once its client has a slot.
func (a *API) change(c *call, do func(ctx context.Context) error) error {
	return a.inSlot(c, a.changes, changePatience, do)
}
