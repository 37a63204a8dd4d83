package db

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestDistrust(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err  error
		want string // "" for none
	}{
		{x509.HostnameError{Certificate: &x509.Certificate{DNSNames: []string{"a.example"}}, Host: "b.example"}, "valid for a.example, not b.example"},
		{x509.UnknownAuthorityError{}, "sslrootcert"},
		{x509.SystemRootsError{}, "sslrootcert"},
		{x509.CertificateInvalidError{Reason: x509.Expired, Detail: "long ago"}, "renew it"},
		{x509.CertificateInvalidError{Reason: x509.TooManyIntermediates}, "another one"},
		{tls.AlertError(116), "sslcert and sslkey"}, // certificate required
		{tls.AlertError(70), "ssl_min_protocol_version"},
		{tls.AlertError(80), ""}, // internal error, which may pass
		{errors.New("server refused TLS connection"), "set ssl = on"},
		{errors.New("connection refused"), ""},
		{context.DeadlineExceeded, ""},
	} {
		err := errors.Join(errors.New("another address is away"), fmt.Errorf("tls error: %w", test.err))
		for mode, verifies := range map[string]bool{"verify-full": true, "require": true, "prefer": false, "disable": false} {
			config, parseErr := pgx.ParseConfig("postgres://someone@db.example/db?sslmode=" + mode)
			if parseErr != nil {
				t.Fatal(parseErr)
			}
			got := distrust(config, err)
			if wants := verifies && test.want != ""; wants != (got != "") || wants && !strings.Contains(got, test.want) {
				t.Errorf("%v with sslmode=%s: got %q, want %q", test.err, mode, got, test.want)
			}
		}
	}
	if got := distrust(&pgx.ConnConfig{}, nil); got != "" {
		t.Errorf("without an error: got %q", got)
	}
}
