//go:build !unix

package garm

import (
	"context"
	"errors"
	"os"
	"os/exec"
)

var (
	errLocked   = errors.New("locked by another call")
	errPlatform = errors.New("the garm provider needs a Unix system, for process groups and locks")
)

func ownGroup(*exec.Cmd)  {}
func killGroup(*exec.Cmd) {}

func lock(context.Context, string) (*os.File, error) { return nil, errPlatform }
func tryLock(string) (*os.File, error)               { return nil, errPlatform }
