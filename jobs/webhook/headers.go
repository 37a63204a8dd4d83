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
	maxHeaderName  = 128  // bytes
	maxHeaderBytes = 1024 // of a value: a bearer token fits
)

// takenHeaders are headers that no caller may choose. Some frame or route a message, belong
// to a hop (RFC 9110, section 7.6.1), or are set by Ringback: with them, a callback could
// look like another caller's. By others, proxies tell a service its caller and purpose, and
// the service would believe them. Metadata services of clouds require the rest, so that no
// callback can query such a service.
var takenHeaders = []string{
	"Accept", "Accept-Encoding", "Alt-Used", "Cdn-Loop", "Close", "Connection", "Early-Data", "Expect", "Forwarded", "From", "Host",
	"Http2-Settings", "Keep-Alive", "Max-Forwards", "Te", "Traceparent", "Tracestate", "Trailer", "Transfer-Encoding", "Upgrade", "User-Agent", "Via",
	"Client-Ip", "Remote-Addr", "Remote-User", "Ssl-Client-Cert", "True-Client-Ip",
	"X-Client-Ip", "X-Cluster-Client-Ip", "X-Http-Host-Override", "X-Http-Method", "X-Http-Method-Override", "X-Method-Override", "X-Host", "X-Real-Ip",
	"X-Rewrite-Url", "X-Remote-User",
	"Metadata", "Metadata-Flavor", "X-Google-Metadata-Request", "X-Identity-Header", "X-Metadata-Token",
}

// takenPrefixes begin headers of the same kind.
var takenPrefixes = []string{
	"Content-", "Proxy-", "Ringback-", "Sec-", "Webhook-",
	"Cf-", "Client-Cert", "Fastly-", "Remote-", "X-Amz-Cf-", "X-Amzn-", "X-Appengine-", "X-Azure-", "X-Arr-", "X-Auth-Request-", "X-Envoy-", "X-Forward",
	"X-Goog-", "X-Ms-Client-Principal", "X-Original-", "X-Proxy", "X-Ssl-",
	"X-Aws-Ec2-Metadata-",
}

// HeaderError is why a header is not accepted.
type HeaderError struct {
	Name string // as the caller wrote it; empty where the headers together break the rule
	Rule string // the broken rule, to follow the name
}

func (e *HeaderError) Error() string { return e.Name + " " + e.Rule }

// CheckHeaders returns headers in canonical form, or a *HeaderError for the first header, in
// the order of names, that breaks a rule.
func CheckHeaders(headers map[string]string) (map[string]string, error) {
	if len(headers) > MaxHeaders {
		return nil, &HeaderError{Rule: fmt.Sprintf("must have at most %d names", MaxHeaders)}
	}
	checked := make(map[string]string, len(headers))
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		canonical, value := textproto.CanonicalMIMEHeaderKey(name), headers[name]
		_, repeated := checked[canonical]
		switch {
		case name == "" || !httpguts.ValidHeaderFieldName(name):
			return nil, &HeaderError{name, "must be the name of an HTTP header"}
		case len(name) > maxHeaderName:
			return nil, &HeaderError{name, fmt.Sprintf("must have a name of at most %d characters", maxHeaderName)}
		case isTaken(canonical):
			return nil, &HeaderError{name, "must not be a header of the connection, of proxies, of metadata services, or of this service"}
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
