//go:build !unix

package agent

import "os"

func whenContinued() (<-chan os.Signal, func()) { return nil, func() {} }
