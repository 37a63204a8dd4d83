package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"strconv"
	"strings"
)

// Consent is a receiver's answer to the question whether it wants callbacks
// (CloudEvents HTTP 1.1 Web Hooks, section 4).
type Consent struct {
	Granted   bool
	PerMinute int        // callbacks that the receiver takes a minute; 0: not stated or no limit
	Address   netip.Addr // at which the receiver was asked
}

// maxPerMinute bounds a grant. It is chosen here: no receiver takes more.
const maxPerMinute = 1_000_000

// Ask asks the receiver behind a callback URL whether it takes perMinute callbacks a
// minute, through the same guard and within the same time as a callback. Only a 2xx whose
// WebHook-Allowed-Origin is this service's origin or * is a grant. Any answer is a value.
// An error says why no answer came, in words for operators without the URL; after a
// cancelled ctx, the error says nothing about the receiver. The error is ErrTurnedAway
// where the admission let no address be dialled.
func (s *Sender) Ask(ctx context.Context, url string, perMinute int, asked Admission) (Consent, error) {
	ctx, cancel := context.WithTimeout(ctx, s.exchange)
	defer cancel()
	ctx = withAdmission(ctx, asked, false)
	var followed phases
	response, err := s.options(httptrace.WithClientTrace(ctx, followed.trace()), url, perMinute)
	seen := followed.report()
	address, _ := netip.ParseAddrPort(seen.address)
	if isTurnedAway(err, seen) {
		return Consent{}, ErrTurnedAway
	}
	if err != nil {
		if shortage := shortageOf(err); shortage != nil {
			return Consent{}, fmt.Errorf("asking for consent: %w", shortage)
		}
		outcome, cause := explain(err, seen)
		return Consent{Address: address.Addr()}, fmt.Errorf("asking for consent: %s: %s", outcome, cause)
	}
	defer s.finish(response, cancel)
	consent := readConsent(s.origin, response.StatusCode, response.Header)
	consent.Address = address.Addr()
	return consent, nil
}

func (s *Sender) options(ctx context.Context, url string, perMinute int) (*http.Response, error) {
	request, err := s.newRequest(ctx, http.MethodOptions, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Webhook-Request-Rate", strconv.Itoa(perMinute))
	// net/http would repeat an OPTIONS on one kept connection after the other, while they fail.
	return s.fresh.RoundTrip(request)
}

// readConsent reads the answer to origin's question. A header that stands twice, or a
// rate that is no number, is no grant, since its meaning is unclear.
func readConsent(origin string, status int, header http.Header) Consent {
	origins, rates := header.Values("Webhook-Allowed-Origin"), header.Values("Webhook-Allowed-Rate")
	if status < 200 || status > 299 || len(origins) != 1 || len(rates) > 1 {
		return Consent{}
	}
	if origins[0] != "*" && !strings.EqualFold(origins[0], origin) {
		return Consent{}
	}
	if len(rates) == 0 || rates[0] == "*" {
		return Consent{Granted: true}
	}
	rate, err := strconv.ParseUint(rates[0], 10, 64)
	if errors.Is(err, strconv.ErrRange) { // digits without end are still a number
		return Consent{Granted: true, PerMinute: maxPerMinute}
	}
	if err != nil || rate == 0 {
		return Consent{}
	}
	return Consent{Granted: true, PerMinute: int(min(rate, maxPerMinute))}
}
