// Package bubble runs tests in bubbles of testing/synctest that the race detector survives.
package bubble

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

var one sync.Mutex

// Test is synctest.Test, one bubble at a time and on one processor.
//
// The timers of a bubble share one context of the race detector, so two goroutines that fire
// timers on two processors break the detector, and with it the process: "ThreadSanitizer:
// CHECK failed", or a segmentation violation (https://go.dev/issue/78156, open in Go 1.26).
func Test(t *testing.T, f func(*testing.T)) {
	t.Helper()
	one.Lock()
	defer one.Unlock()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	synctest.Test(t, f)
}

// Wait is synctest.Wait.
func Wait() { synctest.Wait() }
