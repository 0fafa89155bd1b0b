// Package proc knows what runs on this machine: it reads Linux's /proc and
// signals processes by identity, which is the pid together with the start time,
// so that a number that the kernel has given to somebody else is never mistaken
// (4-47).
//
// It owns nothing and keeps nothing: every call looks again. It never starts a
// process. provider/process and internal/agent call it. On systems without
// /proc every call finds nothing.
package proc
