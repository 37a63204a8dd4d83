package db

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestManualsTellTheNumbers(t *testing.T) {
	t.Parallel()
	for page, phrases := range map[string][]string{
		"../jobs/README.md": {
			fmt.Sprintf("waits for a lock for %d ms at a time", migrationLockTimeout/time.Millisecond),
			fmt.Sprintf("writes a row every %d s to see it", checkedWithin/time.Second),
		},
		"README.md": {fmt.Sprintf("What Postgres needs: version %d or newer", oldestVersion/10_000)},
		"../cmd/server/README.md": {
			fmt.Sprintf("sizes the pool (%d)", poolConnections),
			fmt.Sprintf("any Postgres from %d on", oldestVersion/10_000),
		},
	} {
		manual, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, phrase := range phrases {
			if !strings.Contains(string(manual), phrase) {
				t.Errorf("%s doesn't say %q", page, phrase)
			}
		}
	}
}
