package clients

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"time"

	"ringback/db"
	"ringback/jobs/webhook"
)

// Credentials are the key and the secret of a client, as the operator is told them once. Nothing
// stored has the key: it can't be read again.
type Credentials struct {
	Key    string // sent as Authorization: Bearer KEY
	Secret string // verifies callbacks
}

// keyPrefix lets people and scanners recognise a key that has leaked.
const keyPrefix = "rbk_"

// keyBytes is how many bytes of a key are random.
const keyBytes = 32

// validName is the form of a client's name; the schema says the same.
var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

// CheckName refuses a name that no client can have.
func CheckName(client string) error {
	if !validName.MatchString(client) {
		return errors.New("a client's name must be 1 to 100 letters, digits, dots, hyphens and underscores, and begin with a letter or digit")
	}
	return nil
}

// Add makes a client, and returns its credentials.
func Add(ctx context.Context, q db.Querier, keys Keys, client string, now time.Time) (Credentials, error) {
	if err := CheckName(client); err != nil {
		return Credentials{}, err
	}
	if client == Local {
		return Credentials{}, fmt.Errorf("the name %s belongs to the caller without a key in local mode", Local)
	}
	issued, row := issue(keys, client)
	row.CreatedAt = now
	inserted, err := db.InsertClient(ctx, q, row)
	if err == nil && !inserted {
		err = fmt.Errorf("there is a client %[1]s already: ringback client rotate %[1]s gives it another key, unless it is disabled", client)
	}
	return issued, err
}

// Rotate gives a client another key and another secret. The replaced pair stays valid for Overlap, and
// earlier pairs end at once.
func Rotate(ctx context.Context, q db.Querier, keys Keys, client string, now time.Time) (Credentials, error) {
	issued, row := issue(keys, client)
	row.RotatedAt = now
	rotated, err := db.RotateClient(ctx, q, row)
	if err == nil && !rotated {
		err = fmt.Errorf("there is no client %s, or it is disabled: ringback client list tells", client)
	}
	return issued, err
}

// issue makes new credentials, and the row that holds them.
func issue(keys Keys, client string) (Credentials, db.Client) {
	random := make([]byte, keyBytes)
	_, _ = rand.Read(random) // never fails
	issued := Credentials{
		Key:    keyPrefix + base64.RawURLEncoding.EncodeToString(random),
		Secret: webhook.NewSecret(),
	}
	hash := sha256.Sum256([]byte(issued.Key))
	return issued, db.Client{Name: client, KeyHash: hash[:], Secret: keys.seal(client, issued.Secret)}
}

// Disable takes a client's keys away for good. Callbacks of its accepted requests are still signed
// and delivered.
func Disable(ctx context.Context, q db.Querier, client string, now time.Time) error {
	disabled, err := db.DisableClient(ctx, q, client, now)
	if err == nil && !disabled {
		err = fmt.Errorf("there is no client %s: ringback client list names all", client)
	}
	return err
}

// Resealed counts what Reseal stored again.
type Resealed struct {
	Clients   int // clients: the secrets of all are sealed anew
	Callbacks int // callbacks whose headers were sealed with another key, or not sealed
}

// Reseal stores every secret again, sealed with the first of keys, and the headers of every callback
// that is kept. Afterwards no other key is needed, if the servers seal with the first key as well.
// Where no key opens the headers of some callbacks, all other headers are sealed, and the error
// tells the number of these callbacks.
func Reseal(ctx context.Context, q db.Querier, keys Keys) (done Resealed, err error) {
	if len(keys) == 0 {
		return done, errors.New("there is no key to seal with: set SECRETS_KEY")
	}
	rows, err := db.ListClients(ctx, q)
	if err != nil {
		return done, err
	}
	for _, row := range rows {
		if err := reseal(ctx, q, keys, row); err != nil {
			return done, fmt.Errorf("sealing the secret of client %s: %w", row.Name, err)
		}
		done.Clients++
	}
	done.Callbacks, err = resealHeaders(ctx, q, keys)
	return done, err
}

func reseal(ctx context.Context, q db.Querier, keys Keys, row db.Client) error {
	secret, err := keys.open(row.Name, row.Secret)
	if err != nil {
		return err
	}
	old := ""
	if row.OldSecret != "" {
		if old, err = keys.open(row.Name, row.OldSecret); err != nil {
			return err
		}
		old = keys.seal(row.Name, old)
	}
	resealed, err := db.ResealClient(ctx, q, row, keys.seal(row.Name, secret), old)
	if err == nil && !resealed {
		err = errors.New("it was rotated meanwhile, so run this again")
	}
	return err
}

// IsSealed tells whether a client's secret is stored sealed.
func IsSealed(row db.Client) bool { return isSealed(row.Secret) }
