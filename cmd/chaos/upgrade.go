package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"syscall"
	"time"

	"ringback/cmd/internal/program"
)

// earlier are the commits whose servers are upgraded while they work: the last without
// handing jobs over, whose schema has version 14, and the last before sync requests were
// stored, at version 29.
const earlier = "2e258fb9023d451809e3e48e97637def0738fa29,7d7effc4da3d82ffee421f27b4bc195f13001aa9"

const (
	upgradeRun = 25 * time.Second
	upgradeAt  = 6 * time.Second
)

// runUpgrade lets servers of an earlier commit work, replaces them one by one, and judges
// as in other runs; besides, no call may fail. The new servers migrate the schema that
// the old servers still use.
func runUpgrade(ctx context.Context, o options, d *database, name string, out io.Writer) (outcome, error) {
	commit, err := program.FindCommit(ctx, ".", name)
	if err != nil {
		fmt.Fprintf(out, "NOT DONE: an upgrade from %s, a commit that this clone doesn't hold\n", name)
		return outcome{}, ctx.Err()
	}
	folder, err := os.MkdirTemp("", "chaos-")
	if err != nil {
		return outcome{}, fmt.Errorf("making a folder for the earlier server: %w", err)
	}
	defer os.RemoveAll(folder)
	before, err := program.BuildEarlier(ctx, ".", commit, folder)
	if err != nil {
		return outcome{}, err
	}
	return runPlan(ctx, o, d, plan{
		Seed: o.seed, Duration: upgradeRun, Roles: []string{"all", "all"}, From: commit, before: before,
		Faults: []fault{{At: upgradeAt, Kind: upgrade}},
	}, out)
}

// upgrade replaces each server by a server of this commit, once its predecessor is
// healthy.
func (s *servers) upgrade(ctx context.Context) error {
	for number := range s.roles {
		s.mu.Lock()
		s.programs[number].path = s.path
		s.mu.Unlock()
		old := s.process(number)
		if old == nil {
			return errDown
		}
		old.Signal(syscall.SIGTERM)
		if err := errors.Join(old.Wait(ctx), s.waitServer(ctx, number)); err != nil {
			return err
		}
	}
	return nil
}

// busy is the problem type of a refusal by a server without room.
const busy = "/problems/temporary-reduced-capacity"

// checkUpgrade: a caller that turns to another server, where its own isn't there, is
// served.
func (j *judge) checkUpgrade() {
	if !j.Upgraded {
		return
	}
	for _, c := range j.Calls {
		served := c.acknowledged() || c.Status == http.StatusServiceUnavailable && c.Problem == busy
		j.hold(served, "an upgrade fails no call", "", "call %q to server %d got %d %s", c.Text, c.Server, c.Status, c.Problem)
	}
}
