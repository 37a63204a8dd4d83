package jobs

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"ringback/db/batch"
)

func TestPasses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err  error
		want bool
	}{
		{batch.ErrFull, true},
		{batch.ErrLarge, true},
		{batch.ErrLate, true},
		{batch.ErrStopped, true}, // another process takes the job up
		{&pgconn.PgError{Code: "57P01"}, true},
		{io.ErrUnexpectedEOF, true},
		{&pgconn.PgError{Code: "23514"}, false},
		{&pgconn.PgError{Code: "23514", ConstraintName: "made_by_hand"}, true},
		{&fault{"the callback can't be signed", errors.New("no key")}, false},
	} {
		if got := passes(fmt.Errorf("settling: %w", test.err)); got != test.want {
			t.Errorf("passes(%v): got %v, want %v", test.err, got, test.want)
		}
	}
}
