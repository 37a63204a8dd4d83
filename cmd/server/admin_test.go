package main

import (
	"net/http"
	"net/http/httptest"
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
