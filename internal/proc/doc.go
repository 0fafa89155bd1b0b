// Package proc knows what runs on this machine: it reads Linux's /proc and
// signals processes by identity, which is the pid together with the start time,
// so that a number that the kernel has given to somebody else is never mistaken
// (4-47), and takes the locks of directories that several programs share.
//
// It owns nothing and keeps nothing: every call looks again. It never starts a
// process. provider/process, provider/qemu and internal/agent call it. On systems
// without /proc every call finds nothing; locks are Linux's only.
package proc
