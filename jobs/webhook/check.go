package webhook

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// Policy says which callback URLs may be called. The zero value is the strictest policy:
// https on port 443 or 8443 of public hosts.
type Policy struct {
	Local bool // allows http, and every port of loopback: for a server that listens on loopback only

	Allowed []netip.Prefix // private ranges that may be called, on every port
	Denied  []netip.Prefix // ranges that no other rule allows: NAT64 prefixes, say, and the service's public addresses
	Ports   []uint16       // besides 443 and 8443; port 80 allows http
	Names   []string       // the service's public host names, in lower case; the first name introduces it

	Resolvers []netip.AddrPort // asked in turn instead of the system's
}

// RefusedError is why a callback URL is not accepted. It names the broken rule
// and nothing of the URL or the network, so a caller may see it.
type RefusedError struct {
	Rule string // a sentence
}

func (e *RefusedError) Error() string { return e.Rule }

func refuse(rule string) error { return &RefusedError{rule} }

const (
	maxURLBytes  = 2048 // chosen here: a longer text is a payload, not an address
	maxNameBytes = 253  // RFC 1035, section 2.3.4, without the root label and the length bytes
	maxLabel     = 63   // bytes, RFC 1035, section 2.3.4
)

// Check returns the canonical form of a callback URL: scheme and host in lower
// case, no trailing dot, no default port, a path. Only the canonical form may be stored
// or used; its own canonical form is itself. A URL that breaks a rule gives a
// *RefusedError. Check is pure: it neither resolves nor connects, so an accepted name
// can still lead to an address that the dial refuses.
func (p Policy) Check(raw string) (string, error) {
	if err := checkBytes(raw); err != nil {
		return "", err
	}
	parsed, err := p.parse(raw)
	if err != nil {
		return "", err
	}
	host, err := p.canonicalHost(parsed)
	if err != nil {
		return "", err
	}
	port, err := p.canonicalPort(parsed)
	if err != nil {
		return "", err
	}
	parsed.Host = host + port
	if parsed.Path == "" {
		parsed.Path = "/"
	}
	canonical := parsed.String()
	if len(canonical) > maxURLBytes { // the added path may be the byte too many
		return "", refuse("The callback URL must be 1 to 2048 bytes long.")
	}
	return canonical, nil
}

// checkBytes refuses bytes that parsers are known to disagree about (RFC 3986 allows none
// of them unescaped).
func checkBytes(raw string) error {
	if len(raw) < 1 || len(raw) > maxURLBytes {
		return refuse("The callback URL must be 1 to 2048 bytes long.")
	}
	for i := range len(raw) {
		if raw[i] < 0x21 || raw[i] > 0x7e || strings.IndexByte("\\\"<>^`{|}", raw[i]) >= 0 {
			return refuse("The callback URL must be printable ASCII without spaces and without any of \\ \" < > ^ ` { | }.")
		}
		if raw[i] == '%' && (i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2])) {
			return refuse("Every percent sign in the callback URL must be followed by two hexadecimal digits.")
		}
	}
	return nil
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// parse splits a URL whose bytes are checked, and refuses parts that a callback URL may
// not have.
func (p Policy) parse(raw string) (*url.URL, error) {
	parsed, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, refuse("The callback URL must be a well-formed absolute URL.")
	case parsed.Scheme != "https" && p.allowsPort(80) && parsed.Scheme != "http":
		return nil, refuse("The callback URL must start with https:// or http://.")
	case parsed.Scheme != "https" && parsed.Scheme != "http", parsed.Scheme == "http" && !p.allowsPort(80):
		return nil, refuse("The callback URL must start with https://.")
	case parsed.Opaque != "", parsed.Hostname() == "": // Go parses "https://:443/", and dials this machine for it
		return nil, refuse("The callback URL must name a host.")
	case parsed.User != nil:
		return nil, refuse("The callback URL must not hold a user name or password.")
	case strings.Contains(raw, "#"):
		return nil, refuse("The callback URL must not have a fragment.")
	}
	return parsed, nil
}

