// Package clients knows which clients may call, their limits, and the secrets that sign
// their callbacks.
package clients

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
	"ringback/jobs/webhook"
)

// Local is the client that calls without a key in local mode. Its secret is no
// secret at all: Standard Webhooks publishes it in its examples.
const (
	Local       = "local"
	LocalSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
)

// Overlap is how long the key and the secret before a rotation still work.
const Overlap = 24 * time.Hour

const (
	// refreshInterval is how old the directory is at most while the database answers. A disabled
	// client can still call for as long.
	refreshInterval = 2 * time.Second
	refreshTimeout  = 5 * time.Second
)

// Directory holds all clients in memory and reads them anew every two seconds. So no call and no
// callback asks the database for its client, not even a call with an unknown key. While the
// database is away, the clients of the last reading stand.
type Directory struct {
	pool   *pgxpool.Pool
	keys   Keys
	logger *slog.Logger
	latest atomic.Pointer[snapshot]
	told   map[string]time.Time // when the log last named a client's unreadable secret, by client
	clock  db.Clock             // by which rotated keys end
}

// snapshot is the clients as they were read. It doesn't change.
type snapshot struct {
	callers    map[digest]caller  // by the hash of the API key
	signers    map[string]signer  // by client; disabled clients too, whose accepted requests are called back
	unreadable map[string]error   // why a client's secrets couldn't be opened, by client
	refused    map[digest]refused // keys of disabled clients, by their hash
	plain      int                // clients whose secrets are stored unsealed

	// The clients' own limits, and the hosts that their callbacks may name, by client. Disabled
	// clients too, for their callbacks.
	limits    map[string]Limits
	callbacks map[string]webhook.Hosts
}

// digest is the hash of an API key.
type digest [sha256.Size]byte

// refused is a key that was valid once.
type refused struct{ why, client string }

// caller is a client that has a key.
type caller struct {
	client string
	until  time.Time // when the key ends; zero where it doesn't
}

// signer is the secrets that sign a client's callbacks.
type signer struct {
	secrets []webhook.Secret // the present secret, and then the old secret, if any
	until   time.Time        // when the old secret ends
}

// Open reads all clients. A client whose secrets can't be opened with keys is logged. Until they
// can be opened, no request of that client is accepted and none of its callbacks is sent. All
// other clients are served.
func Open(ctx context.Context, pool *pgxpool.Pool, keys Keys, logger *slog.Logger) (*Directory, error) {
	d := &Directory{pool: pool, keys: keys, logger: logger, told: map[string]time.Time{}}
	first, err := d.read(ctx)
	if err != nil {
		return nil, err
	}
	d.latest.Store(first)
	d.logUnreadable(ctx, first, time.Now())
	return d, nil
}

// Watch reads the clients again and again until ctx ends.
func (d *Directory) Watch(ctx context.Context) {
	tick := time.NewTicker(refreshInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			d.refresh(ctx)
		case <-ctx.Done():
			return
		}
	}
}

func (d *Directory) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	next, err := d.read(ctx)
	if err != nil {
		if ctx.Err() == nil && (!db.IsUnavailable(err) || db.IsDenied(err)) {
			d.logger.ErrorContext(ctx, "clients_not_read", "error", err)
		}
		return
	}
	d.latest.Store(next)
	d.logUnreadable(ctx, next, time.Now())
}

// logUnreadable logs the clients whose secrets can't be opened, again from time to time, and each
// client whose secrets can be opened again.
func (d *Directory) logUnreadable(ctx context.Context, read *snapshot, now time.Time) {
	for name := range d.told {
		if read.unreadable[name] == nil {
			delete(d.told, name)
			d.logger.InfoContext(ctx, "client_secret_readable", "client", name)
		}
	}
	for name, err := range read.unreadable {
		if told, known := d.told[name]; !known || now.Sub(told) >= db.ToldAgainAfter {
			d.told[name] = now
			d.logger.ErrorContext(ctx, "client_secret_unreadable", "client", name, "error", err,
				"remedy", "start with the SECRETS_KEY that sealed it, or run ringback client rotate "+name)
		}
	}
}

func (d *Directory) read(ctx context.Context) (*snapshot, error) {
	if err := d.clock.Read(ctx, d.pool); err != nil {
		return nil, err
	}
	rows, err := db.ListClients(ctx, d.pool)
	if err != nil {
		return nil, err
	}
	return newSnapshot(rows, d.keys)
}

func newSnapshot(rows []db.Client, keys Keys) (*snapshot, error) {
	local, err := webhook.ParseSecret(LocalSecret)
	if err != nil {
		return nil, fmt.Errorf("reading the secret of client %s: %w", Local, err)
	}
	s := &snapshot{
		callers:    make(map[digest]caller, len(rows)),
		refused:    map[digest]refused{},
		signers:    map[string]signer{Local: {secrets: []webhook.Secret{local}}},
		unreadable: map[string]error{},
		limits:     make(map[string]Limits, len(rows)),
		callbacks:  map[string]webhook.Hosts{},
	}
	for _, row := range rows {
		if row.DisabledAt.IsZero() {
			s.addKeys(row)
		} else {
			s.refused[digest(row.KeyHash)] = refused{"disabled_client", row.Name}
		}
		if err := s.addSecrets(row, keys); err != nil {
			s.unreadable[row.Name] = err
		}
		s.limits[row.Name] = row.Limits
		if len(row.Callbacks) > 0 {
			s.callbacks[row.Name] = row.Callbacks
		}
	}
	return s, nil
}

