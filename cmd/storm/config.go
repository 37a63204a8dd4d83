package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/receivers"
	"ringback/cmd/internal/sample"
)

// config is what flags and environment say.
type config struct {
	load.Config
	isMine     bool   // allows a target that is not on loopback
	jsonFile   string // for the report; empty is none, - is stdout instead of the summary
	htmlFile   string // for the report as a page; empty is none
	objectives objectives
}

// defaults ask for the sample work, whose results are computed again.
func defaults() config {
	config := config{Config: load.Defaults()}
	config.Input, _ = sample.ParsePattern(sample.Usual)
	config.Result, config.ResultOf = sample.Result, sample.WorkName
	return config
}

// parseConfig reads flags and environment. Its error is flag.ErrHelp or lists every
// mistake, one a line.
func parseConfig(args []string, getenv func(string) string) (config, error) {
	config := defaults()
	config.APIKey, config.Secret = getenv("RINGBACK_API_KEY"), getenv("RINGBACK_SECRET")
	mistakes := parseAll(newFlags(&config), args)
	if errors.Is(mistakes, flag.ErrHelp) {
		return config, flag.ErrHelp
	}
	if config.Seed == 0 {
		config.Seed = rand.Uint64()
	}
	if config.Secret == "" && config.APIKey == "" && load.IsLoopback(config.Target) {
		config.Secret = receivers.LocalSecret
	}
	return config, errors.Join(mistakes, config.check(mistakes == nil))
}

// check finds mistakes in the combination of flags. If some flag is wrong by itself, it checks
// only the secrets.
func (c config) check(eachIsRight bool) error {
	mistakes := c.CheckSecrets()
	if !eachIsRight {
		return mistakes
	}
	if !c.isMine && !load.IsLoopback(c.Target) {
		mistakes = errors.Join(mistakes, fmt.Errorf("%s is not a loopback address, and a storm is for your own machines only: -i-own-this-target says that it is yours", c.Target))
	}
	if c.Mix.Async == 0 && c.OrderingKeys > 0 {
		mistakes = errors.Join(mistakes, errors.New("-ordering-keys: -mix sends no async requests"))
	}
	if c.Mix.Async == 0 && c.Receivers != load.Defaults().Receivers {
		mistakes = errors.Join(mistakes, errors.New("-receivers: -mix sends no async requests"))
	}
	return errors.Join(mistakes, c.objectives.unmeasurable(c.Mix), c.Check())
}

// parseAll reports all mistakes together: the flag package stops at the first.
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
	flags.Var(setting[string]{&config.Target, parseTarget}, "target",
		"`URL` of the server, on loopback")
	flags.BoolVar(&config.isMine, "i-own-this-target", false,
		"allow a target that is not on loopback: yours")
	flags.Var(setting[float64]{&config.Rate, within(parseFloat, "a number", 0.001, load.MaxRate)}, "rate",
		"`requests` a second in all; in the profiles spike and storm, the calm rate")
	flags.Var(setting[load.Profile]{&config.Profile, load.ParseProfile}, "profile",
		"`name` of the rate's shape over time:\n"+describeProfiles())
	flags.Var(setting[time.Duration]{&config.Length, parseDuration(time.Millisecond)}, "duration",
		"how much `time` to send for; the default is the profile's own")
	flags.Var(setting[time.Duration]{&config.Warmup, parseDuration(0)}, "warmup",
		"how much `time` at the start to leave out of quantiles and goodput")
	flags.Var(setting[string]{&config.Arrivals, parseArrivals}, "arrivals",
		"`constant` spacing, or poisson: independent arrivals")
	flags.Var(setting[load.Mix]{&config.Mix, load.ParseMix}, "mix", "`shares` of the endpoints")
	flags.Var(setting[load.Input]{&config.Input, sample.ParsePattern}, "work",
		"size of the sample work in each request, as in `"+sample.Usual+"`;\neach is N, N..M (uniform) or exp:N (exponential)")
	flags.Func("input", "`JSON` of the input, or @file, for any other work; "+load.PlaceholderHelp+";\n"+
		"N may be N..M or exp:N. Results are compared with the answers of POST /sync, if GET /works calls the work deterministic",
		func(text string) (err error) {
			config.Input, err = load.ParseInput(text)
			config.Result = nil
			return err
		})
	flags.Var(setting[int]{&config.Connections, parseCount(10_000)}, "connections",
		"`number` of connections to the server, which is how many requests can wait for an answer at a time")
	flags.Var(setting[uint64]{&config.Seed, within(parseUint, "a whole number", 0, math.MaxUint64)}, "seed", "`number` that everything random follows from; 0 picks one")
	flags.Var(setting[time.Duration]{&config.Timeout, parseDuration(time.Millisecond)}, "timeout",
		"how much `time` a request may take, and may wait for a connection before it counts as unsent")
	flags.Var(setting[time.Duration]{&config.Drain, parseDuration(0)}, "drain",
		"how much `time` to wait for callbacks after the last answer")
	flags.Func("api-key", "`key` sent as a bearer token (default $RINGBACK_API_KEY)",
		func(key string) (err error) { config.APIKey, err = parseGiven(key); return err })
	flags.Var(setting[string]{&config.jsonFile, parseGiven}, "json", "`file` to write the report to, as JSON; - is stdout, instead of the summary")
	flags.Var(setting[string]{&config.htmlFile, parsePage}, "html", "`file` to write the report to, as a page with charts")
	addCallbackFlags(flags, config)
	return flags
}

