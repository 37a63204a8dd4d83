package api

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"ringback/db/batch"
	"ringback/jobs"
	"ringback/jobs/flow"
	"ringback/jobs/limit"
)

// TestRefusals holds the words of every refusal, and that no two causes share
// them.
func TestRefusals(t *testing.T) {
	t.Parallel()
	seen := map[string]limit.Reason{} // reasons, by their words
	var reasons []limit.Reason
	for _, test := range []struct {
		reason  limit.Reason
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
			"client_rate", refuse(limit.Decision{Reason: reasonRate, Most: 50}), "quota-exceeded", 429,
			"At most 50 of your requests may come in a second. Nothing was accepted; try again.", "rate",
		},
		{
			"sync", gateRefuses(t, newGate(1, false).Gate), "temporary-reduced-capacity", 503,
			"Too many sync requests are under way. Nothing was done; try again.", "",
		},
		{
			"client_sync", gateRefuses(t, newGate(5, true).Gate), "temporary-reduced-capacity", 503,
			"Too many of your sync requests are under way. Nothing was done; try again.", "",
		},
		{
			"bodies", bodyRefused(t, newBodyBudget(maxBudget, false)), "temporary-reduced-capacity", 503,
			"Too many large bodies are under way. Nothing was accepted; try again.", "",
		},
		{
			"client_bodies", bodyRefused(t, newBodyBudget(maxBudget, true)), "temporary-reduced-capacity", 503,
			"Too many large bodies of yours are under way. Nothing was accepted; try again.", "",
		},
		{"read_rate", refuse(limit.Decision{Reason: reasonReadRate, Most: 50}), "quota-exceeded", 429, "At most 50 of your reads may come in a second. Try again.", "reads"},
		{
			"client_reads", gateRefuses(t, newReads(4, true)), "quota-exceeded", 429,
			"At most 2 of your reads may be under way. Try again when one has ended.", "concurrent-reads",
		},
		{"reads", gateRefuses(t, newReads(1, false)), "temporary-reduced-capacity", 503, "Too many reads are under way. Try again.", ""},
		{
			"changes", gateRefuses(t, newChanges(1, false)), "temporary-reduced-capacity", 503,
			"Too many cancellations, redeliveries and discards are under way. Nothing was changed; try again.", "",
		},
		{
			"client_changes", gateRefuses(t, newChanges(4, true)), "temporary-reduced-capacity", 503,
			"Too many of your cancellations, redeliveries and discards are under way. Nothing was changed; try again.", "",
		},
		{
			"streams", refusedBy(jobs.Follows), "temporary-reduced-capacity", 503,
			"Too many event streams are open. Ask without one, or try again.", "",
		},
		{
			"client_streams", refusedBy(jobs.ClientFollows), "quota-exceeded", 429,
			"Too many of your event streams are open. Ask without one, or try again when one has ended.", "event-streams",
		},
		{
			"unfinished", refusedBy(jobs.Backlog), "temporary-reduced-capacity", 503,
			"Too many requests are unfinished. Nothing was accepted; try again.", "",
		},
		{
			"client_unfinished", limit.Decision{Reason: jobs.UnfinishedQuota, Most: 7}.Err(), "quota-exceeded", 429,
			"At most 7 of your requests may be unfinished. Nothing was accepted; try again when some have been called back.", "unfinished",
		},
		{
			"destination_unfinished", limit.Decision{Reason: jobs.DestinationQuota, Most: 7}.Err(), "quota-exceeded", 429,
			"At most 7 of your requests for one destination may be unfinished. Nothing was accepted; try again when some have been called back.", "destination",
		},
		{
			"client_storage", limit.Decision{Reason: jobs.StorageQuota, Most: 7}.Err(), "quota-exceeded", 429,
			"At most 7 bytes of your requests are kept, with their inputs and results. Nothing was accepted; requests go some time after they have ended, or ask the operator for more.", "storage",
		},
		{
			"client_dead_letters", limit.Decision{Reason: jobs.DeadLetterQuota, Most: 7}.Err(), "quota-exceeded", 429,
			"At most 7 of your callbacks may be dead letters. Nothing was accepted; redeliver them (POST /redeliveries) when their receivers are back, or ask the operator for more.", "dead-letters",
		},
		{
			"client_secret", jobs.ErrUnsignable, "secret-unreadable", 503,
			"The service can't read the secret that your callbacks are signed with. Nothing was accepted; tell the operator, who has to start the service with the SECRETS_KEY that sealed your secret, or give you a new API key and secret.", "",
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
			"work_down", refusedBy(flow.WorkDown), "unavailable", 503,
			"The service that does the work is down. Nothing was done; try again.", "",
		},
		{
			"work_paused", refusedBy(flow.WorkPaused), "unavailable", 503,
			"The service that does the work asked for a pause. Nothing was done; try again.", "",
		},
		{
			"work_pace", refusedBy(flow.WorkPace), "unavailable", 503,
			"The service that does the work has just come back, and gets little for a moment. Nothing was done; try again.", "",
		},
		{
			"kind_limit", refusedBy(flow.KindLimit), "unavailable", 503,
			"Too many attempts of the work are under way. Nothing was done; try again.", "",
		},
		{
			"database_away", jobs.ErrAway, "unavailable", 503,
			"The database doesn't answer, or can't be written. Nothing was accepted; try again.", "",
		},
		{
			"starting", refuse(limit.Decision{Reason: reasonStarting}), "unavailable", 503,
			"The process is starting. Nothing was accepted; try again.", "",
		},
		{
			"database_failed", io.ErrUnexpectedEOF, "unavailable", 503,
			"The database could not finish the call. It may have taken effect all the same: work may be done, and a POST /async may yet be called back.", "",
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

// Storm counts such a refusal as shed, and any other 503 of this problem as a request that
// may have been taken.
func TestUnavailableSaysThatNothingWasTaken(t *testing.T) {
	t.Parallel()
	for _, known := range refusals {
		if known.problem != unavailable || known.reason == reasonFailed {
			continue
		}
		if !strings.Contains(known.detail, "Nothing was accepted") && !strings.Contains(known.detail, "Nothing was done") {
			t.Errorf("%s: got %q, want it to say that nothing was accepted, or done", known.reason, known.detail)
		}
	}
}

// connectionsRefused is the listener's answer, as an error.
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

// gateRefuses fills alice's share of a gate, and returns her next refusal.
func gateRefuses(t *testing.T, g *limit.Gate) error {
	t.Helper()
	for range 100 {
		if err := g.Enter(t.Context(), "alice", func(limit.Queue) time.Duration { return 0 }).Err(); err != nil {
			return err
		}
	}
	t.Fatal("nothing is refused")
	return nil
}

func refusedBy(reason limit.Reason) error { return limit.Decision{Reason: reason}.Err() }

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
