package migrate_test

import (
	"strings"
	"testing"

	"github.com/muster-ci/muster/internal/migrate"
)

const scaleSets = `
githubConfigUrl: https://ghes.example.com/enterprises/big
githubConfigSecret:
  github_app_id: "4711"
  github_app_installation_id: "1"
  github_app_private_key: |
    canary-key
minRunners: 2
maxRunners: 9
runnerGroup: heavy
runnerScaleSetName: "arc-big"
containerMode: {type: dind}
proxy: {http: {url: "http://canary:pw@proxy"}}
template:
  spec:
    nodeSelector: {kubernetes.io/os: linux, pool: "true"}
    tolerations: [{key: ci, operator: Equal, value: "yes", effect: NoSchedule}]
    runtimeClassName: gvisor
    serviceAccountName: x
    containers:
      - {name: side, image: y}
      - name: runner
        image: "ghcr.io/acme/runner:1"
        command: [/home/runner/run.sh]
        env: [{name: TOKEN, value: canary-env}]
        resources: {limits: {cpu: 1500m, memory: 4Gi, nvidia.com/gpu: 1}, requests: {cpu: 1}}
---
githubConfigUrl: https://github.com/acme/web
githubConfigSecret: {github_token: canary-token}
template: {spec: {containers: [{name: runner, image: "x\ny: # evil"}]}}
`

// 4-14 4-32: scale sets keep their names, limits, sizes and pods' settings; secrets
// are not printed.
func TestARC(t *testing.T) {
	text, err := migrate.ARC([]byte(scaleSets), "web-set")
	if err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + text)
	if strings.Contains(text, "canary") {
		t.Error("a secret is printed")
	}
	c := parse(t, text)
	if len(c.Pools) != 2 || len(c.Apps) != 2 || len(c.Providers) != 2 {
		t.Fatalf("%+v", c)
	}
	p := c.Pools[0]
	if p.Scope != "enterprises/big" || p.ScaleSet != "arc-big" || p.Scaling["min_runners"] != uint64(2) || p.Scaling["max_runners"] != uint64(9) {
		t.Errorf("%+v", p)
	}
	if c.Pools[1].Scope != "acme/web" || c.Pools[1].ScaleSet != "web-set" || c.Pools[1].Scaling["max_runners"] != uint64(100) {
		t.Errorf("%+v", c.Pools[1])
	}
	if c.Apps[0].APIURL != "https://ghes.example.com/api/v3" || c.Apps[1].TokenEnv != "GITHUB_TOKEN" {
		t.Errorf("%+v", c.Apps)
	}
	o := c.Offerings[0]
	if o["cpus"] != 1.5 || o["memory_mib"] != uint64(4096) || o["gpus"] != uint64(1) {
		t.Errorf("%+v", o)
	}
	k := c.Providers[0].Config
	if k["image"] != "ghcr.io/acme/runner:1" || k["runtime_class"] != "gvisor" || k["node_selector"].(map[string]any)["pool"] != "true" || c.Providers[1].Config["image"] != "x\ny: # evil" {
		t.Errorf("%+v %+v", k, c.Providers[1].Config)
	}
	for _, said := range []string{"Group", "serviceAccountName", "TOKEN", "proxy", "docker", "runnerGroup heavy"} {
		if !strings.Contains(strings.ToLower(text), strings.ToLower(said)) {
			t.Errorf("nothing is said of %s", said)
		}
	}
}

const older = `
apiVersion: v1
kind: List
items:
- apiVersion: actions.summerwind.dev/v1alpha1
  kind: RunnerDeployment
  metadata: {name: web}
  spec:
    replicas: 2
    template:
      spec:
        repository: acme/web
        labels: [gpu, fast]
        group: heavy
        ephemeral: false
        dockerEnabled: false
        image: acme/runner
        resources: {limits: {cpu: "4", memory: 8G}}
        volumes: []
- apiVersion: actions.summerwind.dev/v1alpha1
  kind: HorizontalRunnerAutoscaler
  metadata: {name: web}
  spec:
    scaleTargetRef: {name: web}
    minReplicas: 1
    maxReplicas: 12
    scaleDownDelaySecondsAfterScaleOut: 300
    scheduledOverrides: [{startTime: "2021-05-01T00:00:00+09:00"}]
    scaleUpTriggers: [{duration: 5m}]
- apiVersion: actions.summerwind.dev/v1alpha1
  kind: RunnerSet
  metadata: {name: set}
  spec:
    organization: acme
    template: {spec: {containers: [{name: runner, image: z}]}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: x}}
`

func TestARCOlderVersion(t *testing.T) {
	text, err := migrate.ARC([]byte(older), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + text)
	c := parse(t, text)
	if len(c.Pools) != 2 {
		t.Fatalf("%+v", c.Pools)
	}
	p := c.Pools[0]
	if p.Scope != "acme/web" || strings.Join(p.Labels, " ") != "self-hosted" || strings.Join(p.RunnerLabels, " ") != "self-hosted gpu fast" || p.Scaling["min_runners"] != uint64(1) || p.Scaling["max_runners"] != uint64(12) {
		t.Errorf("%+v", p)
	}
	if s := c.Pools[1]; s.Scope != "acme" || s.Scaling["max_runners"] != uint64(1) || s.Provider == p.Provider {
		t.Errorf("%+v", s)
	}
	if o := c.Offerings[0]; o["memory_mib"] != uint64(7629) {
		t.Errorf("%+v", o)
	}
	for _, said := range []string{"scheduledOverrides", "ConfigMap", "ephemeral", "volumes"} {
		if !strings.Contains(text, said) {
			t.Errorf("nothing is said of %s", said)
		}
	}
}

func TestARCRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing of ARC's":    "replicaCount: 1\n",
		"no YAML":             "a: [",
		"no name":             "githubConfigUrl: https://github.com/acme\n",
		"no address":          "githubConfigUrl: acme\nrunnerScaleSetName: x\n",
		"too many parts":      "githubConfigUrl: https://github.com/a/b/c\nrunnerScaleSetName: x\n",
		"a runner of nothing": "kind: RunnerDeployment\nmetadata: {name: x}\n",
		"only an autoscaler":  "kind: HorizontalRunnerAutoscaler\nmetadata: {name: x}\n",
	} {
		if out, err := migrate.ARC([]byte(text), ""); err == nil {
			t.Errorf("%s: %s", name, out)
		}
	}
}

// Whatever the file holds, the answer is an error or YAML.
func FuzzARC(f *testing.F) {
	f.Add([]byte(scaleSets))
	f.Add([]byte(older))
	f.Fuzz(func(t *testing.T, values []byte) {
		if text, err := migrate.ARC(values, "release"); err == nil {
			parse(t, text)
		}
	})
}
