package main

import (
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The Go that is used here can be given another clock.
func TestSkewedNow(t *testing.T) {
	t.Parallel()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go"))
	if err != nil {
		t.Fatal(err)
	}
	changed, err := skewedNow(string(source))
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{changed, aheadSource} {
		if _, err := parser.ParseFile(token.NewFileSet(), "time.go", source, parser.SkipObjectResolution); err != nil {
			t.Error(err)
		}
	}
	if _, err := skewedNow("package time\n"); err == nil {
		t.Error("a source without time.Now was changed")
	}
}
