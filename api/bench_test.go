package api

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"ringback/jobs/webhook"
	"ringback/work"
	"ringback/work/fingerprint"
)

// BenchmarkReadAsync measures the cost of a POST /async before the database.
func BenchmarkReadAsync(b *testing.B) {
	const body = `{"input":{"text":"The quick brown fox jumps over the lazy dog."},"callback_url":"https://hooks.example.com/ringback"}`
	catalog, err := work.NewCatalog(work.Set{"fingerprint": fingerprint.Work}, "fingerprint", time.Minute)
	if err != nil {
		b.Fatal(err)
	}
	a := &API{Config: Config{Catalog: catalog, CallbackPolicy: webhook.Policy{}}, bodies: newBodyBudget(maxBudget, false), decoding: newDecoding(false)}
	router := a.newRouter()
	request := httptest.NewRequest(http.MethodPost, "/async", nil)
	request.Header.Set("Content-Type", "application/json")
	request.ContentLength = int64(len(body))
	b.ReportAllocs()
	for b.Loop() {
		raw := gin.CreateTestContextOnly(httptest.NewRecorder(), router)
		raw.Request = request
		request.Body = io.NopCloser(strings.NewReader(body))
		c := newCall(raw)
		if _, _, err := a.readAsync(c, catalog.Default()); err != nil {
			b.Fatal(err)
		}
	}
}
