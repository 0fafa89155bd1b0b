package githubsim_test

import (
	"fmt"

	"github.com/muster-ci/muster/githubsim"
)

// A server needs no network to be asked what is true.
func Example() {
	s := githubsim.New(githubsim.Config{Seed: 1})
	defer s.Close()
	if err := s.CreateRepository("acme/web", githubsim.RepositoryOptions{}); err != nil {
		fmt.Println(err)
	}
	for range 3 {
		if _, err := s.InjectJob(githubsim.JobOptions{Repo: "acme/web", Labels: []string{"self-hosted", "linux"}}); err != nil {
			fmt.Println(err)
		}
	}
	if err := s.CancelJob(s.Truth().Jobs[0].ID); err != nil {
		fmt.Println(err)
	}
	fmt.Println(s.Truth().ByState())
	// Output: map[completed:1 queued:2]
}
