package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"ringback/work"
	"ringback/work/upstream"
)

// upstreamWork is the name of the work that WORK_URL does.
const upstreamWork = "upstream"

// upstreamURL is the URL of an HTTP service that does work.
type upstreamURL string

// UnmarshalText checks it.
func (u *upstreamURL) UnmarshalText(text []byte) error {
	*u = upstreamURL(text)
	return upstream.CheckURL(string(text))
}

// publicURL is the URL at which this service is reached.
type publicURL string

// UnmarshalText checks it.
func (u *publicURL) UnmarshalText(text []byte) error {
	*u = publicURL(text)
	if strings.Contains(string(text), "?") {
		return errors.New("must have no query")
	}
	return upstream.CheckURL(string(text))
}

// finishURL is the URL at which work that goes on elsewhere is finished: PUBLIC_URL, or the
// address that is listened on.
func (c *Config) finishURL(listening *net.TCPAddr) string {
	if c.PublicURL != "" {
		return string(c.PublicURL)
	}
	host := listening.IP.String()
	if listening.IP.IsUnspecified() { // which is no address to call
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(listening.Port))
}

// readWorks joins the kinds of work of the settings with those in Go, and notes mistakes, by
// setting.
func (c *Config) readWorks(wrong map[string]string) {
	set, standard := maps.Clone(c.set), cmp.Or(c.DefaultWork, defaultWork)
	if c.WorkURL != "" {
		c.addUpstream(set, upstreamWork, upstream.Config{URL: string(c.WorkURL), Secrets: c.WorkSecret, Identity: identity()})
		standard = cmp.Or(c.DefaultWork, upstreamWork)
	}
	if c.Works != "" {
		listed, err := c.listedWorks(set)
		if err != nil {
			wrong["WORKS"] = strings.ReplaceAll(err.Error(), "\n", "\n    ")
			return // without the file, DEFAULT_WORK can't be checked
		}
		maps.Copy(set, listed)
	}
	if _, known := set[standard]; !known {
		wrong["DEFAULT_WORK"] = fmt.Sprintf("must be one of %q, not %q", slices.Sorted(maps.Keys(set)), standard)
		return
	}
	catalog, err := work.NewCatalog(set, standard, c.WorkTimeout)
	if err != nil && wrong["WORK_TIMEOUT"] == "" { // or nearly all of them would be wrong
		wrong["cmd/server/works.go"] = err.Error()
	}
	c.catalog = catalog
}

// addUpstream also notes a service that can't tell who calls it.
func (c *Config) addUpstream(set work.Set, name string, config upstream.Config) {
	set[name] = upstream.New(config)
	if config.IsExposed() {
		c.exposed = append(c.exposed, name)
	}
}

// listedWorks are the kinds of work of the file. None may have a name that is taken.
func (c *Config) listedWorks(taken work.Set) (work.Set, error) {
	configs, err := upstream.ReadFile(c.Works, c.WorkSecret, identity())
	listed := work.Set{}
	for _, name := range slices.Sorted(maps.Keys(configs)) {
		c.addUpstream(listed, name, configs[name])
	}
	mistakes := []error{err, work.Check(listed, c.WorkTimeout)}
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		if _, twice := taken[name]; twice {
			mistakes = append(mistakes, fmt.Errorf("work %q: the name is taken", name))
		}
	}
	return listed, errors.Join(mistakes...)
}

// identity is the User-Agent that upstreams see.
func identity() string { return "Ringback/" + version() }
