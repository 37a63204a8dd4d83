package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"ringback/db/dbtest"
	"ringback/work/fingerprint"
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
	for _, file := range []string{"alerts.yaml", "alerts_test.yaml", "dashboard.json", "RUNBOOK.md", "kubernetes/ringback.yaml"} {
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

// manifest is what the test below reads of a Kubernetes object.
type manifest struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		Selector map[string]any
		Ports    []struct {
			TargetPort string `yaml:"targetPort"`
		}
		ScaleTargetRef struct{ Kind, Name string } `yaml:"scaleTargetRef"`
		Template       struct {
			Metadata struct{ Labels, Annotations map[string]string }
			Spec     struct {
				Grace      int `yaml:"terminationGracePeriodSeconds"`
				Containers []container
			}
		}
	}
}

type container struct {
	Args  []string
	Env   []struct{ Name, Value string }
	Ports []struct {
		Name string
		Port int `yaml:"containerPort"`
	}
	Startup   probed `yaml:"startupProbe"`
	Liveness  probed `yaml:"livenessProbe"`
	Readiness probed `yaml:"readinessProbe"`
}

type probed struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

func readManifests(t *testing.T) (manifests []manifest) {
	t.Helper()
	for decoder := yaml.NewDecoder(strings.NewReader(readOperate(t, "kubernetes/ringback.yaml"))); ; {
		var one manifest
		if err := decoder.Decode(&one); errors.Is(err, io.EOF) {
			return manifests
		} else if err != nil {
			t.Fatal(err)
		}
		manifests = append(manifests, one)
	}
}

// selects tells whether a selector, with or without matchLabels, finds pods of a template.
func selects(selector map[string]any, labels map[string]string) bool {
	if match, ok := selector["matchLabels"].(map[string]any); ok {
		selector = match
	}
	for name, value := range selector {
		if labels[name] != value {
			return false
		}
	}
	return len(selector) > 0
}

// What a cluster would tell, or would not: that objects name each other, and the ports and
// probes of the program.
func TestManifestsFitTogether(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	config, err := readConfig(nil, options{dev: true}, works)
	if err != nil {
		t.Fatal(err)
	}
	manifests := readManifests(t)
	deployments := map[string]manifest{}
	ports := map[string]map[string]int{} // of each deployment, by name
	for _, m := range manifests {
		if m.Kind != "Deployment" {
			continue
		}
		deployments[m.Metadata.Name], ports[m.Metadata.Name] = m, map[string]int{}
		pod := m.Spec.Template
		if !selects(m.Spec.Selector, pod.Metadata.Labels) {
			t.Errorf("%s selects other pods than its own", m.Metadata.Name)
		}
		if stop := longestStop(config.StopTimeout); time.Duration(pod.Spec.Grace)*time.Second < stop {
			t.Errorf("%s gives %d s to stop, want at least %v", m.Metadata.Name, pod.Spec.Grace, stop)
		}
		one := pod.Spec.Containers[0]
		for _, port := range one.Ports {
			ports[m.Metadata.Name][port.Name] = port.Port
		}
		for _, probe := range []probed{one.Startup, one.Liveness, one.Readiness} {
			if got := p.probe(probe.HTTPGet.Path); got != http.StatusOK || ports[m.Metadata.Name][probe.HTTPGet.Port] == 0 {
				t.Errorf("%s: probe of %+v: got %d, want 200 at a port that it has", m.Metadata.Name, probe.HTTPGet, got)
			}
		}
		listens := map[string]string{"HTTP_ADDR": "http", "METRICS_ADDR": "metrics"}
		for _, variable := range one.Env {
			if name := listens[variable.Name]; name != "" && variable.Value != fmt.Sprintf("0.0.0.0:%d", ports[m.Metadata.Name][name]) {
				t.Errorf("%s: %s is %s, want the port %s", m.Metadata.Name, variable.Name, variable.Value, name)
			}
		}
		if got := pod.Metadata.Annotations["prometheus.io/port"]; got != fmt.Sprint(ports[m.Metadata.Name]["metrics"]) {
			t.Errorf("%s: is scraped at port %s, want the port of its metrics", m.Metadata.Name, got)
		}
		if role := strings.Join(one.Args, " "); !slices.Contains([]string{"--role=api", "--role=worker", "--role=all"}, role) {
			t.Errorf("%s: got arguments %q, want a role", m.Metadata.Name, role)
		}
	}
	if len(deployments) != 2 {
		t.Errorf("got %d deployments, want two", len(deployments))
	}
	found := func(m manifest) (names []string) {
		for name, deployment := range deployments {
			if selects(m.Spec.Selector, deployment.Spec.Template.Metadata.Labels) {
				names = append(names, name)
			}
		}
		return names
	}
	for _, m := range manifests {
		switch m.Kind {
		case "Service":
			names := found(m)
			if len(names) != 1 || ports[names[0]][m.Spec.Ports[0].TargetPort] == 0 {
				t.Errorf("the service finds %v at %+v, want a port of one deployment", names, m.Spec.Ports)
			}
		case "PodDisruptionBudget":
			if names := found(m); len(names) != 1 {
				t.Errorf("the budget %s finds %v, want one deployment", m.Metadata.Name, names)
			}
		case "HorizontalPodAutoscaler":
			if _, is := deployments[m.Spec.ScaleTargetRef.Name]; !is || m.Spec.ScaleTargetRef.Kind != "Deployment" {
				t.Errorf("the autoscaler scales %+v, which isn't there", m.Spec.ScaleTargetRef)
			}
		}
	}
}

// systemd and compose, too, wait for as long as a drain may take.
func TestUnitsWaitForADrain(t *testing.T) {
	t.Parallel()
	config, err := readConfig(nil, options{dev: true}, works)
	if err != nil {
		t.Fatal(err)
	}
	compose, err := os.ReadFile("../../compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, server, _ := strings.Cut(string(compose), "\n  server:\n")
	for what, match := range map[string][]string{
		"ringback.service": regexp.MustCompile(`(?m)^TimeoutStopSec=(\d+)$`).FindStringSubmatch(readOperate(t, "ringback.service")),
		"compose.yaml":     regexp.MustCompile(`(?m)^    stop_grace_period: (\d+)s$`).FindStringSubmatch(server),
	} {
		if stop := longestStop(config.StopTimeout); match == nil {
			t.Errorf("%s says nothing of how long a stop may take", what)
		} else if waits, err := time.ParseDuration(match[1] + "s"); err != nil || waits < stop {
			t.Errorf("%s waits %v for a stop, %v, want at least %v", what, waits, err, stop)
		}
	}
}
