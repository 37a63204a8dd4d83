package api

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"ringback/db/batch"
	"ringback/jobs"
)

// TestRefusals holds the words of every refusal, and that no two causes share
// them.
func TestRefusals(t *testing.T) {
	t.Parallel()
	seen := map[string]string{} // reasons, by their words
	var reasons []string
	for _, test := range []struct {
		reason  string
		err     error
		problem string
		status  int
		detail  string
		policy  string
	}{
		{
			"connections", connectionsRefused(t), "temporary-reduced-capacity", 503,
			"Too many connections are open. Nothing was accepted; try again.", "",
		},
		{
			"client_rate", refuse(reasonRate, 50), "quota-exceeded", 429,
			"You send more than 50 requests a second. Nothing was accepted; try again.", "rate",
		},
		{
			"sync", gateRefuses(t, newGate(1, "alice")), "temporary-reduced-capacity", 503,
			"Too many sync requests are under way. Nothing was done; try again.", "",
		},
		{
			"client_sync", gateRefuses(t, newGate(5, "")), "temporary-reduced-capacity", 503,
			"Too many of your sync requests are under way. Nothing was done; try again.", "",
		},
		{
			"bodies", bodyRefused(t, newBodyBudget(maxBudget, "alice")), "temporary-reduced-capacity", 503,
			"Too many large bodies are under way. Nothing was accepted; try again.", "",
		},
		{
			"client_bodies", bodyRefused(t, newBodyBudget(maxBudget, "")), "temporary-reduced-capacity", 503,
			"Too many large bodies of yours are under way. Nothing was accepted; try again.", "",
		},
		{"read_rate", refuse(reasonReadRate, 50), "quota-exceeded", 429, "You read more than 50 times a second. Try again.", "reads"},
		{
			"client_reads", readsRefuse(t, newReads(4, 50)), "quota-exceeded", 429,
			"You have 2 reads under way, which take long. Try again when they have ended.", "concurrent-reads",
		},
		{"reads", readsRefuse(t, newReads(1, 0)), "temporary-reduced-capacity", 503, "Too many reads are under way. Try again.", ""},
		{
			"streams", jobs.ErrFollowers, "temporary-reduced-capacity", 503,
			"Too many event streams are open. Ask without one, or try again.", "",
		},
		{
			"client_streams", jobs.ErrClientFollowers, "quota-exceeded", 429,
			"Too many of your event streams are open. Ask without one, or try again when one has ended.", "event-streams",
		},
		{
			"unfinished", jobs.ErrBacklog, "temporary-reduced-capacity", 503,
			"Too many requests are unfinished. Nothing was accepted; try again.", "",
		},
		{
			"client_unfinished", &jobs.QuotaError{Quota: jobs.UnfinishedQuota, Most: 7}, "quota-exceeded", 429,
			"At most 7 of your requests may be unfinished. Nothing was accepted; try again when some have been called back.", "unfinished",
		},
		{
			"destination_unfinished", &jobs.QuotaError{Quota: jobs.DestinationQuota, Most: 7}, "quota-exceeded", 429,
			"At most 7 of your requests for one destination may be unfinished. Nothing was accepted; try again when some have been called back.", "destination",
		},
		{
			"client_storage", &jobs.QuotaError{Quota: jobs.StorageQuota, Most: 7}, "quota-exceeded", 429,
			"At most 7 bytes of your requests are kept, with their inputs and results. Nothing was accepted; requests go some time after they have ended, or ask the operator for more.", "storage",
		},
		{
			"client_dead_letters", &jobs.QuotaError{Quota: jobs.DeadLetterQuota, Most: 7}, "quota-exceeded", 429,
			"At most 7 of your callbacks may be dead letters. Nothing was accepted; redeliver them (POST /redeliveries) when their receivers are back, or ask the operator for more.", "dead-letters",
		},
		{
			"client_secret", jobs.ErrUnsignable, "secret-unreadable", 503,
			"The service can't read the secret that your callbacks are signed with. Nothing was accepted; tell the operator, who has to put the key back with which it was sealed (SECRETS_KEY), or rotate your key.", "",
		},
		{
			"queue_full", batch.ErrFull, "temporary-reduced-capacity", 503,
			"Too many requests wait to be stored. Nothing was accepted; try again.", "",
		},
		{
			"queue_bytes", batch.ErrLarge, "temporary-reduced-capacity", 503,
			"The requests that wait to be stored take too much memory. Nothing was accepted; try again.", "",
		},
		{
			"queue_patience", batch.ErrLate, "temporary-reduced-capacity", 503,
			"Requests wait too long to be stored. Nothing was accepted; try again.", "",
		},
		{
			"stopping", batch.ErrStopped, "unavailable", 503,
			"The process has stopped. Nothing was accepted; try again.", "",
		},
		{
			"work", &jobs.DownError{}, "unavailable", 503,
			"What does the work can't do it now. Nothing was done; try again.", "",
		},
		{
			"database_away", jobs.ErrAway, "unavailable", 503,
			"The database doesn't answer, or can't be written. Nothing was accepted; try again.", "",
		},
		{
			"starting", refuse(reasonStarting), "unavailable", 503,
			"The process is starting. Nothing was accepted; try again.", "",
		},
		{
			"database_failed", io.ErrUnexpectedEOF, "unavailable", 503,
			"The database could not finish the call. A POST /async that was under way may yet be called back.", "",
		},
	} {
		got := problemOf(fmt.Errorf("accepting: %w", test.err))
		if got.reason != test.reason || got.name != test.problem || got.Status != test.status || got.Detail != test.detail {
			t.Errorf("%v: got %s, %s, %d, %q, want %s, %s, %d, %q", test.err,
				got.reason, got.name, got.Status, got.Detail, test.reason, test.problem, test.status, test.detail)
		}
		if policies := strings.Join(got.ViolatedPolicies, " "); policies != test.policy {
			t.Errorf("%s: got policies %q, want %q", test.reason, policies, test.policy)
		}
		words, _, _ := strings.Cut(got.Detail, ".")
		if other := seen[words]; other != "" {
			t.Errorf("%s and %s share the words %q", other, test.reason, words)
		}
		seen[words] = test.reason
		reasons = append(reasons, test.reason)
	}
	for _, known := range refusals {
		if !slices.Contains(reasons, known.reason) {
			t.Errorf("nothing is held of the reason %s", known.reason)
		}
	}
}

