package dbtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority signs the certificates of a test's servers.
type Authority struct {
	File        string // its own certificate
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewAuthority makes an authority that no system knows.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{File: filepath.Join(t.TempDir(), "authority.crt"), key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "An authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err == nil {
		a.certificate, err = x509.ParseCertificate(signed)
	}
	if err == nil {
		err = os.WriteFile(a.File, encoded("CERTIFICATE", signed), 0o644)
	}
	if err != nil {
		t.Fatalf("making an authority: %v", err)
	}
	return a
}

// sign makes a certificate for 127.0.0.1 that ends at a time, and its key.
func (a *Authority) sign(t testing.TB, until time.Time) (certificate, key []byte) {
	t.Helper()
	own := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "A database"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: until.Add(-48 * time.Hour), NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, a.certificate, own.Public(), a.key)
	if err != nil {
		t.Fatalf("signing a certificate: %v", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		t.Fatalf("encoding a key: %v", err)
	}
	return encoded("CERTIFICATE", signed), encoded("PRIVATE KEY", private)
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("making a key: %v", err)
	}
	return key
}

func encoded(kind string, content []byte) []byte {
	var text bytes.Buffer
	_ = pem.Encode(&text, &pem.Block{Type: kind, Bytes: content}) // a buffer takes everything
	return text.Bytes()
}

// SetCertificate lets new connections have TLS, by a certificate that is valid for
// 127.0.0.1 until a time. The server itself writes the files, so that they are its own.
func (c *Cluster) SetCertificate(t testing.TB, by *Authority, until time.Time) {
	t.Helper()
	certificate, key := by.sign(t, until)
	for name, content := range map[string][]byte{"server.crt": certificate, "server.key": key} {
		text := base64.StdEncoding.EncodeToString(content)
		c.Execute(t, "COPY (SELECT '"+text+"') TO PROGRAM 'umask 077 && base64 -d >"+name+"'")
	}
	c.Set(t, "ssl", "on") // and reads them
}
