package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Imports point one way. Each package may import only the packages of this module that
// its line lists; a package without a line may not exist.
var importRules = map[string][]string{
	"ringback/work":             {},
	"ringback/work/fingerprint": {"ringback/work"},
	"ringback/work/upstream":    {"ringback/work", "ringback/jobs/webhook"},
	"ringback/jobs/webhook":     {},
	"ringback/jobs/clients":     {"ringback/db", "ringback/jobs/webhook"},
	"ringback/db":               {},
	"ringback/db/batch":         {},
	"ringback/db/dbtest":        {"ringback/db"},
	"ringback/internal/bubble":  {},
	"ringback/jobs/limit":       {},
	"ringback/jobs/tracing":     {},
	"ringback/jobs/upkeep":      {"ringback/db"},
	"ringback/jobs/flow":        {"ringback/db", "ringback/jobs/limit", "ringback/work"},
	"ringback/jobs/pacing":      {"ringback/db", "ringback/jobs/limit", "ringback/jobs/webhook"},
	"ringback/jobs":             {"ringback/jobs/upkeep", "ringback/jobs/flow", "ringback/db", "ringback/db/batch", "ringback/work", "ringback/jobs/limit", "ringback/jobs/pacing", "ringback/jobs/tracing", "ringback/jobs/webhook", "ringback/jobs/clients"},
	"ringback/api":              {"ringback/db", "ringback/db/batch", "ringback/jobs", "ringback/jobs/flow", "ringback/work", "ringback/jobs/limit", "ringback/jobs/tracing", "ringback/jobs/webhook", "ringback/jobs/clients"},
	"ringback/api/contract":     {},
	"ringback/cmd/server":       {"ringback/cmd/server/cli", "ringback/cmd/server/console", "ringback/api", "ringback/db", "ringback/jobs", "ringback/work", "ringback/work/fingerprint", "ringback/work/upstream", "ringback/jobs/limit", "ringback/jobs/pacing", "ringback/jobs/tracing", "ringback/jobs/webhook", "ringback/jobs/clients"},
	"ringback/cmd/receiver":     {},
	"ringback/cmd/storm":        {"ringback/cmd/internal/load", "ringback/cmd/internal/receivers", "ringback/cmd/internal/sample", "ringback/cmd/internal/uplot"},
	"ringback/cmd/bench":        {"ringback/cmd/internal/load", "ringback/cmd/internal/postgres", "ringback/cmd/internal/program", "ringback/cmd/internal/receivers", "ringback/cmd/internal/sample", "ringback/cmd/internal/stage"},
	"ringback/cmd/chaos":        {"ringback/cmd/internal/load", "ringback/cmd/internal/postgres", "ringback/cmd/internal/program", "ringback/cmd/internal/receivers", "ringback/cmd/internal/sample", "ringback/cmd/internal/stage", "ringback/work"},
	"ringback/cmd/demo":         {"ringback/cmd/internal/load", "ringback/cmd/internal/postgres", "ringback/cmd/internal/program", "ringback/cmd/internal/receivers", "ringback/cmd/internal/sample", "ringback/cmd/internal/stage"},

	"ringback/cmd/internal/load":      {"ringback/cmd/internal/receivers"},
	"ringback/cmd/internal/postgres":  {},
	"ringback/cmd/internal/program":   {},
	"ringback/cmd/internal/receivers": {},
	"ringback/cmd/internal/sample":    {"ringback/cmd/internal/load", "ringback/cmd/internal/receivers", "ringback/work/fingerprint"},
	"ringback/cmd/internal/stage":     {"ringback/cmd/internal/load", "ringback/cmd/internal/postgres"},
	"ringback/cmd/internal/uplot":     {},
	"ringback/cmd/server/cli":         {},
	"ringback/cmd/server/console":     {"ringback/cmd/internal/uplot", "ringback/db", "ringback/jobs", "ringback/jobs/limit", "ringback/jobs/pacing"},
}

// confined are modules that only these packages may import.
var confined = map[string][]string{
	"github.com/gin-gonic/gin":          {"ringback/api"},
	"github.com/golang-migrate/migrate": {"ringback/db"},
	"go.opentelemetry.io":               {"ringback/jobs/tracing"},
}

// confinedInTests are packages that only the tests of these packages may import.
var confinedInTests = map[string][]string{
	"testing/synctest": {}, // internal/bubble stands for it
}

func TestImportRules(t *testing.T) {
	t.Parallel()
	for path, imports := range listed(t, `{{join .Imports " "}}`) {
		allowed, known := importRules[path]
		if !known {
			t.Errorf("%s is not in the rules", path)
		}
		for _, imported := range imports {
			if strings.HasPrefix(imported, "ringback/") && !slices.Contains(allowed, imported) {
				t.Errorf("%s imports %s, which the rules don't allow", path, imported)
			}
		}
		testConfined(t, path, imports, confined)
	}
	for path, imports := range listed(t, `{{join .TestImports " "}} {{join .XTestImports " "}}`) {
		testConfined(t, path, imports, confinedInTests)
	}
}

// listed are the packages of this module with the words that go list prints for each.
func listed(t *testing.T, format string) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} "+format, "ringback/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		packages[fields[0]] = fields[1:]
	}
	return packages
}

func testConfined(t *testing.T, path string, imports []string, confined map[string][]string) {
	t.Helper()
	for _, imported := range imports {
		for module, homes := range confined {
			if strings.HasPrefix(imported, module) && !slices.Contains(homes, path) {
				t.Errorf("%s imports %s, which belongs to %s alone", path, imported, homes)
			}
		}
	}
}
