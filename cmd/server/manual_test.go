package main

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"ringback/jobs/clients"
	"ringback/jobs/webhook"
)

// Numbers that the manuals tell and the code holds: neither changes alone.
func TestManualsTellTheNumbers(t *testing.T) {
	t.Parallel()
	tag := func(field string) reflect.StructTag {
		found, ok := reflect.TypeFor[Config]().FieldByName(field)
		if !ok {
			t.Fatalf("there is no setting %s", field)
		}
		return found.Tag
	}
	help := func(field string) string { return tag(field).Get("help") }
	stopTimeout, err := time.ParseDuration(tag("StopTimeout").Get("envDefault"))
	if err != nil {
		t.Fatal(err)
	}
	pages := manuals(t)
	stop := longestStop(stopTimeout)
	for _, test := range []struct{ page, text, phrase string }{
		{"STOP_TIMEOUT", help("StopTimeout"), fmt.Sprintf("twice this time and %d s, %d s by default", (stop-2*stopTimeout)/time.Second, stop/time.Second)},
		{"WORKERS", help("Workers"), fmt.Sprintf("By default %d,", maxWorkers)},
		{"WORKERS", help("Workers"), fmt.Sprintf("at %d KiB each, but at least %d", workerBytes>>10, minWorkers)},
		{"MAX_CONNECTIONS", help("MaxConnections"), fmt.Sprintf("By default %d,", maxConnections)},
		{"MAX_CONNECTIONS", help("MaxConnections"), fmt.Sprintf("at %d KiB each", connectionBytes>>10)},
		{"cmd/server", pages["../../cmd/server/README.md"], fmt.Sprintf("SIGTERM drains, within %d s by default", stop/time.Second)},
		{"cmd/server", pages["../../cmd/server/README.md"], fmt.Sprintf("The earlier ones work for %d hours", clients.Overlap/time.Hour)},
		{"jobs", pages["../../jobs/README.md"], fmt.Sprintf("all within %d s", stop/time.Second)},
		{"jobs", pages["../../jobs/README.md"], fmt.Sprintf("Lines wait in %d MiB of memory", logBytes>>20)},
		{"jobs", pages["../../jobs/README.md"], fmt.Sprintf("is logged every %d s at most", repeatInterval/time.Second)},
		{"jobs", pages["../../jobs/README.md"], fmt.Sprintf("at most %d headers such as `Authorization`", webhook.MaxHeaders)},
	} {
		if !strings.Contains(test.text, test.phrase) {
			t.Errorf("%s doesn't say %q", test.page, test.phrase)
		}
	}
}
