package webhook

import (
	"errors"
	"strings"
	"testing"
)

var (
	strict = Policy{}
	local  = Policy{Local: true}
	// operated has every list that an operator can set.
	operated = Policy{
		Allowed: prefixes("10.0.0.0/8", "fd00::/8"),
		Denied:  prefixes("10.0.9.0/24", "2a00:64::/96", "8.8.4.4/32"),
		Ports:   []uint16{80, 9000},
		Names:   []string{"www.example.com", "api.example.com"},
	}
)

func TestCheckAccepts(t *testing.T) {
	t.Parallel()
	label63 := strings.Repeat("a", 63)
	name253 := strings.Repeat(label63+".", 3) + strings.Repeat("b", 57) + ".com"
	for _, test := range []struct {
		name   string
		policy Policy
		raw    string
		want   string // empty: raw itself
	}{
		{"plain", strict, "https://example.com/hooks", ""},
		{"upper case", strict, "HTTPS://Example.COM/Hooks?A=B", "https://example.com/Hooks?A=B"},
		{"no path", strict, "https://example.com", "https://example.com/"},
		{"no path but a query", strict, "https://example.com?a=b", "https://example.com/?a=b"},
		{"empty query", strict, "https://example.com/?", ""},
		{"default port", strict, "https://example.com:443/", "https://example.com/"},
		{"empty port", strict, "https://example.com:/", "https://example.com/"},
		{"port 8443", strict, "https://example.com:8443/", ""},
		{"one trailing dot", strict, "https://example.com./a", "https://example.com/a"},
		{"escapes in path and query", strict, "https://example.com/%5ba%2Fb/[c];d=e?q=%20[x]&y=:@/?", ""},
		{"dots in the path", strict, "https://example.com/../a//b/", ""},
		{"underscore and inner hyphens", strict, "https://_a.r3---b-c.example.com/", ""},
		{"digits before the last label", strict, "https://127.0.0.1.nip.io/", ""},
		{"A-labels", strict, "https://xn--bcher-kva.xn--p1ai/", ""},
		{"A-label in upper case", strict, "https://XN--BCHER-KVA.example.com/", "https://xn--bcher-kva.example.com/"},
		{"special-use word that isn't last", strict, "https://localhost.example.com/", ""},
		{"longest name", strict, "https://" + name253 + "/", ""},
		{"longest name and a dot", strict, "https://" + name253 + "./", "https://" + name253 + "/"},
		{"longest URL", strict, pad("https://example.com/", 2048), ""},
		{"public IPv4", strict, "https://8.8.8.8/", ""},
		{"public IPv6", strict, "https://[2A00:1450:0:0::8]:8443/", "https://[2a00:1450::8]:8443/"},
		{"IPv6 with a dotted tail", strict, "https://[2a00:1450::8.8.8.8]/", "https://[2a00:1450::808:808]/"},

		{"local: https as before", local, "https://example.com:443/", "https://example.com/"},
		{"local: http", local, "http://example.com/", ""},
		{"local: http's default port", local, "http://example.com:80/", "http://example.com/"},
		{"local: http on 443", local, "http://example.com:443/", ""},
		{"local: any port", local, "http://127.0.0.1:1/", ""},
		{"local: highest port", local, "http://127.255.255.254:65535/", ""},
		{"local: IPv6 loopback", local, "https://[0:0::1]:9000/", "https://[::1]:9000/"},
		{"local: localhost", local, "http://LocalHost.:3000/", "http://localhost:3000/"},
		{"local: http's port", local, "http://8.8.8.8:80/", "http://8.8.8.8/"},
		{"local: https port of localhost", local, "https://localhost:9000/", ""},
		{"local: under localhost", local, "http://a.b.localhost/", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			want := test.want
			if want == "" {
				want = test.raw
			}
			got, err := test.policy.Check(test.raw)
			if err != nil || got != want {
				t.Errorf("Check(%q) = %q, %v; want %q", test.raw, got, err, want)
			}
		})
	}
}

// pad lengthens a URL to size bytes.
func pad(raw string, size int) string { return raw + strings.Repeat("a", size-len(raw)) }

// The sentences by the words that tell them apart.
const (
	ruleLength   = "1 to 2048 bytes"
	ruleBytes    = "printable ASCII"
	rulePercent  = "percent sign"
	ruleURL      = "well-formed"
	ruleScheme   = "start with https"
	ruleHost     = "name a host"
	ruleUser     = "user name"
	ruleFragment = "fragment"
	rulePort     = "1 to 65535"
	rulePorts    = "443 and 8443"
	ruleOwn      = "service's own"
	ruleBrackets = "between its brackets"
	ruleMapped   = "IPv4-mapped"
	rulePublic   = "public one"
	ruleASCII    = "ASCII form"
	ruleName     = "253 bytes"
	ruleLabel    = "1 to 63 letters"
	ruleALabel   = "RFC 5891"
	ruleLast     = "start with a letter"
	ruleReserved = ", which is reserved: no public host has such a name (RFC 2606, RFC 6761)"
	ruleSpecial  = "special-use"
	ruleLabels   = "two labels"
)

