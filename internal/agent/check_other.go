//go:build !linux

package agent

import "errors"

func freeBytes(string) (uint64, error) { return 0, errors.ErrUnsupported }

func memoryMiB() uint64 { return 0 }
