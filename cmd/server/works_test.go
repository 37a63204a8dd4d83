package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// ownWorks is a works.go with another kind of work, without the sample.
const ownWorks = `package main

import (
	"context"
	"strings"

	"ringback/work"
)

type words struct {
	Text string ` + "`json:\"text\"`" + `
}

func shout(_ context.Context, in words) (words, error) { return words{strings.ToUpper(in.Text)}, nil }

var works = work.Set{"shout": work.Typed(shout)}

const defaultWork = "shout"
`

func TestEverythingBuildsWithOtherWork(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	own, overlay := filepath.Join(t.TempDir(), "works.go"), filepath.Join(t.TempDir(), "overlay.json")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, "cmd/server/works.go"): own}})
	if err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string][]byte{own: []byte(ownWorks), overlay: replace} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command := exec.Command("go", "build", "-tags", "nomsgpack", "-overlay", overlay, "-o", t.TempDir()+"/", "./...")
	command.Dir = root
	if out, err := command.CombinedOutput(); err != nil {
		t.Errorf("go build ./...: %v\n%s", err, out)
	}
}
