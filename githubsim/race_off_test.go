//go:build !race

package githubsim_test

const raced = false
