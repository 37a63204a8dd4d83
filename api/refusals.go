package api

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"

	"ringback/db"
	"ringback/db/batch"
	"ringback/jobs"
	"ringback/jobs/flow"
	"ringback/jobs/limit"
)

// refusal is a reason for which a call is turned away although nothing is wrong
// with it. Each has words of its own for the caller, and a name of its own for
// metrics and log.
type refusal struct {
	reason  limit.Reason
	problem string
	detail  string
	policy  string // the quota that is used up, if it is one
	cause   error  // the error that means this refusal, where no limit refuses

	retryAfter int // seconds, where it takes long
}

// keptRetryAfter is for what is kept, which goes slowly and is counted rarely.
const keptRetryAfter = 60

// Reasons of the limits here.
const (
	// Connections is the reason for which a connection is refused before there is a
	// call: that is the listener's to tell and to count.
	Connections limit.Reason = "connections"

	reasonRate          limit.Reason = "client_rate"
	reasonSync          limit.Reason = "sync"
	reasonClientSync    limit.Reason = "client_sync"
	reasonBodies        limit.Reason = "bodies"
	reasonClientBodies  limit.Reason = "client_bodies"
	reasonReadRate      limit.Reason = "read_rate"
	reasonReads         limit.Reason = "reads"
	reasonClientReads   limit.Reason = "client_reads"
	reasonChanges       limit.Reason = "changes"
	reasonClientChanges limit.Reason = "client_changes"
	reasonFailed        limit.Reason = "database_failed"
	reasonStarting      limit.Reason = "starting"
	reasonAway          limit.Reason = "database_away"
)

// The names of quotas, in the headers and in the problem.
const (
	ratePolicy           = "rate"
	unfinishedPolicy     = "unfinished"
	destinationPolicy    = "destination"
	storagePolicy        = "storage"
	deadLetterPolicy     = "dead-letters"
	readRatePolicy       = "reads"
	concurrentReadPolicy = "concurrent-reads"
	streamPolicy         = "event-streams"
)

const (
	busy        = "temporary-reduced-capacity"
	unavailable = "unavailable"
	overQuota   = "quota-exceeded"
	unsignable  = "secret-unreadable"
)

