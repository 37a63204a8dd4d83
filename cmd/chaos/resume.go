package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// resumeLimit is how long everything may take to go on by itself when the last fault
// is over.
const resumeLimit = 30 * time.Second

// resumption is the service's recovery after the last fault.
type resumption struct {
	What string        `json:"what"`
	Took time.Duration `json:"took"`
}

// resume finds how long each server takes until it is healthy and, if it takes calls,
// a request of its own has been called back.
func (t *trial) resume(ctx context.Context) {
	t.history.Quiet = time.Now()
	ctx, cancel := context.WithTimeout(ctx, t.patience)
	defer cancel()
	var servers sync.WaitGroup
	for number, role := range t.plan.Roles {
		servers.Go(func() {
			t.resumeServer(ctx, number, role)
			t.history.addResumed(resumption{fmt.Sprintf("server %d (%s)", number, role), time.Since(t.history.Quiet)})
		})
	}
	servers.Wait()
}

func (t *trial) resumeServer(ctx context.Context, number int, role string) {
	if t.servers.waitServer(ctx, number) != nil || role == "worker" {
		return
	}
	asked := t.ask(ctx, number)
	for ctx.Err() == nil && !t.history.hasCome(asked.IDs[0]) {
		wait(ctx, 50*time.Millisecond)
	}
}

// ask repeats a call until it is acknowledged.
func (t *trial) ask(ctx context.Context, number int) *call {
	for try := 1; ; try++ {
		made := newCall(fmt.Sprintf("%sserver %d call %d\n", t.history.Mine, number, try), steady, 0, 0)
		t.caller.make(made, number)
		t.history.addCall(made)
		if made.Status == http.StatusAccepted || ctx.Err() != nil {
			return made
		}
		wait(ctx, 200*time.Millisecond)
	}
}
