package webhook

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"
)

func FuzzCheck(f *testing.F) {
	for _, raw := range []string{
		"https://example.com/hooks?a=b", "https://[2a00:1450::8]:8443/", "https://8.8.8.8", "https://:443/", "http://localhost:3000/%2F",
		"https://xn--bcher-kva.example.com.", "https://%E2%91%A0.com/", "https://0x7f.1/", "https://a@b/", "https://[::ffff:1.2.3.4]/",
		"https://[fe80::1%25lo]/", "http://127.0.0.1:80?", "https://EXAMPLE.com:443//a/../[b]",
		"https://①②⑦.⓪.⓪.①/", "https://127。0。0。1/", "https://１２７.０.０.１/", "https://2130706433/", "https://0177.0.0.1/", "https://127.1./",
		"https://[64:ff9b::7f00:1]/", "https://[2002:7f00:1::]/", "https://[2001:0:7f00:1::]/", "https://8.8.8.8:0443/", "https://a.localhost:9/",
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		canonical, err := strict.Check(raw)
		if err == nil {
			checkProperties(t, strict, raw, canonical)
			if got, err := local.Check(raw); got != canonical || err != nil {
				t.Errorf("Check(%q) = %q, %v locally; want %q as strictly", raw, got, err, canonical)
			}
		}
		if canonical, err := operated.Check(raw); err == nil {
			checkProperties(t, operated, raw, canonical)
		}
		if canonical, err := local.Check(raw); err == nil {
			checkProperties(t, local, raw, canonical)
		} else if _, ok := errors.AsType[*RefusedError](err); !ok {
			t.Errorf("Check(%q) = %v; want a *RefusedError", raw, err)
		}
	})
}

func checkProperties(t *testing.T, policy Policy, raw, canonical string) {
	t.Helper()
	if again, err := policy.Check(canonical); again != canonical || err != nil {
		t.Errorf("Check(%q) = %q, which checks to %q, %v; want itself", raw, canonical, again, err)
	}
	parsed, err := url.Parse(canonical)
	if err != nil {
		t.Fatalf("Check(%q) = %q, which doesn't parse: %v", raw, canonical, err)
	}
	host := parsed.Hostname()
	if address, err := netip.ParseAddr(host); err == nil && !policy.mayDial(address) {
		t.Errorf("Check(%q) = %q, whose address the guard refuses", raw, canonical)
	} else if err != nil && strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
		t.Errorf("Check(%q) = %q, whose host isn't a plain name", raw, canonical)
	}
	if parsed.User != nil || parsed.Fragment != "" || host == "" || !strings.HasPrefix(parsed.Path, "/") {
		t.Errorf("Check(%q) = %q, which has a user, a fragment, no host or no path", raw, canonical)
	}
}

// No URL that Check accepts makes the transport dial a forbidden address, for any DNS
// answer. The list forbidden shares nothing with the guard.
func FuzzDial(f *testing.F) {
	for _, seed := range []struct{ raw, answers string }{
		{"https://example.com/", "8.8.8.8"},
		{"https://example.com/", "8.8.8.8 127.0.0.1"},
		{"https://example.com/", "127.0.0.1 8.8.8.8"},
		{"https://example.com/", "169.254.169.254"},
		{"https://example.com:8443/", "::ffff:10.0.0.1"},
		{"https://example.com/", ""},
		{"https://example.com/", "2a00:1450::8 64:ff9b::a00:1"},
		{"https://example.com/", "fe80::1%lo"},
		{"https://example.com/", "2a00:1450::5efe:a00:1"},
		{"https://example.com/", "8.8.8.8 8.8.4.4 1.1.1.1 1.0.0.1 9.9.9.9"},
		{"https://8.8.8.8/", "127.0.0.1"},
		{"https://[2a00:1450::8]/", "::1"},
		{"https://127.0.0.1.nip.io/", "127.0.0.1"},
		{"https://localhost.example.com/", "::1"},
		{"https://example.com/", "0.0.0.0"},
		{"https://①②⑦.⓪.⓪.①/", "127.0.0.1"},
		{"https://127。0。0。1/", "127.0.0.1"},
		{"https://:443/", "127.0.0.1"},
		{"https://[::ffff:127.0.0.1]/", "127.0.0.1"},
	} {
		f.Add(seed.raw, seed.answers)
	}
	f.Fuzz(func(t *testing.T, raw, answers string) {
		for _, address := range dialled(t, strict, raw, answers) {
			target, err := netip.ParseAddrPort(address)
			if err != nil || isForbidden(target.Addr()) || target.Port() != 443 && target.Port() != 8443 {
				t.Errorf("%q, with answers %q, dials %q", raw, answers, address)
			}
		}
	})
}

// dialled returns the addresses that a callback to a URL dials when DNS gives the
// answers, separated by spaces. No dial succeeds.
func dialled(t *testing.T, policy Policy, raw, answers string) (addresses []string) {
	t.Helper()
	sender := NewSender(policy, "test")
	lookups := 0
	sender.guard.lookup = func(context.Context, string) (parsed []netip.Addr, err error) {
		lookups++
		for answer := range strings.FieldsSeq(answers) {
			if address, err := netip.ParseAddr(answer); err == nil {
				parsed = append(parsed, address)
			}
		}
		return parsed, nil
	}
	sender.guard.dial = func(_ context.Context, _, address string) (net.Conn, error) {
		addresses = append(addresses, address)
		return nil, errors.New("no network here")
	}
	sent := sender.Send(t.Context(), message(raw))
	if sent.Outcome != ConnectionFailed || lookups > 1 || len(addresses) > maxAddresses {
		t.Errorf("%q, with answers %q: got %s after %d lookups and %d dials; want %s after one lookup and four dials at most",
			raw, answers, sent.Outcome, lookups, len(addresses), ConnectionFailed)
	}
	return addresses
}

func FuzzRetryAfter(f *testing.F) {
	for _, value := range []string{"", "0", "120", "-1", "99999999999999999999999", "1e3", "Sun, 01 Feb 2026 00:00:20 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "Sunday, 01-Feb-26 00:00:20 GMT"} {
		f.Add(value, 429)
		f.Add(value, 503)
	}
	now := time.Date(2026, 1, 31, 23, 59, 50, 0, time.UTC)
	f.Fuzz(func(t *testing.T, value string, status int) {
		outcome, wait := classify(status, http.Header{"Retry-After": {value}}, now)
		if throttled := outcome == Throttled; throttled != (wait != 0) || throttled && (wait < minRetryAfter || wait > maxRetryAfter) {
			t.Errorf("status %d with Retry-After %q is %s, %s", status, value, outcome, wait)
		}
		if outcome == Throttled && status != 429 && status != 503 || outcome == Delivered && status/100 != 2 {
			t.Errorf("status %d with Retry-After %q is %s", status, value, outcome)
		}
		consent := readConsent("ringback", status, http.Header{"Webhook-Allowed-Origin": {value}, "Webhook-Allowed-Rate": {value}})
		if consent.PerMinute < 0 || consent.PerMinute > maxPerMinute || consent.Granted && value != "*" && !strings.EqualFold(value, "ringback") {
			t.Errorf("status %d with origin and rate %q is %+v", status, value, consent)
		}
	})
}
