package oracle_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// packages returns the directory with the installed npm packages, or skips.
func packages(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("MUSTER_NPM")
	if dir == "" {
		var all []byte
		for _, name := range []string{"package.json", "package-lock.json"} {
			data, err := os.ReadFile(filepath.Join("testdata", "npm", name))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, data...)
		}
		sum := sha256.Sum256(all)
		cache := os.Getenv("XDG_CACHE_HOME")
		if cache == "" {
			cache = filepath.Join(os.Getenv("HOME"), ".cache")
		}
		dir = filepath.Join(cache, "muster", "npm", hex.EncodeToString(sum[:])[:16])
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "@octokit", "openapi")); err != nil {
		const reason = "the npm packages are not installed: run githubsim/oracle/install.sh, or set MUSTER_NPM"
		if os.Getenv("CI") == "true" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	return dir
}

// description is one of GitHub's OpenAPI documents with a compiler for its schemas.
type description struct {
	name     string
	doc      map[string]any
	compiler *jsonschema.Compiler
	mu       sync.Mutex
	compiled map[string]*jsonschema.Schema
	paths    []string
}

var descriptions = struct {
	sync.Mutex
	by map[string]*description
}{by: map[string]*description{}}

// describe loads a document once per test binary.
func describe(t *testing.T, pkg, file string) *description {
	t.Helper()
	path := filepath.Join(packages(t), "node_modules", "@octokit", pkg, "generated", file)
	descriptions.Lock()
	defer descriptions.Unlock()
	if d := descriptions.by[path]; d != nil {
		return d
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	d := &description{name: pkg + "/" + file, doc: v.(map[string]any), compiler: jsonschema.NewCompiler(), compiled: map[string]*jsonschema.Schema{}}
	three := strings.HasPrefix(fmt.Sprint(d.doc["openapi"]), "3.0")
	schemas := object(object(d.doc["components"])["schemas"])
	for name, s := range schemas {
		schemas[name] = convert(s, three)
	}
	d.compiler.DefaultDraft(jsonschema.Draft2020)
	d.compiler.AssertFormat()
	// The library refuses the templates of RFC 6570 beyond level 1, which GitHub uses: {/sha}, {?since,all}.
	d.compiler.RegisterFormat(&jsonschema.Format{Name: "uri-template", Validate: func(any) error { return nil }})
	if err := d.compiler.AddResource(d.base(), map[string]any{"components": map[string]any{"schemas": schemas}}); err != nil {
		t.Fatal(err)
	}
	for p := range object(d.doc["paths"]) {
		d.paths = append(d.paths, p)
	}
	slices.Sort(d.paths)
	descriptions.by[path] = d
	return d
}

func (d *description) base() string { return "https://oracle.example/" + d.name }

func object(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// convert makes a schema of OpenAPI 3.0 one of JSON Schema 2020-12, and drops
// what is no constraint (examples can hold anything, also "$ref").
func convert(v any, three bool) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = convert(v[i], three)
		}
		return v
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			switch k {
			case "example", "examples", "description", "discriminator", "externalDocs", "title", "default":
				if _, isSchema := e.(map[string]any); isSchema && k != "example" && k != "examples" && k != "externalDocs" && k != "discriminator" {
					out[k] = convert(e, three) // a property of that name
				}
			case "enum", "const":
				out[k] = e
			case "properties":
				props := map[string]any{}
				for name, p := range object(e) {
					props[name] = convert(p, three)
				}
				out[k] = props
			default:
				out[k] = convert(e, three)
			}
		}
		if !three {
			return out
		}
		for limit, bound := range map[string]string{"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"} {
			if strict, ok := out[limit].(bool); ok {
				delete(out, limit)
				if strict {
					out[limit] = out[bound]
					delete(out, bound)
				}
			}
		}
		if nullable, ok := out["nullable"].(bool); ok {
			delete(out, "nullable")
			if nullable {
				return map[string]any{"anyOf": []any{out, map[string]any{"type": "null"}}}
			}
		}
		return out
	}
	return v
}

// schema compiles a schema that stands somewhere in the document.
func (d *description) schema(key string, raw any) (*jsonschema.Schema, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.compiled[key]; s != nil {
		return s, nil
	}
	three := strings.HasPrefix(fmt.Sprint(d.doc["openapi"]), "3.0")
	url := fmt.Sprintf("%s/use/%d", d.base(), len(d.compiled))
	if err := d.compiler.AddResource(url, d.absolute(convert(raw, three))); err != nil {
		return nil, err
	}
	s, err := d.compiler.Compile(url)
	if err != nil {
		return nil, err
	}
	d.compiled[key] = s
	return s, nil
}

// absolute makes references inside the document ones to the document.
func (d *description) absolute(v any) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = d.absolute(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			if ref, ok := e.(string); ok && k == "$ref" && strings.HasPrefix(ref, "#") {
				e = d.base() + ref
			}
			out[k] = d.absolute(e)
		}
		return out
	}
	return v
}

