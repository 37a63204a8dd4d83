package webhook

import (
	"errors"
	"net/http"
	"testing"
)

func TestParseHost(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"hooks.example.com": "hooks.example.com", "Hooks.Example.com.": "hooks.example.com", "hooks.example.com:8443": "hooks.example.com:8443",
		"*.Example.com": "*.example.com", "*.example.com:443": "*.example.com:443", "localhost": "localhost", "localhost:9999": "localhost:9999",
		"8.8.8.8": "8.8.8.8", "10.1.2.3:80": "10.1.2.3:80", "2a00::1": "[2a00::1]", "[2A00::1]": "[2a00::1]", "[::1]:9999": "[::1]:9999",
	} {
		got, err := ParseHost(text)
		if err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", text, got, err, want)
		}
		if again, err := ParseHost(got); err != nil || again != got {
			t.Errorf("%q again: got %q, %v, want the same", got, again, err)
		}
	}
	for _, text := range []string{
		"", "*", "*.", "*.com", "com", "https://example.com", "example.com/", "example.com:", "example.com:0", "example.com:080", "example.com:65536",
		"example.com:https", "a b.example.com", "ä.example.com", "*.8.8.8.8", "*.*.example.com", "a.*.example.com", "hooks.internal", "fe80::1%eth0", "::ffff:8.8.8.8", "user@example.com",
	} {
		if got, err := ParseHost(text); err == nil {
			t.Errorf("%q: got %q, want an error", text, got)
		}
	}
}

func TestHosts(t *testing.T) {
	t.Parallel()
	hosts := Hosts{"a.example.com", "b.example.com:8443", "*.below.example.com", "*.port.example.com:443", "[2a00::1]", "[2a00::2]:443", "8.8.8.8:80"}
	for canonical, want := range map[string]bool{
		"https://a.example.com/": true, "https://a.example.com:8443/x?y=b.example.com:8443": true, "http://a.example.com/": true,
		"https://b.example.com:8443/": true, "https://b.example.com/": false, "https://c.example.com/": false, "https://xa.example.com/": false,
		"https://x.a.example.com/": false, "https://x.below.example.com/": true, "https://x.y.below.example.com:8443/": true,
		"https://below.example.com/": false, "https://xbelow.example.com/": false, "https://x.port.example.com/": true, "https://x.port.example.com:8443/": false,
		"https://[2a00::1]/": true, "https://[2a00::1]:8443/": true, "https://[2a00::2]/": true, "https://[2a00::2]:8443/": false, "https://[2a00::3]/": false,
		"http://8.8.8.8/": true, "https://8.8.8.8/": false, "https://evil.org/?a.example.com": false, "https://evil.org/a.example.com": false, "::": false,
	} {
		err := hosts.Check(canonical)
		if _, refused := errors.AsType[*RefusedError](err); (err == nil) != want || !want && !refused {
			t.Errorf("%s: got %v, want it allowed: %v", canonical, err, want)
		}
	}
	if err := Hosts(nil).Check("https://anything.example.org/"); err != nil {
		t.Errorf("none: got %v, want all allowed", err)
	}
}

func TestSendChecksTheHostsAgain(t *testing.T) {
	t.Parallel()
	called := make(chan bool, 10)
	server := serveHTTP(t, func(http.ResponseWriter, *http.Request) { called <- true })
	s := localSender(t)
	for hosts, want := range map[string]Outcome{"127.0.0.1": Delivered, "hooks.example.com": ConnectionFailed} {
		got := s.Send(t.Context(), Message{ID: "m", URL: server.URL + "/", Hosts: Hosts{hosts}})
		if got.Outcome != want || len(called) != map[Outcome]int{Delivered: 1}[want] {
			t.Errorf("where %s may be called: got %+v and %d calls, want %s", hosts, got, len(called), want)
		}
		for len(called) > 0 {
			<-called
		}
	}
}
