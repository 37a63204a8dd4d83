package api

import (
	"os"
	"strings"
	"testing"
)

func TestRunbookExplainsEachProblemAndRefusal(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../scripts/operate/RUNBOOK.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, known := range problemTypes {
		if !strings.Contains(string(content), "`"+known.Name+"`") {
			t.Errorf("the runbook says nothing of the problem %s", known.Name)
		}
	}
	for _, known := range refusals {
		perClient := strings.HasPrefix(string(known.reason), "client_") || strings.HasPrefix(string(known.reason), "destination_") || known.reason == reasonReadRate
		if !perClient && !strings.Contains(string(content), "`"+string(known.reason)+"`") {
			t.Errorf("the runbook says nothing of calls that are refused for %s", known.reason)
		}
	}
}
