// Package examples holds configurations to start from. Its test loads each of
// them as `muster serve` would.
package examples
