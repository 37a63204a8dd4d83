package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func readOperate(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile("../../scripts/operate/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// metricName finds the metrics that a file names.
var metricName = regexp.MustCompile(`\bringback_[a-z_]+`)

func TestAlertsAndDashboardNameMetricsThatExist(t *testing.T) {
	t.Parallel()
	p, _, _, _ := withRequests(t)
	refused := p.accept(t, `{"text":"x"}`, "http://127.0.0.1:1/")
	p.waitFor(t, refused, "attempted", func(r request) bool { return len(r.Attempts) > 0 })
	served := p.readMetrics(t)
	for _, file := range []string{"alerts.yaml", "alerts_test.yaml", "dashboard.json", "RUNBOOK.md"} {
		for _, name := range metricName.FindAllString(readOperate(t, file), -1) {
			family := strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count")
			if !strings.Contains(served, "# TYPE "+family+" ") {
				t.Errorf("%s names %s, which no server serves", file, name)
			}
		}
	}
}

func TestRunbookHasEachAlert(t *testing.T) {
	t.Parallel()
	runbook, alerts := readOperate(t, "RUNBOOK.md"), readOperate(t, "alerts.yaml")
	names := regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(alerts, -1)
	if len(names) < 10 {
		t.Fatalf("got %d alerts", len(names))
	}
	for _, name := range names {
		if !strings.Contains(runbook, "\n### "+name[1]+"\n") {
			t.Errorf("the runbook has no paragraph for %s", name[1])
		}
		if !strings.Contains(readOperate(t, "alerts_test.yaml"), "alertname: "+name[1]) {
			t.Errorf("no test shows when %s fires", name[1])
		}
		if !regexp.MustCompile(`alerts?: [\w, ]*\b` + name[1] + `\b`).MatchString(readOperate(t, "dashboard.json")) {
			t.Errorf("no panel of the dashboard shows what %s is about", name[1])
		}
	}
	for _, paragraph := range regexp.MustCompile(`(?m)^### (\w+)$`).FindAllStringSubmatch(runbook, -1) {
		if !strings.Contains(alerts, "alert: "+paragraph[1]+"\n") {
			t.Errorf("the runbook has %s, which is no alert", paragraph[1])
		}
	}
}

func TestManifestsNameSettingsThatExist(t *testing.T) {
	t.Parallel()
	settings := settingsTable()
	for file, form := range map[string]string{
		"kubernetes/ringback.yaml": `(?:\{name: |--from-literal=)([A-Z_]+)[,=]`,
		"ringback.service":         `# (?:.*[ ,])?(DATABASE_URL|SECRETS_KEY|HTTP_ADDR|METRICS_ADDR)\b`,
	} {
		found := regexp.MustCompile(form).FindAllStringSubmatch(readOperate(t, file), -1)
		if len(found) == 0 {
			t.Errorf("%s names no setting", file)
		}
		for _, name := range found {
			if !strings.Contains(settings, "`"+name[1]+"`") {
				t.Errorf("%s sets %s, which is no setting", file, name[1])
			}
		}
	}
}
