package api

import (
	"context"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"ringback/db"
)

// maxWait is the longest that a call waits, however long it prefers: about as long as
// proxies allow.
const maxWait = 60 * time.Second

// preferredWait returns the wait that a call prefers (RFC 7240, section 4.3), 0 for none.
// An invalid wait is ignored, as the standard asks.
func preferredWait(header http.Header) time.Duration {
	value, _ := preference(header, "wait")
	seconds, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, maxWait)
}

// preferenceForm is one preference of a list. A comma within quotes parts none.
var preferenceForm = regexp.MustCompile(`(?:[^,"]|"(?:[^"\\]|\\.)*(?:"|$))+`)

// preference returns the value of the first preference of a name (RFC 7240, section 2).
func preference(header http.Header, wanted string) (value string, found bool) {
	for _, values := range header.Values("Prefer") {
		for _, one := range preferenceForm.FindAllString(values, -1) {
			one, _, _ = strings.Cut(one, ";") // its parameters
			name, value, _ := strings.Cut(one, "=")
			if strings.EqualFold(strings.TrimSpace(name), wanted) {
				return unquoted(strings.TrimSpace(value)), true
			}
		}
	}
	return "", false
}

// unquoted takes a pair of quotes away.
func unquoted(value string) string {
	if rest, found := strings.CutPrefix(value, `"`); found {
		if inner, found := strings.CutSuffix(rest, `"`); found {
			return inner
		}
	}
	return value
}

// await holds a call for at most wait: until the work of its request may have ended, the
// caller goes away or the process stops. It is false, at once, when too many callers of its
// client wait.
func (a *API) await(c *call, id uuid.UUID, wait time.Duration) bool {
	ended, stop, ok := a.Queue.Watch(c.client, id)
	if !ok {
		return false
	}
	defer stop()
	c.releaseBody()
	c.Header("Preference-Applied", "wait="+strconv.Itoa(int(wait/time.Second)))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	case <-c.Request.Context().Done():
	}
	return true
}

// awaitAccepted answers an accepted request with the whole request, if the caller prefers
// to wait and the work ends in time. An error of the wait changes nothing: the request is
// accepted.
func (a *API) awaitAccepted(c *call, id uuid.UUID) (whole wholeRequest, ended bool) {
	wait := preferredWait(c.Request.Header)
	if wait == 0 || !a.await(c, id, wait) {
		return wholeRequest{}, false
	}
	whole, err := a.load(c, id)
	return whole, err == nil && whole.Status != db.Accepted
}

// load is loadWhole within the client's share of reads.
func (a *API) load(c *call, id uuid.UUID) (whole wholeRequest, err error) {
	err = a.read(c, func(ctx context.Context) error {
		whole, err = loadWhole(ctx, a.Reads, c.client, id)
		return err
	})
	return whole, err
}

// loadAwaited is load for a caller that may prefer to wait. A call that waits holds no
// request: a thousand large inputs would take a quarter of a gigabyte.
func (a *API) loadAwaited(c *call, id uuid.UUID) (wholeRequest, error) {
	whole, err := a.load(c, id)
	wait := preferredWait(c.Request.Header)
	if err != nil || wait == 0 || whole.Status != db.Accepted {
		return whole, err
	}
	a.await(c, id, wait)
	return a.load(c, id)
}
