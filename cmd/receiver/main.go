// Command receiver takes callbacks and prints each of them once. It is an example of a
// complete receiver.
package main

import (
	"cmp"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// localSecret is the signing secret of local mode.
const localSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func main() {
	if err := serve(); err != nil {
		log.Fatal(err)
	}
}

func serve() error {
	webhook, err := standardwebhooks.NewWebhook(cmp.Or(os.Getenv("RINGBACK_SECRET"), localSecret))
	if err != nil {
		return fmt.Errorf("reading RINGBACK_SECRET: %w", err)
	}
	listener, err := net.Listen("tcp", cmp.Or(os.Getenv("RECEIVER_ADDR"), "127.0.0.1:9999"))
	if err != nil {
		return fmt.Errorf("listening for callbacks (RECEIVER_ADDR): %w", err)
	}
	log.Printf("listening on http://%s/hook", listener.Addr())
	http.Handle("POST /hook", &receiver{webhook: webhook})
	return http.Serve(listener, nil)
}

type receiver struct {
	webhook *standardwebhooks.Webhook
	seen    sync.Map // webhook-ids; keep yours in your database, beside their effects
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, call *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, call.Body, 128<<10))
	if err != nil || r.webhook.Verify(body, call.Header) != nil {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if _, repeated := r.seen.LoadOrStore(call.Header.Get("webhook-id"), true); !repeated {
		fmt.Printf("%s\n", body) // or store it: slow work comes after the answer
	}
	w.WriteHeader(http.StatusNoContent)
}