// refusals are all refusals. Storm reads in the detail whether nothing was accepted or done
// (TestUnavailableSaysThatNothingWasTaken).
var refusals = [...]refusal{
	{
		reason: Connections, problem: busy,
		detail: "Too many connections are open. Nothing was accepted; try again.",
	},
	{
		reason: reasonRate, problem: overQuota, policy: ratePolicy,
		detail: "At most %d of your requests may come in a second. Nothing was accepted; try again.",
	},
	{
		reason: reasonSync, problem: busy,
		detail: "Too many sync requests are under way. Nothing was done; try again.",
	},
	{
		reason: reasonClientSync, problem: busy,
		detail: "Too many of your sync requests are under way. Nothing was done; try again.",
	},
	{
		reason: reasonBodies, problem: busy,
		detail: "Too many large bodies are under way. Nothing was accepted; try again.",
	},
	{
		reason: reasonClientBodies, problem: busy,
		detail: "Too many large bodies of yours are under way. Nothing was accepted; try again.",
	},
	{
		reason: reasonReadRate, problem: overQuota, policy: readRatePolicy,
		detail: "At most %d of your reads may come in a second. Try again.",
	},
	{
		reason: reasonClientReads, problem: overQuota, policy: concurrentReadPolicy,
		detail: "At most %d of your reads may be under way. Try again when one has ended.",
	},
	{
		reason: reasonReads, problem: busy,
		detail: "Too many reads are under way. Try again.",
	},
	{
		reason: reasonChanges, problem: busy,
		detail: "Too many cancellations, redeliveries and discards are under way. Nothing was changed; try again.",
	},
	{
		reason: reasonClientChanges, problem: busy,
		detail: "Too many of your cancellations, redeliveries and discards are under way. Nothing was changed; try again.",
	},
	{
		reason: jobs.Follows, problem: busy,
		detail: "Too many event streams are open. Ask without one, or try again.",
	},
	{
		reason: jobs.ClientFollows, problem: overQuota, policy: streamPolicy,
		detail: "Too many of your event streams are open. Ask without one, or try again when one has ended.",
	},
	{
		reason: "client_secret", problem: unsignable, cause: jobs.ErrUnsignable, retryAfter: keptRetryAfter,
		detail: "The service can't read the secret that your callbacks are signed with. Nothing was accepted; tell the operator, who has to start the service with the SECRETS_KEY that sealed your secret, or give you a new API key and secret.",
	},
	{
		reason: jobs.Backlog, problem: busy,
		detail: "Too many requests are unfinished. Nothing was accepted; try again.",
	},
	{
		reason: jobs.UnfinishedQuota, problem: overQuota, policy: unfinishedPolicy,
		detail: "At most %d of your requests may be unfinished. Nothing was accepted; try again when some have been called back.",
	},
	{
		reason: jobs.DestinationQuota, problem: overQuota, policy: destinationPolicy,
		detail: "At most %d of your requests for one destination may be unfinished. Nothing was accepted; try again when some have been called back.",
	},
	{
		reason: jobs.StorageQuota, problem: overQuota, policy: storagePolicy, retryAfter: keptRetryAfter,
		detail: "At most %d bytes of your requests are kept, with their inputs and results. Nothing was accepted; requests go some time after they have ended, or ask the operator for more.",
	},
	{
		reason: jobs.DeadLetterQuota, problem: overQuota, policy: deadLetterPolicy, retryAfter: keptRetryAfter,
		detail: "At most %d of your callbacks may be dead letters. Nothing was accepted; redeliver them (POST /redeliveries) when their receivers are back, or ask the operator for more.",
	},
	{
		reason: "queue_full", problem: busy, cause: batch.ErrFull,
		detail: "Too many requests wait to be stored. Nothing was accepted; try again.",
	},
	{
		reason: "queue_bytes", problem: busy, cause: batch.ErrLarge,
		detail: "The requests that wait to be stored take too much memory. Nothing was accepted; try again.",
	},
	{
		reason: "queue_patience", problem: busy, cause: batch.ErrLate,
		detail: "Requests wait too long to be stored. Nothing was accepted; try again.",
	},
	{
		reason: "stopping", problem: unavailable, cause: batch.ErrStopped,
		detail: "The process has stopped. Nothing was accepted; try again.",
	},
	{
		reason: flow.WorkDown, problem: unavailable,
		detail: "The service that does the work is down. Nothing was done; try again.",
	},
	{
		reason: flow.WorkPaused, problem: unavailable,
		detail: "The service that does the work asked for a pause. Nothing was done; try again.",
	},
	{
		reason: flow.WorkPace, problem: unavailable,
		detail: "The service that does the work has just come back, and gets little for a moment. Nothing was done; try again.",
	},
	{
		reason: flow.KindLimit, problem: unavailable,
		detail: "Too many attempts of the work are under way. Nothing was done; try again.",
	},
	{
		reason: reasonAway, problem: unavailable, cause: jobs.ErrAway,
		detail: "The database doesn't answer, or can't be written. Nothing was accepted; try again.",
	},
	{
		reason: reasonStarting, problem: unavailable,
		detail: "The process is starting. Nothing was accepted; try again.",
	},
	{
		reason: reasonFailed, problem: unavailable,
		detail: "The database could not finish the call. It may have taken effect all the same: work may be done, and a POST /async may yet be called back.",
	},
}

// refuse makes the problem that tells a decision.
func refuse(decision limit.Decision) *problem {
	at := slices.IndexFunc(refusals[:], func(known refusal) bool { return known.reason == decision.Reason })
	if at < 0 {
		panic("unknown reason " + decision.Reason)
	}
	known := refusals[at]
	if strings.Contains(known.detail, "%d") {
		known.detail = fmt.Sprintf(known.detail, decision.Most)
	}
	p := newProblem(known.problem, known.detail)
	p.reason, p.retryAfter = known.reason, known.retryAfter
	if !decision.RetryAt.IsZero() {
		p.retryAfter = max(1, secondsUntil(decision.RetryAt, time.Now()))
	}
	if known.policy != "" {
		p.ViolatedPolicies = []string{known.policy}
	}
	return p
}

// decisionOf is what refused, the zero Decision for errors that say something else.
func decisionOf(err error) limit.Decision {
	var refused *limit.Refusal
	if errors.As(err, &refused) {
		return refused.Decision
	}
	for _, known := range refusals {
		if known.cause != nil && errors.Is(err, known.cause) {
			return limit.Decision{Reason: known.reason}
		}
	}
	if db.IsUnavailable(err) {
		return limit.Decision{Reason: reasonFailed}
	}
	return limit.Decision{}
}

// RefusalBody is the problem that tells a reason, for a caller that is refused
// before there is a call.
func RefusalBody(reason limit.Reason) []byte {
	body, err := json.Marshal(refuse(limit.Decision{Reason: reason}))
	if err != nil {
		panic(err) // strings and a number
	}
	return body
}

// CountRefusals registers the counters of reasons.
func CountRefusals(registerer prometheus.Registerer, reasons ...limit.Reason) limit.Count {
	return limit.NewCount(registerer, "ringback_http_refusals_total",
		"Calls and requests of a call that were turned away although nothing was wrong with them, by the reason.", reasons...)
}
