package garm

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/muster-ci/muster/provider"
)

// Commands of the interface, as GARM_COMMAND has them.
const (
	cmdCreate      = "CreateInstance"
	cmdDelete      = "DeleteInstance"
	cmdGet         = "GetInstance"
	cmdList        = "ListInstances"
	cmdStart       = "StartInstance"
	cmdStop        = "StopInstance"
	cmdRemoveAll   = "RemoveAllInstances"
	cmdVersion     = "GetVersion"
	cmdVersions    = "GetSupportedInterfaceVersions"
	cmdValidate    = "ValidatePoolInfo"
	cmdConfig      = "GetConfigJSONSchema"
	cmdSpecsSchema = "GetExtraSpecsJSONSchema"
)

// Exit codes with a meaning; 0 is success and any other an error.
const (
	exitNotFound  = 30
	exitDuplicate = 31
)

const (
	// maxAnswer is the most that is read of an executable's standard output, in bytes:
	// a list of several thousand machines.
	maxAnswer = 8 << 20
	// maxWords is how much of its standard error is shown, in bytes: the end, where the
	// cause stands.
	maxWords = 1 << 10
	// drainWithin is how long a killed executable's output may stay open, held by a
	// descendant that left its process group.
	drainWithin = 2 * time.Second
)

// failure is a call that ended with another exit code than 0, or not in time.
type failure struct {
	command string
	code    int // -1: killed, or not started
	words   string
	cause   error
}

func (f *failure) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: ", f.command)
	if f.code >= 0 {
		fmt.Fprintf(&b, "the executable ended with %d", f.code)
	} else {
		b.WriteString("the executable was ended or did not start")
	}
	if f.cause != nil {
		fmt.Fprintf(&b, " (%v)", f.cause)
	}
	if f.words != "" {
		b.WriteString(": " + f.words)
	}
	return b.String()
}

func (f *failure) Unwrap() error { return f.cause }

// exited reports the exit code of err, or -1.
func exited(err error) int {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.code
	}
	return -1
}

// call runs the executable once. The answer is its standard output if it ended with
// 0; otherwise the error is a *failure, with the context's own error inside if the
// context ended first, or of a class.
func (p *Provider) call(ctx context.Context, within time.Duration, command, instance string, stdin []byte, secret string) ([]byte, error) {
	select {
	case p.calls <- struct{}{}:
		defer func() { <-p.calls }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	running, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	cmd := exec.CommandContext(running, p.cfg.Executable)
	cmd.Env = p.environment(command, instance)
	cmd.Dir = p.dir
	cmd.Stdin = bytes.NewReader(stdin)
	if stdin == nil {
		cmd.Stdin = nil // the null device
	}
	out, errs := &answer{most: maxAnswer}, &ending{most: 64 << 10}
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.WaitDelay = drainWithin
	ownGroup(cmd)
	err := cmd.Run()
	killGroup(cmd) // what the executable left behind
	switch {
	case ctx.Err() != nil:
		return nil, &failure{command, -1, errs.words(secret), ctx.Err()}
	case running.Err() != nil:
		return nil, &failure{command, -1, errs.words(secret), fmt.Errorf("%w: it took longer than %s", provider.ErrTransient, within)}
	case err == nil && out.over:
		return nil, &failure{command, 0, "", fmt.Errorf("%w: its answer is longer than %d bytes", provider.ErrTransient, maxAnswer)}
	case err == nil:
		return out.Bytes(), nil
	}
	code := -1
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
		err = nil
	}
	return nil, &failure{command, code, speak(append(append(errs.text, '\n'), out.Bytes()...), secret), err}
}

