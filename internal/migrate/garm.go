package migrate

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// GARM is what a database of GARM says of runners, without a secret: what is sealed
// in it is not read.
type GARM struct {
	Credentials []GARMCredentials
	Pools       []GARMPool
	// MinimumJobAge is how long jobs wait before a runner is made for them, in seconds.
	MinimumJobAge int
	// Instances is how many machines GARM has.
	Instances int
	// Left are things that are there and not taken over.
	Left []string
}

// GARMCredentials are by what GARM proves to GitHub who it is.
type GARMCredentials struct {
	Name, Description, AuthType, APIBaseURL string
}

// GARMPool is a pool, or a scale set.
type GARMPool struct {
	ID, Provider, Image, Flavor, OSType, OSArch string
	// ScaleSet is the scale set's name, "" for a pool.
	ScaleSet    string
	Tags        []string
	Max, Min    int
	Bootstrap   int // minutes
	Enabled     bool
	Priority    int
	Group       string
	Prefix      string
	Template    bool
	ExtraSpecs  json.RawMessage
	Scope       string
	Credentials string
	Balancer    string
}

// GARMProvider is a provider as GARM's configuration file has it, which the database
// does not know.
type GARMProvider struct {
	Name, Executable, ConfigFile, InterfaceVersion string
	Environment                                    []string
}

// ReadGARM reads a database. It takes those of several versions: tables and columns
// that a version does not have are empty.
func ReadGARM(ctx context.Context, db *sql.DB) (GARM, error) {
	r := reader{ctx: ctx, db: db}
	var g GARM
	if !r.has("pools") || !r.has("repositories") {
		return g, errors.Join(r.err, errors.New("this is no database of GARM: it has no pools and repositories"))
	}
	endpoints := map[string]string{}
	for _, o := range r.rows("github_endpoints", "name", "api_base_url", "endpoint_type") {
		endpoints[strings.ToLower(o["name"])] = o["api_base_url"]
		if strings.EqualFold(o["endpoint_type"], "gitea") {
			g.Left = append(g.Left, fmt.Sprintf("the Gitea endpoint %s: Muster knows GitHub only", o["name"]))
		}
	}
	credentials := map[string]string{}
	for _, o := range r.rows("github_credentials", "id", "name", "description", "auth_type", "endpoint_name") {
		credentials[o["id"]] = o["name"]
		g.Credentials = append(g.Credentials, GARMCredentials{o["name"], o["description"], o["auth_type"], endpoints[strings.ToLower(o["endpoint_name"])]})
	}
	type entity struct{ scope, credentials, balancer string }
	entities := map[string]entity{}
	read := func(table, prefix string, columns ...string) {
		for _, o := range r.rows(table, append([]string{"id", "credentials_id", "credentials_name", "pool_balancer_type", "gitea_credentials_id"}, columns...)...) {
			var parts []string
			for _, c := range columns {
				parts = append(parts, o[c])
			}
			if o["gitea_credentials_id"] != "" {
				g.Left = append(g.Left, "pools of "+strings.Join(parts, "/")+": it is on Gitea")
				continue
			}
			entities[o["id"]] = entity{prefix + strings.Join(parts, "/"), cmp.Or(credentials[o["credentials_id"]], o["credentials_name"]), o["pool_balancer_type"]}
		}
	}
	read("repositories", "", "owner", "name")
	read("organizations", "", "name")
	read("enterprises", "enterprises/", "name")
	tags := map[string]string{}
	for _, o := range r.rows("tags", "id", "name") {
		tags[o["id"]] = o["name"]
	}
	of := map[string][]string{}
	for _, o := range r.rows("pool_tags", "pool_id", "tag_id") {
		of[o["pool_id"]] = append(of[o["pool_id"]], tags[o["tag_id"]])
	}
	common := []string{
		"id", "provider_name", "image", "flavor", "os_type", "os_arch", "max_runners", "min_idle_runners", "runner_bootstrap_timeout",
		"enabled", "git_hub_runner_group", "runner_prefix", "template_id", "extra_specs", "repo_id", "org_id", "enterprise_id",
	}
	for table, more := range map[string][]string{"pools": {"priority"}, "scale_sets": {"name"}} {
		for _, o := range r.rows(table, append(more, common...)...) {
			e, ok := entities[cmp.Or(o["repo_id"], o["org_id"], o["enterprise_id"])]
			if !ok {
				g.Left = append(g.Left, fmt.Sprintf("%s %s: what it belongs to is gone, or is not on GitHub", strings.TrimSuffix(table, "s"), o["id"]))
				continue
			}
			p := GARMPool{
				ID: o["id"], Provider: o["provider_name"], Image: o["image"], Flavor: o["flavor"], OSType: o["os_type"], OSArch: o["os_arch"],
				ScaleSet: o["name"], Tags: of[o["id"]], Max: number(o["max_runners"]), Min: number(o["min_idle_runners"]),
				Bootstrap: number(o["runner_bootstrap_timeout"]), Enabled: o["enabled"] == "1" || o["enabled"] == "true", Priority: number(o["priority"]),
				Group: o["git_hub_runner_group"], Prefix: o["runner_prefix"], Template: o["template_id"] != "", Scope: e.scope, Credentials: e.credentials, Balancer: e.balancer,
			}
			if s := strings.TrimSpace(o["extra_specs"]); s != "" && s != "null" && s != "{}" {
				p.ExtraSpecs = json.RawMessage(s)
			}
			slices.Sort(p.Tags)
			g.Pools = append(g.Pools, p)
		}
	}
	slices.SortStableFunc(g.Pools, func(a, b GARMPool) int {
		return cmp.Or(cmp.Compare(a.Scope, b.Scope), cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.ScaleSet, b.ScaleSet), cmp.Compare(a.ID, b.ID))
	})
	for _, o := range r.rows("controller_infos", "minimum_job_age_backoff") {
		g.MinimumJobAge = number(o["minimum_job_age_backoff"])
	}
	g.Instances = len(r.rows("instances", "id"))
	slices.Sort(g.Left)
	return g, r.err
}

