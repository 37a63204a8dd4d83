package api

import (
	"fmt"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"golang.org/x/time/rate"
)

// quotas bound the POSTs of each client. The rate counts in this process alone,
// since to agree on it with others would cost each call a round trip.
type quotas struct {
	perSecond int
	policy    string   // the header RateLimit-Policy
	limiters  sync.Map // *rate.Limiter by client; no more than there are clients
}

// Names of the policies, as in the headers and in the problem.
const (
	ratePolicy        = "rate"
	unfinishedPolicy  = "unfinished"
	destinationPolicy = "destination"
)

// burstSeconds is for how long a client that has been silent may send at once
// what its rate allows.
const burstSeconds = 2

func newQuotas(config Config) *quotas {
	return &quotas{
		perSecond: config.ClientRate,
		policy: fmt.Sprintf(`"%s";q=%d;w=%d, "%s";q=%d;qu="concurrent-requests", "%s";q=%d;qu="concurrent-requests"`,
			ratePolicy, burstSeconds*config.ClientRate, burstSeconds,
			unfinishedPolicy, config.ClientUnfinished, destinationPolicy, config.DestinationUnfinished),
	}
}

func (q *quotas) limiter(client string) *rate.Limiter {
	if known, ok := q.limiters.Load(client); ok {
		return known.(*rate.Limiter)
	}
	fresh := rate.NewLimiter(rate.Limit(q.perSecond), burstSeconds*q.perSecond)
	known, _ := q.limiters.LoadOrStore(client, fresh)
	return known.(*rate.Limiter)
}

// limit refuses the POSTs of a client that sends too many, and tells with every
// answer to one how much is left, in the headers of
// draft-ietf-httpapi-ratelimit-headers-10.
func (a *API) limit(c *gin.Context) {
	if c.Request.Method != http.MethodPost {
		return
	}
	client, now := c.GetString(clientKey), time.Now()
	limiter := a.quotas.limiter(client)
	allowed := limiter.AllowN(now, 1)
	left, reset := rateLeft(limiter.TokensAt(now), a.quotas.perSecond)
	c.Header("RateLimit-Policy", a.quotas.policy)
	c.Header("RateLimit", fmt.Sprintf(`"%s";r=%d;t=%d, "%s";r=%d`, ratePolicy, left, reset, unfinishedPolicy, a.Queue.Left(client)))
	if !allowed {
		problem := refuse(reasonRate, a.quotas.perSecond)
		problem.retryAfter = reset
		a.writeProblem(c, problem)
	}
}

// rateLeft tells how many requests may come at once, and in how many seconds
// there are more: one more where there are none, else all of them.
func rateLeft(tokens float64, perSecond int) (left, reset int) {
	want := float64(burstSeconds * perSecond)
	if tokens < 1 {
		want = 1
	}
	return max(0, int(tokens)), int(math.Ceil(max(0, want-tokens) / float64(perSecond)))
}
