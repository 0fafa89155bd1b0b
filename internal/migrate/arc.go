package migrate

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
)

// noLimit stands for the limit that the other side does not have.
const noLimit = 100

// ARC reads the values of ARC's chart gha-runner-scale-set, or objects of its older
// version (RunnerDeployment, RunnerSet, HorizontalRunnerAutoscaler), one or more
// documents, and returns the equivalent configuration. The release is the name that
// the chart was installed under, which a scale set is called by unless the values say
// otherwise.
func ARC(values []byte, release string) (string, error) {
	var docs []object
	for d := yaml.NewDecoder(bytes.NewReader(values)); ; {
		var o map[string]any
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", fmt.Errorf("the values are not YAML: %w", err)
		}
		if len(o) > 0 {
			docs = append(docs, o)
		}
	}
	var sets []object
	var legacy []object
	for _, o := range docs {
		switch kind := o.text("kind"); {
		case kind == "" && o["githubConfigUrl"] != nil:
			sets = append(sets, o)
		case kind == "List":
			legacy = append(legacy, o.list("items")...)
		case kind == "AutoscalingRunnerSet":
			sets = append(sets, o.object("spec"))
		case kind != "":
			legacy = append(legacy, o)
		}
	}
	switch {
	case len(sets) > 0:
		return scaleSets(sets, release)
	case len(legacy) > 0:
		return deployments(legacy)
	}
	return "", errors.New("there is neither githubConfigUrl, as in the values of gha-runner-scale-set, nor a RunnerDeployment in it")
}

// object is a part of a YAML document. What is missing or of another kind is empty.
type object map[string]any

func (o object) object(key string) object {
	switch v := o[key].(type) {
	case map[string]any:
		return v
	case object:
		return v
	}
	return nil
}

