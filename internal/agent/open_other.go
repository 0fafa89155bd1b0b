//go:build !unix

package agent

import "os"

func openRegular(name string) (*os.File, error) { return os.Open(name) }