// resolve follows a reference to another part of the document.
func (d *description) resolve(v any) map[string]any {
	m := object(v)
	for range 10 {
		ref, ok := m["$ref"].(string)
		if !ok {
			return m
		}
		at := any(d.doc)
		for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			at = object(at)[strings.NewReplacer("~1", "/", "~0", "~").Replace(part)]
		}
		m = object(at)
	}
	return m
}

// match finds the path template of a request path; literal segments win.
func (d *description) match(path, method string) (template string, operation map[string]any) {
	segments := strings.Split(path, "/")
	best := -1
	for _, p := range d.paths {
		parts := strings.Split(p, "/")
		literal := 0
		ok := len(parts) == len(segments)
		for i := 0; ok && i < len(parts); i++ {
			if strings.HasPrefix(parts[i], "{") {
				// A path inside a repository has slashes and is the last parameter.
				ok = segments[i] != ""
			} else if ok = parts[i] == segments[i]; ok {
				literal++
			}
		}
		if !ok && strings.HasSuffix(p, "/contents/{path}") && len(segments) > len(parts) && segments[1] == "repos" && segments[4] == "contents" {
			ok, literal = true, 2
		}
		if ok && literal > best {
			if op := object(object(object(d.doc["paths"])[p])[strings.ToLower(method)]); op != nil {
				best, template, operation = literal, p, op
			}
		}
	}
	return template, operation
}

// corrected are schemas that no answer of GitHub can fulfil. The list of
// installations demands that an account is a user and an enterprise at once (an
// allOf that is an anyOf everywhere else in the same document).
var corrected = map[string]any{
	"GET /app/installations 200": map[string]any{"type": "array", "items": map[string]any{"$ref": "#/components/schemas/installation"}},
}

// check judges one answer. It returns the operation's name and what is wrong, "" if nothing.
func (d *description) check(method, path string, status int, contentType string, body []byte) (operation, wrong string) {
	template, op := d.match(path, method)
	if op == nil {
		if status == 404 {
			return "", "" // nobody described what does not exist
		}
		return method + " " + path, "no such operation is described"
	}
	name := method + " " + template
	response := d.resolve(object(op["responses"])[fmt.Sprint(status)])
	var raw any
	key := fmt.Sprintf("%s %d", name, status)
	switch {
	case response == nil && status >= 400:
		// Errors that a route does not list have the common form.
		raw, key = map[string]any{"$ref": "#/components/schemas/basic-error"}, "basic-error"
	case response == nil && status == 304:
		return name, ""
	case response == nil:
		return name, fmt.Sprintf("status %d is not described", status)
	default:
		content := object(response["content"])
		if len(content) == 0 {
			if len(bytes.TrimSpace(body)) > 0 && status != 202 && status != 302 {
				return name, fmt.Sprintf("status %d has a body: %.200s", status, body)
			}
			return name, ""
		}
		media := object(content["application/json"])
		if media == nil {
			for kind := range content {
				if strings.Contains(kind, "json") {
					media = object(content[kind])
				}
			}
		}
		if media == nil {
			return name, ""
		}
		raw = media["schema"]
		if better := corrected[key]; better != nil {
			raw = better
		}
	}
	if status == 204 || status == 304 {
		return name, ""
	}
	if !strings.Contains(contentType, "json") {
		return name, fmt.Sprintf("status %d with content type %q", status, contentType)
	}
	schema, err := d.schema(key, raw)
	if err != nil {
		return name, fmt.Sprintf("schema cannot be compiled: %v", err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return name, fmt.Sprintf("body is no JSON: %v", err)
	}
	if err := schema.Validate(value); err != nil {
		return name, fmt.Sprintf("status %d: %v\n%s", status, err, short(body))
	}
	return name, ""
}

func short(body []byte) string {
	var b bytes.Buffer
	if json.Indent(&b, body, "", " ") != nil {
		b.Write(body)
	}
	return string(b.Bytes()[:min(b.Len(), 3000)])
}

// webhook judges one delivery by the schema of its event and action.
func (d *description) webhook(event string, body []byte) string {
	var top struct {
		Action string `json:"action"`
	}
	if err := json.Unmarshal(body, &top); err != nil {
		return err.Error()
	}
	name := strings.ReplaceAll(event, "_", "-")
	if top.Action != "" {
		name += "-" + strings.ReplaceAll(top.Action, "_", "-")
	}
	hook := object(object(d.doc["webhooks"])[name])
	if hook == nil {
		return fmt.Sprintf("no webhook %s is described", name)
	}
	media := object(object(object(object(hook["post"])["requestBody"])["content"])["application/json"])
	schema, err := d.schema(name, media["schema"])
	if err != nil {
		return fmt.Sprintf("schema of %s cannot be compiled: %v", name, err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err.Error()
	}
	if err := schema.Validate(value); err != nil {
		return fmt.Sprintf("%s: %v\n%s", name, err, short(body))
	}
	return ""
}
