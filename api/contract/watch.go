package contract

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// watched are the tests that run a service, by its host.
var watched sync.Map // of testing.TB

// Watch checks every answer from a service against the document, until the test ends. Install
// comes first. Only http.DefaultClient is watched.
func Watch(t testing.TB, service string) {
	t.Helper()
	at, err := url.Parse(service)
	if err != nil {
		t.Fatal(err)
	}
	Load(t)
	watched.Store(at.Host, t)
	t.Cleanup(func() { watched.Delete(at.Host) })
}

// Install makes http.DefaultClient look at the answers that it gets. It is for TestMain.
func Install() {
	http.DefaultClient.Transport = Transport{http.DefaultTransport}
}

// Transport looks at the answers of services that are watched.
type Transport struct{ http.RoundTripper }

// CloseIdleConnections closes the idle connections of the transport below.
func (transport Transport) CloseIdleConnections() {
	if closer, ok := transport.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		closer.CloseIdleConnections()
	}
}

// RoundTrip sends a call.
func (transport Transport) RoundTrip(call *http.Request) (*http.Response, error) {
	answer, err := transport.RoundTripper.RoundTrip(call)
	t, is := watched.Load(call.URL.Host)
	if err != nil || !is {
		return answer, err
	}
	test := t.(testing.TB)
	if answer.Header.Get("Content-Type") == "text/event-stream" { // which has no end to wait for
		return answer, nil
	}
	contract := Load(test)
	contract.CheckAnswer(test, call, bodyOf(call), answer)
	return answer, nil
}

// bodyOf is the body of a call that was sent.
func bodyOf(call *http.Request) []byte {
	if call.GetBody == nil {
		return nil
	}
	body, err := call.GetBody()
	if err != nil {
		return nil
	}
	content, _ := io.ReadAll(body) // it is in memory
	return content
}

// Receiver checks the callbacks to a receiver against the document.
func Receiver(t testing.TB, next http.HandlerFunc) http.Handler {
	contract := Load(t)
	return http.HandlerFunc(func(w http.ResponseWriter, call *http.Request) {
		if call.Method == http.MethodPost { // a question for consent isn't a callback
			body, err := io.ReadAll(call.Body)
			if err != nil {
				t.Errorf("reading a callback: %v", err)
			}
			call.Body = io.NopCloser(bytes.NewReader(body))
			contract.CheckCallback(t, call, body)
		}
		next(w, call)
	})
}

// CheckRaw checks an answer from a test's raw connection against the document.
// head is the head of the call, as in "POST /sync HTTP/1.1".
func CheckRaw(t testing.TB, head string, answer *http.Response) {
	t.Helper()
	words := strings.Fields(head)
	call, err := http.NewRequestWithContext(t.Context(), words[0], words[1], nil)
	if err != nil {
		t.Fatal(err)
	}
	Load(t).CheckAnswer(t, call, nil, answer)
}
