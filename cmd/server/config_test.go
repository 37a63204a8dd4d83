package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"ringback/jobs/webhook"
)

func TestReadConfig(t *testing.T) {
	t.Parallel()
	const key, other = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODk="
	tests := []struct {
		name    string
		environ []string
		options options
		want    []string // part of the error; empty for none
	}{
		{"Defaults", nil, options{}, []string{"SECRETS_KEY must be set", "PLAIN_SECRETS"}},
		{"PlainSecrets", []string{"PLAIN_SECRETS=true"}, options{}, nil},
		{"PlainSecretsMaybe", []string{"PLAIN_SECRETS=maybe"}, options{}, []string{"PLAIN_SECRETS must be true or false"}},
		{"AddingAClientWithoutAKey", nil, options{}, []string{"SECRETS_KEY must be set"}},
		{"ListingClientsWithoutAKey", nil, options{readsOnly: true}, nil},
		{"MigratingWithoutAKey", nil, options{readsOnly: true}, nil},
		{"MetricsAddress", []string{"METRICS_ADDR=0.0.0.0:9090"}, options{dev: true}, nil},
		{"MetricsAddressThatIsNone", []string{"METRICS_ADDR=9090"}, options{dev: true}, []string{"METRICS_ADDR must be host:port"}},
		{"LocalMode", nil, options{dev: true}, nil},
		{"PublicAddress", []string{"SECRETS_KEY=" + key, "HTTP_ADDR=0.0.0.0:8080"}, options{}, nil},
		{"SecretsKeys", []string{"SECRETS_KEY=" + key + ", " + other}, options{}, nil},
		{"NoAdminPages", []string{"SECRETS_KEY=" + key, "ADMIN_ADDR=none"}, options{}, nil},
		{"PublicAddressInLocalMode", []string{"HTTP_ADDR=0.0.0.0:8080"}, options{dev: true}, []string{"loopback address with --dev"}},
		{"PublicAdminAddress", []string{"ADMIN_ADDR=0.0.0.0:8081"}, options{}, []string{"ADMIN_ADDR must be a loopback"}},
		{"ShortSecretsKey", []string{"SECRETS_KEY=" + key + ",c2hvcnQ="}, options{}, []string{"SECRETS_KEY must be 32 bytes in base64"}},
		{
			"SeveralMistakes",
			[]string{"WORKERS=0", "WORK_LIMIT=0", "ASYNC_LIMIT=-1", "WORK_TIMEOUT=0s", "RETENTION=1s", "STOP_TIMEOUT=0s", "CLIENT_RATE=0", "CLIENT_UNFINISHED=0", "DESTINATION_UNFINISHED=0", "CLIENT_STORAGE=0", "CLIENT_DEAD_LETTERS=0", "DEAD_LETTER_RETENTION=1s", "HTTP_ADDR=x", "CALLBACK_CONSENT=maybe"},
			options{},
			[]string{"WORKERS", "WORK_LIMIT", "ASYNC_LIMIT", "WORK_TIMEOUT", "RETENTION", "STOP_TIMEOUT", "CLIENT_RATE", "CLIENT_UNFINISHED", "DESTINATION_UNFINISHED", "CLIENT_STORAGE", "CLIENT_DEAD_LETTERS", "DEAD_LETTER_RETENTION", "HTTP_ADDR", "CALLBACK_CONSENT"},
		},
		{"SecretsKeyThatIsNotBase64", []string{"SECRETS_KEY=" + key + "!"}, options{}, []string{"SECRETS_KEY must be 32 bytes in base64"}},
		{"PortOutOfRange", []string{"HTTP_ADDR=127.0.0.1:99999"}, options{}, []string{"HTTP_ADDR must be host:port"}},
		{"DatabaseURL", []string{"DATABASE_URL=postgres://u:hunter2@[", "WORKERS=0"}, options{}, []string{"DATABASE_URL must be", "WORKERS must be"}},
		{"SomeThatParseAndSomeThatDoNot", []string{"WORKERS=-1", "WORK_TIMEOUT=5", "LOG_LEVEL=loud"}, options{}, []string{"WORKERS", "WORK_TIMEOUT", "LOG_LEVEL"}},
		{"CallbackSettings", []string{
			"PUBLIC_HOSTS=API.example.com, 8.8.8.8,2a00:1450::8", "CALLBACK_PORTS=80, 9000", "CALLBACK_ALLOW_CIDRS=10.0.0.0/8, fd00::/8",
			"CALLBACK_DENY_CIDRS=2a00:64::/96", "CALLBACK_DNS=10.0.0.53, 10.0.0.54:5353,[fd00::53]:53,fd00::54",
		}, options{dev: true}, nil},
		{"CallbackSettingsThatAreNone", []string{
			"PUBLIC_HOSTS=example.com:443", "CALLBACK_PORTS=http", "CALLBACK_ALLOW_CIDRS=10.0.0.1/8", "CALLBACK_DENY_CIDRS=10.0.0.1", "CALLBACK_DNS=dns.example.com", "WORKERS=0",
		}, options{}, []string{"PUBLIC_HOSTS must be", "CALLBACK_PORTS must be", "CALLBACK_ALLOW_CIDRS must be", "CALLBACK_DENY_CIDRS must be", "CALLBACK_DNS must be", "WORKERS must be"}},
		{"CallbackSettingsWithNothingBetweenCommas", []string{
			"PUBLIC_HOSTS=example.com,", "CALLBACK_PORTS=80,,81", "CALLBACK_ALLOW_CIDRS=,", "CALLBACK_DNS=10.0.0.53:0",
		}, options{}, []string{"PUBLIC_HOSTS must be", "CALLBACK_PORTS must be", "CALLBACK_ALLOW_CIDRS must be", "CALLBACK_DNS must be"}},
		{"Traces", []string{
			"OTEL_EXPORTER_OTLP_ENDPOINT=https://collector.example.com/base", "OTEL_EXPORTER_OTLP_HEADERS=authorization=Basic%20eDp5, x=y", "OTEL_TRACES_SAMPLER=parentbased_traceidratio",
			"OTEL_TRACES_SAMPLER_ARG=0.1", "OTEL_RESOURCE_ATTRIBUTES=a=b,c=",
		}, options{dev: true}, nil},
		{
			"TracesByAnotherProtocol",
			[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"},
			options{dev: true},
			[]string{"OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf, not \"grpc\": no other protocol"},
		},
		{"TracesThatCanNotBe", []string{
			"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://c:4318/v1/traces", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json", "OTEL_TRACES_SAMPLER=traceidratio",
			"OTEL_TRACES_SAMPLER_ARG=NaN", "OTEL_EXPORTER_OTLP_HEADERS=hunter2", "OTEL_EXPORTER_OTLP_TRACES_HEADERS=a=hunter2%0A", "OTEL_RESOURCE_ATTRIBUTES=a=%zz", "OTEL_SDK_DISABLED=maybe", "OTEL_TRACES_EXPORTER=zipkin",
		}, options{dev: true}, []string{
			"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL must be", "OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1", "OTEL_EXPORTER_OTLP_HEADERS must be name=value",
			"OTEL_EXPORTER_OTLP_TRACES_HEADERS must be names and values", "OTEL_RESOURCE_ATTRIBUTES must be", "OTEL_SDK_DISABLED must be true or false", "OTEL_TRACES_EXPORTER must be otlp or none",
		}},
		{
			"TracesToNowhere",
			[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://x:hunter2@c:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=c:4318", "OTEL_TRACES_SAMPLER=jaeger_remote"},
			options{dev: true},
			[]string{"OTEL_EXPORTER_OTLP_ENDPOINT must hold no user name", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT must be a URL", "OTEL_TRACES_SAMPLER must be one of always_off, always_on"},
		},
		{"SeveralThatDoNotParse", []string{"WORKERS=many", "WORK_TIMEOUT=soon"}, options{}, []string{"WORKERS must be a whole number", "WORK_TIMEOUT must be a duration"}},
	}
	good, bad := writeTemp(t, `{"summary": {"url": "http://127.0.0.1:9000/", "timeout": "5s", "limit": 8, "retries": 0, "retry_on": [500], "secret": "`+webhook.NewSecret()+`", "schema": {"type": "object"}}}`),
		writeTemp(t, `{"a": {"url": "ftp://x/", "timeout": "soon", "secret": "hunter2", "retries": -1, "retry_on": [404]}, "b": {"url": "http://x/", "colour": 1},
			"fingerprint": {"url": "http://x/"}, "c": {"url": "http://x/", "schema": {"type": "strin"}, "limit": -1}}`)
	tests = append(tests, []struct {
		name    string
		environ []string
		options options
		want    []string
	}{
		{"Upstream", []string{"WORK_URL=https://work.internal/do?x=1", "WORK_SECRET=" + webhook.NewSecret() + "," + webhook.NewSecret()}, options{dev: true}, nil},
		{"Upstreams", []string{"WORKS=" + good, "DEFAULT_WORK=summary"}, options{dev: true}, nil},
		{"UpstreamThatIsNone", []string{"WORK_URL=http://user:hunter2@x/", "WORK_SECRET=hunter2", "WORKERS=0"}, options{}, []string{"WORK_URL must hold no user name", "WORK_SECRET must be", "WORKERS must be"}},
		{"OtherScheme", []string{"WORK_URL=file:///etc/passwd"}, options{}, []string{"WORK_URL must begin with http"}},
		{"NoHost", []string{"WORK_URL=http://:80/"}, options{}, []string{"WORK_URL must name a host"}},
		{"NoPublicURL", []string{"PUBLIC_URL=ringback.internal"}, options{}, []string{"PUBLIC_URL must begin with http"}},
		{"PublicURLWithAQuery", []string{"PUBLIC_URL=https://x/?y"}, options{}, []string{"PUBLIC_URL must have no query"}},
		{"NoPort", []string{"WORK_URL=http://x:99999/"}, options{}, []string{"WORK_URL must have a port"}},
		{"UnknownDefault", []string{"DEFAULT_WORK=none"}, options{}, []string{`DEFAULT_WORK must be one of ["fingerprint"]`}},
		{"NoFile", []string{"WORKS=/none"}, options{}, []string{"WORKS can't be read"}},
		{"NoUpstreamIsListed", []string{"WORKS=" + writeTemp(t, `{}`)}, options{dev: true}, []string{"with one service at least"}},
		{"UpstreamsInAnArray", []string{"WORKS=" + writeTemp(t, `[{"url": "http://x/"}]`)}, options{dev: true}, []string{"with one service at least"}},
		{"UpstreamsThatAreNull", []string{"WORKS=" + writeTemp(t, `null`)}, options{dev: true}, []string{"with one service at least"}},
		{"EveryMistakeOfAnUpstream", []string{"WORKS=" + writeTemp(t, `{
			"a": {"url": "ftp://x/", "tiemout": "5s", "timeout": "0s", "lease": "-1s", "limit": null, "retries": "5", "retry_on": null, "schema": null, "secret": ""},
			"b": {"url": null, "timeout": 5, "lease": null, "limit": -1, "retries": 11, "schema": {"$ref": "http://192.0.2.1/"}, "secret": ["hunter2"]}, "c": null}`)}, options{dev: true}, []string{
			`"tiemout" is not a known field`, `timeout must be a duration above 0, such as "30s"`, `lease must be a duration`, "limit must be a whole number", "retries must be a whole number from 0 to 10",
			"retry_on must be [500] or []", "schema must be a JSON Schema", "secret must be one secret", "url must begin with http", `work "b": `, "url must be a URL", "its limit must be",
			"its retries must be at most 10", "a schema must be whole", `work "c": must be an object`,
		}},
		{"NumbersOfAnUpstreamThatAreWrittenOtherwise", []string{"WORKS=" + writeTemp(t, `{"a": {"url": "http://x/", "limit": 1.0, "retries": 1e1}}`)}, options{dev: true}, []string{
			"limit must be a whole number from 0 to 10000, without a fraction or an exponent", "retries must be a whole number from 0 to 10, without a fraction or an exponent",
		}},
		{"UpstreamsThatAreNone", []string{"WORKS=" + bad, "WORKERS=0"}, options{}, []string{
			`work "a": url must begin`, "timeout must be", "secret must be", "retries must be", "retry_on must be [500]", `work "b"`, "colour",
			`work "fingerprint": the name is taken`, `work "c": its limit`, "the schema is not valid: type", "WORKERS must be",
		}},
	}...)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := readConfig(parsedEnvironment(test.environ...), test.options, works)
			if (err == nil) != (len(test.want) == 0) {
				t.Fatalf("readConfig(%q): got %v, want an error with %q", test.environ, err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("readConfig(%q): got %v, which tells a secret", test.environ, err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("readConfig(%q): got %v, want an error with %q", test.environ, err, want)
				}
			}
			if err != nil && (strings.Contains(err.Error(), key) || strings.Contains(err.Error(), "hunter2")) {
				t.Errorf("the error %q tells a secret", err)
			}
		})
	}
}

func TestFieldsHaveTheNamesOfTheirSettings(t *testing.T) {
	t.Parallel()
	for field := range reflect.TypeFor[Config]().Fields() {
		setting := field.Tag.Get("env")
		if setting != "" && !strings.EqualFold(field.Name, strings.ReplaceAll(setting, "_", "")) {
			t.Errorf("%s is read into %s", setting, field.Name)
		}
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]size{"0": 0, "1500": 1500, "3KiB": 3 << 10, "500MiB": 500 << 20, "20GiB": 20 << 30, "2TiB": 2 << 40, "1048576TiB": 1 << 60} {
		var got size
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "GiB", "-1", "1.5GiB", "20GB", "20 GiB", "1048577TiB", "9223372036854775808"} {
		var got size
		if err := got.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "20GiB") {
			t.Errorf("%q: got %d, %v, want an error that shows the form", text, got, err)
		}
	}
}

