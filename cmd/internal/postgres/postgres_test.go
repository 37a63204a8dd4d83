package postgres

import (
	"fmt"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"ringback/db/dbtest"
)

func TestDatabases(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), dbtest.NewEmpty(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	name := fmt.Sprintf("laboratory_%d", os.Getpid())
	first, err := s.Create(t.Context(), name, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Execute(t.Context(), "CREATE TABLE marks (n int)", "INSERT INTO marks VALUES (7)"); err != nil {
		t.Fatal(err)
	}
	copied, err := s.Create(t.Context(), name+"_copy", first.Name)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	read := func(conn *pgx.Conn) error { return conn.QueryRow(t.Context(), "SELECT n FROM marks").Scan(&n) }
	if err := copied.Connect(t.Context(), read); err != nil || n != 7 {
		t.Errorf("in the copy: got %d, %v, want 7", n, err)
	}
	for _, d := range []Database{first, copied} {
		if err := s.Drop(t.Context(), d); err != nil {
			t.Errorf("dropping %s: %v", d.Name, err)
		}
		if d.Connect(t.Context(), read) == nil {
			t.Errorf("%s is still there", d.Name)
		}
	}
	if err := Execute(t.Context(), s, "SELECT 1", "no SQL"); err == nil {
		t.Error("what is no SQL: got no error")
	}
}

func TestOpenRefusesWhatIsNoURL(t *testing.T) {
	t.Parallel()
	if _, err := Open(t.Context(), "host=here"); err == nil {
		t.Error("got no error")
	}
}
