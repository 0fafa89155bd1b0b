package web

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed static/*
var staticFiles embed.FS

// templates holds one template set per page, each with the frame and the parts
// that pages share.
type templates struct{ byName map[string]*template.Template }

// shared are the files that are part of every page's set.
var shared = []string{"templates/frame.html", "templates/parts.html", "templates/trace.html"}

func mustParse() *templates {
	base := template.Must(template.New("").Funcs(funcs).ParseFS(templateFiles, shared...))
	t := &templates{byName: map[string]*template.Template{}}
	files, err := fs.Glob(templateFiles, "templates/*.html")
	if err != nil {
		panic(err)
	}
	for _, f := range files {
		if slices.Contains(shared, f) {
			continue
		}
		set := template.Must(template.Must(base.Clone()).ParseFS(templateFiles, f))
		t.byName[strings.TrimSuffix(path.Base(f), ".html")] = set
	}
	return t
}

// execute writes the page, or only its main part for the script.
func (t *templates) execute(w io.Writer, name string, p page) error {
	set := t.byName[name]
	if set == nil {
		return fmt.Errorf("no template %q", name)
	}
	root := "frame"
	switch {
	case p.Fragment && p.Part != "":
		root = p.Part
	case p.Fragment:
		root = "main"
	}
	if err := set.ExecuteTemplate(w, root, p); err != nil {
		return fmt.Errorf("render %s: %w", name, err)
	}
	return nil
}

// asset is one static file, addressed by its content, so that browsers may keep
// it for ever and a new version is fetched at once.
type asset struct {
	body []byte
	hash string
	kind string
}

var assets = loadAssets()

func loadAssets() map[string]asset {
	out := map[string]asset{}
	entries, err := staticFiles.ReadDir("static")
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		body, err := staticFiles.ReadFile("static/" + e.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(body)
		kind := mime.TypeByExtension(path.Ext(e.Name()))
		if path.Ext(e.Name()) == ".js" { // the machine's own table may disagree
			kind = "text/javascript; charset=utf-8"
		}
		out[e.Name()] = asset{body: body, hash: hex.EncodeToString(sum[:6]), kind: kind}
	}
	return out
}

func staticPath(name string) string { return "/static/" + name + "?v=" + assets[name].hash }

func serveStatic(w http.ResponseWriter, r *http.Request) {
	a, ok := assets[r.PathValue("file")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", a.kind)
	w.Header().Set("ETag", `"`+a.hash+`"`)
	if r.URL.Query().Get("v") == a.hash {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	if strings.Contains(r.Header.Get("If-None-Match"), a.hash) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(a.body)
}
