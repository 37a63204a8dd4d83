package api

import (
	"context"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"ringback/internal/bubble"
	"ringback/jobs/clients"
)

func TestCallRate(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

	t.Run("TellsWhatIsLeftAndWhenThereIsMore", func(t *testing.T) {
		t.Parallel()
		r := newCallRate(10) // a burst of 20
		for n := 1; n <= 20; n++ {
			if decision, left, reset := r.take(1, reasonRate, start); !decision.OK() || left != 20-n || n < 20 && reset != (n+9)/10 {
				t.Errorf("the %dth at once: got %+v, %d left, %d s", n, decision, left, reset)
			}
		}
		if decision, left, reset := r.take(1, reasonRate, start); decision.OK() || left != 0 || reset != 1 {
			t.Errorf("beyond the burst: got %v, %d left, %d s, want it refused for a second at most", decision, left, reset)
		}
		if decision, _, _ := r.take(1, reasonRate, start.Add(99*time.Millisecond)); decision.OK() {
			t.Error("before a tenth of a second: want it refused")
		}
		if decision, _, _ := r.take(1, reasonRate, start.Add(100*time.Millisecond)); !decision.OK() {
			t.Error("after a tenth of a second: want it allowed")
		}
		if _, left, _ := r.take(1, reasonRate, start.Add(time.Hour)); left != 19 {
			t.Errorf("after an hour: got %d left, want the burst", left)
		}
	})

	t.Run("KeepsWhatWasUsedWhereItChanges", func(t *testing.T) {
		t.Parallel()
		r := newCallRate(10)
		for range 15 {
			r.take(1, reasonRate, start)
		}
		r.change(100, start) // a burst of 200, of which 15 are used
		if _, left, _ := r.take(1, reasonRate, start); left != 184 {
			t.Errorf("after a raise: got %d left, want 184", left)
		}
		r.change(1, start) // a burst of 2
		if decision, _, reset := r.take(1, reasonRate, start); decision.OK() || reset != 15 {
			t.Errorf("after a cut: got %v, %d s, want it refused until 15 of the 16 that were used are paid", decision, reset)
		}
	})
}

// A client that goes far beyond its rate waits for its refusals, so that they cost others
// little.
func TestRefusalsArePaced(t *testing.T) {
	t.Parallel()
	r, start := newCallRate(10), time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	interval := refusalRate.Interval()
	for n := range int(refusalRate.Burst) {
		if got := r.refuse(start); got != 0 {
			t.Fatalf("refusal %d: got a wait of %v, want none", n, got)
		}
	}
	count := int(slowest / interval)
	for n := range count {
		if got, want := r.refuse(start), time.Duration(n+1)*interval; got != want {
			t.Fatalf("refusal %d of a flood: got a wait of %v, want %v", n, got, want)
		}
	}
	for range 1000 {
		if got := r.refuse(start); got != slowest {
			t.Fatalf("got a wait of %v, want %v at most", got, slowest)
		}
	}
	if got := r.refuse(start.Add(time.Minute)); got != 0 {
		t.Errorf("a minute later: got a wait of %v, want none", got)
	}
}

// A refused call waits before it is answered, unless its caller has gone or is polite.
func TestCallsBeyondTheRateWaitForTheirRefusals(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := rates{reason: reasonRate, limits: func(string) clients.Limits { return clients.Limits{Rate: 1} }, policies: func(clients.Limits) string { return "" }}
		count := func(ctx context.Context) (refused bool, took time.Duration) {
			raw := gin.CreateTestContextOnly(httptest.NewRecorder(), gin.New())
			raw.Request = httptest.NewRequestWithContext(ctx, http.MethodGet, "/requests", nil)
			start := time.Now()
			err := r.count(&call{Context: raw, client: "acme"}, start)
			return err != nil, time.Since(start)
		}
		for n := range burstSeconds + int(refusalRate.Burst) {
			if refused, took := count(t.Context()); refused != (n >= burstSeconds) || took != 0 {
				t.Fatalf("call %d: got it refused: %v, after %v, want no wait", n, refused, took)
			}
		}
		if refused, took := count(t.Context()); !refused || took != refusalRate.Interval() {
			t.Errorf("beyond: got it refused: %v, after %v, want a wait of %v", refused, took, refusalRate.Interval())
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if refused, took := count(gone); !refused || took != 0 {
			t.Errorf("gone: got it refused: %v, after %v, want no wait", refused, took)
		}
	})
}

