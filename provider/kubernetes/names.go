package kubernetes

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/muster-ci/muster"
)

// label is the prefix of every label and annotation of ours.
const label = "muster-ci.github.io/"

// What pods are tagged with. Labels hold hashes where an operator's word may be no
// label; the word itself is an annotation.
const (
	labelOwner  = label + "owner"
	labelRunner = label + "runner"
	labelPool   = label + "pool"
	labelSize   = label + "size"
	labelRole   = label + "role" // "runner" or "room"

	noteOwner     = label + "owner-name"
	noteWorkspace = label + "workspace"
	notePool      = label + "pool-name"
	noteTrace     = label + "trace-id"
	noteOffering  = label + "offering"
)

// short is a hash that fits wherever Kubernetes takes a name.
func short(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:5])
}

// labelOwns is the label by which an owner finds its namespaces. Several may share one.
func labelOwns(owner string) string { return "owner." + label + short(owner) }

// podName is the name of a runner's pod and of its Secret. Two owners may share a
// namespace, and a runner's id.
func podName(owner string, id muster.RunnerID) string { return string(id) + "-" + short(owner) }

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// slug makes a word of an operator part of a name: the word itself if that is
// possible, or what is left of it with its hash.
func slug(word string, most int) string {
	if len(word) <= most && len(validation.IsDNS1123Label(word)) == 0 {
		return word
	}
	left := strings.Trim(notInNames.ReplaceAllString(strings.ToLower(word), "-"), "-")
	return strings.Trim(left[:min(len(left), most-11)], "-") + "x" + short(word)
}

// namespaceOf names the namespace of a workspace.
func (c Config) namespaceOf(workspace string) (name string, given, ok bool) {
	if ns, ok := c.Namespaces[workspace]; ok {
		return ns, true, true
	}
	if !c.CreateNamespaces {
		return "", false, false
	}
	room := 63 - (len(c.Namespace) - len("{workspace}"))
	return strings.Replace(c.Namespace, "{workspace}", slug(workspace, room), 1), false, true
}

// labelValue is text as a label for people to read: itself, or a hash.
func labelValue(text string) string {
	if len(validation.IsValidLabelValue(text)) == 0 {
		return text
	}
	return "x" + short(text)
}

// plain is text as an annotation keeps it.
func plain(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }
