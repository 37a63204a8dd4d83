package main

import (
	"strings"
	"testing"

	"ringback/db/dbtest"
)

func TestWhatCallbacksReachInsideIsToldAtStart(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		allowed string
		told    int
	}{
		{"10.0.0.0/8,fd00:1::/32", 0},
		{"127.0.0.0/8", 1},
		{"0.0.0.0/0,::/0", 1},
	} {
		p := startStrict(t, environment(dbtest.New(t), map[string]string{"SECRETS_KEY": sealingKey, "CALLBACK_ALLOW_CIDRS": test.allowed}))
		log := p.log.String()
		if got := strings.Count(log, "callbacks_may_go_inside"); got != test.told || strings.Contains(log, "this machine") != (test.told > 0) {
			t.Errorf("%s: got %s, want it told %d times", test.allowed, log, test.told)
		}
	}
}
