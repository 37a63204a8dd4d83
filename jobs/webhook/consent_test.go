package webhook

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestReadConsent(t *testing.T) {
	t.Parallel()
	none, unlimited := Consent{}, Consent{Granted: true}
	for _, test := range []struct {
		name           string
		status         int
		origins, rates []string
		want           Consent
	}{
		{"granted by name", 200, []string{"ringback"}, []string{"120"}, Consent{Granted: true, PerMinute: 120}},
		{"granted by name in another case", 204, []string{"RingBack"}, []string{"1"}, Consent{Granted: true, PerMinute: 1}},
		{"granted to all, without limit", 200, []string{"*"}, []string{"*"}, unlimited},
		{"granted without a rate", 200, []string{"*"}, nil, unlimited},
		{"a huge rate is clamped", 200, []string{"*"}, []string{"1000001"}, Consent{Granted: true, PerMinute: 1_000_000}},
		{"digits without end are clamped", 200, []string{"*"}, []string{"99999999999999999999999"}, Consent{Granted: true, PerMinute: 1_000_000}},
		{"a status alone", 200, nil, nil, none},
		{"a rate alone", 200, nil, []string{"*"}, none},
		{"an empty origin", 200, []string{""}, nil, none},
		{"another origin", 200, []string{"ringback.example.com"}, []string{"*"}, none},
		{"several origins in one", 200, []string{"ringback, example.com"}, nil, none},
		{"several origins", 200, []string{"ringback", "*"}, nil, none},
		{"several rates", 200, []string{"*"}, []string{"1", "2"}, none},
		{"a rate of zero", 200, []string{"*"}, []string{"0"}, none},
		{"a negative rate", 200, []string{"*"}, []string{"-1"}, none},
		{"a signed rate", 200, []string{"*"}, []string{"+1"}, none},
		{"a fraction", 200, []string{"*"}, []string{"1.5"}, none},
		{"a rate with a unit", 200, []string{"*"}, []string{"5/s"}, none},
		{"an empty rate", 200, []string{"*"}, []string{""}, none},
		{"a redirect", 302, []string{"*"}, nil, none},
		{"method not allowed", 405, []string{"*"}, nil, none},
		{"a server error", 500, []string{"*"}, nil, none},
		{"another protocol", 101, []string{"*"}, nil, none},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			header := http.Header{"Webhook-Allowed-Origin": test.origins, "Webhook-Allowed-Rate": test.rates}
			if got := readConsent("ringback", test.status, header); got != test.want {
				t.Errorf("readConsent(%d, %v) = %+v; want %+v", test.status, header, got, test.want)
			}
		})
	}
}

func TestAskAnswered(t *testing.T) {
	t.Parallel()
	questions := make(chan string, 1)
	target := receive(t, func(conn net.Conn) {
		questions <- readRequest(t, conn)
		_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\nwebhook-allowed-origin: ringback\r\nWebHook-Allowed-Rate: 60\r\n\r\n")
	})
	got, err := localSender(t).Ask(t.Context(), target.url+"hook?a=b", 240, Admission{})
	want := Consent{Granted: true, PerMinute: 60, Address: netip.MustParseAddr("127.0.0.1")}
	if err != nil || got != want {
		t.Errorf("Ask = %+v, %v; want %+v", got, err, want)
	}
	question := "OPTIONS /hook?a=b HTTP/1.1\r\n" +
		"Host: " + target.address + "\r\n" +
		"User-Agent: Ringback/test\r\n" +
		"Accept: */*\r\n" +
		"Cdn-Loop: ringback\r\n" +
		"Webhook-Request-Origin: ringback\r\n" +
		"Webhook-Request-Rate: 240\r\n" +
		"Connection: close\r\n\r\n"
	if got := <-questions; got != question {
		t.Errorf("question is %q; want %q", got, question)
	}
}

func TestAskNotAnswered(t *testing.T) {
	t.Parallel()
	silent := receive(t, func(conn net.Conn) { untilClosed(conn) })
	garbage := receive(t, func(conn net.Conn) {
		readRequest(t, conn)
		_, _ = io.WriteString(conn, "secret\r\n\r\n")
	})
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		name string
		ctx  context.Context
		url  string
		want string
	}{
		{"too slow", t.Context(), silent.url, "timeout: too slow while waiting for the answer"},
		{"garbage", t.Context(), garbage.url, "connection_failed: no valid HTTP answer"},
		{"not allowed", t.Context(), "http://10.1.2.3/", "connection_failed: URL not allowed"},
		{"cancelled", cancelled, silent.url, "connection_failed: cancelled"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			withMoreTime(t, func(limit time.Duration) (bool, any) {
				sender := localSender(t)
				sender.exchange = limit
				got, err := sender.Ask(test.ctx, test.url, 60, Admission{})
				if got.Granted || err == nil || strings.Contains(err.Error(), "secret") {
					t.Fatalf("Ask = %+v, %v; want no grant and %q", got, err, test.want)
				}
				return strings.Contains(err.Error(), test.want), err
			})
		})
	}
}
