package config

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster"
)

// Load reads the file at path. getenv is os.Getenv or a stand-in; the variables
// that it may be asked for are MUSTER_APP_ID, MUSTER_APP_PRIVATE_KEY (PEM, "\n"
// for line ends) and MUSTER_WEBHOOK_SECRET, which complete a single App,
// MUSTER_OPERATOR_TOKEN, MUSTER_DATABASE_PASSWORD, MUSTER_ENGINE_API_KEY, and
// those that token_env settings name. Paths in the file are relative to its own
// directory. The error is a Problems with everything that is wrong.
func Load(path string, getenv func(string) string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, Problems{{File: path, What: reason(err), Remedy: "write one with: muster init --output " + path}}
	}
	l := loader{decoder: newDecoder(path), getenv: getenv, dir: filepath.Dir(path)}
	if abs, err := filepath.Abs(l.dir); err == nil {
		l.dir = abs
	}
	f := file{Times: DefaultTimes()}
	l.parse(data, &f)
	if l.bad[""] {
		return Config{}, l.problems.orNil()
	}
	c := l.resolve(f)
	c.File = path
	if err := l.problems.orNil(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// loader turns what is written into a Config.
type loader struct {
	decoder
	getenv func(string) string
	dir    string // of the file, absolute
}

func (l *loader) resolve(f file) Config {
	c := Config{
		Name:           or(f.Name, "muster"),
		DataDir:        l.path(or(f.DataDir, "muster-data")),
		Listen:         or(f.Listen, "127.0.0.1:8080"),
		InsecureListen: f.InsecureListen,
		TrackUnmatched: f.TrackUnmatched,
		Times:          f.Times,
	}
	if !word.MatchString(c.Name) {
		l.at("name", "use letters, digits, '-' and '_'", "name %q has a character that providers' tags do not take", c.Name)
	}
	c.SlurmGateway, c.GatewayOnly = l.gateway(f.SlurmGateway), l.gatewayOnly()
	c.Log = Log{Level: or(f.Log.Level, "info"), Format: or(f.Log.Format, "text")}
	l.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	l.oneOf("log.format", c.Log.Format, "text", "json")
	if c.GatewayOnly {
		return Config{Name: c.Name, DataDir: c.DataDir, Log: c.Log, SlurmGateway: c.SlurmGateway, GatewayOnly: true}
	}
	l.listener(f, &c)
	c.Database = l.database(f.Database, c.DataDir)
	c.SecretKeyFile = l.path(or(f.SecretKeyFile, filepath.Join(c.DataDir, "secret.key")))
	if _, err := os.Stat(c.SecretKeyFile); err == nil {
		l.private("secret_key_file", c.SecretKeyFile)
	}
	c.Engine = l.engine(f.Engine)
	c.Telemetry.OTLPEndpoint = f.Telemetry.OTLPEndpoint
	if s := c.Telemetry.OTLPEndpoint; s != "" {
		l.url("telemetry.otlp_endpoint", s)
	}
	c.Apps = l.apps(f.Apps)
	c.Providers = l.providers(f.Providers)
	c.Offerings = l.offerings(f.Offerings)
	c.PriceBook = l.prices(f.PriceBook)
	l.teams(f.Teams)
	c.Pools = l.pools(f, c)
	c.FleetsFile, c.Pools = l.fleets(f.Fleets, c)
	l.overflows(f.Pools, c.Pools)
	c.Budgets = l.budgets(f.Budgets, c.Pools)
	l.times(f.Times)
	c.Traces = l.traces(f.Traces, c.DataDir)
	c.Webhooks = l.webhooksOut(f.WebhooksOut)
	return c
}

// word is what names are made of (S1-102).
var word = regexp.MustCompile(`\A[a-zA-Z0-9_-]+\z`)

func (l *loader) listener(f file, c *Config) {
	host, port, err := net.SplitHostPort(c.Listen)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		l.at("listen", "write host:port, for example 127.0.0.1:8080", "listen %q is not an address", c.Listen)
	}
	switch t := f.TLS; {
	case (t.CertFile == "") != (t.KeyFile == ""):
		l.at("tls", "set both cert_file and key_file", "tls names only one half of a certificate")
	case t.CertFile != "":
		c.TLS = TLS{CertFile: l.path(t.CertFile), KeyFile: l.path(t.KeyFile)}
		l.exists("tls.cert_file", c.TLS.CertFile)
		l.private("tls.key_file", c.TLS.KeyFile)
	}
	c.OperatorToken = l.secret("operator_token_file", f.OperatorTokenFile, "MUSTER_OPERATOR_TOKEN")
	open := err == nil && !Loopback(c.Listen)
	if open && !c.TLS.Enabled() && !c.InsecureListen {
		l.at("listen", "set tls.cert_file and tls.key_file, listen on 127.0.0.1, or set insecure_listen: true behind a proxy that terminates TLS",
			"listen %s is open to other machines without TLS", c.Listen)
	}
	if open && c.OperatorToken == "" && !l.written("operator_token_file") {
		l.at("listen", "put a long random text in a file and name it in operator_token_file",
			"listen %s is open to other machines and no operator token is asked for", c.Listen)
	}
	c.PublicURL = strings.TrimRight(f.PublicURL, "/")
	if c.PublicURL != "" {
		u := l.url("public_url", c.PublicURL)
		if u == nil || Loopback(u.Host) {
			return
		}
		if u.Scheme == "http" && !c.InsecureListen {
			l.at("public_url", "use https, or set insecure_listen: true to accept that boot tokens cross the network in clear", "public_url %s is not https", c.PublicURL)
		}
		// Whatever forwards to a loopback listener looks like this machine.
		if !open && c.OperatorToken == "" && !l.written("operator_token_file") {
			l.at("public_url", "put a long random text in a file and name it in operator_token_file", "public_url %s is open to other machines and no operator token is asked for", c.PublicURL)
		}
		return
	}
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		l.at("listen", "set public_url to the address by which machines and GitHub reach this one", "listen %s is not an address that others can call", c.Listen)
	}
	c.PublicURL = "http://" + c.Listen
	if c.TLS.Enabled() {
		c.PublicURL = "https://" + c.Listen
	}
}

