package kubernetes

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/muster-ci/muster/provider"
	"github.com/muster-ci/muster/provider/kubernetes/kubetest"
)

// The control of every other test: where no pod can get a network, none is said to run, and
// the reason is said. Not parallel: it breaks the node for a while.
func TestBrokenNode(t *testing.T) {
	c := own(t, "broken")
	plugin := "/run/cni.bin/bridge"
	if err := os.Rename(plugin, plugin+".off"); err != nil {
		t.Fatal(err)
	}
	mended := false
	mend := func() {
		if mended {
			return
		}
		mended = true
		if err := os.Rename(plugin+".off", plugin); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(mend)
	p := open(t, c)
	create(t, p, specFor(c, "r-broken"))
	inst := becomes(t, p, "r-broken", provider.InstanceStarting, time.Minute, "sandbox cannot be made", "bridge")
	t.Log(inst.Detail)
	if len(processes(c.Owner, "r-broken")) > 0 {
		t.Error("it runs all the same, so that nothing is proven by what runs")
	}
	mend()
	becomes(t, p, "r-broken", provider.InstanceRunning, 2*time.Minute)
}

// A runtime class is the nodes' affair: one that they have runs the pod, one that they lack is named.
func TestRuntimeClass(t *testing.T) {
	c := own(t, "runtime")
	for name, handler := range map[string]string{"runtime-there": "runc", "runtime-missing": "kata"} {
		class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: handler}
		if _, err := admin(t).NodeV1().RuntimeClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	c.RuntimeClass = "runtime-there"
	p := open(t, c)
	inst := create(t, p, specFor(c, "r-there"))
	becomes(t, p, "r-there", provider.InstanceRunning, time.Minute)
	if pod := getPod(t, inst); pod.Spec.RuntimeClassName == nil || *pod.Spec.RuntimeClassName != "runtime-there" {
		t.Error("the pod runs without the class")
	}
	c.RuntimeClass = "runtime-missing"
	p = open(t, c)
	create(t, p, specFor(c, "r-missing"))
	becomes(t, p, "r-missing", provider.InstanceStarting, time.Minute, "sandbox cannot be made", `no runtime for "kata" is configured`)
}

// Docker beside the runner passes admission where it was asked for, and only there.
func TestDockerIsAdmitted(t *testing.T) {
	c := own(t, "docker")
	c.Docker, c.DockerImage = dockerSidecar, "local.test/no-docker:1"
	p := open(t, c)
	create(t, p, specFor(c, "r-docker"))
	becomes(t, p, "r-docker", provider.InstanceEnded, time.Minute, "local.test/no-docker:1", "may not be pulled")
}

// S4-49: a private registry is pulled from with the credentials of the configuration, and
// refuses without.
func TestPrivateRegistry(t *testing.T) {
	c := own(t, "registry")
	server, image := registry(t, "me", "canary-registry-password")
	c.PullPolicy, c.Image, c.AgentImage = "IfNotPresent", image, ""
	c.AgentPath = kubetest.AgentPath
	p := open(t, c)
	create(t, p, specFor(c, "r-without"))
	inst := becomes(t, p, "r-without", provider.InstanceStarting, time.Minute, "image cannot be pulled", "401")
	t.Log(inst.Detail)
	destroy(t, p, "r-without")
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("canary-registry-password\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Registries = []Registry{{Kind: "custom", Server: server, Username: "me", PasswordFile: file}}
	p = open(t, c)
	inst = create(t, p, specFor(c, "r-with"))
	becomes(t, p, "r-with", provider.InstanceRunning, time.Minute)
	text, err := json.Marshal(getPod(t, inst))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text)+kubectl(t, "get", "events", "-A", "-o", "yaml"), "canary-registry-password") {
		t.Error("the registry's password is readable in the pod or its events")
	}
}

// registry serves the runner's image to whoever knows a password.
func registry(t *testing.T, user, password string) (server, image string) {
	t.Helper()
	// The image that the node has is saved, repacked as a registry holds it, and served.
	saved := filepath.Join(t.TempDir(), "image.tar")
	if out, err := exec.CommandContext(t.Context(), "ctr", "-n", "k8s.io", "images", "export", saved, kubetest.RunnerImage).CombinedOutput(); err != nil {
		t.Fatalf("ctr: %v %s", err, out)
	}
	f, err := os.Open(saved)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	blobs := map[string][]byte{}
	var index struct {
		Manifests []struct{ Digest, MediaType string }
	}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		var b bytes.Buffer
		if _, err := b.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		if name, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok && name != "" {
			blobs["sha256:"+name] = b.Bytes()
		}
		if h.Name == "index.json" {
			if err := json.Unmarshal(b.Bytes(), &index); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(index.Manifests) == 0 {
		t.Fatal("the saved image has no manifest")
	}
	// Other contents than the image that every pod may use already: the kubelet remembers by whom a digest was pulled.
	var manifest map[string]any
	if err := json.Unmarshal(blobs[index.Manifests[0].Digest], &manifest); err != nil {
		t.Fatal(err)
	}
	add := func(b []byte) (string, int) {
		d := fmt.Sprintf("sha256:%x", sha256.Sum256(b))
		blobs[d] = b
		return d, len(b)
	}
	extra, packed := []byte("kept apart"), bytes.Buffer{}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	_ = w.WriteHeader(&tar.Header{Name: "private", Size: int64(len(extra)), Mode: 0o644}) // to memory
	_, _ = w.Write(extra)
	_ = w.Close()
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(layer.Bytes())
	_ = z.Close()
	config := manifest["config"].(map[string]any)
	var image2 map[string]any
	if err := json.Unmarshal(blobs[config["digest"].(string)], &image2); err != nil {
		t.Fatal(err)
	}
	rootfs := image2["rootfs"].(map[string]any)
	rootfs["diff_ids"] = append(rootfs["diff_ids"].([]any), fmt.Sprintf("sha256:%x", sha256.Sum256(layer.Bytes())))
	text, err := json.Marshal(image2)
	if err != nil {
		t.Fatal(err)
	}
	config["digest"], config["size"] = add(text)
	digest, size := add(packed.Bytes())
	kind := "application/vnd.docker.image.rootfs.diff.tar.gzip"
	if strings.Contains(fmt.Sprint(manifest["mediaType"]), "oci") {
		kind = "application/vnd.oci.image.layer.v1.tar+gzip"
	}
	manifest["layers"] = append(manifest["layers"].([]any), map[string]any{"mediaType": kind, "digest": digest, "size": size})
	text, err = json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	top, _ := add(text)
	media := fmt.Sprint(manifest["mediaType"])
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		name := filepath.Base(r.URL.Path)
		if name == "1" {
			name = top
		}
		b, ok := blobs[name]
		switch {
		case r.URL.Path == "/v2/":
			return
		case !ok:
			http.NotFound(w, r)
			return
		case name == top:
			w.Header().Set("Content-Type", media)
		default:
			w.Header().Set("Content-Type", "application/octet-stream")
		}
		w.Header().Set("Docker-Content-Digest", name)
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		if r.Method != http.MethodHead {
			_, _ = w.Write(b)
		}
	}))
	t.Cleanup(srv.Close)
	server = strings.TrimPrefix(srv.URL, "http://")
	return server, server + "/muster/runner:1"
}
