package view

import (
	"net/netip"
	"strings"
)

// known are the hosts that builds talk to, by domain: the host itself and all below it.
// The longest that fits counts. docs/traces-query.md says how to have one added.
var known = map[string]struct {
	category Category
	service  string
}{
	// GitHub. The storage accounts hold logs, artifacts and caches of runs.
	"github.com":                            {GitHub, "GitHub"},
	"api.github.com":                        {GitHub, "GitHub API"},
	"codeload.github.com":                   {GitHub, "GitHub archives"},
	"uploads.github.com":                    {GitHub, "GitHub uploads"},
	"githubusercontent.com":                 {GitHub, "GitHub content"},
	"actions.githubusercontent.com":         {GitHub, "GitHub Actions"},
	"objects.githubusercontent.com":         {GitHub, "GitHub releases"},
	"raw.githubusercontent.com":             {GitHub, "GitHub raw files"},
	"github.githubassets.com":               {GitHub, "GitHub assets"},
	"githubapp.com":                         {GitHub, "GitHub"},
	"githubstatus.com":                      {GitHub, "GitHub status"},
	"github.io":                             {External, "GitHub Pages"}, // anybody's
	"ghe.com":                               {GitHub, "GitHub Enterprise"},
	"actions.download.prss.microsoft.com":   {GitHub, "GitHub Actions tools"},
	"github-cloud.s3.amazonaws.com":         {GitHub, "Git LFS"},
	"github-releases.githubusercontent.com": {GitHub, "GitHub releases"},
	"release-assets.githubusercontent.com":  {GitHub, "GitHub releases"},

	// GitHub's own registries are registries.
	"ghcr.io":                              {Registries, "GitHub containers"},
	"npm.pkg.github.com":                   {Registries, "GitHub npm"},
	"maven.pkg.github.com":                 {Registries, "GitHub Maven"},
	"nuget.pkg.github.com":                 {Registries, "GitHub NuGet"},
	"rubygems.pkg.github.com":              {Registries, "GitHub RubyGems"},
	"pkg.github.com":                       {Registries, "GitHub Packages"},
	"pkg-containers.githubusercontent.com": {Registries, "GitHub containers"},

	// JavaScript.
	"npmjs.org":     {Registries, "npm"},
	"npmjs.com":     {Registries, "npm"},
	"yarnpkg.com":   {Registries, "Yarn"},
	"nodejs.org":    {Registries, "Node.js"},
	"jsr.io":        {Registries, "JSR"},
	"deno.land":     {Registries, "Deno"},
	"bun.sh":        {Registries, "Bun"},
	"npmmirror.com": {Registries, "npm mirror"},
	// Python.
	"pypi.org":         {Registries, "PyPI"},
	"pythonhosted.org": {Registries, "PyPI"},
	"pypi.python.org":  {Registries, "PyPI"},
	"python.org":       {Registries, "Python"},
	"anaconda.org":     {Registries, "Conda"},
	"anaconda.com":     {Registries, "Conda"},
	"pytorch.org":      {Registries, "PyTorch"},
	"astral.sh":        {Registries, "uv"},
	// Go.
	"proxy.golang.org": {Registries, "Go modules"},
	"sum.golang.org":   {Registries, "Go checksums"},
	"index.golang.org": {Registries, "Go modules"},
	"go.dev":           {Registries, "Go"},
	"golang.org":       {Registries, "Go"},
	"dl.google.com":    {Registries, "Google downloads"},
	"gopkg.in":         {Registries, "Go modules"},
	"goproxy.io":       {Registries, "Go modules"},
	"goproxy.cn":       {Registries, "Go modules"},
	// Rust.
	"crates.io":     {Registries, "crates.io"},
	"rust-lang.org": {Registries, "Rust"},
	"rustup.rs":     {Registries, "Rust"},
	// Java and Kotlin.
	"repo.maven.apache.org": {Registries, "Maven Central"},
	"repo1.maven.org":       {Registries, "Maven Central"},
	"maven.org":             {Registries, "Maven Central"},
	"central.sonatype.com":  {Registries, "Maven Central"},
	"oss.sonatype.org":      {Registries, "Sonatype"},
	"gradle.org":            {Registries, "Gradle"},
	"maven.google.com":      {Registries, "Google Maven"},
	"jitpack.io":            {Registries, "JitPack"},
	"adoptium.net":          {Registries, "Adoptium"},
	"repo.spring.io":        {Registries, "Spring"},
	// Others.
	"rubygems.org":                {Registries, "RubyGems"},
	"ruby-lang.org":               {Registries, "Ruby"},
	"nuget.org":                   {Registries, "NuGet"},
	"dotnetcli.azureedge.net":     {Registries, ".NET"},
	"dotnet.microsoft.com":        {Registries, ".NET"},
	"builds.dotnet.microsoft.com": {Registries, ".NET"},
	"packagist.org":               {Registries, "Packagist"},
	"getcomposer.org":             {Registries, "Composer"},
	"hex.pm":                      {Registries, "Hex"},
	"hackage.haskell.org":         {Registries, "Hackage"},
	"pub.dev":                     {Registries, "pub.dev"},
	"cocoapods.org":               {Registries, "CocoaPods"},
	"cpan.org":                    {Registries, "CPAN"},
	"cran.r-project.org":          {Registries, "CRAN"},
	"conan.io":                    {Registries, "Conan"},
	"opam.ocaml.org":              {Registries, "opam"},
	"luarocks.org":                {Registries, "LuaRocks"},
	"registry.terraform.io":       {Registries, "Terraform"},
	"releases.hashicorp.com":      {Registries, "HashiCorp"},
	"registry.opentofu.org":       {Registries, "OpenTofu"},
	"huggingface.co":              {Registries, "Hugging Face"},
	"cache.nixos.org":             {Registries, "Nix"},
	"nixos.org":                   {Registries, "Nix"},
	// Containers.
	"docker.io":                        {Registries, "Docker Hub"},
	"hub.docker.com":                   {Registries, "Docker Hub"},
	"download.docker.com":              {Registries, "Docker packages"},
	"production.cloudflare.docker.com": {Registries, "Docker Hub"},
	"docker.com":                       {Registries, "Docker"},
	"quay.io":                          {Registries, "Quay"},
	"gcr.io":                           {Registries, "Google containers"},
	"pkg.dev":                          {Registries, "Google Artifact Registry"},
	"registry.k8s.io":                  {Registries, "Kubernetes images"},
	"pkgs.k8s.io":                      {Registries, "Kubernetes packages"},
	"dl.k8s.io":                        {Registries, "Kubernetes"},
	"public.ecr.aws":                   {Registries, "AWS public images"},
	"mcr.microsoft.com":                {Registries, "Microsoft images"},
	"azurecr.io":                       {Registries, "Azure images"},
	"registry.gitlab.com":              {Registries, "GitLab images"},
	"get.helm.sh":                      {Registries, "Helm"},
	// Systems.
	"deb.debian.org":           {Registries, "Debian"},
	"debian.org":               {Registries, "Debian"},
	"archive.ubuntu.com":       {Registries, "Ubuntu"},
	"security.ubuntu.com":      {Registries, "Ubuntu"},
	"ports.ubuntu.com":         {Registries, "Ubuntu"},
	"azure.archive.ubuntu.com": {Registries, "Ubuntu"},
	"ubuntu.com":               {Registries, "Ubuntu"},
	"ppa.launchpadcontent.net": {Registries, "Ubuntu PPA"},
	"launchpad.net":            {Registries, "Launchpad"},
	"snapcraft.io":             {Registries, "Snap"},
	"dl-cdn.alpinelinux.org":   {Registries, "Alpine"},
	"alpinelinux.org":          {Registries, "Alpine"},
	"fedoraproject.org":        {Registries, "Fedora"},
	"centos.org":               {Registries, "CentOS"},
	"rockylinux.org":           {Registries, "Rocky Linux"},
	"almalinux.org":            {Registries, "AlmaLinux"},
	"cdn.redhat.com":           {Registries, "Red Hat"},
	"opensuse.org":             {Registries, "openSUSE"},
	"archlinux.org":            {Registries, "Arch Linux"},
	"packages.microsoft.com":   {Registries, "Microsoft packages"},
	"packagecloud.io":          {Registries, "packagecloud"},
	"flathub.org":              {Registries, "Flathub"},
	"chocolatey.org":           {Registries, "Chocolatey"},
	"brew.sh":                  {Registries, "Homebrew"},

	// The machine's own surroundings.
	"localhost":                {Runner, "this machine"},
	"metadata.google.internal": {Runner, "cloud metadata"},
	"host.docker.internal":     {Runner, "this machine"},
	"internal":                 {Runner, ""},
	"cluster.local":            {Runner, "Kubernetes"},
	"in-addr.arpa":             {Runner, "reverse DNS"},
	"ip6.arpa":                 {Runner, "reverse DNS"},
}

