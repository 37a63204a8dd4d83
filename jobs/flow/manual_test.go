package flow

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestManualTellsTheNumbers(t *testing.T) {
	t.Parallel()
	manual, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	const first = firstClosing / time.Second
	for _, phrase := range []string{
		fmt.Sprintf("after %d s, %d s, %d s and so on, up to every %d s", first, 2*first, 4*first, longestClosing/time.Second),
		fmt.Sprintf("begins with %.0f attempts a second, twice as many each half second", firstRate),
	} {
		if !strings.Contains(string(manual), phrase) {
			t.Errorf("jobs/README.md doesn't say %q", phrase)
		}
	}
}