// canonicalPort returns the port as it follows the host: nothing for the scheme's
// default port, otherwise a colon and the number.
func (p Policy) canonicalPort(parsed *url.URL) (string, error) {
	port := parsed.Port()
	if port == "" || parsed.Scheme == "https" && port == "443" || parsed.Scheme == "http" && port == "80" {
		return "", nil
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || port[0] == '0' {
		return "", refuse("The port of the callback URL must be a number from 1 to 65535 without leading zeros.")
	}
	if !p.allowsPort(uint16(number)) && !p.allowsEveryPort(parsed.Hostname()) {
		return "", refuse("The port of the callback URL must be one of those allowed, such as 443 and 8443.")
	}
	return ":" + port, nil
}

func (p Policy) allowsPort(port uint16) bool {
	return port == 443 || port == 8443 || port == 80 && p.Local || slices.Contains(p.Ports, port)
}

// allowsEveryPort tells whether callbacks may go to every port of a host: an exempted
// address, or this machine under its usual name.
func (p Policy) allowsEveryPort(host string) bool {
	if isLocalhost(strings.ToLower(strings.TrimSuffix(host, "."))) {
		return len(p.loopback()) > 0
	}
	address, err := netip.ParseAddr(host)
	return err == nil && p.isExempted(address)
}

// canonicalHost returns the host as it stands in the canonical URL: an IPv6 address has
// brackets.
func (p Policy) canonicalHost(parsed *url.URL) (string, error) {
	host := parsed.Hostname()
	bracketed := strings.HasPrefix(parsed.Host, "[")
	address, err := netip.ParseAddr(host)
	switch {
	case bracketed && (err != nil || !address.Is6() || address.Zone() != ""):
		return "", refuse("The callback URL must hold nothing but an IPv6 address without a zone between its brackets.")
	case bracketed && address.Is4In6():
		return "", refuse("The callback URL must not hold an IPv4-mapped IPv6 address.")
	case bracketed && p.mayDial(address):
		return "[" + address.String() + "]", nil
	case !bracketed && err == nil && address.Is4() && p.mayDial(address):
		return address.String(), nil
	case bracketed, err == nil:
		return "", refuse("The IP address in the callback URL must be a public one.")
	}
	return p.canonicalName(host)
}

// PublicName returns the canonical form of a public host name, by the rules for host
// names in callback URLs.
func PublicName(name string) (string, error) { return Policy{}.canonicalName(name) }

func (p Policy) canonicalName(host string) (string, error) {
	for i := range len(host) { // net/url has decoded %-escapes, and lower-casing would map some letters to ASCII
		if host[i] > 0x7e {
			return "", refuse("An internationalised host name in the callback URL must be written in its ASCII form, with xn-- labels.")
		}
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if len(name) > maxNameBytes {
		return "", refuse("The host name in the callback URL must be at most 253 bytes long.")
	}
	for label := range strings.SplitSeq(name, ".") {
		if err := checkLabel(label); err != nil {
			return "", err
		}
	}
	if isLocalhost(name) && len(p.loopback()) > 0 {
		return name, nil
	}
	if slices.Contains(p.Names, name) {
		return "", refuse("The host name in the callback URL must not be one of this service's own.")
	}
	return name, checkTop(name)
}

func checkLabel(label string) error {
	foreign := func(r rune) bool {
		return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_')
	}
	if len(label) < 1 || len(label) > maxLabel || strings.ContainsFunc(label, foreign) ||
		label[0] == '-' || label[len(label)-1] == '-' {
		return refuse("Each label of the host name in the callback URL must be 1 to 63 letters, digits, hyphens and underscores, with no hyphen at an edge.")
	}
	if !strings.HasPrefix(label, "xn--") {
		return nil
	}
	decoded, err := idna.Lookup.ToUnicode(label)
	if err == nil {
		decoded, err = idna.Lookup.ToASCII(decoded)
	}
	if err != nil || decoded != label {
		return refuse("Each xn-- label of the host name in the callback URL must be valid (RFC 5891).")
	}
	return nil
}

// checkTop refuses names that no public DNS answers for. The last label has to start with
// a letter, so that no name "ends in a number": WHATWG's URL parser and inet_aton read
// 127.1 or 0x7f.1 as an address.
func checkTop(name string) error {
	dot := strings.LastIndexByte(name, '.')
	top := name[dot+1:]
	switch {
	case top[0] < 'a' || top[0] > 'z':
		return refuse("The last label of the host name in the callback URL must start with a letter.")
	case isReserved(top):
		return refuse("The host name in the callback URL must not end in " + top + ", which is reserved: no public host has such a name (RFC 2606, RFC 6761).")
	case isSpecialUse(top):
		return refuse("The host name in the callback URL must not be a special-use or private one.")
	case dot < 0:
		return refuse("The host name in the callback URL must have at least two labels.")
	}
	return nil
}

// isLocalhost tells whether RFC 6761, section 6.3, reserves a name for loopback.
func isLocalhost(name string) bool {
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// isReserved tells whether RFC 2606, section 2, reserves a top label for tests and examples.
func isReserved(top string) bool {
	return top == "example" || top == "invalid" || top == "localhost" || top == "test"
}

// isSpecialUse tells whether a top label is another of IANA's special-use domain names,
// ICANN's private-use domain (internal), or a domain that home and office networks have
// long used instead.
func isSpecialUse(top string) bool {
	switch top {
	case "alt", "arpa", "local", "onion",
		"internal", "corp", "home", "lan", "localdomain", "mail":
		return true
	}
	return false
}