// knownPrefixes are hosts of which only the beginning is told: GitHub keeps results, artifacts
// and caches in storage accounts with these names.
var knownPrefixes = []struct{ prefix, suffix, service string }{
	{"productionresultssa", ".blob.core.windows.net", "GitHub Actions results"},
	{"productionresults", ".blob.core.windows.net", "GitHub Actions results"},
	{"artprodsu6weu", ".artifacts.visualstudio.com", "GitHub Actions artifacts"},
	{"github-production-", ".s3.amazonaws.com", "GitHub releases"},
	{"githubactions", ".blob.core.windows.net", "GitHub Actions"},
}

var (
	carrier  = netip.MustParsePrefix("100.64.0.0/10")
	metadata = map[netip.Addr]bool{
		netip.MustParseAddr("169.254.169.254"): true, netip.MustParseAddr("fd00:ec2::254"): true,
		netip.MustParseAddr("169.254.170.2"): true, netip.MustParseAddr("100.100.100.200"): true,
	}
)

// Classify says what kind of place a host is, and what it is called if it is well known. The
// host is a name or, where none is known, "". An address that is the machine's own or
// of a private network makes a host that no table knows Runner Infrastructure.
func Classify(host, address string) (category Category, service string) {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	for rest := host; rest != ""; {
		if k, ok := known[rest]; ok {
			return k.category, k.service
		}
		_, rest, _ = strings.Cut(rest, ".")
	}
	for _, k := range knownPrefixes {
		if strings.HasPrefix(host, k.prefix) && strings.HasSuffix(host, k.suffix) {
			return GitHub, k.service
		}
	}
	a, err := netip.ParseAddr(address)
	named := host != ""
	if own, fault := netip.ParseAddr(host); fault == nil {
		a, err, named = own, nil, false
	}
	if err != nil {
		if named && !strings.Contains(host, ".") {
			return Runner, "" // a name without a domain is of the own network
		}
		return External, ""
	}
	category, service = classifyAddress(a.Unmap().WithZone(""))
	if named {
		service = "" // whoever owns a name can make it point anywhere
	}
	return category, service
}

func classifyAddress(a netip.Addr) (Category, string) {
	switch {
	case metadata[a]:
		return Runner, "cloud metadata"
	case a.IsLoopback(), a.IsUnspecified():
		return Runner, "this machine"
	case a.IsPrivate(), a.IsLinkLocalUnicast(), a.IsMulticast(), carrier.Contains(a):
		return Runner, "private network"
	}
	return External, ""
}