func (l *loader) database(s, dataDir string) Database {
	if s == "" {
		return Database{URL: "sqlite:" + filepath.Join(dataDir, "muster.db")}
	}
	if p, ok := strings.CutPrefix(s, "sqlite:"); ok {
		if p == "" {
			l.at("database", "write sqlite:PATH", "database names no file")
		}
		return Database{URL: "sqlite:" + l.path(p)}
	}
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") || u.Host == "" {
		// The text may hold a password, so that it is not repeated.
		l.at("database", "write sqlite:PATH or postgres://USER@HOST:PORT/NAME", "database is neither an SQLite file nor a PostgreSQL address")
		return Database{}
	}
	if _, set := u.User.Password(); set || u.Query().Has("password") {
		l.at("database", "take it out and set the environment variable MUSTER_DATABASE_PASSWORD", "database holds a password")
		return Database{}
	}
	return Database{URL: s, Password: muster.Secret(l.getenv("MUSTER_DATABASE_PASSWORD"))}
}

func (l *loader) engine(f fileEngine) Engine {
	e := Engine{
		Address: f.Address, Namespace: or(f.Namespace, "muster"),
		CAFile: l.path(f.TLS.CAFile), CertFile: l.path(f.TLS.CertFile), KeyFile: l.path(f.TLS.KeyFile), ServerName: f.TLS.ServerName,
		UIListen: f.UIListen,
	}
	if e.Address != "" {
		if _, _, err := net.SplitHostPort(e.Address); err != nil {
			l.at("engine.address", "write host:port, for example temporal.example.com:7233", "engine.address %q is not an address", e.Address)
		}
	} else if l.written("engine.tls") || l.written("engine.api_key_file") {
		l.at("engine", "set engine.address, or remove engine.tls and engine.api_key_file", "engine has credentials and no address to use them at")
	}
	if e.CAFile != "" {
		l.exists("engine.tls.ca_file", e.CAFile)
	}
	if (e.CertFile == "") != (e.KeyFile == "") {
		l.at("engine.tls", "set both cert_file and key_file", "engine.tls names only one half of a certificate")
	} else if e.CertFile != "" {
		l.exists("engine.tls.cert_file", e.CertFile)
		l.private("engine.tls.key_file", e.KeyFile)
	}
	e.APIKey = l.secret("engine.api_key_file", f.APIKeyFile, "MUSTER_ENGINE_API_KEY")
	switch {
	case e.UIListen == "":
	case e.Address != "":
		l.at("engine.ui_listen", "remove it: an external engine has pages of its own", "engine.ui_listen is for the embedded engine only")
	case !Loopback(e.UIListen):
		l.at("engine.ui_listen", "use 127.0.0.1:PORT", "engine.ui_listen %q is not on loopback, and those pages ask for no password", e.UIListen)
	}
	return e
}

