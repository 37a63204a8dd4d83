package clients

import (
	"context"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"ringback/db"
)

// headersOf is the name that a client's headers are sealed for, which differs from the name that
// its secrets are sealed for.
func headersOf(client string) string { return client + " headers" }

// SealHeaders returns the stored form of the headers that a client wants a callback to carry: JSON,
// sealed where the service has a key.
func (d *Directory) SealHeaders(client string, headers map[string]string) (string, error) {
	text, err := json.Marshal(headers)
	if err != nil {
		return "", fmt.Errorf("encoding headers: %w", err)
	}
	return d.keys.seal(headersOf(client), string(text)), nil
}

// OpenHeaders returns the headers from their stored form.
func (d *Directory) OpenHeaders(client, stored string) (headers map[string]string, err error) {
	text, err := d.keys.open(headersOf(client), stored)
	if err != nil {
		return nil, fmt.Errorf("opening the headers of a callback of client %s: %w", client, err)
	}
	if err := json.Unmarshal([]byte(text), &headers); err != nil {
		return nil, fmt.Errorf("reading the headers of a callback of client %s: %w", client, err)
	}
	return headers, nil
}

// resealHeaders seals the headers of all callbacks with the first of keys, and returns how many were
// sealed otherwise before.
func resealHeaders(ctx context.Context, q db.Querier, keys Keys) (count int, err error) {
	var after uuid.UUID
	unopened := 0
	for {
		page, err := db.ListHeaders(ctx, q, after)
		if err != nil {
			return count, err
		}
		if len(page) == 0 {
			break
		}
		for _, stored := range page {
			sealed, err := keys.again(headersOf(stored.Client), stored.Headers)
			if err != nil {
				unopened++
			}
			if sealed == "" {
				continue
			}
			if err := db.ResealHeaders(ctx, q, stored.Request, sealed); err != nil {
				return count, err
			}
			count++
		}
		after = page[len(page)-1].Request
	}
	if unopened > 0 {
		return count, fmt.Errorf("the headers of %d callbacks are sealed with a key that is not in SECRETS_KEY, so these callbacks can't be sent; all other headers and secrets are sealed with the first key", unopened)
	}
	return count, nil
}