func (o object) list(key string) (out []object) {
	all, _ := o[key].([]any)
	for _, v := range all {
		if m, ok := v.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

func (o object) texts(key string) (out []string) {
	all, _ := o[key].([]any)
	for _, v := range all {
		out = append(out, fmt.Sprint(v))
	}
	return out
}

func (o object) text(key string) string {
	switch v := o[key].(type) {
	case nil:
		return ""
	case map[string]any, []any:
		return ""
	default:
		return fmt.Sprint(v)
	}
}

func (o object) number(key string) (int, bool) {
	n, err := strconv.Atoi(o.text(key))
	return n, err == nil
}

// keys are the object's keys, sorted.
func (o object) keys() []string { return slices.Sorted(maps.Keys(o)) }

// cluster collects what becomes one provider of kind kubernetes, its offerings and
// its pools.
type cluster struct {
	providers, offerings, pools text
	names                       names
	apps                        []app
	kinds                       map[string]string // provider section → name
}

func newCluster() *cluster { return &cluster{names: names{}, kinds: map[string]string{}} }

func (k *cluster) String() string {
	var t text
	t.note("", "Made by muster import arc. Lines with REPLACE need a value that is secret or not known to ARC; then: muster config check.")
	t.note("", "Stop ARC for these runners before Muster serves them: both would start runners for the same jobs.")
	t.line("")
	t.apps(k.apps)
	t.line("\nproviders:\n%s\nofferings:\n%s\npools:\n%s", k.providers.String(), k.offerings.String(), strings.TrimSuffix(k.pools.String(), "\n"))
	return t.String()
}

// app finds or makes the App for an API and a way to prove who one is.
func (k *cluster) app(api, token string, id int64, hooks bool, notes ...string) string {
	for i := range k.apps {
		if a := &k.apps[i]; a.api == api && a.token == token && (a.id == id || id == 0) {
			a.hooks = a.hooks || hooks
			return a.name
		}
	}
	name := "main"
	if len(k.apps) > 0 {
		name = fmt.Sprintf("main-%d", len(k.apps)+1)
	}
	k.apps = append(k.apps, app{name: name, api: api, token: token, id: id, hooks: hooks, notes: notes})
	return name
}

// pod is what a runner's pod is asked for.
type pod struct {
	container object
	spec      object
	docker    bool
}

func podOf(spec object) pod {
	p := pod{spec: spec}
	all := spec.list("containers")
	if i := slices.IndexFunc(all, func(o object) bool { return o.text("name") == "runner" }); i >= 0 {
		p.container = all[i]
	} else if len(all) > 0 {
		p.container = all[0]
	}
	p.docker = slices.ContainsFunc(append(all, spec.list("initContainers")...), func(o object) bool { return strings.Contains(o.text("image"), "dind") })
	return p
}

// understood are the parts of a pod that have an equivalent; others get a note.
var understood = map[string]bool{
	"containers": true, "nodeSelector": true, "tolerations": true, "runtimeClassName": true, "priorityClassName": true,
	"restartPolicy": true, "terminationGracePeriodSeconds": true,
}

// provider finds or writes the provider of a pod's kind.
func (k *cluster) provider(p pod) string {
	var t text
	if image := p.container.text("image"); image != "" {
		t.line("      image: %s", q(image))
	}
	if n := p.spec.object("nodeSelector"); len(n) > 0 {
		t.line("      node_selector: %s", flow(stringsOf(n)))
	}
	if all := p.spec.list("tolerations"); len(all) > 0 {
		var out []map[string]string
		for _, o := range all {
			one := map[string]string{}
			for _, key := range []string{"key", "value", "effect"} {
				if v := o.text(key); v != "" {
					one[key] = v
				}
			}
			out = append(out, one)
		}
		t.line("      tolerations: %s", flow(out))
	}
	for _, key := range [][2]string{{"runtimeClassName", "runtime_class"}, {"priorityClassName", "priority_class"}} {
		if v := p.spec.text(key[0]); v != "" {
			t.line("      %s: %s", key[1], q(v))
		}
	}
	if p.docker {
		t.note("      ", "docker: privileged would give jobs an engine of their own beside the runner, as containerMode dind does. It is privileged: decide, and see docs/providers/kubernetes.md.")
	}
	for _, key := range p.spec.keys() {
		if !understood[key] {
			t.note("      ", "template.spec.%s has no equivalent: Muster writes the pod itself.", key)
		}
	}
	for _, key := range p.container.keys() {
		switch key {
		case "name", "image", "resources", "command", "args", "imagePullPolicy":
		case "env", "envFrom":
			var of []string
			for _, e := range p.container.list("env") {
				of = append(of, e.text("name"))
			}
			t.note("      ", "The container's variables %s are not taken over: build them into the image, or give them to jobs as secrets and variables of GitHub.", strings.Join(of, ", "))
		default:
			t.note("      ", "The container's %s has no equivalent: Muster writes the pod itself.", key)
		}
	}
	if name, ok := k.kinds[t.String()]; ok {
		return name
	}
	name := k.names.name("cluster")
	k.kinds[t.String()] = name
	k.providers.line("  - name: %s\n    kind: kubernetes", name)
	if t.Len() == 0 {
		k.providers.line("    config: {}")
	} else {
		k.providers.line("    config:\n      max: %d\n%s", 10*noLimit, strings.TrimSuffix(t.String(), "\n"))
	}
	return name
}

func stringsOf(o object) map[string]string {
	out := map[string]string{}
	for key := range o {
		out[key] = o.text(key)
	}
	return out
}

// offering writes a pod's size.
func (k *cluster) offering(p pod, pool string) string {
	name := k.names.name(pool + "-size")
	limits, requests := p.container.object("resources").object("limits"), p.container.object("resources").object("requests")
	size := func(key string) string { return cmp.Or(limits.text(key), requests.text(key)) }
	parts := []string{"name: " + name}
	if v, ok := quantity(size("cpu")); ok {
		parts = append(parts, "cpus: "+strconv.FormatFloat(v, 'f', -1, 64))
	}
	if v, ok := quantity(size("memory")); ok {
		parts = append(parts, fmt.Sprintf("memory_mib: %d", max(1, int64(v/(1<<20)))))
	}
	for _, key := range limits.keys() {
		if n, ok := limits.number(key); ok && strings.HasSuffix(key, "/gpu") && n > 0 {
			parts = append(parts, fmt.Sprintf("gpus: %d", n))
			if key != "nvidia.com/gpu" {
				k.offerings.note("  ", "The GPU is a %s: set gpu_resource of the provider.", key)
			}
		}
	}
	parts = append(parts, `price_usd_per_minute: "0"`)
	k.offerings.line("  - {%s}", strings.Join(parts, ", "))
	return name
}

// quantity reads a Kubernetes quantity: 500m, 2, 4Gi, 1e3.
func quantity(s string) (float64, bool) {
	for suffix, factor := range map[string]float64{
		"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "m": 1e-3,
	} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			v, err := strconv.ParseFloat(n, 64)
			return v * factor, err == nil && v >= 0
		}
	}
	v, err := strconv.ParseFloat(s, 64)
	return v, err == nil && v >= 0
}

// known are the values of the chart that are taken over or need no word.
var known = map[string]bool{
	"githubConfigUrl": true, "githubConfigSecret": true, "minRunners": true, "maxRunners": true, "runnerGroup": true,
	"runnerScaleSetName": true, "template": true, "containerMode": true,
	"controllerServiceAccount": true, "listenerTemplate": true, "listenerMetrics": true, "labels": true, "annotations": true,
}