func writeTemp(t *testing.T, content string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "works.json")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCallbackPolicy(t *testing.T) {
	t.Parallel()
	config, err := readConfig(parsedEnvironment(
		"PUBLIC_HOSTS=API.example.com,8.8.8.8", "CALLBACK_PORTS=80,9000", "CALLBACK_ALLOW_CIDRS=10.0.0.0/8", "CALLBACK_DENY_CIDRS=10.1.0.0/16", "CALLBACK_DNS=10.0.0.53", "SECRETS_KEY=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
	), options{}, works)
	if err != nil {
		t.Fatal(err)
	}
	policy := callbackPolicy(config)
	for callback, want := range map[string]bool{
		"https://hooks.example.com/": true, "http://hooks.example.com:9000/": true, "http://10.2.0.1:1/": true, "https://8.8.4.4/": true,
		"https://api.example.com/": false, "https://8.8.8.8/": false, "https://10.1.0.1/": false, "https://hooks.example.com:9001/": false, "http://127.0.0.1/": false,
	} {
		if _, err := policy.Check(callback); (err == nil) != want {
			t.Errorf("%s: got %v, want it accepted: %v", callback, err, want)
		}
	}
	if len(policy.Resolvers) != 1 || policy.Resolvers[0].String() != "10.0.0.53:53" {
		t.Errorf("resolvers: got %v, want 10.0.0.53:53", policy.Resolvers)
	}
}

