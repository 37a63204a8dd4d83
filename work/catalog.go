package work

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Set is kinds of work by their names.
type Set map[string]Work

// Catalog is the kinds of work that a process offers, checked and ready.
type Catalog struct {
	standard *Offer
	offers   map[string]*Offer
}

// Offer is a kind of work in a catalog.
type Offer struct {
	Name string
	Work
	schema *jsonschema.Schema // nil where any input is taken
}

// nameForm is the form of a name, which stands in paths, metrics and rows.
var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$`)

// ValidName tells whether a work may have a name.
func ValidName(name string) bool { return nameForm.MatchString(name) }

// Check reports every mistake in a set.
func Check(set Set, timeout time.Duration) error {
	var mistakes []error
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if _, err := newOffer(name, set[name], timeout); err != nil {
			mistakes = append(mistakes, fmt.Errorf("work %q: %w", name, err))
		}
	}
	return errors.Join(mistakes...)
}

// NewCatalog makes a catalog of a set without mistakes. standard names the work of calls
// that name none. timeout is for work without a timeout of its own.
func NewCatalog(set Set, standard string, timeout time.Duration) (*Catalog, error) {
	if err := Check(set, timeout); err != nil {
		return nil, err
	}
	c := &Catalog{offers: make(map[string]*Offer, len(set))}
	for name, w := range set {
		c.offers[name], _ = newOffer(name, w, timeout) // checked above
	}
	if c.standard = c.offers[standard]; c.standard == nil {
		return nil, fmt.Errorf("the default work %q is none of %q", standard, slices.Sorted(maps.Keys(set)))
	}
	return c, nil
}

func newOffer(name string, w Work, timeout time.Duration) (offer *Offer, err error) {
	w.Timeout = cmp.Or(w.Timeout, timeout)
	offer = &Offer{Name: name, Work: w}
	mistakes := []error{w.mistake}
	refuse := func(mistake bool, detail string) {
		if mistake {
			mistakes = append(mistakes, errors.New(detail))
		}
	}
	refuse(!ValidName(name), "a name must be 1 to 63 of a-z, 0-9, - and _, and begin and end with a letter or a digit")
	refuse(name == "batch", "POST /async/batch is another call")
	refuse(w.Do == nil, "it has no Do")
	refuse(w.Timeout < time.Millisecond || w.Timeout > time.Hour, "its timeout must be from 1ms to 1h")
	refuse(w.Lease != 0 && (w.Lease < time.Second || w.Lease > 24*time.Hour), "its lease must be from 1s to 24h")
	refuse(w.Limit < 0 || w.Limit > 10_000, "its limit must be from 0 to 10000")
	refuse(w.Retry.Times > 10, "its retries must be at most 10")
	if w.Schema != nil {
		offer.schema, err = compileSchema(w.Schema)
		mistakes = append(mistakes, err)
	}
	return offer, errors.Join(mistakes...)
}

// Find returns the work of a name, the default work for "", nil where there is none.
func (c *Catalog) Find(name string) *Offer {
	if name == "" {
		return c.standard
	}
	return c.offers[name]
}

// Default is the work of calls that name none.
func (c *Catalog) Default() *Offer { return c.standard }

// All returns the offers by name.
func (c *Catalog) All() []*Offer {
	all := make([]*Offer, 0, len(c.offers))
	for _, name := range slices.Sorted(maps.Keys(c.offers)) {
		all = append(all, c.offers[name])
	}
	return all
}

// Longest is the longest timeout.
func (c *Catalog) Longest() (longest time.Duration) {
	for _, offer := range c.offers {
		longest = max(longest, offer.Timeout)
	}
	return longest
}

// maxDepth bounds how deeply an input or a result is nested. Postgres refuses JSON that would
// overflow its stack. Answers and callbacks, which hold it in an object or two, could not be
// encoded.
const maxDepth = 1000

// Accept returns the canonical form of an input, or fails with its mistakes: Mistakes, a
// *FieldError, or an error of the JSON decoder or of Check.
func (o *Offer) Accept(input jsontext.Value) (jsontext.Value, error) {
	if o.Check == nil || o.schemaFirst {
		if err := o.allow(input); err != nil {
			return nil, err
		}
	}
	if o.Check == nil {
		canonical := input.Clone()
		return canonical, canonical.Compact()
	}
	canonical, err := o.Check(input)
	if err == nil {
		return canonical, nil
	}
	if broken := o.allow(input); broken != nil {
		return nil, broken // says more
	}
	return nil, err
}

// allow checks an input against the schema.
func (o *Offer) allow(input jsontext.Value) error {
	if depthOf(input) > maxDepth {
		return &FieldError{"", fmt.Sprintf("must not be nested more than %d deep", maxDepth)}
	}
	if o.schema == nil {
		return nil
	}
	return checkSchema(o.schema, input)
}

// depthOf is how deeply valid JSON is nested.
func depthOf(value jsontext.Value) (deepest int) {
	depth, inString := 0, false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}
