package bubble

import (
	"sync"
	"testing"
	"time"
)

// With synctest.Test in its place, the race detector breaks in most runs.
func TestRaceDetectorSurvivesTimers(t *testing.T) {
	fired := 0
	Test(t, func(t *testing.T) {
		var (
			all sync.WaitGroup
			mu  sync.Mutex
		)
		for range 8 {
			all.Go(func() {
				for range 20_000 {
					select {
					case <-time.NewTimer(0).C:
						mu.Lock()
						fired++
						mu.Unlock()
					default:
					}
				}
			})
		}
		all.Wait()
	})
	if fired == 0 {
		t.Error("no timer fired")
	}
}