// environment is all that an executable gets to see: what the interface names, and
// what the configuration and the way out of this machine's network allow.
func (p *Provider) environment(command, instance string) []string {
	set := func(k, v string) string { return k + "=" + v }
	env := []string{
		set("GARM_COMMAND", command), set("GARM_CONTROLLER_ID", p.controller),
		set("GARM_PROVIDER_CONFIG_FILE", p.cfg.ConfigFile), set("GARM_INTERFACE_VERSION", p.cfg.InterfaceVersion),
	}
	latest := p.cfg.InterfaceVersion == Version011
	switch command {
	case cmdCreate, cmdList:
		env = append(env, set("GARM_POOL_ID", p.pool))
	case cmdGet, cmdDelete, cmdStart, cmdStop:
		if latest {
			env = append(env, set("GARM_POOL_ID", p.pool))
		}
		env = append(env, set("GARM_INSTANCE_ID", instance))
	case cmdValidate:
		env = append(env, set("GARM_POOL_ID", p.pool))
	}
	if latest {
		env = append(env, set("GARM_POOL_EXTRASPECS", p.encodedSpecs))
	}
	from := p.cfg.Environ
	if from == nil {
		from = os.Environ()
	}
	allowed := append([]string{"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}, p.cfg.EnvironmentVariables...)
	for _, kv := range from {
		name, _, _ := strings.Cut(kv, "=")
		for _, prefix := range allowed {
			if strings.HasPrefix(name, prefix) && !hasGARM(name) {
				env = append(env, kv)
				break
			}
		}
	}
	return env
}

func hasGARM(name string) bool { return strings.HasPrefix(strings.ToUpper(name), "GARM") }

// answer keeps the first most bytes.
type answer struct {
	bytes.Buffer
	most int
	over bool
}

// Write implements io.Writer.
func (a *answer) Write(b []byte) (int, error) {
	if room := a.most - a.Len(); len(b) > room {
		a.over = true
		a.Buffer.Write(b[:max(0, room)])
		return len(b), nil
	}
	return a.Buffer.Write(b)
}

// ending keeps the last most bytes.
type ending struct {
	text []byte
	most int
}

// Write implements io.Writer.
func (e *ending) Write(b []byte) (int, error) {
	e.text = append(e.text, b...)
	if over := len(e.text) - e.most; over > e.most {
		e.text = append(e.text[:0], e.text[over:]...)
	}
	return len(b), nil
}

func (e *ending) words(secret string) string { return speak(e.text, secret) }

var escapes = regexp.MustCompile(`\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?)`)

// speak makes an executable's output fit to be shown: one line, its end, without
// control characters. Output that repeats the secret, plainly or as user data are
// written, in base64, is withheld as a whole.
func speak(text []byte, secret string) string {
	if holds(text, secret) {
		return "(what it said is withheld, because it holds the machine's token)"
	}
	s := strings.ToValidUTF8(escapes.ReplaceAllString(string(text), ""), "�")
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r):
			return -1
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxWords {
		cut := s[len(s)-maxWords:]
		s = "… " + strings.ToValidUTF8(cut, "")
	}
	return s
}

// holds reports whether text repeats secret, as it is or in base64 of something
// around it, however the lines are broken.
func holds(text []byte, secret string) bool {
	if secret == "" {
		return false
	}
	flat := strings.Join(strings.Fields(string(text)), "")
	if strings.Contains(flat, secret) {
		return true
	}
	for shift := range 3 { // where the secret begins in a group of three bytes
		from := (3 - shift) % 3
		inner := secret[min(from, len(secret)):]
		inner = inner[:len(inner)-len(inner)%3]
		if len(inner) < 9 {
			continue
		}
		encoded := base64.RawStdEncoding.EncodeToString([]byte(inner))
		if strings.Contains(flat, encoded) || strings.Contains(flat, base64.RawURLEncoding.EncodeToString([]byte(inner))) {
			return true
		}
	}
	return false
}

// Clouds say in words only why they refuse; these are theirs.
var (
	pacedWords    = regexp.MustCompile(`(?i)rate.?limit|throttl|too many requests|RequestLimitExceeded`)
	quotaWords    = regexp.MustCompile(`(?i)quota|limit ?exceeded|LimitExceeded|exceeds? (the |your )?(approved )?(limit|quota)|OperationNotAllowed.*cores|too many instances`)
	capacityWords = regexp.MustCompile(`(?i)insufficient ?(instance)? ?capacity|Insufficient\w*Capacity|out of (host )?capacity|no valid host|RESOURCE_POOL_EXHAUSTED|AllocationFailed|OverconstrainedAllocation|SkuNotAvailable|no capacity|not enough (free )?(resources|memory|cpu)`)
	invalidWords  = regexp.MustCompile(`(?i)Invalid(Parameter|AMI|Instance|Subnet|Group|Input|Value)|MissingParameter|failed to (validate|decode|get) (the )?(extra ?specs|bootstrap|pool)|unsupported (os|image|interface)|schema validation|failed to find tools`)
)

// class gives what an executable said about a creation one of the classes.
func class(words string) error {
	switch {
	case pacedWords.MatchString(words): // a limit that passes by itself
		return provider.ErrTransient
	case quotaWords.MatchString(words):
		return provider.ErrQuota
	case capacityWords.MatchString(words):
		return provider.ErrCapacity
	case invalidWords.MatchString(words):
		return provider.ErrInvalid
	}
	return provider.ErrTransient
}

// classed gives an error of a call that is not a creation its class.
func classed(err error) error {
	if err == nil || errors.Is(err, provider.ErrTransient) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", provider.ErrTransient, err)
}
