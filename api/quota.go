package api

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"ringback/jobs"
	"ringback/jobs/clients"
)

// quotas bound the POSTs of each client. The rate counts in this process alone,
// since to agree on it with others would cost each call a round trip.
type quotas struct {
	limits func(client string) clients.Limits
	of     sync.Map // *quota by client; no more than there are clients
}

// quota is that of one client, under the limits that it has at the moment.
type quota struct {
	limits clients.Limits
	rate   *callRate
	policy string // the header RateLimit-Policy
}

// ratePolicy is the name of the rate, beside those of the queue's quotas, as in
// the headers and in the problem.
const ratePolicy = "rate"

// quota returns that of a client. Where its limits have changed, what it has used
// of its rate still counts.
func (q *quotas) quota(client string) *quota {
	limits := q.limits(client)
	known, _ := q.of.Load(client)
	if known, ok := known.(*quota); ok {
		if known.limits == limits {
			return known
		}
		known.rate.change(limits.Rate, time.Now())
		changed := &quota{limits, known.rate, policyOf(limits)}
		q.of.Store(client, changed)
		return changed
	}
	fresh := &quota{limits, newCallRate(limits.Rate), policyOf(limits)}
	first, _ := q.of.LoadOrStore(client, fresh)
	return first.(*quota)
}

func policyOf(l clients.Limits) string {
	return fmt.Sprintf(`"%s";q=%d;w=%d, "%s";q=%d;qu="concurrent-requests", "%s";q=%d;qu="concurrent-requests", "%s";q=%d;qu="content-bytes", "%s";q=%d`,
		ratePolicy, burstSeconds*l.Rate, burstSeconds, jobs.UnfinishedQuota, l.Unfinished, jobs.DestinationQuota, l.PerDestination,
		jobs.StorageQuota, l.Storage, jobs.DeadLetterQuota, l.DeadLetters)
}

// limit refuses the POSTs of a client that sends too many, and tells with every
// answer to one how much is left, in the headers of
// draft-ietf-httpapi-ratelimit-headers-10.
func (a *API) limit(c *gin.Context) {
	if c.Request.Method != http.MethodPost {
		return
	}
	client := c.GetString(clientKey)
	quota := a.quotas.quota(client)
	allowed, left, reset := quota.rate.take(time.Now())
	c.Header("RateLimit-Policy", quota.policy)
	c.Header("RateLimit", fmt.Sprintf(`"%s";r=%d;t=%d, "%s";r=%d`, ratePolicy, left, reset, jobs.UnfinishedQuota, a.Queue.Left(client)))
	if !allowed {
		problem := refuse(reasonRate, quota.limits.Rate)
		problem.retryAfter = reset
		a.writeProblem(c, problem)
	}
}
