package clients

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// Keys keep secrets unreadable where they are stored. The first key seals and all keys open, so that
// a key can be replaced while the old key is still needed. Without keys, secrets are stored
// unsealed.
type Keys []cipher.AEAD

// UnmarshalText reads keys, 32 bytes in base64 each, with commas between them. Its errors hold
// nothing of a key.
func (k *Keys) UnmarshalText(text []byte) error {
	*k = nil
	for encoded := range strings.SplitSeq(string(text), ",") {
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
		if err != nil || len(raw) != 32 {
			return errors.New("must be 32 bytes in base64, or several of them with commas")
		}
		key, err := newKey(raw)
		if err != nil {
			return err
		}
		*k = append(*k, key)
	}
	return nil
}

// newKey returns AES-256-GCM with a random nonce in front of the sealed text. By NIST SP 800-38D a key
// may seal 2^32 secrets before it has to be replaced.
func newKey(raw []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, fmt.Errorf("making a key of it: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// sealedPrefix tells sealed secrets from unsealed secrets, and from forms that may come later.
const sealedPrefix = "v1."

// seal returns the stored form of a secret. A secret that was sealed for one client opens for that
// client only: no change of rows gives a client the secret of another.
func (k Keys) seal(client, secret string) string {
	if len(k) == 0 {
		return secret
	}
	return sealedPrefix + base64.RawStdEncoding.EncodeToString(k[0].Seal(nil, nil, []byte(secret), []byte(client)))
}

var errSealed = errors.New("it is sealed with a key that is not in SECRETS_KEY")

// open returns a secret from its stored form.
func (k Keys) open(client, stored string) (string, error) {
	encoded, sealed := strings.CutPrefix(stored, sealedPrefix)
	if !sealed {
		return stored, nil
	}
	raw, err := base64.RawStdEncoding.DecodeString(encoded)
	if err != nil {
		return "", errors.New("it is not base64")
	}
	for _, key := range k {
		if secret, err := key.Open(nil, nil, raw, []byte(client)); err == nil {
			return string(secret), nil
		}
	}
	return "", errSealed
}

// again returns a stored text sealed with the first key, and "" where no text is stored or the first
// key sealed it already.
func (k Keys) again(client, stored string) (string, error) {
	if _, err := k[:1].open(client, stored); stored == "" || err == nil && isSealed(stored) {
		return "", nil
	}
	secret, err := k.open(client, stored)
	if err != nil {
		return "", err
	}
	return k.seal(client, secret), nil
}

// isSealed tells whether a stored secret is sealed.
func isSealed(stored string) bool { return strings.HasPrefix(stored, sealedPrefix) }
