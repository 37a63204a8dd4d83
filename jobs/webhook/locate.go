package webhook

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
)

// Locate returns an address that a callback to a URL would go to, without calling it. The
// dial resolves and judges the name again, perhaps with another result.
func (s *Sender) Locate(ctx context.Context, rawURL string) (netip.Addr, error) {
	parsed, err := url.Parse(rawURL)
	if err != nil {
		return netip.Addr{}, refuse("The callback URL must be a well-formed absolute URL.")
	}
	addresses, err := s.guard.resolve(ctx, parsed.Hostname())
	if err != nil {
		return netip.Addr{}, fmt.Errorf("resolving the host of a callback: %w", err)
	}
	return addresses[0], nil
}
