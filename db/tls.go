package db

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// distrust tells, with the remedy, why TLS with the database can't be as config asks;
// "" where err, of a connection, shows something else. It lasts until somebody changes a
// certificate or a setting.
func distrust(config *pgx.ConnConfig, err error) string {
	if !needsTLS(config) {
		return ""
	}
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	var roots x509.SystemRootsError
	var invalid x509.CertificateInvalidError
	var alert tls.AlertError
	switch {
	case errors.As(err, &name):
		return fmt.Sprintf("the certificate of the database is for another host (%v): name in DATABASE_URL the host that it is for, or give the database one for this host", name)
	case errors.As(err, &authority), errors.As(err, &roots):
		return "the certificate of the database is signed by an authority that is not trusted here: name that authority's certificate by sslrootcert in DATABASE_URL"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("the certificate of the database is not valid at this time (%v): renew it, or set the clock of this machine", invalid)
	case errors.As(err, &invalid):
		return fmt.Sprintf("the certificate of the database can't be used (%v): give the database another one", invalid)
	case errors.As(err, &alert) && isRefusal(alert):
		return fmt.Sprintf("the database refuses TLS with this client (%v): look at sslcert and sslkey in DATABASE_URL, and at ssl_ca_file and ssl_min_protocol_version of the database", alert)
	case isRefusedTLS(err):
		return "the database doesn't speak TLS, which sslmode in DATABASE_URL asks for: set ssl = on there, or sslmode=disable where nobody else is on the network"
	}
	return ""
}

// needsTLS tells whether no attempt goes without it, as sslmode=prefer has them.
func needsTLS(config *pgx.ConnConfig) bool {
	plain := func(c *pgconn.FallbackConfig) bool { return c.TLSConfig == nil }
	return config.TLSConfig != nil && !slices.ContainsFunc(config.Fallbacks, plain)
}

// isMistrust tells whether err shows TLS that can't be as DATABASE_URL asks: a certificate
// that can't be verified or is refused, or a server without TLS.
func isMistrust(err error) bool {
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var alert tls.AlertError
	return errors.As(err, &name) || errors.As(err, &authority) || errors.As(err, &invalid) ||
		errors.As(err, &alert) && isRefusal(alert) || isRefusedTLS(err) && !wentOn(err)
}

// wentOn tells whether another attempt followed, without TLS or at another address.
func wentOn(err error) bool {
	var answer *pgconn.PgError
	var network *net.OpError
	return errors.As(err, &answer) || errors.As(err, &network)
}

// isRefusedTLS tells whether a server doesn't speak TLS. pgconn has no name for it.
func isRefusedTLS(err error) bool {
	return err != nil && strings.Contains(err.Error(), "server refused TLS connection")
}

// isRefusal tells whether an alert is about a certificate or the version of the protocol
// (RFC 8446, section 6.2).
func isRefusal(alert tls.AlertError) bool {
	return alert >= 40 && alert <= 49 || alert == 70 || alert == 116
}