func (l *loader) apps(fs []fileApp) []App {
	var apps []App
	if len(fs) == 0 {
		if l.getenv("MUSTER_APP_ID") == "" {
			l.at("apps", "add one under apps:, or set MUSTER_APP_ID, MUSTER_APP_PRIVATE_KEY and MUSTER_WEBHOOK_SECRET", "no GitHub App is configured")
			return nil
		}
		fs = []fileApp{{Name: "default"}}
	}
	env := func(name string) string { // only a single App is completed from the environment
		if len(fs) > 1 {
			return ""
		}
		return name
	}
	names := map[string]int{}
	for i, f := range fs {
		at := fmt.Sprintf("apps[%d]", i)
		l.name(at, "app", f.Name, names)
		a := App{Name: f.Name, ID: f.ID, ClientID: f.ClientID, APIURL: strings.TrimRight(or(f.APIURL, "https://api.github.com"), "/")}
		if u := l.url(at+".api_url", a.APIURL); u != nil && u.Scheme != "https" && !Loopback(u.Host) {
			l.at(at+".api_url", "use https", "api_url %s is not https", a.APIURL) // S1-17 S1-105
		}
		a.WebURL = strings.TrimRight(or(f.WebURL, webURL(a.APIURL)), "/")
		a.MutationsPerMinute = f.MutationsPerMinute
		l.url(at+".web_url", a.WebURL)
		if f.TokenEnv != "" {
			l.token(at, f, &a)
			apps = append(apps, a)
			continue
		}
		if s := l.getenv("MUSTER_APP_ID"); a.ID == 0 && a.ClientID == "" && len(fs) == 1 && s != "" {
			id, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				l.at(at, "set it to the number that the App's page shows as App ID", "MUSTER_APP_ID is not a number")
			}
			a.ID = id
		}
		switch {
		case a.ID < 0 || l.written(at+".id") && a.ID == 0 && l.sound(at+".id"):
			l.at(at+".id", "write the number that the App's page shows as App ID", "id must be positive")
		case a.ID == 0 && a.ClientID == "" && !l.written(at+".id"):
			l.at(at, "set id or client_id from the App's page, or token_env to use a token instead", "app %q has no id", f.Name)
		}
		a.PrivateKey = l.secret(at+".private_key_file", f.PrivateKeyFile, env("MUSTER_APP_PRIVATE_KEY"))
		if a.PrivateKey == "" && f.PrivateKeyFile == "" {
			l.at(at, "download one from the App's page and name it in private_key_file", "app %q has no private key", f.Name)
		}
		if a.PrivateKey != "" {
			a.PrivateKey = muster.Secret(strings.ReplaceAll(a.PrivateKey.Reveal(), `\n`, "\n"))
			if !rsaKey(a.PrivateKey) {
				l.at(at+".private_key_file", "download a new key from the App's page", "the private key of app %q is not an RSA key in PEM", f.Name)
			}
		}
		a.WebhookSecret = l.secret(at+".webhook_secret_file", f.WebhookSecretFile, env("MUSTER_WEBHOOK_SECRET"))
		if a.WebhookSecret == "" && f.WebhookSecretFile == "" && !f.PollOnly {
			l.at(at, "put the App's webhook secret in a file and name it in webhook_secret_file, or set poll_only: true to do without webhooks",
				"app %q has no webhook secret", f.Name)
		}
		a.WebhookSecretPrevious = l.secret(at+".webhook_secret_previous_file", f.WebhookSecretPreviousFile, "")
		apps = append(apps, a)
	}
	return apps
}

// accessToken is any text that can stand in a header. GitHub's own forms are
// many and change; what is refused is a token with a space, a line end or nothing in it.
var accessToken = regexp.MustCompile(`\A[\x21-\x7e]{8,}\z`)