func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	for rule, raws := range map[string][]string{
		ruleLength: {"", pad("https://example.com/", 2049), pad("https://example.com?", 2048)},
		ruleBytes: {
			"https://example.com/a b", "https://example.com/\t", "https://exa\nmple.com/", "\rhttps://example.com/",
			"https://example.com/\x00", "https://example.com/\x7f", "https://example.com\\@8.8.8.8/", "https:\\\\example.com\\",
			"https://example.com/\"", "https://example.com/<a>", "https://example.com/^", "https://example.com/`", "https://example.com/{a|b}",
			"https://①②⑦.⓪.⓪.①/", "https://127。0。0。1/", "https://１２７.０.０.１/", "https://bücher.example.com/", "https://example.com/é",
		},
		rulePercent: {"https://example.com/%", "https://example.com/%a", "https://example.com/%zz", "https://example.com/?%4g"},
		ruleURL: {
			"https://[::1/", "https://::1]/", "https://example.com:port/", "https://example.com:-1/",
			"https://[::1]example.com/", "https://[127.0.0.1]/", "https://[example.com]/", "https://[2a00]/", "https://[]/", "https://%31%32%37.0.0.1/", "https://exa%6dple.com/", ":", "1https://example.com/",
		},
		ruleScheme: {
			"http://example.com/", "ftp://example.com/", "//example.com/", "/hooks", "example.com", "javascript:alert(1)",
			"file:///etc/passwd", "gopher://example.com/", "httpss://example.com/", "unix:///run/docker.sock",
		},
		ruleHost: {"https://:443/", "https://", "https:///hooks", "https:example.com", "https:/example.com", "https://?a", "https://:/"},
		ruleUser: {
			"https://user@example.com/", "https://user:password@example.com/", "https://@example.com/", "https://example.com@8.8.8.8/",
			"https://:@example.com/",
		},
		ruleFragment: {"https://example.com/#top", "https://example.com/#", "https://example.com#@127.0.0.1/"},
		rulePort:     {"https://example.com:0/", "https://example.com:0443/", "https://example.com:65536/", "https://example.com:99999999999999999999/"},
		rulePorts: {
			"https://example.com:80/", "https://example.com:22/", "https://example.com:442/", "https://example.com:444/",
			"https://example.com:8442/", "https://example.com:8444/", "https://example.com:5432/",
		},
		ruleBrackets: {"https://[fe80::1%25lo]/", "https://[2a00:1450::8%25eth0]/"},
		ruleMapped:   {"https://[::ffff:127.0.0.1]/", "https://[::ffff:8.8.8.8]/", "https://[0:0:0:0:0:ffff:7f00:1]/"},
		rulePublic: {
			"https://127.0.0.1/", "https://0.0.0.0/", "https://10.0.0.1/", "https://169.254.169.254/", "https://168.63.129.16/",
			"https://192.168.1.1/", "https://255.255.255.255/", "https://[::]/", "https://[::1]/", "https://[::127.0.0.1]/",
			"https://[64:ff9b::7f00:1]/", "https://[2002:7f00:1::]/", "https://[2001:0:7f00:1::]/", "https://[fe80::1]/",
			"https://[fd00::1]/", "https://[2a00:1450::5efe:7f00:1]/", "https://[2a00:1450::200:5efe:7f00:1]/", "https://[3ffe::1]/",
		},
		ruleASCII: {
			"https://%E2%91%A0%E2%91%A1%E2%91%A6.%E2%93%AA.%E2%93%AA.%E2%91%A0/", "https://127%E3%80%820%E3%80%820%E3%80%821/",
			"https://%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1/", "https://example%E3%80%82com/", "https://%E2%84%AA.example.com/", "https://%ff.example.com/",
		},
		ruleName: {"https://" + strings.Repeat("a.", 126) + "com/"},
		ruleLabel: {
			"https://example..com/", "https://.example.com/", "https://example.com../", "https://./", "https://../", "https://-a.example.com/",
			"https://a-.example.com/", "https://" + strings.Repeat("a", 64) + ".com/", "https://a*b.example.com/", "https://a,b.example.com/",
			"https://%25.example.com/", "https://$host.example.com/", "https://127.0.0.1%25.example.com/",
		},
		ruleALabel: {
			"https://xn--0.example.com/", "https://xn--zzzzzzzz99999.example.com/", "https://example.xn--127/",
			"https://xn--a.example.com/", "https://xn--8g7ccp.example.com/", "https://xn--orhcp.example.com/", "https://xn--ab-r13a.example.com/",
		},
		ruleLast: {
			"https://2130706433/", "https://017700000001/", "https://0x7f.1/", "https://0x7f000001/", "https://127.1/", "https://127.0.1/",
			"https://127.0.0.1./", "https://8.8.8.8./", "https://8.8.8.08/", "https://256.256.256.256/", "https://1.2.3.4.5/", "https://example.1/",
			"https://example.0x7f/", "https://example.0x/", "https://example._com/",
		},
		ruleReserved: {
			"https://localhost/", "https://localhost./", "https://a.localhost/", "https://a.invalid/", "https://a.test/", "https://hooks.acme.EXAMPLE/",
		},
		ruleSpecial: {
			"https://printer.local/", "https://metadata.google.internal/",
			"https://a.onion/", "https://a.alt/", "https://1.0.0.127.in-addr.arpa/",
			"https://localhost.localdomain/", "https://router.LAN/", "https://a.corp/", "https://a.home/", "https://a.mail/", "https://internal/",
		},
		ruleLabels: {"https://intranet/", "https://com/", "https://com./"},
	} {
		for _, raw := range raws {
			t.Run(rule+" "+raw[:min(len(raw), 60)], func(t *testing.T) {
				t.Parallel()
				checkRefused(t, strict, raw, rule)
			})
		}
	}
}

