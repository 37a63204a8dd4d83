package load

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/cmd/internal/receivers"
)

// Bounds of a run.
const (
	MaxRate     = 100_000   // a second: beyond it, a generator on loopback measures itself
	maxRequests = 8_000_000 // in a run: 72 bytes are kept for each request
	MaxDuration = time.Hour // of sending, of draining, and of a timeout
)

// Config is the requests of a run, and their target.
type Config struct {
	Target       string        // http://host:port, without a slash at the end
	APIKey       string        // sent as a bearer token when not empty
	Rate         float64       // requests a second in all; in a profile with a calm part, the calm rate
	Profile      Profile       // shape of the rate over time
	Length       time.Duration // of sending; 0 is the profile's own
	Warmup       time.Duration // at the start of sending: its requests are in the counts, and in no quantile
	Arrivals     string        // constant or poisson
	Mix          Mix           // shares of sync and async
	Input        Input         // the inputs of the requests
	Connections  int           // workers, each with a connection
	Seed         uint64        // of everything random
	Timeout      time.Duration // of a request, and of its wait for a connection
	Drain        time.Duration // how long to wait for callbacks after the last answer
	Receivers    Shares        // how callbacks are shared out among receivers
	OrderingKeys int           // over which the async requests are spread; 0 is none
	Secret       string        // that callbacks must be signed with; empty for no check

	// Result computes the work's result of an input. Where it is nil, callbacks are compared
	// with the answers of POST /sync, if the work declares itself deterministic.
	Result   func(ctx context.Context, input []byte) (jsontext.Value, error)
	ResultOf string // name of the work that Result computes, which the run asks for; empty is the default

	// Requests, if above 0, makes the run a closed loop of so many requests at most: each
	// connection sends its next request after its last answer, whatever Rate and Profile say.
	// It measures the throughput at saturation; its latencies say little.
	Requests int
	Window   int    // requests of a closed loop that may be under way or outstanding; 0 is no bound
	Work     string // name of the work that the run asks for; empty is the service's default
	Unread   bool   // callbacks are counted, and neither read nor explained, at the least cost

	// Unknown answers callbacks of no request of the run. Where it is nil, they are answered
	// 410.
	Unknown func(*receivers.Callback)
}

// Defaults is a run of the service in local mode. It lacks an input.
func Defaults() Config {
	return Config{
		Target:      "http://127.0.0.1:8080",
		Rate:        200,
		Profile:     Profiles()[0],
		Arrivals:    "constant",
		Mix:         Mix{Sync: 50, Async: 50},
		Connections: 1024,
		Timeout:     10 * time.Second,
		Drain:       time.Minute,
		Seed:        1,
		Receivers:   AllOf(receivers.OK),
	}
}

// Duration is how long requests are sent for.
func (c Config) Duration() time.Duration { return cmp.Or(c.Length, c.Profile.Duration) }

func (c Config) curve() curve { return c.Profile.curve(c.Rate, c.Duration()) }

// Check returns all mistakes of values that are each right by themselves.
func (c Config) Check() error {
	var mistakes error
	mistake := func(format string, args ...any) {
		mistakes = errors.Join(mistakes, fmt.Errorf(format, args...))
	}
	if c.Warmup >= c.Duration() {
		mistake("-warmup %v leaves nothing of -duration %v", c.Warmup, c.Duration())
	}
	curve := c.curve()
	if curve.peak() > MaxRate {
		mistake("-rate %v makes %v requests a second at the height of -profile %s: want at most %d",
			c.Rate, curve.peak(), c.Profile, MaxRate)
	}
	total := curve.requests()
	if asyncs := c.Mix.asyncs(int(total)); c.OrderingKeys > 0 && c.OrderingKeys >= asyncs {
		mistake("-ordering-keys %d: the run makes %d async requests, no two of which would have the same key", c.OrderingKeys, asyncs)
	}
	if total < 1-1e-6 || total > maxRequests {
		mistake("-rate %v for -duration %v makes %.0f requests: want 1 to %d", c.Rate, c.Duration(), total, maxRequests)
	}
	return mistakes
}

// CheckSecrets returns the mistakes of the API key and the secret.
func (c Config) CheckSecrets() (mistakes error) {
	if strings.ContainsFunc(c.APIKey, unicode.IsControl) {
		mistakes = errors.New("the API key holds characters that a header can't carry")
	}
	if _, err := receivers.NewVerifier(c.Secret); err != nil {
		mistakes = errors.Join(mistakes, errors.New("the secret is not whsec_ and base64"))
	}
	return mistakes
}

// IsLoopback tells whether an address is on this machine.
func IsLoopback(address string) bool {
	target, err := url.Parse(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(target.Hostname())
	return strings.ToLower(strings.TrimSuffix(target.Hostname(), ".")) == "localhost" || ip != nil && ip.IsLoopback()
}
