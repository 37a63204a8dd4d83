package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"ringback/cmd/internal/receivers"
)

// call posts a callback with the headers, signed where they are nil, and returns
// the status, or the error.
func (j job) call(ctx context.Context, headers http.Header) (int, error) {
	body := j.body(j.id, "succeeded")
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, j.url, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	if headers == nil {
		headers = sign(j.t, j, body, receivers.LocalSecret)
	}
	request.Header = headers
	response, err := j.client.Do(request)
	if err != nil {
		return 0, err
	}
	response.Body.Close()
	return response.StatusCode, nil
}

func TestReceiversOfEveryKind(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	ports := make(map[string][]string)        // of the callback URLs, by the answer to the first call
	fastest := make(map[string]time.Duration) // call, by port
	service := &service{}
	service.onAsync = func(_ int, job job, w http.ResponseWriter) {
		accept(job, w)
		service.later(func() {
			status, granted := job.ask()
			began := time.Now()
			outcome := granted + callUntilDone(job)
			took, port := time.Since(began), strings.Split(job.url, "/")[2]
			if want := map[bool]int{true: http.StatusOK, false: http.StatusMethodNotAllowed}[granted != ""]; status != want {
				t.Errorf("OPTIONS: got %d and granted %q, want %d", status, granted, want)
			}
			mu.Lock()
			defer mu.Unlock()
			ports[outcome] = append(ports[outcome], port)
			if before, known := fastest[port]; !known || took < before {
				fastest[port] = took
			}
		})
	}
	output := runStorm(t, "-target", start(t, service).url, "-mix", "sync=0,async=1", "-rate", "120", "-duration", "1s",
		"-receivers", "ok=10,granting=10,slow=10,flaky=10,hang=10,reset=10,gone=10", "-drain", "5m")
	output.want(t, exitOK, "went to receivers that take nothing")
	service.calls.Wait()

	// Receivers that answer late are at the port whose fastest call took longest.
	slowest := slices.MaxFunc(ports["200"], func(a, b string) int { return cmp.Compare(fastest[a], fastest[b]) })
	if fastest[slowest] < receivers.SlowDelay {
		t.Errorf("slow: got an answer after %v, want none before %v", fastest[slowest], receivers.SlowDelay)
	}
	for _, port := range ports["200"] {
		if port == slowest {
			ports["200 after seconds"] = append(ports["200 after seconds"], port)
		}
	}
	ports["200"] = slices.DeleteFunc(ports["200"], func(port string) bool { return port == slowest })

	kinds := output.report.Async.Kinds
	for kind, outcome := range map[string]string{
		"ok": "200", "granting": "granted, 200", "slow": "200 after seconds", "flaky": "500", "gone": "410",
	} {
		got := kinds[kind]
		if got.Acked == 0 || len(ports[outcome]) != got.Acked {
			t.Errorf("%s: got %d callbacks that ended with %s, want all of %d", kind, len(ports[outcome]), outcome, got.Acked)
		}
		for _, port := range ports[outcome] {
			if port != ports[outcome][0] {
				t.Errorf("%s: got ports %s and %s, want one", kind, port, ports[outcome][0])
			}
		}
		if wantDelivered := map[bool]int{true: got.Acked}[kind != "gone"]; got.Delivered != wantDelivered {
			t.Errorf("%s: got %d delivered, want %d", kind, got.Delivered, wantDelivered)
		}
	}
	slices.Sort(ports["no answer"])
	if got, want := len(ports["no answer"]), kinds["hang"].Acked+kinds["reset"].Acked; got != want || len(slices.Compact(ports["no answer"])) != 2 {
		t.Errorf("hang and reset: got %d callbacks without an answer, want all of %d, at two ports", got, want)
	}
	if got := kinds["flaky"]; got.Attempts != 2*got.Acked {
		t.Errorf("attempts at flaky receivers: got %d, want two for each of %d", got.Attempts, got.Acked)
	}
	dead := kinds["hang"].Acked + kinds["reset"].Acked + kinds["gone"].Acked
	output.wantCallbacks(t, callbacks{delivered: 120 - dead, dead: dead})
	if got := output.report.Async.TimeToCallback.Count; got != int64(kinds["ok"].Acked+kinds["granting"].Acked) {
		t.Errorf("times to callback: got %d, want those of prompt receivers alone, %d and %d", got, kinds["ok"].Acked, kinds["granting"].Acked)
	}
}

// ask asks a receiver for its consent, as a service may that is open to the public,
// and returns the status, and "granted, " if it gave it.
func (j job) ask() (status int, granted string) {
	request, err := http.NewRequestWithContext(j.t.Context(), http.MethodOptions, j.url, nil)
	if err != nil {
		j.t.Error(err)
		return 0, ""
	}
	request.Header.Set("WebHook-Request-Origin", "ringback.example")
	response, err := j.client.Do(request)
	if err != nil {
		j.t.Error(err)
		return 0, ""
	}
	response.Body.Close()
	if response.Header.Get("WebHook-Allowed-Origin") == "*" {
		granted = "granted, "
	}
	return response.StatusCode, granted
}

