package webhook

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// published is the secret of the specification's own example.
const published = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func parse(t *testing.T, texts ...string) (secrets []Secret) {
	t.Helper()
	for _, text := range texts {
		secret, err := ParseSecret(text)
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, secret)
	}
	return secrets
}

func TestSign(t *testing.T) {
	t.Parallel()

	t.Run("GivesThePublishedSignature", func(t *testing.T) {
		t.Parallel()
		got := Sign(parse(t, published), "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
		if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})

	t.Run("SignsOnceForEachSecret", func(t *testing.T) {
		t.Parallel()
		both := Sign(parse(t, published, NewSecret()), "id", "1", nil)
		first, second, found := strings.Cut(both, " ")
		if !found || first != Sign(parse(t, published), "id", "1", nil) || !strings.HasPrefix(second, "v1,") || first == second {
			t.Errorf("got %q, want the signature of the first secret, a space, and that of the second", both)
		}
	})
}

func TestParseSecret(t *testing.T) {
	t.Parallel()
	base64Of := map[int]string{23: strings.Repeat("AAAA", 7) + "AAA=", 24: strings.Repeat("AAAA", 8), 64: strings.Repeat("AAAA", 21) + "AA==", 65: strings.Repeat("AAAA", 21) + "AAA="}
	for name, test := range map[string]struct {
		text string
		ok   bool
	}{
		"Published": {published, true}, "New": {NewSecret(), true}, "24Bytes": {"whsec_" + base64Of[24], true}, "64Bytes": {"whsec_" + base64Of[64], true},
		"23Bytes": {"whsec_" + base64Of[23], false}, "65Bytes": {"whsec_" + base64Of[65], false},
		"NoPrefix": {base64Of[24], false}, "NoBase64": {"whsec_" + base64Of[24] + "!", false}, "Empty": {"", false},
	} {
		_, err := ParseSecret(test.text)
		if (err == nil) != test.ok {
			t.Errorf("%s: ParseSecret(%q): got %v, want ok: %t", name, test.text, err, test.ok)
		}
		if printed := fmt.Sprint(err); strings.Contains(printed, "AAAA") {
			t.Errorf("%s: the error is %q, which quotes the secret", name, printed)
		}
	}
}

func TestSecretHidesItsKey(t *testing.T) {
	t.Parallel()
	const key = "an easily found secret key"
	secret := parse(t, secretPrefix+base64.StdEncoding.EncodeToString([]byte(key)))[0]
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, value := range []any{secret, &secret, []Secret{secret}, Message{Secrets: []Secret{secret}}} {
			printed := fmt.Sprintf(verb, value)
			for _, told := range []string{key, hex.EncodeToString([]byte(key)), "97 110 32", "0x61, 0x6e, 0x20"} {
				if strings.Contains(printed, told) {
					t.Errorf("%s of %T: got %q, which holds the key", verb, value, printed)
				}
			}
		}
	}
}

func TestSendSigns(t *testing.T) {
	t.Parallel()
	another := NewSecret()
	for name, secrets := range map[string][]string{
		"WithOneSecret": {published}, "WithTwoSecrets": {another, published}, "WithoutASecretNotAtAll": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			verified := make(chan error, 1)
			server := serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) {
				verified <- verify(r, secrets)
			})
			sender := localSender(t)
			sender.Send(t.Context(), Message{ID: "req_1", URL: server.URL + "/", Body: []byte(`{"a":1}`), Secrets: parse(t, secrets...)})
			if err := <-verified; err != nil {
				t.Error(err)
			}
		})
	}
}

// verify checks a callback as a receiver with one of the secrets does.
func verify(r *http.Request, secrets []string) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if got := r.Header.Get("Webhook-Signature"); len(secrets) == 0 && got != "" {
		return fmt.Errorf("got the signature %q, want none", got)
	}
	for _, secret := range secrets {
		webhook, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			return err
		}
		if err := webhook.Verify(body, r.Header); err != nil {
			return err
		}
		if webhook.Verify(append(body, ' '), r.Header) == nil {
			return fmt.Errorf("another body verifies as well")
		}
	}
	return nil
}
