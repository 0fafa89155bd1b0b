// Command requirements prints which of the project's requirements a test proves.
//
// docs/requirements.txt lists them, one id with a short title per line; a test
// proves one by naming its id in a comment. The program reads those two and
// nothing else: it runs no test, so a citation in a test that fails or skips
// counts here and is caught by the test run. `make requirements` calls it.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run returns the exit status: 0; 1 for citations of what does not exist and,
// with --strict, for anything unproven; 2 for wrong use.
func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("requirements", flag.ContinueOnError)
	flags.SetOutput(stderr)
	root := flags.String("root", ".", "the module's directory")
	of := flags.String("of", "", `only these, such as "S0-1…S0-19,S1-37"`)
	strict := flags.Bool("strict", false, "exit 1 if any of them is not proven")
	verbose := flags.Bool("v", false, "name the places that prove each")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "requirements: unexpected %q\n", flags.Args())
		return 2
	}
	tree := os.DirFS(*root)
	list, err := readCatalogue(tree)
	if err != nil {
		fmt.Fprintln(stderr, "requirements:", err)
		return 2
	}
	wanted, err := list.sel(*of)
	if err != nil {
		fmt.Fprintln(stderr, "requirements: --of:", err)
		return 2
	}
	proofs, problems, err := scan(tree, list)
	if err != nil {
		fmt.Fprintln(stderr, "requirements:", err)
		return 2
	}
	unproven := report(stdout, list, wanted, proofs, *verbose)
	for _, p := range problems {
		fmt.Fprintln(stderr, "requirements:", p)
	}
	if len(problems) > 0 || *strict && unproven > 0 {
		return 1
	}
	return 0
}
