package api

import (
	"embed"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/gin-gonic/gin"
	"github.com/goccy/go-yaml"

	"ringback/work"
)

// document is the only description of the API. Tests check the code against it.
//
//go:embed openapi.yaml
var document []byte

// serveDocument adds the routes of the document and of its page.
func (a *API) serveDocument(router gin.IRoutes) {
	described := sync.OnceValues(func() (yaml.MapSlice, error) { return describe(a.Catalog.All()) })
	serve := func(path, mediaType string, options ...yaml.EncodeOption) {
		encoded := sync.OnceValues(func() ([]byte, error) {
			whole, err := described()
			if err != nil {
				return nil, err
			}
			return yaml.MarshalWithOptions(whole, options...)
		})
		get(router, path, with(func(c *call) {
			content, err := encoded()
			if err != nil {
				a.writeProblem(c, fmt.Errorf("encoding openapi.yaml: %w", err))
				return
			}
			a.send(c, http.StatusOK, mediaType, content)
		}))
	}
	serve("/openapi.json", "application/json", yaml.JSON())
	serve("/openapi.yaml", "application/yaml", yaml.UseLiteralStyleIfMultiline(true))
	get(router, "/docs", with(func(c *call) { a.sendPage(c, "index.html") }))
	get(router, "/docs/:file", with(func(c *call) { a.sendPage(c, c.Param("file")) }))
}

// describe puts the kinds of work into the document: their names and schemas. Where each
// has a schema, an input matches at least one of them.
func describe(offers []*work.Offer) (yaml.MapSlice, error) {
	var whole yaml.MapSlice
	if err := yaml.UnmarshalWithOptions(document, &whole, yaml.UseOrderedMap()); err != nil {
		return nil, err
	}
	var names, inputs []any
	for _, offer := range offers {
		names = append(names, offer.Name)
		if offer.Schema == nil {
			continue
		}
		var schema any // an object, or true or false
		if err := yaml.UnmarshalWithOptions(offer.Schema, &schema, yaml.UseOrderedMap()); err != nil {
			return nil, fmt.Errorf("schema of %s: %w", offer.Name, err)
		}
		name := "Input." + offer.Name
		moveReferences(schema, "#/components/schemas/"+name)
		whole = put(whole, schema, "components", "schemas", name)
		inputs = append(inputs, yaml.MapSlice{{Key: "$ref", Value: "#/components/schemas/" + name}})
	}
	whole = put(whole, names, "components", "parameters", "Work", "schema", "enum")
	if len(inputs) == len(offers) {
		whole = put(whole, inputs, "components", "schemas", "Input", "anyOf")
	}
	return whole, nil
}

// put sets the value at a path of a document.
func put(fields yaml.MapSlice, value any, path ...string) yaml.MapSlice {
	at := slices.IndexFunc(fields, func(field yaml.MapItem) bool { return field.Key == path[0] })
	if at < 0 {
		at, fields = len(fields), append(fields, yaml.MapItem{Key: path[0]})
	}
	if len(path) > 1 {
		below, _ := fields[at].Value.(yaml.MapSlice)
		value = put(below, value, path[1:]...)
	}
	fields[at].Value = value
	return fields
}

// moveReferences makes references within a schema lead to its place in the document.
func moveReferences(part any, to string) {
	switch part := part.(type) {
	case yaml.MapSlice:
		for i, field := range part {
			if target, is := field.Value.(string); is && field.Key == "$ref" && strings.HasPrefix(target, "#") {
				part[i].Value = to + strings.TrimPrefix(target, "#")
			}
			moveReferences(field.Value, to)
		}
	case []any:
		for _, one := range part {
			moveReferences(one, to)
		}
	}
}

// page is the document to read and to try: Swagger UI 5.35.0, whose larger files are
// compressed, and a script that starts it. It makes no call to another host.
//
//go:embed docs
var page embed.FS

// pageTypes are the media types of its files, by how their names end.
var pageTypes = [...]struct{ suffix, mediaType string }{
	{".html", "text/html"}, {".js", "text/javascript"}, {".css", "text/css"}, {"", "text/plain"},
}

// pagePolicy lets the page run scripts of this service, and talk to this service alone.
// Swagger UI has pictures in its style sheet.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func (a *API) sendPage(c *call, name string) {
	content, err := page.ReadFile("docs/" + name)
	if err != nil {
		// Compressed, as all browsers take it: to inflate it would cost more than a call does.
		content, err = page.ReadFile("docs/" + name + ".gz")
		if err == nil {
			c.Header("Content-Encoding", "gzip")
		}
	}
	if err != nil {
		a.writeProblem(c, newProblem("not-found", "There is no such file."))
		return
	}
	c.Header("Content-Security-Policy", pagePolicy)
	c.Header("Referrer-Policy", "no-referrer")
	c.Header("X-Content-Type-Options", "nosniff")
	for _, known := range pageTypes {
		if strings.HasSuffix(name, known.suffix) {
			a.send(c, http.StatusOK, known.mediaType+"; charset=utf-8", content)
			return
		}
	}
}
