package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

func TestCompare(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	a, b, c := filepath.Join(directory, "a.json"), filepath.Join(directory, "b.json"), filepath.Join(directory, "c.json")
	service := start(t, &service{})
	runStorm(t, against(service)...).want(t, exitOK)
	for file, rate := range map[string]string{a: "100", b: "200"} {
		var stdout, stderr bytes.Buffer
		args := []string{"-target", service.url, "-duration", "200ms", "-rate", rate, "-json", file}
		if status := run(t.Context(), args, os.Getenv, &stdout, &stderr); status != exitOK {
			t.Fatalf("status %d: %s", status, stderr.String())
		}
	}
	if err := os.WriteFile(c, []byte(`{"name":"something else"}`), 0o600); err != nil {
		t.Fatal(err)
	}

	t.Run("two reports", func(t *testing.T) {
		output := runStormPlainly(t, "compare", a, b)
		output.want(t, exitOK, "B/A", "async.time_to_callback_ms.p99", "Not alike: rate 100 and 200")
		row := regexp.MustCompile(`offered_rate +100\.00 +200\.00 +2\.00\n`)
		if !row.MatchString(output.stdout) {
			t.Errorf("no row like %s in\n%s", row, output.stdout)
		}
	})

	t.Run("not a report", func(t *testing.T) {
		runStormPlainly(t, "compare", a, c).want(t, exitUsage, "not a report of storm")
		runStormPlainly(t, "compare", a, filepath.Join(directory, "none")).want(t, exitUsage, "no such file")
	})

	t.Run("not two files", func(t *testing.T) {
		runStormPlainly(t, "compare", a).want(t, exitUsage, compareUsage)
	})
}

// runStormPlainly runs a command that writes no report.
func runStormPlainly(t *testing.T, args ...string) output {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), args, func(string) string { return "" }, &stdout, &stderr)
	return output{status: status, stdout: stdout.String(), stderr: stderr.String()}
}