// scaleSets writes scale sets.
func scaleSets(all []object, release string) (string, error) {
	k := newCluster()
	for _, o := range all {
		scope, api, err := place(o.text("githubConfigUrl"))
		if err != nil {
			return "", fmt.Errorf("githubConfigUrl: %w", err)
		}
		set := cmp.Or(o.text("runnerScaleSetName"), release)
		if set == "" {
			return "", errors.New("runnerScaleSetName is not set, and then a scale set is named like the chart's release: say --release NAME")
		}
		token, id := "", int64(0)
		notes := []string{"The App's private key is in no values; write it to the file below and chmod 600 it."}
		switch secret := o.object("githubConfigSecret"); {
		case secret["github_token"] != nil:
			token = "GITHUB_TOKEN"
			notes = []string{"ARC had a token in its values. Put it into the variable below, and make a new one: whoever can read the chart's release can read the old."}
		case secret["github_app_id"] != nil:
			if id, err = strconv.ParseInt(secret.text("github_app_id"), 10, 64); err != nil {
				id = 0
				notes = append(notes, "github_app_id is a client id: set client_id and the App's id.")
			}
			notes = append(notes, "ARC had the key in its values: make a new one, for whoever can read the chart's release can read the old.")
		default:
			if name := o.text("githubConfigSecret"); name != "" {
				notes = []string{fmt.Sprintf("ARC reads the Kubernetes secret %s. With github_token in it write token_env: GITHUB_TOKEN instead of id and private_key_file.", name)}
			}
		}
		as := k.app(api, token, id, false, notes...)
		p := podOf(o.object("template").object("spec"))
		mode := o.object("containerMode").text("type")
		p.docker = p.docker || mode == "dind"
		name := k.names.name(set)
		prov, size := k.provider(p), k.offering(p, name)
		most, limited := o.number("maxRunners")
		least, _ := o.number("minRunners")
		t := &k.pools
		t.line("  - name: %s\n    app: %s\n    scope: %s\n    scale_set: %s\n    provider: %s\n    offering: %s", name, q(as), q(scope), q(set), prov, size)
		if least > 0 {
			t.note("    ", "ARC keeps minRunners idle ones beside those at work; Muster counts all of them.")
		}
		if !limited || most < 1 {
			t.note("    ", "ARC had no maxRunners; Muster wants one.")
			most = noLimit
		}
		t.line("    scaling: {min_runners: %d, max_runners: %d}", min(least, most), most)
		if g := o.text("runnerGroup"); g != "" && !strings.EqualFold(g, "default") {
			t.note("    ", "runnerGroup %s: Muster takes the number that stands in the group's address on GitHub. REPLACE 1 by it.", g)
			t.line("    runner_group: 1")
		}
		if mode == "kubernetes" || mode == "kubernetes-novolume" {
			t.note("    ", "containerMode %s: jobs with container: run in pods of their own there. Muster runs the runner's pod alone; such jobs need an engine (docker of the provider).", mode)
		}
		for _, key := range o.keys() {
			switch {
			case known[key]:
			case key == "proxy":
				t.note("    ", "proxy: give the runner's image http_proxy, https_proxy and no_proxy; the control plane takes its own from its environment.")
			case key == "githubServerTLS":
				t.note("    ", "githubServerTLS: put the certificates into the runner's image and into the system's store of the control plane.")
			default:
				t.note("    ", "%s has no equivalent.", key)
			}
		}
	}
	return k.String(), nil
}