// connectionsRefused is what the listener answers, as an error.
func connectionsRefused(t *testing.T) error {
	t.Helper()
	told := problem{name: "temporary-reduced-capacity", reason: Connections}
	if err := json.Unmarshal(RefusalBody(Connections), &told); err != nil {
		t.Fatal(err)
	}
	if told.Type != "/problems/"+told.name {
		t.Errorf("got type %q", told.Type)
	}
	return &told
}

// gateRefuses fills a gate with calls of alice, and returns what her next one is
// told.
func gateRefuses(t *testing.T, g *gate) error {
	t.Helper()
	away, leave := context.WithCancel(t.Context())
	leave() // so that nobody waits
	for range g.limit {
		if err := g.enter(away, "alice"); err != nil {
			return err
		}
	}
	return g.enter(away, "alice")
}

// readsRefuse fills the slots that alice, and then bob, may have, and returns what is
// told to the next read of alice where she has all of her share, or else of bob.
func readsRefuse(t *testing.T, r *reads) error {
	t.Helper()
	away, leave := context.WithCancel(t.Context())
	leave() // so that nobody waits
	for range r.share {
		if _, err := r.enter(away, "alice"); err != nil {
			return err
		}
	}
	if r.perSecond == 0 {
		_, err := r.enter(away, "bob")
		return err
	}
	_, err := r.enter(away, "alice")
	return err
}

func bodyRefused(t *testing.T, b *bodyBudget) error {
	t.Helper()
	for b.bytes.Free() >= maxBodyBytes {
		if _, err := b.reserve("alice", -1); err != nil {
			return err
		}
	}
	_, err := b.reserve("alice", -1)
	return err
}
