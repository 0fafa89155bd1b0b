// Package expr evaluates the expressions of workflow files: what stands between
// ${{ and }}, and conditions of jobs and steps.
//
// It owns the language as GitHub documents it ("Evaluate expressions in
// workflows and actions"): literals, contexts, operators with their loose
// conversions, object filters, and the functions contains, startsWith, endsWith,
// format, join, toJSON, fromJSON, hashFiles, success, failure, always and
// cancelled. Anything else is an error that names it.
//
// It is pure, never reads the clock, files or the environment (hashFiles is a
// function of the caller), and imports the standard library only, because
// githubsim/runner links it. The server uses it through githubsim/workflow.
package expr
