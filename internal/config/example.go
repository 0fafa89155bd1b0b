package config

import _ "embed"

// Example is the configuration that `muster init` writes: every setting with its
// default and a word about it, and the few that have to be filled in.
//
//go:embed example.yaml
var Example string