func (s *snapshot) addKeys(row db.Client) {
	s.callers[digest(row.KeyHash)] = caller{client: row.Name}
	if !row.RotatedAt.IsZero() {
		s.callers[digest(row.OldKeyHash)] = caller{row.Name, row.RotatedAt.Add(Overlap)}
	}
}

func (s *snapshot) addSecrets(row db.Client, keys Keys) error {
	if !isSealed(row.Secret) {
		s.plain++
	}
	present, err := openSecret(row.Name, row.Secret, keys)
	if err != nil {
		return err
	}
	signer := signer{secrets: []webhook.Secret{present}, until: row.RotatedAt.Add(Overlap)}
	// An old secret that can't be opened is left out, so that a rotation mends the client.
	if old, err := openSecret(row.Name, row.OldSecret, keys); err == nil && row.OldSecret != "" {
		signer.secrets = append(signer.secrets, old)
	}
	s.signers[row.Name] = signer
	return nil
}

func openSecret(client, stored string, keys Keys) (webhook.Secret, error) {
	text, err := keys.open(client, stored)
	if err != nil {
		return webhook.Secret{}, err
	}
	return webhook.ParseSecret(text)
}

// Find returns the client that has an API key, "" for none.
func (d *Directory) Find(key string) string { return d.latest.Load().find(key, d.clock.Now()) }

// find looks a key up by its hash. The time that it takes may tell something of hashes nearby, but
// nothing of a key. No way leads from a hash back to 256 random bits, nor to a key with a chosen
// hash.
func (s *snapshot) find(key string, now time.Time) string {
	found, ok := s.callers[sha256.Sum256([]byte(key))]
	if !ok || !found.until.IsZero() && !now.Before(found.until) {
		return ""
	}
	return found.client
}

// Unknown tells an operator why a call has no client. It holds nothing of a key but its length.
type Unknown struct {
	Why     string // a word for the log, empty for a call with a client
	Client  string // the client that had the key, if that is known
	Length  int    // of a text that has no key's form, in bytes
	Mistake string // the mistake in the form of that text
}

// WhyUnknown tells why Find returns no client for a key. The key has no key's form, its client was
// disabled, a rotation replaced it, or no client has it. The last holds for a key of another
// installation, and for a key that was rotated twice.
func (d *Directory) WhyUnknown(key string) Unknown {
	hash, latest := digest(sha256.Sum256([]byte(key))), d.latest.Load()
	if mistake := mistakeOf(key); mistake != "" {
		return Unknown{Why: MalformedKey, Length: len(key), Mistake: mistake}
	}
	if was, known := latest.refused[hash]; known {
		return Unknown{Why: was.why, Client: was.client}
	}
	if was, known := latest.callers[hash]; known {
		return Unknown{Why: "rotated_key", Client: was.client}
	}
	return Unknown{Why: "unknown_key"}
}

// MalformedKey is why a call has no client where its key has no key's form.
const MalformedKey = "malformed_key"

// mistakeOf is the mistake in the form of a text in place of a key, empty for a key's form.
func mistakeOf(text string) string {
	encoded, prefixed := strings.CutPrefix(text, keyPrefix)
	random, err := base64.RawURLEncoding.DecodeString(encoded)
	length := base64.RawURLEncoding.EncodedLen(keyBytes)
	switch {
	case prefixed && err == nil && len(random) == keyBytes:
		return ""
	case text == "":
		return "it is empty"
	case strings.ContainsAny(text, "\"'` \t"):
		return "it has a quote or a space in it"
	case !prefixed:
		return "it doesn't begin with " + keyPrefix
	case len(encoded) < length:
		return fmt.Sprintf("it is cut off: a key has %d characters", len(keyPrefix)+length)
	case len(encoded) > length:
		return fmt.Sprintf("it is too long: a key has %d characters", len(keyPrefix)+length)
	}
	return "it has a character that is in no key"
}

// Secrets returns the secrets that sign a client's callbacks: one, or two for a day after a
// rotation.
func (d *Directory) Secrets(client string) ([]webhook.Secret, error) {
	return d.latest.Load().secrets(client, d.clock.Now())
}

func (s *snapshot) secrets(client string, now time.Time) ([]webhook.Secret, error) {
	if err := s.unreadable[client]; err != nil {
		return nil, fmt.Errorf("opening the secret of client %s: %w", client, err)
	}
	signer, ok := s.signers[client]
	switch {
	case !ok:
		return nil, fmt.Errorf("there is no client %s to sign for", client)
	case !now.Before(signer.until):
		return signer.secrets[:1], nil
	}
	return signer.secrets, nil
}

// Unreadable returns the clients whose secrets can't be opened, by name.
func (d *Directory) Unreadable() []string {
	return slices.Sorted(maps.Keys(d.latest.Load().unreadable))
}

// Empty tells that nobody may call.
func (d *Directory) Empty() bool { return len(d.latest.Load().callers) == 0 }

// Plain is how many clients have unsealed secrets.
func (d *Directory) Plain() int { return d.latest.Load().plain }
