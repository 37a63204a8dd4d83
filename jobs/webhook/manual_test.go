package webhook

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestManualTellsTheNumbers(t *testing.T) {
	t.Parallel()
	manual, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	sender := NewSender(Policy{}, "test")
	defer sender.Close()
	for _, phrase := range []string{
		fmt.Sprintf("an attempt takes at most %d s, %d KiB of headers and %d KiB of body",
			(sender.exchange+sender.drain)/time.Second, sender.kept.pattern.MaxResponseHeaderBytes>>10, maxDrain>>10),
		fmt.Sprintf("2xx within %d s", sender.exchange/time.Second),
	} {
		if !strings.Contains(string(manual), phrase) {
			t.Errorf("README.md doesn't say %q", phrase)
		}
	}
}
