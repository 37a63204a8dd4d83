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
	"ringback/jobs/limit":       {},
	"ringback/jobs/tracing":     {},
	"ringback/jobs/upkeep":      {"ringback/db"},
	"ringback/jobs/pacing":      {"ringback/db", "ringback/jobs/limit", "ringback/jobs/webhook"},
	"ringback/jobs":             {"ringback/jobs/upkeep", "ringback/db", "ringback/db/batch", "ringback/work", "ringback/jobs/limit", "ringback/jobs/pacing", "ringback/jobs/tracing", "ringback/jobs/webhook", "ringback/jobs/clients"},
	"ringback/api":              {"ringback/db", "ringback/db/batch", "ringback/jobs", "ringback/work", "ringback/jobs/limit", "ringback/jobs/tracing", "ringback/jobs/webhook", "ringback/jobs/clients"},
	"ringback/api/contract":     {},
	"ringback/cmd/server":       {"ringback/cmd/server/cli", "ringback/cmd/server/console", "ringback/api", "ringback/db", "ringback/jobs", "ringback/work", "ringback/work/fingerprint", "ringback/work/upstream", "ringback/jobs/limit", "ringback/jobs/pacing", "ringback/jobs/tracing", "ringback/jobs/webhook", "ringback/jobs/clients"},
	"ringback/cmd/receiver":     {},
	"ringback/cmd/storm":        {"ringback/cmd/internal/load", "ringback/cmd/internal/receivers", "ringback/cmd/internal/sample", "ringback/cmd/internal/uplot"},
	"ringback/cmd/bench":        {"ringback/cmd/internal/load", "ringback/cmd/internal/postgres", "ringback/cmd/internal/program", "ringback/cmd/internal/receivers", "ringback/cmd/internal/sample"},
	"ringback/cmd/chaos":        {"ringback/cmd/internal/load", "ringback/cmd/internal/postgres", "ringback/cmd/internal/program", "ringback/cmd/internal/receivers", "ringback/cmd/internal/sample", "ringback/work"},
	"ringback/cmd/demo":         {"ringback/cmd/internal/load", "ringback/cmd/internal/postgres", "ringback/cmd/internal/program", "ringback/cmd/internal/receivers", "ringback/cmd/internal/sample"},

	"ringback/cmd/internal/load":      {"ringback/cmd/internal/receivers"},
	"ringback/cmd/internal/postgres":  {},
	"ringback/cmd/internal/program":   {},
	"ringback/cmd/internal/receivers": {},
	"ringback/cmd/internal/sample":    {"ringback/cmd/internal/load", "ringback/work/fingerprint"},
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

func TestImportRules(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "ringback/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		allowed, known := importRules[fields[0]]
		if !known {
			t.Errorf("%s is not in the rules", fields[0])
		}
		for _, imported := range fields[1:] {
			if strings.HasPrefix(imported, "ringback/") && !slices.Contains(allowed, imported) {
				t.Errorf("%s imports %s, which the rules don't allow", fields[0], imported)
			}
			for module, homes := range confined {
				if strings.HasPrefix(imported, module) && !slices.Contains(homes, fields[0]) {
					t.Errorf("%s imports %s, which belongs to %s alone", fields[0], imported, homes)
				}
			}
		}
	}
}
