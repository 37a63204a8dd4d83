package api

import "testing"

func TestBodyBudget(t *testing.T) {
	t.Parallel()
	budget := newBodyBudget(maxBudget, "local")
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
	budget := newBodyBudget(maxBudget, "")
	for range maxBudget / 4 / maxBodyBytes {
		if _, err := budget.reserve("greedy", -1); err != nil {
			t.Fatalf("got %v within its share", err)
		}
	}
	if _, err := budget.reserve("greedy", -1); err == nil {
		t.Error("got no error beyond its share")
	}
	release, err := budget.reserve("other", -1)
	if err != nil {
		t.Fatalf("another client: got %v, want it let through", err)
	}
	release()
	if _, known := budget.of["other"]; known {
		t.Error("a client without a body is remembered")
	}
}
