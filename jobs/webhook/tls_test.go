package webhook

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestSendTLS(t *testing.T) {
	t.Parallel()
	keep := func(*httptest.Server) {}
	for _, test := range []struct {
		name   string
		server func(*httptest.Server)
		client func(*tls.Config)
		host   string
		want   Attempt
	}{
		{"trusted", keep, func(*tls.Config) {}, "127.0.0.1", Attempt{Outcome: Delivered, Status: 200}},
		{
			"untrusted", keep, func(config *tls.Config) { config.RootCAs = nil }, "127.0.0.1",
			Attempt{Outcome: TLSFailed, Cause: "certificate signed by unknown authority"},
		},
		{
			"for another name", keep, func(*tls.Config) {}, "localhost",
			Attempt{Outcome: TLSFailed, Cause: "certificate is for another name"},
		},
		{
			"expired", keep, func(config *tls.Config) { config.Time = func() time.Time { return time.Now().AddDate(200, 0, 0) } }, "127.0.0.1",
			Attempt{Outcome: TLSFailed, Cause: "certificate expired or not yet valid"},
		},
		{"TLS 1.1", func(server *httptest.Server) {
			server.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
		}, func(*tls.Config) {}, "127.0.0.1", Attempt{Outcome: TLSFailed, Cause: "tls: protocol version not supported"}},
		{
			"TLS 1.2", func(server *httptest.Server) { server.TLS = &tls.Config{MaxVersion: tls.VersionTLS12} },
			func(*tls.Config) {}, "127.0.0.1",
			Attempt{Outcome: Delivered, Status: 200},
		},
		{"another protocol alone", func(server *httptest.Server) {
			server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
				config := server.TLS.Clone()
				config.NextProtos = []string{"h3"} // Go's own servers forgive h2; httptest adds HTTP/1.1 to the server's
				return config, nil
			}}
		}, func(*tls.Config) {}, "127.0.0.1", Attempt{Outcome: TLSFailed, Cause: "tls: no application protocol"}},
		{"a proxy that asks for the protocol", func(server *httptest.Server) {
			server.TLS = &tls.Config{GetConfigForClient: knowsProtocol}
		}, func(*tls.Config) {}, "127.0.0.1", Attempt{Outcome: Delivered, Status: 200}},
		{"client certificate required", func(server *httptest.Server) {
			server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
		}, func(*tls.Config) {}, "127.0.0.1", Attempt{Outcome: TLSFailed, Cause: "tls: certificate required"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var protocol atomic.Value
			server := serveTLS(t, func(_ http.ResponseWriter, r *http.Request) { protocol.Store(r.Proto) }, test.server)
			sender := localSender(t)
			trust(sender, server)
			test.client(sender.kept.pattern.TLSClientConfig)
			_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
			got := sender.Send(t.Context(), message("https://"+test.host+":"+port))
			expect(t, got, test.want)
			if got.Outcome == Delivered && (protocol.Load() != "HTTP/1.1" || got.TLS <= 0) {
				t.Errorf("protocol is %v, handshake took %s; want HTTP/1.1 and some time", protocol.Load(), got.TLS)
			}
		})
	}
}

// knowsProtocol serves only clients that say that they speak HTTP/1.1, as proxies do that
// choose the service by it.
func knowsProtocol(client *tls.ClientHelloInfo) (*tls.Config, error) {
	if !slices.Contains(client.SupportedProtos, "http/1.1") {
		return nil, errors.New("the client offers no protocol")
	}
	return nil, nil //nolint:nilnil // the server's own
}

func trust(sender *Sender, server *httptest.Server) {
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	sender.kept.pattern.TLSClientConfig.RootCAs = roots
}

func TestSendNoTLS(t *testing.T) {
	t.Parallel()
	server := serveHTTP(t, func(http.ResponseWriter, *http.Request) { t.Error("got a request; want none in the clear") })
	expect(t, localSender(t).Send(t.Context(), message(strings.Replace(server.URL, "http:", "https:", 1))),
		Attempt{Outcome: TLSFailed, Cause: "handshake failed"})
}

func TestSendResumesTLS(t *testing.T) {
	t.Parallel()
	var resumed atomic.Bool
	server := serveTLS(t, func(_ http.ResponseWriter, r *http.Request) { resumed.Store(r.TLS.DidResume) }, func(*httptest.Server) {})
	sender := localSender(t)
	trust(sender, server)
	for i, want := range []bool{false, true} {
		expect(t, sender.Send(t.Context(), message(server.URL)), Attempt{Outcome: Delivered, Status: 200})
		if got := resumed.Load(); got != want {
			t.Errorf("connection %d resumed a session: %v; want %v", i, got, want)
		}
		sender.Close()
	}
}