// addCallbackFlags adds the flags about callbacks.
func addCallbackFlags(flags *flag.FlagSet, config *config) {
	flags.Var(setting[load.Shares]{&config.Receivers, load.ParseShares}, "receivers",
		"`shares` of callbacks to receivers that behave in different ways, each at a port of its own:\n"+
			strings.Join(receivers.Described(), ",\n")+",\n"+
			"as in ok=90,slow=4,flaky=3,hang=1,reset=1,gone=1")
	flags.Var(setting[int]{&config.OrderingKeys, parseCount(1_000_000)}, "ordering-keys",
		"`number` of ordering keys to spread async requests over, and to check the order of callbacks by")
	flags.Func("secret", "`key` that callbacks must be signed with, whsec_…; the default is $RINGBACK_SECRET,\nand without an API key the secret of local mode",
		func(secret string) (err error) { config.Secret, err = parseGiven(secret); return err })
	flags.Func("slo", "`objectives` that end the run with status 99 if not met, as in\n"+
		"async.time_to_callback.p99<250ms,sync.p99<100ms,shed<1%; those of several -slo all count",
		func(text string) error {
			more, err := parseObjectives(text)
			config.objectives = append(config.objectives, more...)
			return err
		})
}

func printUsage(w io.Writer) {
	config := defaults()
	flags := newFlags(&config)
	flags.SetOutput(w)
	fmt.Fprintln(w, "storm loads a running Ringback and checks that every acknowledged request is called back.")
	fmt.Fprintln(w, "Exit status: 0 kept its word, 1 broken, 2 wrong usage, 99 an objective missed, 130 interrupted twice.")
	flags.PrintDefaults()
}

// setting is a flag that is parsed and checked in one step, so that each mistake is reported
// once.
type setting[T any] struct {
	value *T
	parse func(string) (T, error)
}

// String is called on the zero setting, too, by which the flag package finds out which default
// isn't worth showing.
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

// within returns a parser that refuses values out of bounds.
func within[T cmp.Ordered](parse func(string) (T, error), kind string, least, most T) func(string) (T, error) {
	return func(text string) (T, error) {
		value, err := parse(text)
		if err != nil || !(value >= least && value <= most) { // refuses NaN, too
			return value, fmt.Errorf("want %s from %v to %v", kind, least, most)
		}
		return value, nil
	}
}

func parseFloat(text string) (float64, error) { return strconv.ParseFloat(text, 64) }

func parseUint(text string) (uint64, error) { return strconv.ParseUint(text, 10, 64) }

func parseCount(most int) func(string) (int, error) {
	return within(strconv.Atoi, "a whole number", 1, most)
}

func parseDuration(least time.Duration) func(string) (time.Duration, error) {
	return within(time.ParseDuration, "a duration like 20s", least, load.MaxDuration)
}

// parseGiven refuses an empty text, such as that of an unset shell variable: it would count as
// no flag.
func parseGiven(text string) (string, error) {
	if text == "" {
		return "", errors.New("want a text that is not empty")
	}
	return text, nil
}

// parsePage refuses -, which is stdout for -json, and would be a file's name here.
func parsePage(text string) (string, error) {
	if text == "-" {
		return "", errors.New("want a file: the summary goes to stdout")
	}
	return parseGiven(text)
}

func parseTarget(text string) (string, error) {
	target, err := url.Parse(strings.TrimSuffix(text, "/"))
	if err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https" ||
		*target != (url.URL{Scheme: target.Scheme, Host: target.Host}) {
		return "", errors.New("want http://host:port and nothing more")
	}
	if _, err := within(parseUint, "a port", 1, math.MaxUint16)(cmp.Or(target.Port(), "80")); err != nil {
		return "", err
	}
	return target.String(), nil
}

func describeProfiles() string {
	var lines strings.Builder
	for _, profile := range load.Profiles() {
		fmt.Fprintf(&lines, "%-7s%s (%v)\n", profile, profile.Meaning, profile.Duration)
	}
	return strings.TrimSuffix(lines.String(), "\n")
}

func parseArrivals(text string) (string, error) {
	if text != "constant" && text != "poisson" {
		return "", errors.New("want constant or poisson")
	}
	return text, nil
}