func number(s string) (n int) {
	_, _ = fmt.Sscan(s, &n) // what is no number is none
	return n
}

// reader reads columns as texts and keeps its first error.
type reader struct {
	ctx context.Context //nolint:containedctx // it lives for one call of ReadGARM
	db  *sql.DB
	err error
}

func (r *reader) columns(table string) map[string]bool {
	if r.err != nil {
		return nil
	}
	rows, err := r.db.QueryContext(r.ctx, "SELECT name FROM pragma_table_info(?)", table)
	if err != nil {
		r.err = fmt.Errorf("read the database: %w", err)
		return nil
	}
	defer rows.Close()
	out := map[string]bool{}
	for rows.Next() {
		var name string
		if r.err = rows.Scan(&name); r.err != nil {
			return nil
		}
		out[name] = true
	}
	r.err = rows.Err()
	return out
}

func (r *reader) has(table string) bool { return len(r.columns(table)) > 0 }

// rows reads the columns that a table has of those asked for, of rows that were not
// deleted; GARM keeps some of those. The names are this file's own.
func (r *reader) rows(table string, columns ...string) (out []map[string]string) {
	has := r.columns(table)
	var ask, names []string
	for _, c := range columns {
		if has[c] {
			ask, names = append(ask, "CAST("+c+" AS TEXT)"), append(names, c)
		}
	}
	if len(ask) == 0 || r.err != nil {
		return nil
	}
	query := "SELECT " + strings.Join(ask, ", ") + " FROM " + table
	if has["deleted_at"] {
		query += " WHERE deleted_at IS NULL"
	}
	rows, err := r.db.QueryContext(r.ctx, query)
	if err != nil {
		r.err = fmt.Errorf("read %s: %w", table, err)
		return nil
	}
	defer rows.Close()
	for rows.Next() {
		values := make([]sql.NullString, len(names))
		into := make([]any, len(names))
		for i := range values {
			into[i] = &values[i]
		}
		if r.err = rows.Scan(into...); r.err != nil {
			return nil
		}
		o := map[string]string{}
		for i, name := range names {
			o[name] = values[i].String
		}
		out = append(out, o)
	}
	r.err = rows.Err()
	return out
}

