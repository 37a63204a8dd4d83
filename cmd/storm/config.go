package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	maxRate     = 100_000   // a second; beyond it one generator on loopback measures itself
	maxRequests = 8_000_000 // in one run: 16 bytes are kept for each, and 40 for each async one
	maxDuration = time.Hour // of sending, and of draining: a run's clock goes round after 71 minutes
)

// config is what the flags and the environment ask for.
type config struct {
	target       string        // http://host:port, without a slash at the end
	isMine       bool          // the target may be other than loopback
	rate         float64       // requests a second in all; the calm rate of a profile that has one
	profile      profile       // shape of the rate over time
	length       time.Duration // of sending; 0 is the profile's own
	warmup       time.Duration // at the start of sending
	arrivals     string        // constant or poisson
	mix          mix           // shares of sync and async
	load         workload      // what the requests ask for
	input        pattern       // instead of the sample's
	connections  int           // workers, each with one connection
	seed         uint64        // of everything random
	timeout      time.Duration // of one request, and of its wait for a connection
	drain        time.Duration // how long to wait for callbacks after the last answer
	apiKey       string        // sent as a bearer token when not empty
	jsonFile     string        // where the report goes; empty is nowhere
	htmlFile     string        // likewise, as a page
	receivers    shares        // how callbacks are shared out among kinds of receivers
	orderingKeys int           // how many the async requests are spread over; 0 is none
	secret       string        // that callbacks must be signed with; empty is no matter
	databaseURL  string        // where missing callbacks are looked up too; empty is nowhere
	objectives   objectives    // what the run must achieve
	movesCursor  bool          // the terminal, if there is one, can draw over what it shows
}

// localSecret is what a server in local mode signs with: the secret that
// Standard Webhooks publishes in its examples.
const localSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func defaults() config {
	return config{
		target:      "http://127.0.0.1:8080",
		rate:        200,
		profile:     profiles()[0],
		arrivals:    "constant",
		mix:         mix{sync: 50, async: 50},
		load:        defaultWorkload(),
		connections: 1024,
		timeout:     10 * time.Second,
		drain:       time.Minute,
		seed:        1,
		receivers:   allOf(defaultKind),
	}
}

// duration is how long requests are sent for.
func (c config) duration() time.Duration {
	if c.length > 0 {
		return c.length
	}
	return c.profile.duration
}

func (c config) curve() curve { return c.profile.curve(c.rate, c.duration()) }

// webhook checks signatures; it is nil where there is no secret.
func (c config) webhook() (*standardwebhooks.Webhook, error) {
	if c.secret == "" {
		return nil, nil
	}
	return standardwebhooks.NewWebhook(c.secret)
}

func (c config) workload() workload {
	c.load.seed, c.load.input = c.seed, c.input
	return c.load
}

// parseConfig reads flags and environment. Its error is flag.ErrHelp or tells
// every mistake, one a line.
func parseConfig(args []string, getenv func(string) string) (config, error) {
	config := defaults()
	config.apiKey, config.secret = getenv("RINGBACK_API_KEY"), getenv("RINGBACK_SECRET")
	config.movesCursor = getenv("TERM") != "dumb" && getenv("TERM") != ""
	mistakes := parseAll(newFlags(&config), args)
	if errors.Is(mistakes, flag.ErrHelp) {
		return config, flag.ErrHelp
	}
	if config.seed == 0 {
		config.seed = rand.Uint64()
	}
	if config.secret == "" && config.apiKey == "" && isLoopback(config.target) {
		config.secret = localSecret
	}
	return config, errors.Join(mistakes, config.check(mistakes == nil))
}

// check tells what is wrong with flags that are each right by themselves.
// Their sums are only worth a look where that is so.
func (c config) check(eachIsRight bool) error {
	var mistakes error
	mistake := func(format string, args ...any) {
		mistakes = errors.Join(mistakes, fmt.Errorf(format, args...))
	}
	if !fitsHeader(c.apiKey) {
		mistake("the API key holds characters that a header can't carry")
	}
	if _, err := c.webhook(); err != nil {
		mistake("the secret is not whsec_ and base64")
	}
	if !eachIsRight {
		return mistakes
	}
	if !c.isMine && !isLoopback(c.target) {
		mistake("%s is not a loopback address, and a storm is for your own machines only: -i-own-this-target says that it is yours", c.target)
	}
	mistakes = errors.Join(mistakes, c.objectives.unmeasurable(c.mix))
	if c.warmup >= c.duration() {
		mistake("-warmup %v leaves nothing of -duration %v", c.warmup, c.duration())
	}
	curve := c.curve()
	if curve.peak() > maxRate {
		mistake("-rate %v makes %v requests a second at the height of -profile %s: want at most %d",
			c.rate, curve.peak(), c.profile.name, maxRate)
	}
	if total := curve.requests(); total < 1-1e-6 || total > maxRequests {
		mistake("-rate %v for -duration %v makes %.0f requests: want 1 to %d", c.rate, c.duration(), total, maxRequests)
	}
	return mistakes
}

