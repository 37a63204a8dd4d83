package dbtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Cluster is a Postgres of a test's own, which it may crash.
type Cluster struct {
	URL    string
	root   string // of the checkout
	folder string
	port   string
	of     string // the port of its primary, if it was made as a standby
	size   string // of the file system of its own that it lies on, if it does
}

// NewCluster starts a Postgres with an empty database, which is gone when the
// test ends.
func NewCluster(t testing.TB) *Cluster {
	t.Helper()
	return newCluster(t, "", "")
}

// NewClusterOnDisk is NewCluster on a file system of its own, which may be full. The
// test is skipped where none may be mounted, which `make test` says.
func NewClusterOnDisk(t testing.TB) *Cluster {
	t.Helper()
	folder := t.TempDir()
	if exec.Command("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder).Run() != nil {
		t.Skip("no file system may be mounted here")
	}
	if err := exec.Command("umount", folder).Run(); err != nil {
		t.Fatalf("unmounting: %v", err)
	}
	return newCluster(t, "", "1g")
}

// Fill leaves no room on the file system.
func (c *Cluster) Fill(t testing.TB) {
	t.Helper()
	c.script(t, "fill")
}

// Free makes room again. It starts a Postgres that the full disk ended, as happens where
// its log finds no room.
func (c *Cluster) Free(t testing.TB) {
	t.Helper()
	c.script(t, "free")
	c.Start(t)
}

// NewStandby starts a standby of c, which can't be written until it is promoted.
func (c *Cluster) NewStandby(t testing.TB) *Cluster {
	t.Helper()
	return newCluster(t, c.port, "")
}

func newCluster(t testing.TB, primary, size string) *Cluster {
	t.Helper()
	port := freePort(t)
	c := &Cluster{
		URL:  fmt.Sprintf("postgres://ringback:ringback@127.0.0.1:%s/ringback?sslmode=disable", port),
		root: checkout(t), folder: ".postgres-test-" + port, port: port, of: primary, size: size,
	}
	t.Cleanup(func() { c.script(t, "clean") })
	c.Start(t)
	return c
}

// Set changes a setting of the server for all sessions, open sessions included; an empty
// value takes it back.
func (c *Cluster) Set(t testing.TB, setting, value string) {
	t.Helper()
	change := "ALTER SYSTEM RESET " + setting
	if value != "" {
		change = fmt.Sprintf("ALTER SYSTEM SET %s = '%s'", setting, value)
	}
	for _, sql := range []string{change, "SELECT pg_reload_conf()"} {
		c.Execute(t, sql)
	}
}

// Execute runs a statement, regardless of the server's settings.
func (c *Cluster) Execute(t testing.TB, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), c.URL+"&default_transaction_read_only=off&synchronous_commit=local")
	if err != nil {
		t.Fatalf("connecting to %s: %v", sql, err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Start starts it, and waits until it has recovered.
func (c *Cluster) Start(t testing.TB) {
	t.Helper()
	c.script(t, "up")
}

// Stop stops it as an operator does: sessions are broken off, all is written.
func (c *Cluster) Stop(t testing.TB) {
	t.Helper()
	c.script(t, "down")
}

// Crash ends the server at once, as pg_ctl stop -m immediate does: commits have to be
// recovered from its log.
func (c *Cluster) Crash(t testing.TB) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(c.root, c.folder, "data", "postmaster.pid"))
	if err != nil {
		t.Fatalf("looking for the postmaster: %v", err)
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatalf("looking for the postmaster: %v", err)
	}
	if err := syscall.Kill(pid, syscall.SIGQUIT); err != nil {
		t.Fatalf("crashing the postmaster: %v", err)
	}
	c.script(t, "down") // waits for it
}

// CrashBackend ends a session as a fault of Postgres does. The postmaster then ends all
// others, recovers, and goes on.
func (c *Cluster) CrashBackend(t testing.TB) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), c.URL)
	if err != nil {
		t.Fatalf("connecting to crash: %v", err)
	}
	defer conn.Close(context.Background())
	if err := syscall.Kill(int(conn.PgConn().PID()), syscall.SIGKILL); err != nil {
		t.Fatalf("crashing a backend: %v", err)
	}
	if _, err := conn.WaitForNotification(t.Context()); err == nil {
		t.Fatal("got a notification from a backend that was killed")
	}
	c.Start(t) // waits for it
}

func (c *Cluster) script(t testing.TB, what string) {
	t.Helper()
	command := exec.Command(filepath.Join(c.root, "scripts", "postgres.sh"), what)
	command.Env = append(withoutDatabase(), "POSTGRES_FOLDER="+c.folder, "POSTGRES_PORT="+c.port, "POSTGRES_PRIMARY="+c.of, "POSTGRES_SIZE="+c.size)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("scripts/postgres.sh %s: %v\n%s", what, err, out)
	}
}

// withoutDatabase is the environment but for the database that the tests use.
func withoutDatabase() (environment []string) {
	for _, setting := range os.Environ() {
		if !strings.HasPrefix(setting, "DATABASE_URL=") {
			environment = append(environment, setting)
		}
	}
	return environment
}

// freePort returns a port that is free, below the ports that the kernel gives to
// connections meanwhile.
func freePort(t testing.TB) string {
	t.Helper()
	for range 100 {
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(12_000)))
		if err != nil {
			continue
		}
		defer listener.Close()
		return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	}
	t.Fatal("found no free port")
	return ""
}

// checkout is the folder with go.mod. Tests run in their package's folder.
func checkout(t testing.TB) string {
	t.Helper()
	folder, err := os.Getwd()
	for ; err == nil; folder = filepath.Dir(folder) {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return folder
		}
		if folder == filepath.Dir(folder) {
			break
		}
	}
	t.Fatalf("no go.mod above the test's folder (%v)", err)
	return ""
}
