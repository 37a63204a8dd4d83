package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"

	"ringback/db"
	"ringback/work"
)

const (
	maxBatch      = 1000    // requests
	maxBatchBytes = 4 << 20 // of a body
	// batchConcurrency is how many requests of a batch are accepted at a time: enough to
	// share statements, and few enough to leave room in the queue to other calls.
	batchConcurrency = 64
)

// batchBody is the body of POST /async/batch.
type batchBody struct {
	Requests batchItems `json:"requests"`
}

// batchItems are the requests of a batch, not decoded yet.
type batchItems []jsontext.Value

// errManyItems ends the decoding of a batch: 4 MiB hold two million requests of a digit,
// which would take forty times as much memory.
var errManyItems = errors.New("too many requests")

// UnmarshalJSONFrom is for json. It fails with errManyItems beyond maxBatch requests.
func (b *batchItems) UnmarshalJSONFrom(decoder *jsontext.Decoder) error {
	if decoder.PeekKind() != jsontext.KindBeginArray {
		return json.UnmarshalDecode(decoder, (*[]jsontext.Value)(b)) // tells what is wrong
	}
	if _, err := decoder.ReadToken(); err != nil {
		return err
	}
	for decoder.PeekKind() != jsontext.KindEndArray {
		if len(*b) == maxBatch {
			return errManyItems
		}
		item, err := decoder.ReadValue()
		if err != nil {
			return err
		}
		*b = append(*b, item.Clone())
	}
	_, err := decoder.ReadToken()
	return err
}

// batchItem is one request of a batch.
type batchItem struct {
	asyncBody
	Work           *string `json:"work"`            // nil for the default
	IdempotencyKey *string `json:"idempotency_key"` // as the header of POST /async
}

// checkedItem is a request of a batch that may be accepted, unless err says why not.
type checkedItem struct {
	request db.Request
	key     db.Key
	err     error
}

// batchAnswer has the result of each request, in the order of the call.
type batchAnswer struct {
	Requests []batchResult `json:"requests"`
}

// batchResult is the accepted request, or the reason why there is none.
type batchResult struct {
	Request *accepted `json:"request,omitzero"`
	Problem *problem  `json:"problem,omitzero"`
}

// postBatch accepts many requests, each for itself. Where none is accepted, it answers with
// the problem of the first.
func (a *API) postBatch(c *call) (reply, error) {
	if len(c.Request.Header.Values("Idempotency-Key")) > 0 {
		return reply{}, newProblem("malformed-idempotency-key", "A batch has no Idempotency-Key: give each request its own idempotency_key.")
	}
	items, err := a.readBatch(c)
	if err != nil {
		return reply{}, err
	}
	results := a.acceptEach(c, items)
	if !slices.ContainsFunc(results, batchResult.isAccepted) {
		a.countRefused(results[1:]) // the first is the call's answer, and counted with it
		return reply{}, results[0].Problem
	}
	a.countRefused(results)
	return reply{status: http.StatusAccepted, retryAfter: acceptedRetryAfter, body: batchAnswer{results}}, nil
}

// readBatch decodes and checks all requests of a batch. Each has a result of its own.
func (a *API) readBatch(c *call) ([]checkedItem, error) {
	defer c.decoded()
	var body batchBody
	_, err := a.decodeUpTo(c, maxBatchBytes, &body)
	many := errors.Is(err, errManyItems)
	if err != nil && !many {
		return nil, err
	}
	if many || len(body.Requests) == 0 {
		return nil, invalidInput("/requests", fmt.Sprintf("must be 1 to %d requests", maxBatch))
	}
	items := make([]checkedItem, len(body.Requests))
	for i, raw := range body.Requests {
		items[i].request, items[i].key, items[i].err = a.readItem(c, i, raw)
	}
	return items, nil
}

func (r batchResult) isAccepted() bool { return r.Request != nil }

// countRefused counts the refused requests of a batch.
func (a *API) countRefused(results []batchResult) {
	for _, result := range results {
		if result.Problem != nil {
			a.metrics.refused.Add(result.Problem.reason, 1)
		}
	}
}

// acceptEach accepts requests, several at a time.
func (a *API) acceptEach(c *call, items []checkedItem) []batchResult {
	results := make([]batchResult, len(items))
	var group errgroup.Group
	group.SetLimit(batchConcurrency)
	for i, item := range items {
		if item.err != nil {
			results[i].Problem = within(i, item.err)
			continue
		}
		group.Go(func() error {
			made, err := a.accept(c, item.request, item.key)
			if err != nil {
				results[i].Problem = within(i, err)
			} else {
				results[i].Request = &accepted{made.ID, db.Accepted, made.AcceptedAt}
			}
			return nil
		})
	}
	_ = group.Wait() // no error is returned
	c.requestID = "" // the log line is of none of them alone
	return results
}

// readItem decodes and checks one request of a batch.
func (a *API) readItem(c *call, i int, raw jsontext.Value) (request db.Request, key db.Key, err error) {
	if err := a.countItem(c, i); err != nil {
		return request, key, err
	}
	if len(raw) > maxBodyBytes {
		return request, key, &http.MaxBytesError{Limit: maxBodyBytes}
	}
	var item batchItem
	if err := unmarshal(raw, &item); err != nil {
		return request, key, err
	}
	offer, err := a.offerNamed(item.Work)
	if err != nil {
		return request, key, err
	}
	if request, err = a.newAsync(c, offer, item.asyncBody); err != nil || item.IdempotencyKey == nil {
		return request, key, err
	}
	body, err := withoutAddress(raw)
	if err != nil {
		return request, key, err
	}
	if !isKey(*item.IdempotencyKey) {
		detail := fmt.Sprintf("must be a string of 1 to %d printable ASCII characters", maxKey)
		return request, key, newProblem("malformed-idempotency-key", "idempotency_key "+detail+".",
			fieldProblem{Pointer: "#/idempotency_key", Detail: detail})
	}
	key, err = a.newKey(*item.IdempotencyKey, body, request, 0)
	return request, key, err
}

// withoutAddress is a request of a batch as POST /async takes it alone, with the work in
// the address and the key in a header. So a key means the same for both.
func withoutAddress(raw jsontext.Value) (jsontext.Value, error) {
	var fields map[string]jsontext.Value
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	delete(fields, "work")
	delete(fields, "idempotency_key")
	return json.Marshal(fields)
}

// offerNamed is the work of that name, the default one for none.
func (a *API) offerNamed(name *string) (*work.Offer, error) {
	if name == nil {
		return a.Catalog.Default(), nil
	}
	offer := a.Catalog.Find(*name)
	if offer == nil || *name == "" {
		return nil, invalidInput("/work", "must be the name of a work: GET /works lists the names")
	}
	return offer, nil
}

// within is the problem of a request of a batch, with pointers into the batch.
func within(i int, err error) *problem {
	var known *problem
	if !errors.As(err, &known) {
		known = problemOf(err)
	}
	moved := *known
	moved.Detail = strings.Replace(moved.Detail, "The body ", "The request ", 1)
	moved.Errors = nil
	for _, field := range known.Errors {
		if rest, ok := strings.CutPrefix(field.Pointer, "#"); ok {
			field.Pointer = fmt.Sprintf("#/requests/%d%s", i, rest)
		}
		moved.Errors = append(moved.Errors, field)
	}
	return &moved
}
