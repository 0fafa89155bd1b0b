// Package config reads the control plane's configuration file: YAML, strictly,
// every problem at once, each with its line and what to do about it.
//
// It owns the names of settings, their defaults, and the rules for where secrets
// may stand: in files of their own or in environment variables, never in the
// configuration. Nothing in the file is interpolated; "${X}" is those four
// characters.
//
// It never opens a listener, a database or a provider, and it does not know the
// settings of any provider: a provider's section is kept with its position and
// decoded by whoever builds that provider (Section.JSON). internal/cli calls
// Load; internal/server reads the Config.
package config
