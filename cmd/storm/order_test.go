package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
)

func TestOrderingKeys(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	keys := make(map[string]int)
	var held *job // an early request of its key, until a later request was called back
	service := &service{}
	service.onAsync = func(n int, job job, w http.ResponseWriter) {
		accept(job, w)
		body := *service.lastBody.Load()
		mu.Lock()
		defer mu.Unlock()
		keys[fmt.Sprint(body["ordering_key"])]++
		sequenced := strings.Replace(job.body(job.id, "succeeded"), `"data":{`, fmt.Sprintf(`"data":{"sequence":%d,`, n), 1)
		if n == 3 {
			held = &job
			return
		}
		job.post(job.url, sequenced)
		if n == 9 {
			held.post(held.url, strings.Replace(held.body(held.id, "succeeded"), `"data":{`, `"data":{"sequence":3,`, 1))
		}
	}
	// One at a time, so that there is an order.
	output := runStorm(t, against(start(t, service), "-mix", "sync=0,async=1", "-ordering-keys", "3",
		"-connections", "1", "-rate", "50", "-duration", "300ms")...)
	output.want(t, exitBroken, "1 of 15 requests were called back out of order")
	if len(keys) != 3 || keys["storm-0"] != 5 {
		t.Errorf("ordering keys: got %v, want five requests of each of three", keys)
	}
}