func TestCheckRefusesLocally(t *testing.T) {
	t.Parallel()
	for raw, rule := range map[string]string{
		"ftp://localhost/":                ruleScheme,
		"http://:8080/":                   ruleHost,
		"http://user@localhost/":          ruleUser,
		"http://localhost:0/":             rulePort,
		"http://localhost:08/":            rulePort,
		"http://localhost:65536/":         rulePort,
		"http://example.com:3000/":        rulePorts,
		"http://8.8.8.8:3000/":            rulePorts,
		"http://10.0.0.1/":                rulePublic,
		"http://0.0.0.0/":                 rulePublic,
		"http://169.254.169.254/latest":   rulePublic,
		"http://168.63.129.16/":           rulePublic,
		"http://[::]/":                    rulePublic,
		"http://[::2]/":                   rulePublic,
		"http://[fe80::1]/":               rulePublic,
		"http://[::ffff:127.0.0.1]/":      ruleMapped,
		"http://[::1%25lo]/":              ruleBrackets,
		"http://127.1/":                   ruleLast,
		"http://2130706433/":              ruleLast,
		"http://intranet/":                ruleLabels,
		"http://printer.local/":           ruleSpecial,
		"http://a..localhost/":            ruleLabel,
		"http://xn--zzzzzzzz99.localhost": ruleALabel,
	} {
		t.Run(rule+" "+raw, func(t *testing.T) {
			t.Parallel()
			checkRefused(t, local, raw, rule)
		})
	}
}

func TestCheckAsTheOperatorSays(t *testing.T) {
	t.Parallel()
	for raw, rule := range map[string]string{
		"https://10.1.2.3/":                  "",
		"https://10.1.2.3:65535/":            "",
		"http://10.1.2.3:1/":                 "", // 80 is among the ports
		"https://[fd00:1::1]:9/":             "",
		"https://example.com:9000/":          "",
		"http://example.com:9000/":           "",
		"https://example.com:80/":            "",
		"https://api.example.com.evil.com/":  "",
		"https://apis.example.com/":          "",
		"https://11.1.2.3:1/":                rulePorts,
		"https://example.com:9001/":          rulePorts,
		"https://127.0.0.1/":                 rulePublic,
		"https://192.168.1.1/":               rulePublic,
		"https://10.0.9.1/":                  rulePublic,
		"https://8.8.4.4/":                   rulePublic,
		"https://[2a00:64::a00:1]/":          rulePublic,
		"https://[::ffff:10.1.2.3]/":         ruleMapped,
		"https://[fd00:1::1%25eth0]/":        ruleBrackets,
		"https://localhost/":                 "must not end in localhost" + ruleReserved,
		"https://printer.local/":             ruleSpecial,
		"https://10.1/":                      ruleLast,
		"https://api.example.com/":           ruleOwn,
		"https://API.example.com.:9000/sync": ruleOwn,
	} {
		t.Run(rule+" "+raw, func(t *testing.T) {
			t.Parallel()
			if rule != "" {
				checkRefused(t, operated, raw, rule)
			} else if got, err := operated.Check(raw); err != nil || got != raw {
				t.Errorf("Check(%q) = %q, %v; want itself", raw, got, err)
			}
		})
	}
	if got, err := (Policy{Allowed: prefixes("127.0.0.0/8")}).Check("https://localhost:9000/"); err != nil {
		t.Errorf("localhost where loopback is allowed: got %q, %v; want it accepted", got, err)
	}
	checkRefused(t, Policy{Allowed: prefixes("10.0.0.0/8")}, "http://10.1.2.3/", ruleScheme)
}

func checkRefused(t *testing.T, policy Policy, raw, rule string) {
	t.Helper()
	got, err := policy.Check(raw)
	refused, ok := errors.AsType[*RefusedError](err)
	if !ok || got != "" || !strings.Contains(refused.Error(), rule) {
		t.Fatalf("Check(%q) = %q, %v; want a *RefusedError about %q", raw, got, err, rule)
	}
	if !strings.HasSuffix(refused.Rule, ".") {
		t.Errorf("Check(%q) says %q; want a sentence", raw, refused.Rule)
	}
}