// token completes an App that is a token (C6).
func (l *loader) token(at string, f fileApp, a *App) {
	if f.ID != 0 || f.ClientID != "" || f.PrivateKeyFile != "" {
		l.at(at+".token_env", "remove token_env, or id and private_key_file", "app %q has both a token and an App's key", f.Name)
		return
	}
	a.WebhookSecret = l.secret(at+".webhook_secret_file", f.WebhookSecretFile, "")
	a.WebhookSecretPrevious = l.secret(at+".webhook_secret_previous_file", f.WebhookSecretPreviousFile, "")
	switch t := l.getenv(f.TokenEnv); {
	case t == "":
		l.at(at+".token_env", "export "+f.TokenEnv+"=… before starting", "the environment variable %s is not set", f.TokenEnv) // S1-97
	case !accessToken.MatchString(t):
		l.at(at+".token_env", "copy the token again, without spaces and line ends", "the environment variable %s does not hold a token", f.TokenEnv) // S1-99
	default:
		a.Token = muster.Secret(t)
	}
}

// webURL is where the pages of the GitHub with that API are.
func webURL(api string) string {
	if api == "https://api.github.com" {
		return "https://github.com"
	}
	if sub, ok := strings.CutPrefix(api, "https://api."); ok { // SUBDOMAIN.ghe.com
		return "https://" + sub
	}
	return strings.TrimSuffix(api, "/api/v3")
}

func rsaKey(s muster.Secret) bool {
	block, _ := pem.Decode([]byte(s.Reveal()))
	if block == nil {
		return false
	}
	if _, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return true
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	_, ok := k.(*rsa.PrivateKey)
	return err == nil && ok
}

func (l *loader) providers(fs []fileKind) []Provider {
	if len(fs) == 0 && !l.written("providers") {
		l.at("providers", "add one under providers:, for example kind: process", "no provider is configured, so that no machine can be made")
	}
	var ps []Provider
	names := map[string]int{}
	for i, f := range fs {
		at := fmt.Sprintf("providers[%d]", i)
		l.name(at, "provider", f.Name, names)
		if f.Kind == "" && l.sound(at+".kind") {
			l.at(at, "set kind: process", "provider %q has no kind", f.Name)
		}
		if f.Config.node == nil {
			f.Config = Section{file: l.file, line: l.line(at)}
		}
		p := Provider{Name: f.Name, Kind: f.Kind, Config: f.Config}
		zones := map[string]int{}
		for j, z := range f.Zones {
			at := fmt.Sprintf("%s.zones[%d]", at, j)
			l.name(at, "zone", z.Name, zones)
			if z.Config.node == nil {
				z.Config = Section{file: l.file, line: l.line(at)}
			}
			p.Zones = append(p.Zones, ProviderZone(z))
		}
		ps = append(ps, p)
	}
	return ps
}

func (l *loader) offerings(fs []fileSize) []muster.Offering {
	var os []muster.Offering
	names := map[string]int{}
	for i, f := range fs {
		at := fmt.Sprintf("offerings[%d]", i)
		l.name(at, "offering", f.Name, names)
		o := muster.Offering{Name: f.Name, CPUs: f.CPUs, MemoryMiB: f.MemoryMiB, GPUs: f.GPUs, Image: f.Image, Spot: f.Spot, Autoscale: f.Autoscale}
		if f.PriceMicroUSD != nil {
			o.PriceMicroUSD = *f.PriceMicroUSD
		}
		if f.PriceUSD != "" {
			price, err := f.PriceUSD.micro()
			if err != nil {
				l.at(at+".price_usd_per_minute", `write US dollars per minute, such as "0.008"`, "price_usd_per_minute: %s", err)
			}
			if f.PriceMicroUSD != nil {
				l.at(at+".price_usd_per_minute", "keep one", "offering %q has two prices", f.Name)
			}
			o.PriceMicroUSD = price
		}
		for _, n := range []struct {
			key string
			bad bool
		}{{"cpus", f.CPUs < 0}, {"memory_mib", f.MemoryMiB < 0}, {"gpus", f.GPUs < 0}} {
			if n.bad {
				l.at(at+"."+n.key, "write 0 for the provider's default", "%s of offering %q is negative", n.key, f.Name)
			}
		}
		if o.PriceMicroUSD < 0 {
			l.at(at, "write 0 for machines that cost nothing", "the price of offering %q is negative", f.Name)
		}
		os = append(os, o)
	}
	return os
}

func (l *loader) prices(f filePrices) PriceBook {
	b := PriceBook{Currency: or(f.Currency, "USD"), Rounding: time.Minute}
	l.oneOf("price_book.currency", b.Currency, "USD")
	l.oneOf("price_book.rounding", or(f.Rounding, "minute"), "minute", "second")
	if f.Rounding == "second" {
		b.Rounding = time.Second
	}
	return b
}

