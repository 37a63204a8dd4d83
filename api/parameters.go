package api

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"

	"ringback/db"
	"ringback/jobs/webhook"
	"ringback/work"
)

// parameters reads the parameters of a URL and notes every mistake. A parameter
// that isn't given is the zero value.
type parameters struct {
	query url.Values
	wrong []fieldProblem
}

func (p *parameters) refuse(parameter, detail string) {
	p.wrong = append(p.wrong, fieldProblem{Parameter: printable(parameter), Detail: detail})
}

// readQuery reads the parameters of a call's URL.
func readQuery(c *call) (url.Values, error) {
	query, err := url.ParseQuery(c.Request.URL.RawQuery) // Query would drop parameters that it can't parse
	if err != nil {
		return nil, newProblem("invalid-parameter", "The query string is malformed.")
	}
	return query, nil
}

// refuseQuery refuses parameters of a call that takes none in its URL: they would be
// overlooked, a dry_run of POST /redeliveries, say.
func (a *API) refuseQuery(c *call) {
	query, err := readQuery(c)
	if err == nil {
		p := parameters{query: query}
		p.refuseUnknown()
		err = p.problem()
	}
	if err != nil {
		a.writeProblem(c, err)
	}
}

// refuseUnknown notes parameters that aren't known or stand more than once.
func (p *parameters) refuseUnknown(known ...string) {
	for parameter, values := range p.query {
		if !slices.Contains(known, parameter) {
			p.refuse(parameter, "is not a known parameter")
		} else if len(values) > 1 {
			p.refuse(parameter, "stands more than once")
		}
	}
}

func oneOf[T ~string](p *parameters, parameter string, known ...T) T {
	value := T(p.query.Get(parameter))
	if p.query.Has(parameter) && !slices.Contains(known, value) {
		p.refuse(parameter, "must be "+choice(known))
	}
	return value
}

// choice lists two or more words, as in a, b or c.
func choice[T ~string](of []T) string {
	words, last := "", len(of)-1
	for i, word := range of[:last] {
		if i > 0 {
			words += ", "
		}
		words += string(word)
	}
	return words + " or " + string(of[last])
}

func (p *parameters) host(parameter string) string {
	host, err := readHost(p.query.Get(parameter))
	if p.query.Has(parameter) && err != nil {
		p.refuse(parameter, err.Error())
	}
	return host
}

// refuseContradictions notes that no request can match.
func (p *parameters) refuseContradictions(filter db.Filter) {
	switch {
	case len(p.wrong) > 0:
	case p.query.Has("to") && !filter.From.Before(filter.To):
		p.refuse("to", "must be after from")
	case !filter.CanMatch():
		for _, parameter := range []string{"callback", "callback_host", "status", "mode"} {
			if p.query.Has(parameter) {
				p.refuse(parameter, "contradicts the other parameters, so that nothing can match")
				return
			}
		}
	}
}

// errNotAHost answers a filter by host that no callback URL can match.
var errNotAHost = errors.New("must be a host as it stands in a callback URL, with its port if that is neither 443 nor 80, as in hooks.example.com")

var hostForm = regexp.MustCompile(`^([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?$`)

// anyHost is a policy that knows no more than the form of hosts.
var anyHost = webhook.Policy{Local: true, Allowed: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}

// readHost reads a host in either letter case, which callback URLs have in lower case.
func readHost(text string) (host string, err error) {
	ascii := !strings.ContainsFunc(text, func(r rune) bool { return r > unicode.MaxASCII })
	host = strings.ToLower(text) // of other letters, some would become ASCII
	if !ascii || !mayBeHost(host) {
		return "", errNotAHost
	}
	return host, nil
}

// mayBeHost tells whether a callback URL in canonical form may have it, under the policy of
// some day. That form leaves the port of its scheme out.
func mayBeHost(host string) bool {
	parts := hostForm.FindStringSubmatch(host)
	if parts == nil || len(host) > maxHost {
		return false
	}
	port := parts[len(parts)-1]
	url := "http://" + strings.TrimSuffix(host, port) + "/"
	canonical, err := anyHost.Check(url)
	if err != nil || canonical != url {
		return false
	}
	_, err = strconv.ParseUint(strings.TrimPrefix(port, ":"), 10, 16)
	return port == "" || err == nil && port != ":443" && port != ":80"
}

// maxHost is that of a name and a port, in bytes.
const maxHost = 253 + len(":65535")

// callbackHost is a filter in a body, in lower case.
type callbackHost string

// UnmarshalText refuses a host that no callback URL can match.
func (h *callbackHost) UnmarshalText(text []byte) error {
	host, err := readHost(string(text))
	*h = callbackHost(host)
	return err
}

func (p *parameters) work(parameter string) string {
	name := p.query.Get(parameter)
	if p.query.Has(parameter) && !work.ValidName(name) {
		p.refuse(parameter, "must be the name of a work")
	}
	return name
}

func (p *parameters) time(parameter string) (at time.Time) {
	if p.query.Has(parameter) {
		var err error
		if at, err = readTime(p.query.Get(parameter)); err != nil {
			p.refuse(parameter, err.Error()+", with %2B for the + of a zone")
		}
	}
	return at
}

func (p *parameters) number(parameter string, otherwise, most int) int {
	if !p.query.Has(parameter) {
		return otherwise
	}
	number, err := strconv.Atoi(p.query.Get(parameter))
	if err != nil || number < 1 || number > most {
		p.refuse(parameter, fmt.Sprintf("must be a whole number from 1 to %d", most))
	}
	return number
}

func (p *parameters) cursor(parameter string) (id uuid.UUID) {
	if p.query.Has(parameter) {
		var err error
		if id, err = parseCursor(p.query.Get(parameter)); err != nil {
			p.refuse(parameter, "must be a next_cursor of an earlier page")
		}
	}
	return id
}

// problem names every mistake; it is nil where there is none.
func (p *parameters) problem() error {
	if len(p.wrong) == 0 {
		return nil
	}
	slices.SortFunc(p.wrong, func(a, b fieldProblem) int { return cmp.Compare(a.Parameter, b.Parameter) })
	return newProblem("invalid-parameter", named(p.wrong[0].Parameter)+" "+p.wrong[0].Detail+".", p.wrong...)
}
