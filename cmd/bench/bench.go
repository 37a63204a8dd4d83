package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// bench is a run of the whole program.
type bench struct {
	options
	self    string // path of this program, which is river, too
	before  string // path of an earlier commit's server, empty where there is none
	cluster *cluster
	figures figures
	out     io.Writer
}

// part is a group of measurements that can be run alone.
type part struct {
	name string // as -only takes it
	what string
	run  func(*bench, context.Context) error
}

func parts() []part {
	return []part{
		{"accept", "accept through HTTP, no workers", (*bench).measureAccept},
		{"e2e", "accepted to delivered, at saturation", (*bench).measureEndToEnd},
		{"ordered", "with ordering keys, against without", (*bench).measureOrdered},
		{"rates", "acknowledgement, callback and CPU at fixed rates", (*bench).measureRates},
		{"timing", "callback at half of the rate at saturation", (*bench).measureTiming},
		{"storm", "more than the capacity", (*bench).measureStorm},
		{"broken", "callbacks to others while thousands to a broken receiver are queued", (*bench).measureBroken},
		{"attacks", "answers and callbacks of one client while another attacks it", (*bench).measureAttacks},
		{"ordinary", "callbacks to an ordinary receiver, against a receiver that the operator allowed", (*bench).measureOrdinary},
		{"backlog", "requests accepted before the first worker starts", (*bench).measureBacklog},
		{"upstream", "work that an HTTP service does, which is there, away, or takes its time", (*bench).measureUpstream},
		{"snapshot", "beside a transaction that has read and stays open", (*bench).measureSnapshot},
		{"growth", "with finished requests in the table", (*bench).measureGrowth},
		{"retention", "while old requests are removed", (*bench).measureRetention},
	}
}

func partNames() (names []string) {
	for _, part := range parts() {
		names = append(names, part.name)
	}
	return names
}

// measure runs the parts in turn, prints the table and writes the figures,
// also of a run that ended early.
func measure(ctx context.Context, options options, out io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding the program itself: %w", err)
	}
	cluster, err := openCluster(ctx, options.databaseURL)
	if err != nil {
		return err
	}
	defer cluster.Close()
	b := &bench{options: options, self: self, cluster: cluster, figures: figures{}, out: out}
	folder, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return fmt.Errorf("making a folder for an earlier server: %w", err)
	}
	defer os.RemoveAll(folder)
	if err := b.buildBefore(ctx, folder); err != nil {
		return err
	}
	start := time.Now()
	err = b.runParts(ctx)
	b.say("took %s", time.Since(start).Round(time.Second))
	b.figures.print(out)
	if options.out != "" {
		if err := b.figures.write(options.out, b.circumstances(start)); err != nil {
			return err
		}
	}
	return err
}

func (b *bench) runParts(ctx context.Context) error {
	for _, part := range parts() {
		if !b.wants(part.name) {
			continue
		}
		b.say("%s: %s", part.name, part.what)
		if err := part.run(b, ctx); err != nil {
			return fmt.Errorf("measuring %s: %w", part.name, err)
		}
	}
	return nil
}

// wants tells whether a part is to be run.
func (b *bench) wants(part string) bool { return len(b.only) == 0 || slices.Contains(b.only, part) }

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.out, format+"\n", args...)
}

// leaveOut says that a part is none of the plan.
func (b *bench) leaveOut() error {
	b.say("  left out")
	return nil
}

// rounds calls measure for every repetition. Inside it the variants take turns, so that
// other activity of the machine affects all variants.
func rounds(repeat int, measure func() error) error {
	for range repeat {
		if err := measure(); err != nil {
			return err
		}
	}
	return nil
}
