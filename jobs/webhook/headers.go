package webhook

import (
	"fmt"
	"maps"
	"net/textproto"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Limits of the headers that a caller wants its callbacks to carry.
const (
	MaxHeaders     = 8
	maxHeaderBytes = 1024 // of a value: a bearer token fits
)

// takenHeaders are headers that frame or route a message, headers of a hop (RFC 9110,
// section 7.6.1), and headers that Ringback sets. A caller that chose them could make a
// callback look like another caller's.
var takenHeaders = []string{
	"Accept", "Accept-Encoding", "Cdn-Loop", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Expect", "Forwarded", "Host",
	"Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Traceparent", "Tracestate", "Trailer",
	"Transfer-Encoding", "Upgrade", "User-Agent", "Via",
}

// takenPrefixes begin headers of the same kind.
var takenPrefixes = []string{"Webhook-", "Ringback-", "X-Forwarded-", "Proxy-", "Sec-"}

// HeaderError is why a header is not accepted.
type HeaderError struct {
	Name string // as the caller wrote it; empty for all of them
	Rule string // the rule that it breaks, to follow its name
}

func (e *HeaderError) Error() string { return e.Name + " " + e.Rule }

// CheckHeaders returns headers in canonical form, or a *HeaderError for the first, by
// name, that breaks a rule.
func CheckHeaders(headers map[string]string) (map[string]string, error) {
	if len(headers) > MaxHeaders {
		return nil, &HeaderError{Rule: fmt.Sprintf("must be at most %d", MaxHeaders)}
	}
	checked := make(map[string]string, len(headers))
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		canonical, value := textproto.CanonicalMIMEHeaderKey(name), headers[name]
		_, repeated := checked[canonical]
		switch {
		case name == "" || !httpguts.ValidHeaderFieldName(name):
			return nil, &HeaderError{name, "must be the name of an HTTP header"}
		case isTaken(canonical):
			return nil, &HeaderError{name, "must not be a header of the connection or of this service"}
		case repeated:
			return nil, &HeaderError{name, "must not be given twice in different letter case"}
		case len(value) > maxHeaderBytes || strings.ContainsFunc(value, unprintable) || value != strings.TrimSpace(value):
			return nil, &HeaderError{name, fmt.Sprintf("must have a value of at most %d printable ASCII characters", maxHeaderBytes)}
		}
		checked[canonical] = value
	}
	return checked, nil
}

func isTaken(canonical string) bool {
	return slices.Contains(takenHeaders, canonical) ||
		slices.ContainsFunc(takenPrefixes, func(prefix string) bool { return strings.HasPrefix(canonical, prefix) })
}

func unprintable(r rune) bool { return r < ' ' || r > '~' }
