package api

import "testing"

func TestBodyBudget(t *testing.T) {
	t.Parallel()
	budget := newBodyBudget(maxBudget, false)
	var releases []func()
	for range maxBudget / maxBodyBytes {
		release, err := budget.reserve("local", -1) // as large as a body may be
		if err != nil {
			t.Fatalf("got %v within the budget", err)
		}
		releases = append(releases, release)
	}
	if _, err := budget.reserve("local", smallBody+1); err == nil {
		t.Error("got no error beyond the budget")
	}
	if _, err := budget.reserve("local", smallBody); err != nil {
		t.Errorf("a small body: got %v, want it let through", err)
	}
	releases[0]()
	if _, err := budget.reserve("local", maxBodyBytes); err != nil {
		t.Errorf("after a release: got %v", err)
	}
}

func TestBodyBudgetOfAClient(t *testing.T) {
	t.Parallel()
	budget := newBodyBudget(maxBudget, true)
	held := 0
	for held < maxBudget {
		if _, err := budget.reserve("greedy", -1); err != nil {
			break
		}
		held += maxBodyBytes
	}
	if held < maxBudget*3/4 || held > maxBudget*4/5 {
		t.Errorf("got %d of %d bytes for a client alone, want four fifths", held, maxBudget)
	}
	release, err := budget.reserve("other", -1)
	if err != nil {
		t.Fatalf("another client: got %v, want it let through", err)
	}
	release()
	if got := budget.bytes.Of("other"); got != 0 {
		t.Errorf("got %d bytes of a client without a body", got)
	}
}