// parseAll goes on where the flag package stops, at the first mistake, so that
// all of them come out together.
func parseAll(flags *flag.FlagSet, args []string) error {
	var mistakes error
	for {
		err := flags.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		mistakes, args = errors.Join(mistakes, err), flags.Args()
		if err != nil {
			continue
		}
		if len(args) == 0 {
			return mistakes
		}
		mistakes, args = errors.Join(mistakes, fmt.Errorf("unexpected argument %q", args[0])), args[1:]
	}
}

func newFlags(config *config) *flag.FlagSet {
	flags := flag.NewFlagSet("storm", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the caller prints the mistakes, all of them
	flags.Var(setting[string]{&config.target, parseTarget}, "target",
		"`URL` of the server, on loopback")
	flags.BoolVar(&config.isMine, "i-own-this-target", false,
		"allow a target that is not on loopback: yours")
	flags.Var(setting[float64]{&config.rate, parseRate}, "rate",
		"`requests` a second in all; in the profiles spike and storm, those of the calm")
	flags.Var(setting[profile]{&config.profile, parseProfile}, "profile",
		"`name` of the rate's shape over time:\n"+describeProfiles())
	flags.Var(setting[time.Duration]{&config.length, parseDuration(time.Millisecond)}, "duration",
		"how much `time` to send for; the default is the profile's own")
	flags.Var(setting[time.Duration]{&config.warmup, parseDuration(0)}, "warmup",
		"how much `time` at the start to leave out of quantiles and goodput")
	flags.Var(setting[string]{&config.arrivals, parseArrivals}, "arrivals",
		"`constant` spacing, or poisson: independent arrivals")
	flags.Var(setting[mix]{&config.mix, parseMix}, "mix", "`shares` of the endpoints")
	flags.Var(setting[workload]{&config.load, parseWorkload}, "work",
		"what requests ask for, as in `text=200,rounds=0,delay=0s`;\neach is N, N..M (uniform) or exp:N (exponential)")
	flags.Var(setting[pattern]{&config.input, parsePattern}, "input",
		"`JSON` of the input, or @file, for work other than the sample; "+placeholder+" in it stands for\ndifferent text each time, as long as -work says")
	flags.Var(setting[int]{&config.connections, parseCount(10_000)}, "connections",
		"`number` of connections to the server, which is how many requests can wait for an answer at a time")
	flags.Uint64Var(&config.seed, "seed", config.seed, "`number` that everything random follows from; 0 picks one")
	flags.Var(setting[time.Duration]{&config.timeout, parseDuration(time.Millisecond)}, "timeout",
		"how much `time` a request may take, and may wait for a connection before it counts as unsent")
	flags.Var(setting[time.Duration]{&config.drain, parseDuration(0)}, "drain",
		"how much `time` to wait for callbacks after the last answer")
	flags.Func("api-key", "`key` sent as a bearer token (default $RINGBACK_API_KEY)",
		func(key string) error { config.apiKey = key; return nil })
	flags.StringVar(&config.jsonFile, "json", "", "`file` to write the report to, as JSON")
	flags.StringVar(&config.htmlFile, "html", "", "`file` to write the report to, as a page with charts")
	addCallbackFlags(flags, config)
	return flags
}

// addCallbackFlags adds the flags about what the run receives.
func addCallbackFlags(flags *flag.FlagSet, config *config) {
	flags.Var(setting[shares]{&config.receivers, parseShares}, "receivers",
		"`shares` of callbacks to kinds of receivers, each an origin of its own: ok, granting (ok, and\n"+
			"grants any rate when asked), slow (takes 2 s), flaky (fails once), hang (never answers), reset (breaks the connection), gone (410),\n"+
			"as in ok=90,slow=4,flaky=3,hang=1,reset=1,gone=1")
	flags.Var(setting[int]{&config.orderingKeys, parseCount(1_000_000)}, "ordering-keys",
		"`number` of ordering keys to spread async requests over, and to check the order of callbacks by")
	flags.Func("secret", "`key` that callbacks must be signed with, whsec_…; the default is $RINGBACK_SECRET,\nand without an API key that of a server in local mode",
		func(secret string) error { config.secret = secret; return nil })
	flags.StringVar(&config.databaseURL, "database-url", "",
		"`URL` of the server's database, to look up missing callbacks there too")
	flags.Var(setting[objectives]{&config.objectives, parseObjectives}, "slo",
		"`objectives` that end the run with status 99 if not met, as in\n"+
			"async.time_to_callback.p99<250ms,sync.p99<100ms,shed<1%")
}

func printUsage(w io.Writer) {
	config := defaults()
	flags := newFlags(&config)
	flags.SetOutput(w)
	fmt.Fprintln(w, "storm loads a running Ringback and checks that every acknowledged request is called back.")
	fmt.Fprintln(w, "storm compare A.json B.json puts two reports side by side.")
	fmt.Fprintln(w, "Exit status: 0 kept its word, 1 broken, 2 wrong usage, 99 an objective missed, 130 interrupted twice.")
	flags.PrintDefaults()
}

// setting is a flag that is parsed and checked in one step, so that a mistake
// in it is told once.
type setting[T any] struct {
	value *T
	parse func(string) (T, error)
}

// String is called on the zero setting too: the flag package asks it for the
// default that isn't worth showing.
func (s setting[T]) String() string {
	if s.value == nil {
		return ""
	}
	return fmt.Sprint(*s.value)
}

func (s setting[T]) Set(text string) error {
	value, err := s.parse(text)
	if err != nil {
		return err
	}
	*s.value = value
	return nil
}

func parseRate(text string) (float64, error) {
	rate, err := strconv.ParseFloat(text, 64)
	if err != nil || !(rate > 0 && rate <= maxRate) { // so written, NaN is out too
		return 0, fmt.Errorf("want a number above 0, at most %d", maxRate)
	}
	return rate, nil
}

func parseDuration(least time.Duration) func(string) (time.Duration, error) {
	return func(text string) (time.Duration, error) {
		duration, err := time.ParseDuration(text)
		if err != nil || duration < least || duration > maxDuration {
			return 0, fmt.Errorf("want a duration like 20s, at least %v and at most %v", least, maxDuration)
		}
		return duration, nil
	}
}

func parseCount(most int) func(string) (int, error) {
	return func(text string) (int, error) {
		count, err := strconv.Atoi(text)
		if err != nil || count < 1 || count > most {
			return 0, fmt.Errorf("want a whole number from 1 to %d", most)
		}
		return count, nil
	}
}

func parseTarget(text string) (string, error) {
	target, err := url.Parse(strings.TrimSuffix(text, "/"))
	if err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https" ||
		*target != (url.URL{Scheme: target.Scheme, Host: target.Host}) {
		return "", errors.New("want http://host:port and nothing more")
	}
	return target.String(), nil
}

func isLoopback(address string) bool {
	target, err := url.Parse(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(target.Hostname())
	return target.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

func parseProfile(text string) (profile, error) {
	for _, profile := range profiles() {
		if profile.name == text {
			return profile, nil
		}
	}
	return profile{}, errors.New("want steady, ramp, spike, storm or soak")
}

func (p profile) String() string { return p.name }

func describeProfiles() string {
	var lines strings.Builder
	for _, profile := range profiles() {
		fmt.Fprintf(&lines, "%-7s%s (%v)\n", profile.name, profile.meaning, profile.duration)
	}
	return strings.TrimSuffix(lines.String(), "\n")
}

func parseArrivals(text string) (string, error) {
	if text != "constant" && text != "poisson" {
		return "", errors.New("want constant or poisson")
	}
	return text, nil
}

func parseMix(text string) (mix, error) {
	var shares mix
	err := eachPair(text, func(name, value string) error {
		share, err := strconv.Atoi(value)
		if err != nil || share < 0 || share > 1000 {
			return fmt.Errorf("%s: want a whole number from 0 to 1000", name)
		}
		switch name {
		case "sync":
			shares.sync = share
		case "async":
			shares.async = share
		default:
			return fmt.Errorf("%s: want sync or async", name)
		}
		return nil
	})
	if err == nil && shares == (mix{}) {
		err = errors.New("want a share above 0")
	}
	return shares, err
}

// fitsHeader tells whether a header can carry the key, so that one it can't
// carry isn't found out request by request.
func fitsHeader(key string) bool {
	return !strings.ContainsFunc(key, unicode.IsControl)
}
