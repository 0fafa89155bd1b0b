//go:build race

package githubsim_test

// raced says that the race detector makes everything several times slower.
const raced = true
