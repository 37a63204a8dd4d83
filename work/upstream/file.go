package upstream

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"ringback/jobs/webhook"
)

// Secrets sign calls: two while a new secret replaces the old.
type Secrets []webhook.Secret

// UnmarshalText reads secret,secret.
func (s *Secrets) UnmarshalText(text []byte) error {
	*s = nil
	for one := range strings.SplitSeq(string(text), ",") {
		secret, err := webhook.ParseSecret(strings.TrimSpace(one))
		if err != nil {
			return errors.New("must be one secret, or two with a comma between them, each whsec_ and the base64 of 24 to 64 bytes")
		}
		*s = append(*s, secret)
	}
	if len(*s) > 2 {
		return errors.New("must be two secrets at most")
	}
	return nil
}

// entry is an upstream in a file.
type entry struct {
	URL     string         `json:"url"`
	Schema  jsontext.Value `json:"schema"`   // JSON Schema 2020-12 of the input; any input without it
	Timeout string         `json:"timeout"`  // of an attempt, such as 30s; WORK_TIMEOUT without it
	Limit   int            `json:"limit"`    // attempts at a time in each process; 0 for no limit of its own
	Retries *int           `json:"retries"`  // charged attempts after the first; 5 without it
	RetryOn []int          `json:"retry_on"` // [500]: that isn't final
	Lease   string         `json:"lease"`    // how long it may say nothing after it answered 202; 10m without it
	Secret  string         `json:"secret"`   // as WORK_SECRET, which it stands for without it
}

// ReadFile reads the upstreams of a file, a JSON object of name and entry. It reports
// every mistake, without quoting secrets. identity is the User-Agent.
func ReadFile(path string, secrets Secrets, identity string) (map[string]Config, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("can't be read: %w", err)
	}
	var raw map[string]jsontext.Value
	if err := json.Unmarshal(content, &raw); err != nil {
		return nil, fmt.Errorf("must name a file with a JSON object of name and service: %w", err)
	}
	listed := map[string]Config{}
	var mistakes []error
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		config, err := readEntry(raw[name], secrets)
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("work %q: %w", name, err))
			continue
		}
		config.Identity = identity
		listed[name] = config
	}
	return listed, errors.Join(mistakes...)
}

func readEntry(raw jsontext.Value, secrets Secrets) (config Config, err error) {
	var e entry
	if err := json.Unmarshal(raw, &e, json.RejectUnknownMembers(true)); err != nil {
		return Config{}, err
	}
	var mistakes []error
	refuse := func(field string, err error) {
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("%s %w", field, err))
		}
	}
	config = Config{URL: e.URL, Schema: e.Schema, Limit: e.Limit, Secrets: secrets, RetryOn: e.RetryOn}
	refuse("url", CheckURL(e.URL))
	for field, d := range map[string]struct {
		text string
		into *time.Duration
	}{"timeout": {e.Timeout, &config.Timeout}, "lease": {e.Lease, &config.Lease}} {
		if d.text == "" {
			continue
		}
		if *d.into, err = time.ParseDuration(d.text); err != nil {
			refuse(field, errors.New("must be a duration such as 30s"))
		}
	}
	if e.Secret != "" {
		var own Secrets
		refuse("secret", own.UnmarshalText([]byte(e.Secret)))
		config.Secrets = own
	}
	if e.Retries != nil {
		config.Retries = *e.Retries
		if *e.Retries == 0 {
			config.Retries = -1 // none
		}
		if *e.Retries < 0 {
			refuse("retries", errors.New("must be from 0 to 10"))
		}
	}
	if slices.ContainsFunc(e.RetryOn, func(status int) bool { return status != http.StatusInternalServerError }) {
		refuse("retry_on", errors.New("may hold 500 and nothing else"))
	}
	return config, errors.Join(mistakes...)
}