// deployments writes the objects of ARC's older version.
func deployments(all []object) (string, error) {
	k := newCluster()
	scalers := map[string]object{}
	for _, o := range all {
		if o.text("kind") == "HorizontalRunnerAutoscaler" {
			ref := o.object("spec").object("scaleTargetRef")
			scalers[cmp.Or(ref.text("kind"), "RunnerDeployment")+"/"+ref.text("name")] = o.object("spec")
		}
	}
	made := 0
	for _, o := range all {
		kind := o.text("kind")
		switch kind {
		case "RunnerDeployment", "RunnerSet":
		case "HorizontalRunnerAutoscaler":
			continue
		default:
			k.pools.note("  ", "A %s is left out: it is nothing of ARC's that a pool could be made of.", kind)
			continue
		}
		spec := o.object("spec")
		runner := spec.object("template").object("spec")
		if kind == "RunnerSet" { // its template is a pod's, and the runner's settings stand above it
			runner = spec
		}
		scope := ""
		switch {
		case runner.text("enterprise") != "":
			scope = "enterprises/" + runner.text("enterprise")
		default:
			scope = cmp.Or(runner.text("repository"), runner.text("organization"))
		}
		if _, _, err := place("https://github.com/" + scope); err != nil {
			return "", fmt.Errorf("%s %s: neither repository, organization nor enterprise is named", kind, o.object("metadata").text("name"))
		}
		made++
		as := k.app("", "", 0, true, "The controller's secret has the App's id and key, or a token: with a token write token_env: GITHUB_TOKEN instead of id and private_key_file. api_url is missing for GitHub Enterprise Server.")
		name := k.names.name(o.object("metadata").text("name"))
		p := podOf(runner)
		if kind == "RunnerSet" {
			p = podOf(spec.object("template").object("spec"))
		} else {
			p.container = object{"image": runner["image"], "resources": runner["resources"], "env": runner["env"]}
			if runner["image"] == nil {
				delete(p.container, "image")
			}
			if runner["env"] == nil {
				delete(p.container, "env")
			}
			p.spec = object{}
			for _, key := range []string{"nodeSelector", "tolerations", "runtimeClassName", "priorityClassName", "volumes", "serviceAccountName", "affinity", "imagePullSecrets"} {
				if v, ok := runner[key]; ok {
					p.spec[key] = v
				}
			}
			p.docker = runner.text("dockerEnabled") != "false" // its default was true
		}
		prov, size := k.provider(p), k.offering(p, name)
		t := &k.pools
		t.line("  - name: %s\n    app: %s\n    scope: %s", name, q(as), q(scope))
		matching(t, append([]string{"self-hosted"}, runner.texts("labels")...))
		t.line("    provider: %s\n    offering: %s", prov, size)
		least, most := 0, 0
		if n, ok := spec.number("replicas"); ok {
			least, most = n, max(1, n)
		} else {
			least, most = 1, 1 // its default
		}
		scaler, scaled := scalers[kind+"/"+o.object("metadata").text("name")]
		if scaled {
			least, _ = scaler.number("minReplicas")
			if most, _ = scaler.number("maxReplicas"); most < 1 {
				t.note("    ", "The autoscaler had no maxReplicas; Muster wants one.")
				most = noLimit
			}
		}
		scaling := fmt.Sprintf("min_runners: %d, max_runners: %d", min(least, most), most)
		if n, ok := scaler.number("scaleDownDelaySecondsAfterScaleOut"); ok && n > 0 {
			scaling += fmt.Sprintf(", scale_down_cooldown: %ds", n)
		}
		t.line("    scaling: {%s}", scaling)
		if g := runner.text("group"); g != "" && !strings.EqualFold(g, "default") {
			t.note("    ", "group %s: Muster takes the number that stands in the group's address on GitHub. REPLACE 1 by it.", g)
			t.line("    runner_group: 1")
		}
		if runner.text("ephemeral") == "false" {
			t.note("    ", "ephemeral: false: runners there had many jobs; Muster's have one each.")
		}
		for _, key := range scaler.keys() {
			switch key {
			case "scaleTargetRef", "minReplicas", "maxReplicas", "scaleDownDelaySecondsAfterScaleOut":
			case "scaleUpTriggers", "metrics":
				t.note("    ", "%s: Muster makes a runner for every queued job; webhooks and polling tell of them without being set up per pool.", key)
			case "scheduledOverrides":
				t.note("    ", "scheduledOverrides: write them as schedules, {cron, time_zone, for, min_runners}; see docs/scaling.md.")
			default:
				t.note("    ", "%s has no equivalent.", key)
			}
		}
	}
	if made == 0 {
		return "", errors.New("there is no RunnerDeployment or RunnerSet in it")
	}
	return k.String(), nil
}

// usual are labels that say what a runner is, and not which one.
var usual = []string{"self-hosted", "linux", "windows", "macos", "x64", "x86", "amd64", "arm64", "arm"}

// matching writes the labels of a pool whose runners have all of the given. Both the
// other control planes serve a job if all its labels are among the runner's; a pool
// also needs to know which jobs want it.
func matching(t *text, all []string) {
	var own, labels []string
	seen := map[string]bool{}
	for _, l := range all {
		if l == "" || seen[strings.ToLower(l)] {
			continue
		}
		seen[strings.ToLower(l)] = true
		labels = append(labels, l)
		if !slices.Contains(usual, strings.ToLower(l)) {
			own = append(own, l)
		}
	}
	switch {
	case len(own) == 1:
		t.line("    labels: %s", list(own))
		t.note("    ", "Jobs that name %s come here. Those that name %s alone do not, though they could: give another pool labels for them.", own[0], strings.Join(without(labels, own[0]), ", "))
	case slices.ContainsFunc(labels, func(l string) bool { return strings.EqualFold(l, "self-hosted") }):
		t.line("    labels: [self-hosted]")
		if len(own) > 1 {
			t.note("    ", "Jobs that name self-hosted, and nothing that runner_labels lack, come here. Of those that leave self-hosted out, only one label's can be meant by labels.")
		}
	case len(own) > 0:
		t.line("    labels: %s", list(own[:1]))
		t.note("    ", "Jobs that name %s come here; those that name another of runner_labels alone do not, though they could.", own[0])
	default:
		t.line("    labels: %s", list(labels))
	}
	t.line("    runner_labels: %s", list(labels))
}

func without(all []string, one string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == one })
}
