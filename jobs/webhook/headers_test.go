package webhook

import (
	"errors"
	"maps"
	"strings"
	"testing"
)

func TestCheckHeaders(t *testing.T) {
	t.Parallel()
	got, err := CheckHeaders(map[string]string{"authorization": "Bearer x", "X-Tenant": "", "x-a": strings.Repeat("v", maxHeaderBytes)})
	want := map[string]string{"Authorization": "Bearer x", "X-Tenant": "", "X-A": strings.Repeat("v", maxHeaderBytes)}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if again, err := CheckHeaders(got); err != nil || !maps.Equal(again, got) {
		t.Errorf("the canonical form: got %v, %v, want itself", again, err)
	}
	many := map[string]string{}
	for _, name := range strings.Split("abcdefghi", "") {
		many["X-"+name] = "v"
	}
	for name, headers := range map[string]map[string]string{
		"more than eight": many, "no name": {"": "v"}, "a space in the name": {"X Y": "v"}, "a colon in the name": {"X:": "v"},
		"a line break": {"X-A": "a\r\nHost: b"}, "a null byte": {"X-A": "a\x00"}, "not ASCII": {"X-A": "ä"}, "white space around": {"X-A": " a"},
		"a name too long": {strings.Repeat("x", maxHeaderName+1): "v"}, "too long": {"X-A": strings.Repeat("v", maxHeaderBytes+1)}, "twice": {"X-A": "1", "x-a": "2"},
		"Host": {"Host": "v"}, "Content-Length": {"content-length": "1"}, "Transfer-Encoding": {"TRANSFER-ENCODING": "chunked"},
		"Connection": {"connection": "close"}, "Upgrade": {"Upgrade": "h2c"}, "webhook-id": {"webhook-id": "v"}, "Webhook-Request-Origin": {"Webhook-Request-Origin": "v"},
		"User-Agent": {"user-agent": "v"}, "CDN-Loop": {"CDN-Loop": "v"}, "Forwarded": {"X-Forwarded-For": "1.2.3.4"}, "Expect": {"expect": "100-continue"},
		"X-Real-IP": {"X-Real-IP": "127.0.0.1"}, "X-Original-URL": {"x-original-url": "/admin"}, "True-Client-IP": {"true-client-ip": "::1"},
		"CF-Connecting-IP": {"CF-Connecting-IP": "::1"}, "X-Amzn-Oidc-Identity": {"x-amzn-oidc-identity": "root"}, "Client-Cert": {"client-cert": ":x:"},
		"X-HTTP-Method-Override": {"X-HTTP-Method-Override": "PUT"}, "HTTP2-Settings": {"HTTP2-Settings": "AAMAAABk"}, "Early-Data": {"early-data": "1"},
		"Content-Range": {"content-range": "bytes 0-1/2"}, "Metadata-Flavor": {"metadata-flavor": "Google"}, "Metadata": {"Metadata": "true"},
		"X-Aws-Ec2-Metadata-Token": {"x-aws-ec2-metadata-token": "t"}, "X-aws-ec2-metadata-token-ttl-seconds": {"X-aws-ec2-metadata-token-ttl-seconds": "21600"},
		"Proxy-Authorization": {"proxy-authorization": "v"}, "traceparent": {"traceparent": "v"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var refused *HeaderError
			if _, err := CheckHeaders(headers); !errors.As(err, &refused) || refused.Rule == "" {
				t.Errorf("got %v, want it refused", err)
			}
		})
	}
}
