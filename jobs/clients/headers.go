package clients

import (
	"fmt"

	"github.com/go-json-experiment/json"
)

// headersOf is the name that headers are sealed for, apart from the client's secrets.
func headersOf(client string) string { return client + " headers" }

// SealHeaders makes the stored form of the headers that a client wants a callback to
// carry: JSON, sealed where the service has a key for it.
func (d *Directory) SealHeaders(client string, headers map[string]string) (string, error) {
	text, err := json.Marshal(headers)
	if err != nil {
		return "", fmt.Errorf("encoding headers: %w", err)
	}
	return d.keys.seal(headersOf(client), string(text)), nil
}

// OpenHeaders undoes SealHeaders.
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
