package api

import (
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"ringback/db"
	"ringback/db/batch"
	"ringback/jobs"
)

// refusal is a reason for which a call is turned away although nothing is wrong
// with it. Each has words of its own for the caller, and a name of its own for
// metrics and log.
type refusal struct {
	reason  string
	problem string
	detail  string
	policy  string // the quota that is used up, if it is one
	cause   error  // what the queue says, if it is the queue that refuses

	retryAfter int // seconds, where it takes long
}

// keptRetryAfter is for what is kept, which goes slowly and is counted rarely.
const keptRetryAfter = 60

// Reasons that no error of the queue stands for.
const (
	// Connections is the reason for which a connection is refused before there is a
	// call: that is the listener's to tell and to count.
	Connections = "connections"

	reasonRate         = "client_rate"
	reasonSync         = "sync"
	reasonClientSync   = "client_sync"
	reasonBodies       = "bodies"
	reasonReadRate     = "read_rate"
	reasonClientReads  = "client_reads"
	reasonReads        = "reads"
	reasonClientBodies = "client_bodies"
	reasonWork         = "work"
	reasonFailed       = "database_failed"
	reasonStarting     = "starting"
)

const (
	busy        = "temporary-reduced-capacity"
	unavailable = "unavailable"
	overQuota   = "quota-exceeded"
	unsignable  = "secret-unreadable"
)

// refusals are all of them. Storm relies on the sentence that begins with
// "Nothing was accepted".
var refusals = [...]refusal{
	{
		reason: Connections, problem: busy,
		detail: "Too many connections are open. Nothing was accepted; try again.",
	},
	{
		reason: reasonRate, problem: overQuota, policy: ratePolicy,
		detail: "You send more than %d requests a second. Nothing was accepted; try again.",
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
		detail: "You read more than %d times a second. Try again.",
	},
	{
		reason: reasonClientReads, problem: overQuota, policy: concurrentReadPolicy,
		detail: "You have %d reads under way, which take long. Try again when they have ended.",
	},
	{
		reason: reasonReads, problem: busy,
		detail: "Too many reads are under way. Try again.",
	},
	{
		reason: "streams", problem: busy, cause: jobs.ErrFollowers,
		detail: "Too many event streams are open. Ask without one, or try again.",
	},
	{
		reason: "client_streams", problem: overQuota, policy: streamPolicy, cause: jobs.ErrClientFollowers,
		detail: "Too many of your event streams are open. Ask without one, or try again when one has ended.",
	},
	{
		reason: "client_secret", problem: unsignable, cause: jobs.ErrUnsignable, retryAfter: keptRetryAfter,
		detail: "The service can't read the secret that your callbacks are signed with. Nothing was accepted; tell the operator, who has to put the key back with which it was sealed (SECRETS_KEY), or rotate your key.",
	},
	{
		reason: "unfinished", problem: busy, cause: jobs.ErrBacklog,
		detail: "Too many requests are unfinished. Nothing was accepted; try again.",
	},
	{
		reason: "client_unfinished", problem: overQuota, policy: string(jobs.UnfinishedQuota), cause: &jobs.QuotaError{Quota: jobs.UnfinishedQuota},
		detail: "At most %d of your requests may be unfinished. Nothing was accepted; try again when some have been called back.",
	},
	{
		reason: "destination_unfinished", problem: overQuota, policy: string(jobs.DestinationQuota), cause: &jobs.QuotaError{Quota: jobs.DestinationQuota},
		detail: "At most %d of your requests for one destination may be unfinished. Nothing was accepted; try again when some have been called back.",
	},
	{
		reason: "client_storage", problem: overQuota, policy: string(jobs.StorageQuota), cause: &jobs.QuotaError{Quota: jobs.StorageQuota}, retryAfter: keptRetryAfter,
		detail: "At most %d bytes of your requests are kept, with their inputs and results. Nothing was accepted; requests go some time after they have ended, or ask the operator for more.",
	},
	{
		reason: "client_dead_letters", problem: overQuota, policy: string(jobs.DeadLetterQuota), cause: &jobs.QuotaError{Quota: jobs.DeadLetterQuota}, retryAfter: keptRetryAfter,
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
		reason: reasonWork, problem: unavailable,
		detail: "What does the work can't do it now. Nothing was done; try again.",
	},
	{
		reason: "database_away", problem: unavailable, cause: jobs.ErrAway,
		detail: "The database doesn't answer, or can't be written. Nothing was accepted; try again.",
	},
	{
		reason: reasonStarting, problem: unavailable,
		detail: "The process is starting. Nothing was accepted; try again.",
	},
	{
		reason: reasonFailed, problem: unavailable,
		detail: "The database could not finish the call. A POST /async that was under way may yet be called back.",
	},
}

// refuse makes the problem that tells a reason; values are for its detail.
func refuse(reason string, values ...any) *problem {
	for _, known := range refusals {
		if known.reason != reason {
			continue
		}
		p := newProblem(known.problem, fmt.Sprintf(known.detail, values...))
		p.reason, p.retryAfter = reason, known.retryAfter
		if known.policy != "" {
			p.ViolatedPolicies = []string{known.policy}
		}
		return p
	}
	panic("unknown reason " + reason)
}

// reasonOf tells why the queue or the database refused, and nothing for errors
// that say something else.
func reasonOf(err error) string {
	for _, known := range refusals {
		if known.cause != nil && errors.Is(err, known.cause) {
			return known.reason
		}
	}
	if db.IsUnavailable(err) {
		return reasonFailed
	}
	return ""
}

// RefusalBody is the problem that tells a reason, for a caller that is refused
// before there is a call.
func RefusalBody(reason string) []byte {
	body, err := json.Marshal(refuse(reason))
	if err != nil {
		panic(err) // strings and a number
	}
	return body
}

// CountRefusals registers the counter of one reason.
func CountRefusals(registerer prometheus.Registerer, reason string) prometheus.Counter {
	return promauto.With(registerer).NewCounter(prometheus.CounterOpts{
		Name: "ringback_http_refusals_total", Help: "Calls that were turned away although nothing was wrong with them, by the reason.",
		ConstLabels: prometheus.Labels{"reason": reason},
	})
}
