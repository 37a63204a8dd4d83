package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"ringback/work"
)

const (
	maxRate     = 20_000    // a second; beyond it one generator on loopback measures itself
	maxRequests = 1_000_000 // in one run: a slot is kept for each, about 100 MB in all
)

// config is what the flags and the environment ask for.
type config struct {
	rate        float64       // requests a second in all, half sync and half async
	duration    time.Duration // of sending
	target      string        // http://host:port on loopback, without a slash at the end
	drain       time.Duration // how long to wait for callbacks after the last answer
	maxInFlight int           // requests sent and not yet answered
	timeout     time.Duration // of one request, waiting for a connection included
	apiKey      string        // sent as a bearer token when not empty
	textBytes   int           // size of the text in each request
}

func defaults() config {
	return config{
		rate:        200,
		duration:    20 * time.Second,
		target:      "http://127.0.0.1:8080",
		drain:       time.Minute,
		maxInFlight: 10_000,
		timeout:     10 * time.Second,
		textBytes:   200,
	}
}

// parseConfig reads flags and environment. Its error is flag.ErrHelp or tells
// every mistake, one a line.
func parseConfig(args []string, getenv func(string) string) (config, error) {
	config := defaults()
	config.apiKey = getenv("RINGBACK_API_KEY")
	mistakes := parseAll(newFlags(&config), args)
	if errors.Is(mistakes, flag.ErrHelp) {
		return config, flag.ErrHelp
	}
	if !fitsHeader(config.apiKey) {
		mistakes = errors.Join(mistakes, errors.New("the API key holds characters that a header can't carry"))
	}
	if total := newSchedule(config).total(); mistakes == nil && (total < 1 || total > maxRequests) {
		mistakes = fmt.Errorf("-rate %v for -duration %v makes %d requests: want 1 to %d",
			config.rate, config.duration, total, maxRequests)
	}
	return config, mistakes
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
	flags.Var(setting[float64]{&config.rate, parseRate}, "rate",
		"`requests` a second in all, half sync and half async")
	flags.Var(setting[time.Duration]{&config.duration, parseDuration(time.Millisecond)}, "duration",
		"how much `time` to send for")
	flags.Var(setting[string]{&config.target, parseTarget}, "target",
		"`URL` of the server, on loopback")
	flags.Var(setting[time.Duration]{&config.drain, parseDuration(0)}, "drain",
		"how much `time` to wait for callbacks after the last answer")
	flags.Var(setting[int]{&config.maxInFlight, parseCount(maxRequests)}, "max-in-flight",
		"`requests` that may wait for an answer; what is due beyond it counts as unsent")
	flags.Var(setting[time.Duration]{&config.timeout, parseDuration(time.Millisecond)}, "timeout",
		"how much `time` a request may take, waiting for a connection included")
	flags.Var(setting[int]{&config.textBytes, parseCount(work.MaxTextBytes)}, "text-bytes",
		"size of the text in each request, in `bytes`")
	flags.Func("api-key", "`key` sent as a bearer token (default $RINGBACK_API_KEY)",
		func(key string) error { config.apiKey = key; return nil })
	return flags
}

func printUsage(w io.Writer) {
	config := defaults()
	flags := newFlags(&config)
	flags.SetOutput(w)
	fmt.Fprintln(w, "storm loads a running Ringback and checks that every acknowledged request is called back.")
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
		if err != nil || duration < least {
			return 0, fmt.Errorf("want a duration like 20s, at least %v", least)
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
	if err != nil || target.Scheme != "http" || *target != (url.URL{Scheme: "http", Host: target.Host}) {
		return "", errors.New("want http://host:port and nothing more")
	}
	ip := net.ParseIP(target.Hostname())
	if target.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", errors.New("that is not a loopback address, and a storm is for your own machine only")
	}
	return target.String(), nil
}

// fitsHeader tells whether net/http will send the key, so that a key it
// refuses isn't found out request by request.
func fitsHeader(key string) bool {
	return !strings.ContainsFunc(key, unicode.IsControl)
}