// Configuration writes the equivalent configuration. Providers are those of GARM's
// configuration file, as far as they are known.
func (g GARM) Configuration(providers []GARMProvider) string {
	var t, offerings, pools, sections text
	t.note("", "Made by muster import garm. Lines with REPLACE need a value that is secret or not in GARM's database; then: muster config check.")
	t.note("", "Stop GARM before Muster serves these pools: both would start runners for the same jobs. Machines that GARM has made (%d now) are GARM's: drain its pools first, Muster does not touch them.", g.Instances)
	for _, l := range g.Left {
		t.note("", "Left out: %s.", l)
	}
	t.line("")
	n := names{}
	appNames := map[string]string{}
	var apps []app
	for _, cr := range g.Credentials {
		if !slices.ContainsFunc(g.Pools, func(p GARMPool) bool { return p.Credentials == cr.Name }) {
			continue
		}
		a := app{name: n.name(cr.Name), api: strings.TrimSuffix(cr.APIBaseURL, "/"), hooks: true}
		if a.api == "https://api.github.com" {
			a.api = ""
		}
		if a.api != "" && !strings.HasSuffix(a.api, "/api/v3") && !strings.Contains(a.api, "api.") {
			a.api += "/api/v3"
		}
		a.notes = []string{fmt.Sprintf("GARM's credentials %s. They are sealed in its database and stay there: GARM's own files have them.", cr.Name)}
		if cr.AuthType == "pat" {
			a.token = strings.ToUpper(strings.ReplaceAll(a.name, "-", "_")) + "_TOKEN"
		}
		appNames[cr.Name] = a.name
		apps = append(apps, a)
	}
	if len(apps) == 0 {
		apps = append(apps, app{name: "main", hooks: true, notes: []string{"GARM had no credentials in use."}})
	}
	// A provider of Muster has one operating system, one architecture and one set of
	// extra specs, which are each pool's own in GARM.
	type section struct {
		name    string
		flavors map[string]string
		most    int
		boot    int
		of      GARMPool
	}
	var made []*section
	sizes := map[string]string{}
	for _, p := range g.Pools {
		i := slices.IndexFunc(made, func(s *section) bool {
			return s.of.Provider == p.Provider && s.of.OSType == p.OSType && s.of.OSArch == p.OSArch && string(s.of.ExtraSpecs) == string(p.ExtraSpecs)
		})
		if i < 0 {
			made = append(made, &section{name: n.name(p.Provider), flavors: map[string]string{}, of: p})
			i = len(made) - 1
		}
		s := made[i]
		s.most, s.boot = s.most+p.Max, max(s.boot, p.Bootstrap)
		size, ok := sizes[p.Image+"\x00"+p.Flavor]
		if !ok {
			size = n.name(cmp.Or(p.Flavor, "size"))
			sizes[p.Image+"\x00"+p.Flavor] = size
			image := ""
			if p.Image != "" {
				image = ", image: " + flow(p.Image)
			}
			offerings.line(`  - {name: %s%s, price_usd_per_minute: "0"}`, size, image)
		}
		if p.Flavor != "" {
			s.flavors[size] = p.Flavor
		}
		g.pool(&pools, n, p, s.name, size, appNames[p.Credentials])
	}
	if len(made) == 0 {
		t.note("", "GARM has no pools.")
	}
	for _, s := range made {
		i := slices.IndexFunc(providers, func(p GARMProvider) bool { return p.Name == s.of.Provider })
		given := GARMProvider{Executable: "garm-provider-" + notInNames.ReplaceAllString(s.of.Provider, "-"), ConfigFile: notInNames.ReplaceAllString(s.of.Provider, "-") + ".toml", InterfaceVersion: "v0.1.0"}
		if i >= 0 {
			given = providers[i]
		} else {
			sections.note("  ", "REPLACE executable, config_file and interface_version by those of provider %s in GARM's configuration file, and list what it has in environment_variables; or say --config.", s.of.Provider)
		}
		sections.line("  - name: %s\n    kind: garm\n    config:\n      executable: %s\n      config_file: %s\n      interface_version: %s", s.name, q(given.Executable), q(given.ConfigFile), q(cmp.Or(given.InterfaceVersion, "v0.1.0")))
		if len(given.Environment) > 0 {
			sections.line("      environment_variables: %s", list(given.Environment))
		}
		sections.line("      os_type: %s\n      arch: %s", q(cmp.Or(s.of.OSType, "linux")), q(cmp.Or(s.of.OSArch, "amd64")))
		if len(s.flavors) > 0 {
			sections.line("      flavors: %s", flow(s.flavors))
		}
		if len(s.of.ExtraSpecs) > 0 {
			var specs map[string]json.RawMessage
			if err := json.Unmarshal(s.of.ExtraSpecs, &specs); err != nil {
				sections.note("      ", "The extra specs are not an object and are left out.")
			} else {
				sections.note("      ", "If there is a secret in the extra specs, it stands here as it stood in GARM's database, in clear.")
				sections.line("      extra_specs: %s", flow(specs))
			}
		}
		if s.boot > 0 {
			sections.line("      connect_timeout: %dm", s.boot)
		}
		sections.line("      max: %d", max(1, s.most))
	}
	t.apps(apps)
	part := func(key string, body *text) {
		if body.Len() == 0 {
			t.line("\n%s: []", key)
		} else {
			t.line("\n%s:\n%s", key, strings.TrimSuffix(body.String(), "\n"))
		}
	}
	part("providers", &sections)
	part("offerings", &offerings)
	part("pools", &pools)
	return t.String()
}