// callUntilDone calls back once, and again after a 500; it returns the answer to the
// first call.
func callUntilDone(job job) string {
	ctx, cancel := context.WithTimeout(job.t.Context(), receivers.HangTime)
	defer cancel()
	status, err := job.call(ctx, nil)
	switch {
	case err != nil: // reset, if not at once then at the end of the run
		return "no answer"
	case status == http.StatusInternalServerError:
		if again, err := job.call(ctx, nil); again != http.StatusOK {
			job.t.Errorf("second attempt: got status %d and error %v, want 200", again, err)
		}
	}
	return fmt.Sprint(status)
}

func TestSignatures(t *testing.T) {
	t.Parallel()
	const secret = "whsec_c2lnbmVkIHdpdGggYSBzZWNyZXQgb2YgaXRz"
	signing := func(secret string) *service {
		return &service{onAsync: func(n int, job job, w http.ResponseWriter) {
			headers := make(http.Header)
			if n != 3 { // one callback goes unsigned
				headers = sign(t, job, job.body(job.id, "succeeded"), secret)
			}
			if _, err := job.call(t.Context(), headers); err != nil {
				t.Error(err)
			}
			accept(job, w)
		}}
	}

	t.Run("missing", func(t *testing.T) {
		t.Parallel()
		output := runStorm(t, against(start(t, signing(secret)), "-secret", secret)...)
		output.want(t, exitBroken, "1 of 20 requests were called back without a valid signature")
		output.wantCallbacks(t, callbacks{delivered: 20})
	})

	t.Run("wrong", func(t *testing.T) {
		t.Parallel()
		output := runStorm(t, against(start(t, signing("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")), "-secret", secret)...)
		output.want(t, exitBroken, "20 of 20 requests were called back without a valid signature")
	})

	t.Run("of local mode without one", func(t *testing.T) {
		t.Parallel()
		runStorm(t, against(start(t, &service{}))...).want(t, exitOK)
		output := runStorm(t, against(start(t, signing(secret)))...)
		output.want(t, exitBroken, "20 of 20 requests were called back without a valid signature")
	})

	t.Run("no matter with an API key and no secret", func(t *testing.T) {
		t.Parallel()
		output := runStorm(t, against(start(t, signing(secret)), "-api-key", "key")...)
		output.want(t, exitOK, "Signatures of callbacks were not checked")
		if output.report.Async.SignaturesRead {
			t.Error("the report says that signatures were read")
		}
	})
}

// sign returns the headers of Standard Webhooks.
func sign(t *testing.T, job job, body, secret string) http.Header {
	t.Helper()
	webhook, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	signature, err := webhook.Sign("req_"+job.id, now, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	headers := make(http.Header)
	headers.Set(standardwebhooks.HeaderWebhookID, "req_"+job.id)
	headers.Set(standardwebhooks.HeaderWebhookTimestamp, fmt.Sprint(now.Unix()))
	headers.Set(standardwebhooks.HeaderWebhookSignature, signature)
	return headers
}

func TestWrongResult(t *testing.T) {
	t.Parallel()
	service := start(t, &service{onAsync: func(n int, job job, w http.ResponseWriter) {
		body := job.body(job.id, "succeeded")
		switch n {
		case 4: // a letter of the digest
			body = strings.Replace(body, `"sha256":"`, `"sha256":"0`, 1)
		case 5: // none
			body = fmt.Sprintf(`{"type":"request.succeeded","data":{"id":%q,"status":"succeeded"}}`, job.id)
		}
		job.post(job.url, body)
		accept(job, w)
	}})
	output := runStorm(t, against(service)...)
	output.want(t, exitBroken, "2 of 20 requests were called back wrongly")
	output.wantCallbacks(t, callbacks{delivered: 20, mismatched: 2})
}

func TestOneCallbackInAThousandIsDropped(t *testing.T) {
	t.Parallel()
	service := &service{onGet: func(_ string, w http.ResponseWriter) {
		fmt.Fprint(w, `{"status":"succeeded","callback_state":"delivered","settled_at":"2026-01-02T03:04:05Z",
			"attempts":[{"attempt":1,"at":"2026-01-02T03:04:05Z","outcome":"delivered","http_status":204}]}`)
	}}
	// The request without a callback is answered when all others have been called back, so
	// that nothing is left to wait for after the last answer.
	var others sync.WaitGroup
	others.Add(999)
	service.onAsync = func(n int, job job, w http.ResponseWriter) {
		if n == 500 {
			others.Wait()
			accept(job, w)
			return
		}
		accept(job, w)
		service.later(func() {
			defer others.Done()
			job.callBack(job.id, "succeeded")
		})
	}
	output := runStorm(t, "-target", start(t, service).url, "-mix", "sync=0,async=1",
		"-rate", "250", "-duration", "4s", "-drain", "0s", "-timeout", "5m", "-connections", "64")
	output.want(t, exitBroken, "1 of 1000 acknowledged requests were not called back",
		jobID(500)+": work succeeded, callback delivered, attempt 1 at 03:04:05: delivered 204\n")
	output.wantCallbacks(t, callbacks{delivered: 999, missing: 1})
}
