package api

import "testing"

func TestBodyBudget(t *testing.T) {
	t.Parallel()
	budget := newBodyBudget()
	var releases []func()
	for range maxBodiesBytes / maxBodyBytes {
		release, err := budget.reserve(-1) // as large as a body may be
		if err != nil {
			t.Fatalf("got %v within the budget", err)
		}
		releases = append(releases, release)
	}
	if _, err := budget.reserve(smallBody + 1); err == nil {
		t.Error("got no error beyond the budget")
	}
	if _, err := budget.reserve(smallBody); err != nil {
		t.Errorf("a small body: got %v, want it let through", err)
	}
	releases[0]()
	if _, err := budget.reserve(maxBodyBytes); err != nil {
		t.Errorf("after a release: got %v", err)
	}
}
