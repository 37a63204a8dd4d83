package jobs

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"ringback/jobs/upkeep"
	"ringback/work"
)

// scheduled is the retry schedule as the manual tells it.
func scheduled(waits []time.Duration) string {
	told := make([]string, len(waits))
	for i, wait := range waits {
		switch {
		case wait < time.Minute:
			told[i] = fmt.Sprintf("%d s", wait/time.Second)
		case wait < time.Hour:
			told[i] = fmt.Sprintf("%d min", wait/time.Minute)
		default:
			told[i] = fmt.Sprintf("%d h", wait/time.Hour)
		}
	}
	last := len(told) - 1
	return strings.Join(told[:last], ", ") + " and " + told[last]
}

func TestManualTellsTheNumbers(t *testing.T) {
	t.Parallel()
	manual, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var untilFault time.Duration
	for _, wait := range retrySchedule[:maxFaults-1] {
		untilFault += wait
	}
	for _, phrase := range []string{
		"**Retries** are due after " + scheduled(retrySchedule[:]) + " (±20 %)",
		fmt.Sprintf("or %d hours after the work ended", maxCallbackAge/time.Hour),
		"After " + scheduled(retrySchedule[:work.DefaultRetries]) + " (±20 %)",
		fmt.Sprintf("down %d times is given up", maxCrashes),
		fmt.Sprintf("%d in a row, about %.0f minutes for a new request", maxFaults, untilFault.Minutes()),
		fmt.Sprintf("each process writes one every %d s, and the jobs of a process that has been silent for %d s go back", upkeep.BeatInterval/time.Second, upkeep.DeathAfter/time.Second),
		fmt.Sprintf("written heartbeats for %d s without a gap", upkeep.TrustAfter/time.Second),
		fmt.Sprintf("commits are %d ms behind, or when `ASYNC_LIMIT` requests wait for a commit", acceptPatience/time.Millisecond),
		fmt.Sprintf("whose next step is due within %d s", backlogHorizon/time.Second),
		fmt.Sprintf("are committed every %d ms at most", 2*settleRest/time.Millisecond),
		fmt.Sprintf("Processes read it every %d s", clockInterval/time.Second),
		fmt.Sprintf("a difference of more than %d s is logged", maxSkew/time.Second),
		fmt.Sprintf("results of %d KiB", work.MaxResultBytes>>10),
	} {
		if !strings.Contains(string(manual), phrase) {
			t.Errorf("README.md doesn't say %q", phrase)
		}
	}
}
