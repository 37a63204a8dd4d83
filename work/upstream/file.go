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
	URL     string
	Schema  jsontext.Value // JSON Schema 2020-12 of the input; any input without it
	Timeout duration       // of an attempt, such as 30s; WORK_TIMEOUT without it
	Limit   int            // attempts at a time in each process; 0 for no limit of its own
	Retries *retries       // charged attempts after the first; 5 without it
	RetryOn retryOn        // [500]: that isn't final
	Lease   duration       // how long it may say nothing after it answered 202; 10m without it
	Secret  Secrets        // as WORK_SECRET, which it stands for without it
}

// duration is a positive duration, such as 30s.
type duration time.Duration

// UnmarshalText reads it.
func (d *duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err == nil && parsed <= 0 {
		err = errors.New("it is not positive")
	}
	if err == nil {
		*d = duration(parsed)
	}
	return err
}

// retries is a number from 0. The frame bounds it.
type retries int

// UnmarshalJSON reads it.
func (r *retries) UnmarshalJSON(value []byte) error {
	err := json.Unmarshal(value, (*int)(r))
	if err == nil && *r < 0 {
		err = errors.New("it is negative")
	}
	return err
}

// retryOn is statuses that aren't final: 500 or none.
type retryOn []int

// UnmarshalJSON reads it.
func (r *retryOn) UnmarshalJSON(value []byte) error {
	err := json.Unmarshal(value, (*[]int)(r))
	if err == nil && slices.ContainsFunc(*r, func(status int) bool { return status != http.StatusInternalServerError }) {
		err = errors.New("it has another status")
	}
	return err
}

// field is a field of an entry: where its value goes, and what the value must be.
type field struct {
	into any
	want string
}

func (e *entry) fields() map[string]field {
	return map[string]field{
		"url":      {&e.URL, "a URL such as http://127.0.0.1:9000/summarize"},
		"schema":   {&e.Schema, "a JSON Schema"},
		"timeout":  {&e.Timeout, "a duration above 0, such as \"30s\""},
		"limit":    {&e.Limit, "a whole number from 0 to 10000, without a fraction or an exponent, 0 for no limit"},
		"retries":  {&e.Retries, "a whole number from 0 to 10, without a fraction or an exponent"},
		"retry_on": {&e.RetryOn, "[500] or []"},
		"lease":    {&e.Lease, "a duration above 0, such as \"10m\""},
		"secret":   {&e.Secret, "one secret, or two with a comma between them, each whsec_ and the base64 of 24 to 64 bytes"},
	}
}

// ReadFile reads the upstreams of a file, a JSON object of name and entry. It reports
// every mistake, without quoting secrets, and returns also the entries with mistakes, so that
// their other fields can be checked. identity is the User-Agent.
func ReadFile(path string, secrets Secrets, identity string) (map[string]Config, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("can't be read: %w", err)
	}
	var raw map[string]jsontext.Value
	err = json.Unmarshal(content, &raw)
	var mistyped *json.SemanticError
	switch {
	case errors.As(err, &mistyped), err == nil && len(raw) == 0:
		return nil, errors.New("must name a file with a JSON object of name and service, with one service at least")
	case err != nil:
		return nil, fmt.Errorf("must name a file with a JSON object of name and service: %w", err)
	}
	listed := map[string]Config{}
	var mistakes []error
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		config, err := readEntry(raw[name], secrets)
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("work %q: %w", name, err))
		}
		config.Identity = identity
		listed[name] = config
	}
	return listed, errors.Join(mistakes...)
}

func readEntry(raw jsontext.Value, secrets Secrets) (config Config, err error) {
	e, mistakes := decodeEntry(raw)
	config = Config{
		URL: e.URL, Schema: e.Schema, Limit: e.Limit, Secrets: secrets, RetryOn: e.RetryOn,
		Timeout: time.Duration(e.Timeout), Lease: time.Duration(e.Lease),
	}
	if e.Secret != nil {
		config.Secrets = e.Secret
	}
	if e.Retries != nil {
		config.Retries = int(*e.Retries)
		if *e.Retries == 0 {
			config.Retries = -1 // none
		}
	}
	return config, errors.Join(mistakes...)
}

// decodeEntry decodes an entry field by field, so that all mistakes are told.
func decodeEntry(raw jsontext.Value) (e entry, mistakes []error) {
	var values map[string]jsontext.Value
	if err := json.Unmarshal(raw, &values); err != nil || values == nil {
		return entry{}, []error{errors.New(`must be an object such as {"url": "http://127.0.0.1:9000/summarize"}`)}
	}
	fields, badURL := e.fields(), false
	for _, name := range slices.Sorted(maps.Keys(values)) {
		f, known := fields[name]
		switch {
		case !known:
			mistakes = append(mistakes, fmt.Errorf("%q is not a known field: known are %q", name, slices.Sorted(maps.Keys(fields))))
		case values[name].Kind() == jsontext.KindNull, json.Unmarshal(values[name], f.into) != nil:
			mistakes, badURL = append(mistakes, fmt.Errorf("%s must be %s", name, f.want)), badURL || name == "url"
		}
	}
	if err := CheckURL(e.URL); err != nil && !badURL {
		mistakes = slices.Insert(mistakes, 0, fmt.Errorf("url %w", err))
	}
	return e, mistakes
}