func (g GARM) pool(t *text, n names, p GARMPool, provider, size, as string) {
	place := strings.TrimPrefix(p.Scope, "enterprises/")
	name := n.name(cmp.Or(p.ScaleSet, place[strings.LastIndex(place, "/")+1:]+"-"+size))
	t.line("  - name: %s", name)
	if as != "" {
		t.line("    app: %s", q(as))
	}
	t.line("    scope: %s", q(p.Scope))
	if p.ScaleSet != "" {
		t.line("    scale_set: %s", q(p.ScaleSet))
	} else {
		matching(t, p.Tags)
	}
	t.line("    provider: %s\n    offering: %s", provider, size)
	if p.Min > 0 {
		t.note("    ", "GARM keeps min_idle_runners idle ones beside those at work; Muster counts all of them.")
	}
	t.line("    scaling: {min_runners: %d, max_runners: %d}", min(p.Min, p.Max), max(1, p.Max))
	if g.MinimumJobAge > 0 && p.ScaleSet == "" {
		t.line("    job_wait: %ds", g.MinimumJobAge)
	}
	if !p.Enabled {
		t.line("    enabled: false")
	}
	if p.Group != "" && !strings.EqualFold(p.Group, "default") {
		t.note("    ", "Runner group %s: Muster takes the number that stands in the group's address on GitHub. REPLACE 1 by it.", p.Group)
		t.line("    runner_group: 1")
	}
	if p.Priority > 0 || p.Balancer != "" && p.Balancer != "none" {
		t.note("    ", "Priority %d, balancer %s: a job goes to the first pool that fits it, in the order of this file; see overflow for what a full one passes on.", p.Priority, cmp.Or(p.Balancer, "none"))
	}
	if p.Template {
		t.note("    ", "The pool had a template for its machines' script: put it into extra_specs of the provider as runner_install_template, in base64, if it changed what is installed.")
	}
	if p.Prefix != "" && p.Prefix != "garm" {
		t.note("    ", "Prefix %s: runners are named by pool and a random text.", p.Prefix)
	}
}
