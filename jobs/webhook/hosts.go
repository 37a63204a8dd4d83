package webhook

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Hosts are hosts that callbacks may name, each as ParseHost returns it. An empty list
// allows all hosts that a Policy allows.
type Hosts []string

// ParseHost returns the canonical form of a host: a name, *.suffix for all names
// below a suffix, or an IP address, with :port where no other port is meant.
func ParseHost(text string) (string, error) {
	host, port, wrong := splitHost(text)
	name, below := strings.CutPrefix(host, "*.")
	canonical, err := Policy{Local: true}.canonicalName(name) // this machine may be called in local mode
	if address, notAddress := netip.ParseAddr(host); notAddress == nil && address.Zone() == "" && !address.Is4In6() {
		canonical, err = bracketed(address), nil
	}
	switch {
	case wrong:
		return "", fmt.Errorf("must be a host, host:port or *.suffix that callbacks could name, not %q", text)
	case err != nil:
		return "", fmt.Errorf("must be a host, host:port or *.suffix that callbacks could name, not %q: %w", text, err)
	}
	if below {
		canonical = "*." + canonical
	}
	return canonical + port, nil
}

// splitHost returns the text before the port without brackets, and the port with its
// colon, if present.
func splitHost(text string) (host, port string, wrong bool) {
	host, number, err := net.SplitHostPort(text)
	if err != nil {
		return strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"), "", false
	}
	_, err = strconv.ParseUint(number, 10, 16)
	return host, ":" + number, err != nil || number[0] == '0'
}

func bracketed(address netip.Addr) string {
	if address.Is6() {
		return "[" + address.String() + "]"
	}
	return address.String()
}

// Check refuses a canonical URL, as Policy.Check returns it, with a *RefusedError unless a
// host of h covers the URL's.
func (h Hosts) Check(canonical string) error {
	if len(h) == 0 {
		return nil
	}
	parsed, err := url.Parse(canonical)
	if err != nil || !slices.ContainsFunc(h, func(entry string) bool { return covers(entry, parsed) }) {
		return refuse("The callbacks of this client may go to certain hosts only, and the host and port of the callback URL are not among them. The operator names them (ringback client set --callbacks).")
	}
	return nil
}

func covers(entry string, target *url.URL) bool {
	host, port := strings.TrimSuffix(target.Host, ":"+target.Port()), portOf(target)
	if colon := strings.LastIndexByte(entry, ':'); colon > strings.LastIndexByte(entry, ']') {
		if entry[colon+1:] != port {
			return false
		}
		entry = entry[:colon]
	}
	if suffix, below := strings.CutPrefix(entry, "*"); below {
		return strings.HasSuffix(host, suffix)
	}
	return host == entry
}

func portOf(target *url.URL) string {
	switch {
	case target.Port() != "":
		return target.Port()
	case target.Scheme == "http":
		return "80"
	default:
		return "443"
	}
}
