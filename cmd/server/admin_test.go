package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestProbesThatNameNoHost(t *testing.T) {
	t.Parallel()
	handler := localOnly(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for host, want := range map[string]int{"": http.StatusOK, "evil.example": http.StatusForbidden} {
		request := httptest.NewRequest(http.MethodGet, "/healthz", nil)
		request.Host = host
		answer := httptest.NewRecorder()
		if handler.ServeHTTP(answer, request); answer.Code != want {
			t.Errorf("host %q: got %d, want %d", host, answer.Code, want)
		}
		if told := answer.Body.String(); want == http.StatusForbidden && (!strings.Contains(told, "a loopback address or to localhost alone") || !strings.Contains(told, "The Host of this call is another")) {
			t.Errorf("host %q: got %q, want what this server takes, and what is wrong", host, told)
		}
	}
}

func TestCallsOfOtherPagesAreToldHowToOpenThis(t *testing.T) {
	t.Parallel()
	request, answer := httptest.NewRequest(http.MethodGet, "/debug/pprof/profile", nil), httptest.NewRecorder()
	request.Header.Set("Sec-Fetch-Site", "cross-site")
	notFromPages(func(http.ResponseWriter, *http.Request) { t.Error("the call went through") }).ServeHTTP(answer, request)
	if told := answer.Body.String(); answer.Code != http.StatusForbidden || told != "Open this page by its address.\n" {
		t.Errorf("got %d %q, want 403 and what to do", answer.Code, told)
	}
}

func TestIsLocal(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"localhost", "localhost:8080", "LOCALHOST", "LocalHost:80", "localhost.", "127.0.0.1", "127.1.2.3:8081", "[::1]", "[::1]:8081", "::1"} {
		if !isLocal(host) {
			t.Errorf("%s: got it refused", host)
		}
	}
	for _, host := range []string{"", "example.com", "localhost.example.com", "localhost:1:2", "10.0.0.1", "[::2]:80", "127.0.0.1.example.com", "0.0.0.0", "[localhost", "notlocalhost"} {
		if isLocal(host) {
			t.Errorf("%q: got it taken for this machine", host)
		}
	}
}
