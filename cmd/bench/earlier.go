package main

import (
	"context"

	"ringback/cmd/internal/program"
)

// beforeHandOver is the last commit whose jobs all waited for River to fetch
// them.
const beforeHandOver = "2e258fb9023d451809e3e48e97637def0738fa29"

// buildBefore builds the server of the earlier commit for the comparison, into a folder.
// Where the clone doesn't hold that commit, the comparison is left out.
func (b *bench) buildBefore(ctx context.Context, folder string) error {
	if b.against == "" || !b.wants("e2e") {
		return nil
	}
	commit, err := program.FindCommit(ctx, ".", b.against)
	if err != nil {
		b.say("e2e_ratio_before is left out: this clone doesn't hold the commit %s (-against)", b.against)
		return ctx.Err()
	}
	b.say("building the server of %.12s, to compare with", commit)
	b.before, err = program.BuildEarlier(ctx, ".", commit, folder)
	return err
}