func TestReadmeHasTheSettings(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), settingsTable()) {
		t.Errorf("README.md doesn't hold this table:\n%s", settingsTable())
	}
}

var testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z]*)`")

// manuals are the pages of the project, by path from here.
func manuals(t *testing.T) map[string]string {
	t.Helper()
	found, err := exec.Command("git", "-C", "../..", "ls-files", "*.md").Output()
	if err != nil {
		t.Fatal(err)
	}
	pages := map[string]string{}
	for name := range strings.Lines(string(found)) {
		name = filepath.Join("../..", strings.TrimSpace(name))
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		pages[name] = string(content)
	}
	return pages
}

func TestReadmeNamesTestsThatExist(t *testing.T) {
	t.Parallel()
	files, err := exec.Command("grep", "-rhoE", "--include=*_test.go", "^func (Test|Fuzz)[A-Za-z]+", "../..").Output()
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for page, content := range manuals(t) {
		for _, name := range testName.FindAllStringSubmatch(content, -1) {
			named++
			if !strings.Contains(string(files), "func "+name[1]+"\n") {
				t.Errorf("%s names %s, which doesn't exist", page, name[1])
			}
		}
	}
	if named < 50 {
		t.Errorf("the manuals name %d tests, want the proof of each promise", named)
	}
}

var linkForm = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func TestManualsLinkToWhatIsThere(t *testing.T) {
	t.Parallel()
	pages := manuals(t)
	for page, content := range pages {
		for _, link := range linkForm.FindAllStringSubmatch(content, -1) {
			target, heading, _ := strings.Cut(link[1], "#")
			if strings.Contains(target, ":") {
				continue // another site
			}
			if target != "" {
				target = filepath.Join(filepath.Dir(page), target)
			} else {
				target = page
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which isn't there", page, link[1])
			}
			if heading != "" && !strings.Contains(strings.ToLower(pages[target]), "# "+strings.ReplaceAll(heading, "-", " ")+"\n") {
				t.Errorf("%s links to %s, which has no such heading", page, link[1])
			}
		}
	}
}

func TestReadmeIsOneScreenAndAHalf(t *testing.T) {
	t.Parallel()
	if lines := strings.Count(manuals(t)["../../README.md"], "\n"); lines > 120 {
		t.Errorf("got %d lines, want at most 120: the rest belongs into a room", lines)
	}
}