func (l *loader) times(t Times) {
	for _, x := range []struct {
		key  string
		d    time.Duration
		zero bool // may be 0
	}{
		{"poll", t.Poll, false}, {"health", t.Health, false}, {"sweep", t.Sweep, false}, {"sweep_grace", t.SweepGrace, true},
		{"redelivery_scan", t.RedeliveryScan, false}, {"heartbeat", t.Heartbeat, false}, {"agent_lost", t.AgentLost, false},
		{"delivery_retention", t.DeliveryRetention, false}, {"api_timeout", t.APITimeout, false},
	} {
		if x.d < 0 || x.d == 0 && !x.zero {
			l.at("times."+x.key, "remove it to get the default", "times.%s must be longer than 0s", x.key)
		}
	}
	if t.AgentLost > 0 && t.AgentLost < 2*t.Heartbeat {
		l.at("times.agent_lost", "make it at least twice times.heartbeat", "times.agent_lost %s gives up after a single missed heartbeat of %s", t.AgentLost, t.Heartbeat)
	}
}

// Helpers of the above.

// name reports a missing, bad or repeated name.
func (l *loader) name(at, noun, name string, seen map[string]int) {
	line := l.line(at + ".name")
	switch first, twice := seen[name]; {
	case name == "":
		if l.sound(at + ".name") {
			l.at(at, "set name", "this %s has no name", noun)
		}
	case !word.MatchString(name):
		l.at(at+".name", "use letters, digits, '-' and '_'", "%s name %q has a character that is not allowed", noun, name)
	case twice:
		l.at(at+".name", "give each its own name", "%s %q is configured twice, first on line %d", noun, name, first)
	default:
		seen[name] = line
	}
}

// written reports whether a setting stands in the file.
func (l *loader) written(path string) bool { _, ok := l.lines[path]; return ok }

// sound reports whether a setting could be read or is absent, so that a value of
// the wrong type is not reported as missing as well.
func (l *loader) sound(path string) bool { return !l.bad[path] }

func (l *loader) oneOf(path, value string, allowed ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	remedy := "use " + strings.Join(allowed, " or ")
	if len(allowed) > 2 {
		remedy = "use one of " + strings.Join(allowed, ", ")
	}
	l.at(path, remedy, "%s %q is unknown", path[strings.LastIndex(path, ".")+1:], value)
}

// url reports what is not an absolute http or https address; nil if it is none.
func (l *loader) url(path, s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil {
		l.at(path, "write it as https://HOST", "%s is not a web address", path)
		return nil
	}
	return u
}

// path makes a path absolute; "" stays "".
func (l *loader) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(l.dir, p)
}

func (l *loader) exists(path, name string) bool {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		l.at(path, "create it or correct the path", "%s %s: %s", path, name, reason(err))
	case !info.Mode().IsRegular():
		l.at(path, "name a file", "%s %s is not a file", path, name)
	default:
		return true
	}
	return false
}

// private is exists for a file that only its owner may read.
func (l *loader) private(path, name string) bool {
	if !l.exists(path, name) {
		return false
	}
	if info, err := os.Stat(name); err == nil && info.Mode().Perm()&0o077 != 0 {
		l.at(path, "chmod 600 "+name, "%s %s can be read by others (mode %04o)", path, name, info.Mode().Perm())
		return false
	}
	return true
}

// secret reads a secret from its file or, if the setting is absent, from an
// environment variable ("" for none). Line ends around it are dropped.
func (l *loader) secret(path, name, env string) muster.Secret {
	if name == "" {
		if env == "" {
			return ""
		}
		return muster.Secret(strings.TrimSpace(l.getenv(env)))
	}
	name = l.path(name)
	if !l.private(path, name) {
		return ""
	}
	data, err := os.ReadFile(name)
	if err != nil {
		l.at(path, "make it readable for the user that runs muster", "%s %s: %s", path, name, reason(err))
		return ""
	}
	s := strings.TrimSpace(string(data))
	if s == "" {
		l.at(path, "write the secret into it", "%s %s is empty", path, name)
	}
	return muster.Secret(s)
}

// reason is an error of the file system without the path, which the text around it has.
func reason(err error) string {
	switch {
	case os.IsNotExist(err):
		return "there is no such file"
	case os.IsPermission(err):
		return "permission denied"
	}
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
