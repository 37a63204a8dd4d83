package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"ringback/db/dbtest"
)

// patient repeats calls that are refused since the machine is busy: the database took
// longer than a call waits for it. It does so for programs whose database is always
// there. An async call gets an idempotency key, so that it is accepted once.
type patient struct{ http.RoundTripper }

// patientHosts are the hosts whose calls are repeated.
var patientHosts sync.Map

// ofABusyMachine are what the problems of such calls say.
var ofABusyMachine = []string{
	"The database could not finish the call.",
	"The database can't be reached at the moment, or takes too long.",
	"The database doesn't answer",
	"The database can't be written (slow).",
	"Requests wait too long to be stored.",
	"The process is starting.",
	"Too many reads are under way.",
}

// bePatient repeats calls to the program, if its database is the tests' own.
func (p *program) bePatient(t *testing.T, databaseURL string) {
	t.Helper()
	if !dbtest.IsShared(databaseURL) {
		return
	}
	host := strings.TrimPrefix(p.url, "http://")
	patientHosts.Store(host, true)
	t.Cleanup(func() { patientHosts.Delete(host) })
}

type impatience struct{}

// impatiently is a context whose calls are sent once.
func impatiently(ctx context.Context) context.Context {
	return context.WithValue(ctx, impatience{}, true)
}

// CloseIdleConnections closes the idle connections of the transport below.
func (p patient) CloseIdleConnections() {
	if closer, ok := p.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		closer.CloseIdleConnections()
	}
}

// RoundTrip sends a call, again and again if it has to.
func (p patient) RoundTrip(call *http.Request) (*http.Response, error) {
	_, known := patientHosts.Load(call.URL.Host)
	if !known || call.Context().Value(impatience{}) != nil || call.Body != nil && call.GetBody == nil {
		return p.RoundTripper.RoundTrip(call)
	}
	call = keyed(call)
	deadline := time.Now().Add(dbtest.Patience)
	for again := false; ; again = true {
		answer, err := p.RoundTripper.RoundTrip(call)
		if err != nil || time.Now().After(deadline) || !isOfABusyMachine(answer, again) {
			return answer, err
		}
		if call = call.Clone(call.Context()); call.GetBody != nil {
			if call.Body, err = call.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

// keyed is an async call with a key that a repeated call is known by.
func keyed(call *http.Request) *http.Request {
	if call.Method != http.MethodPost || !strings.HasPrefix(call.URL.Path, "/async") || call.URL.Path == "/async/batch" || call.Header.Get("Idempotency-Key") != "" {
		return call
	}
	call = call.Clone(call.Context())
	call.Header.Set("Idempotency-Key", rand.Text())
	return call
}

// isOfABusyMachine looks into an answer. An earlier call that was given up may still be
// under way.
func isOfABusyMachine(answer *http.Response, again bool) bool {
	inFlight := again && answer.StatusCode == http.StatusConflict
	if answer.StatusCode != http.StatusServiceUnavailable && !inFlight {
		return false
	}
	body, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	answer.Body = io.NopCloser(bytes.NewReader(body))
	for _, detail := range ofABusyMachine {
		if err == nil && (bytes.Contains(body, []byte(detail)) || inFlight && bytes.Contains(body, []byte("request-in-flight"))) {
			return true
		}
	}
	return false
}

// The sentences are the API's.
func TestPatientKnowsWhatABusyMachineSays(t *testing.T) {
	t.Parallel()
	proxy, through := dbtest.NewProxy(t, dbtest.New(t))
	p := startHere(t, through, nil, nil)
	proxy.Refuse()
	for method, path := range map[string]string{http.MethodGet: "/requests", http.MethodPost: "/sync"} {
		target, err := url.Parse(p.url + path)
		if err != nil {
			t.Fatal(err)
		}
		body := io.NopCloser(strings.NewReader(`{"input":{"text":"x"}}`))
		answer, err := http.DefaultClient.Do(&http.Request{Method: method, URL: target, Header: http.Header{"Content-Type": {"application/json"}}, Body: body})
		if err != nil {
			t.Fatal(err)
		}
		if !isOfABusyMachine(answer, false) {
			text, _ := io.ReadAll(answer.Body)
			t.Errorf("%s %s: got %s with %s, want it known", method, path, answer.Status, text)
		}
	}
}