// Reads of a burst begin one after the other, so that a burst leaves the machine to others.
func TestReadsOfABurstBeginOneAfterTheOther(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		const perSecond = 10
		a := &API{Config: Config{ClientReads: perSecond, Limits: func(string) clients.Limits { return clients.Limits{} }}}
		a.reads = newReads(4, true)
		r, start := a.newReadRates(), time.Now()
		var began []time.Duration
		for range burstSeconds * perSecond {
			raw := gin.CreateTestContextOnly(httptest.NewRecorder(), gin.New())
			raw.Request = httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/requests", nil)
			if err := r.count(&call{Context: raw, client: "acme"}, time.Now()); err != nil {
				t.Fatalf("within the burst: got %v", err)
			}
			began = append(began, time.Since(start))
		}
		if at := began[perSecond/5-1]; at != 0 {
			t.Errorf("got the first after %v, want some to begin at once", at)
		}
		if took := began[len(began)-1]; took < 800*time.Millisecond || took > time.Second {
			t.Errorf("got the last begun after %v, want a burst of two seconds begun within one", took)
		}
	})
}

// A page costs about as much as a GET for each ten of its requests, and counts as so many.
func TestPagesCountByTheRequestsThatTheyMayHold(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]int{
		"/requests": 2, "/requests?limit=1": 1, "/requests?limit=10": 1, "/requests?limit=11": 2,
		"/requests?limit=100&mode=sync": 10, "/requests?limit=101": 1, "/requests?limit=0": 1,
		"/requests?limit=99999999999999999999": 1, "/requests/some-id?limit=100": 1,
	} {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				a := &API{Config: Config{ClientReads: 10, Limits: func(string) clients.Limits { return clients.Limits{} }}}
				a.reads = newReads(4, true)
				r, router := a.newReadRates(), gin.New()
				admitted := 0
				count := func(raw *gin.Context) {
					for start := time.Now(); r.count(&call{Context: raw, client: "acme"}, start) == nil; {
						admitted++
					}
				}
				router.GET(listPath, count)
				router.GET(listPath+"/:id", count)
				router.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil))
				if admitted != 20/want {
					t.Errorf("got %d in a burst of 20, want %d, since each counts as %d", admitted, 20/want, want)
				}
			})
		})
	}
}

// A body costs about as much as a small one for each 64 KiB, and counts as so many POSTs, also
// where its length is told by its end alone. A batch counts as its requests where those are more.
func TestBodiesCountByTheirSize(t *testing.T) {
	t.Parallel()
	const unit, burst = 64 << 10, 100
	spent := func(t *testing.T, use func(a *API, c *call), length int64) (posts int) {
		bubble.Test(t, func(t *testing.T) {
			a := &API{
				Config:   Config{Limits: func(string) clients.Limits { return clients.Limits{Rate: burst / burstSeconds} }},
				bodies:   newBodyBudget(maxBudget, true),
				decoding: newDecoding(true),
			}
			a.posts = a.newRates()
			a.posts.left = nil // asks the queue
			c := newTestCall(t, http.MethodPost, length)
			now := time.Now()
			if err := a.posts.count(c, now); err != nil {
				t.Fatalf("counting: got %v, want it admitted", err)
			}
			if use != nil {
				use(a, c)
			}
			_, left, _ := a.posts.client(c.client, now).take(0, reasonRate, now)
			posts = burst - left
		})
		return posts
	}
	for length, want := range map[int64]int{
		0: 1, 1: 1, unit: 1, unit + 1: 2, maxBodyBytes: 4, maxBatchBytes: 64,
		maxBatchBytes + 1: 1, math.MaxInt64: 1, -1: 1,
	} {
		if got := spent(t, nil, length); got != want {
			t.Errorf("a body of %d bytes: got it counted as %d, want %d", length, got, want)
		}
	}
	read := func(a *API, c *call) {
		c.Request.Body = io.NopCloser(strings.NewReader(strings.Repeat("x", 2*unit+1)))
		if _, err := a.readBody(c, maxBodyBytes); err != nil {
			t.Errorf("reading: got %v", err)
		}
		c.decoded()
	}
	for length, want := range map[int64]int{-1: 3, 2*unit + 1: 3} {
		if got := spent(t, read, length); got != want {
			t.Errorf("a body of three units, %d declared: got it counted as %d, want %d", length, got, want)
		}
	}
	items := func(n int) func(*API, *call) {
		return func(a *API, c *call) {
			for i := range n {
				if err := a.countItem(c, i); err != nil {
					t.Errorf("request %d of a batch: got %v", i, err)
				}
			}
		}
	}
	for n, want := range map[int]int{1: 3, 3: 3, 20: 20} {
		if got := spent(t, items(n), 3*unit); got != want {
			t.Errorf("a batch of %d requests in three units: got it counted as %d, want %d", n, got, want)
		}
	}
}

// newTestCall is a call of the client acme with a body of a length, -1 for an undeclared length.
func newTestCall(t *testing.T, method string, length int64) *call {
	raw := gin.CreateTestContextOnly(httptest.NewRecorder(), gin.New())
	raw.Request = httptest.NewRequestWithContext(t.Context(), method, "/", nil)
	raw.Request.ContentLength = length
	return &call{Context: raw, client: "acme", decoding: func() {}, release: func() {}}
}
