package webhook

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Secret signs callbacks to the receivers of a client (Standard Webhooks, symmetric).
type Secret struct{ key []byte }

// Format hides the key from every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") }

// Equal tells whether two secrets sign alike.
func (s Secret) Equal(other Secret) bool { return hmac.Equal(s.key, other.key) }

const secretPrefix = "whsec_"

// NewSecret returns the text of a new secret: whsec_ and the base64 of 32 random bytes. A
// signature has 32 bytes, too.
func NewSecret() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return secretPrefix + base64.StdEncoding.EncodeToString(key)
}

// ParseSecret reads whsec_ and the base64 of 24 to 64 bytes, as Standard Webhooks
// has secrets. The error doesn't quote the text.
func ParseSecret(text string) (Secret, error) {
	encoded, ok := strings.CutPrefix(text, secretPrefix)
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(key) < 24 || len(key) > 64 {
		return Secret{}, errors.New("a secret must be whsec_ and the base64 of 24 to 64 bytes")
	}
	return Secret{key}, nil
}

// Sign returns the value of the header webhook-signature: a signature for each secret. While
// a new secret replaces the old, a receiver can verify with either. timestamp is in seconds
// since 1970.
func Sign(secrets []Secret, id, timestamp string, body []byte) string {
	signatures := make([]string, len(secrets))
	for i, secret := range secrets {
		mac := hmac.New(sha256.New, secret.key)
		mac.Write([]byte(id + "." + timestamp + "."))
		mac.Write(body)
		signatures[i] = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	return strings.Join(signatures, " ")
}
