package webhook_test

import (
	"fmt"
	"net/http"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"ringback/jobs/webhook"
)

// A receiver verifies a callback with any library of Standard Webhooks. (It should use
// Verify, which refuses old timestamps, too; the time of this example is fixed.)
func ExampleSign() {
	const text = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	secret, err := webhook.ParseSecret(text)
	if err != nil {
		fmt.Println(err)
		return
	}
	body := []byte(`{"test": 2432232314}`)
	headers := http.Header{}
	headers.Set("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek")
	headers.Set("webhook-timestamp", "1614265330")
	headers.Set("webhook-signature", webhook.Sign([]webhook.Secret{secret}, headers.Get("webhook-id"), headers.Get("webhook-timestamp"), body))
	fmt.Println(headers.Get("webhook-signature"))

	receiver, err := standardwebhooks.NewWebhook(text)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("as sent:", receiver.VerifyIgnoringTimestamp(body, headers))
	fmt.Println("altered:", receiver.VerifyIgnoringTimestamp([]byte(`{"test": 1}`), headers) != nil)
	// Output:
	// v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=
	// as sent: <nil>
	// altered: true
}

// A policy tells which rule a callback URL breaks, and nothing of the network.
func ExamplePolicy_Check() {
	policy := webhook.Policy{}
	for _, url := range []string{"https://Hooks.example.com/a", "http://hooks.example.com/a", "https://10.0.0.1/", "https://hooks.example.com:22/"} {
		checked, err := policy.Check(url)
		if err != nil {
			fmt.Println("refused:", err)
			continue
		}
		fmt.Println(checked)
	}
	// Output:
	// https://hooks.example.com/a
	// refused: The callback URL must start with https://.
	// refused: The IP address in the callback URL must be a public one.
	// refused: The port of the callback URL must be one of those allowed, such as 443 and 8443.
}
