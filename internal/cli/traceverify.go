package cli

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/trace"
	"github.com/muster-ci/muster/internal/trace/attest"
)

func (a *app) traceVerify() *cobra.Command {
	c := &cobra.Command{
		Use: "verify FILE|JOB", Short: "Check that a trace is what was sealed and signed, offline if you like", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeJobs,
		Long: "Check that a trace is what was sealed when its job ended, and that the control plane signed that: every segment is read, the chain of\n" +
			"hashes is computed again and compared with the signed statement.\n\n" +
			"FILE is a bundle of muster trace get --bundle; it is checked with the public key in --key, and nobody is asked. Of a JOB the bundle is\n" +
			"downloaded and checked here; without --key with the keys that the control plane names, which proves less: whoever can change both\n" +
			"the trace and the keys is not found out.\n\n" + traceArg,
		Example: "  muster trace key > muster-trace.pem\n  muster trace get 48211905223 --bundle -o job.bundle\n  muster trace verify job.bundle --key muster-trace.pem",
	}
	keyFile := c.Flags().String("key", "", "file with the public key, or several, in PEM")
	asJSON := c.Flags().Bool("json", false, "print an object with ok, problem, and what the statement says")
	a.remoteFlags(c)
	return a.local(c, func(cmd *cobra.Command, args []string) error {
		bundle, keys, damaged, err := a.toVerify(cmd.Context(), args[0], *keyFile)
		if err != nil {
			return err
		}
		defer bundle.Close()
		v, err := verifyBundle(cmd.Context(), bundle, keys)
		if err != nil {
			err = cmp.Or(damaged(), err) // a download that is cut says no more than that
		}
		failed := errors.Is(err, attest.ErrSignature) || errors.Is(err, attest.ErrOther) || errors.Is(err, trace.ErrBroken)
		if errors.Is(err, attest.ErrNoBundle) {
			return usagef("%s: %s; muster trace get JOB --bundle makes one", args[0], oneLine(err.Error()))
		}
		if err != nil && !failed {
			return err
		}
		if *asJSON {
			err = a.printVerdict(v, err)
		} else if !failed {
			_, err = fmt.Fprintln(a.Stdout, a.paint(green, printable(v.String())))
		} else {
			fmt.Fprintf(a.Stderr, "muster: the trace does not hold: %s\n", oneLine(err.Error()))
			return errReported
		}
		if err == nil && failed {
			return errReported
		}
		return err
	})
}

// toVerify opens a bundle, of a file or of a control plane, and the keys to check it with.
// damaged asks whether what was downloaded is known to be damaged. The caller closes the bundle.
func (a *app) toVerify(ctx context.Context, arg, keyFile string) (bundle io.ReadCloser, keys []ed25519.PublicKey, damaged func() error, err error) {
	if keyFile != "" {
		text, err := os.ReadFile(keyFile)
		if err != nil {
			return nil, nil, nil, usagef("--key: %s", err)
		}
		if keys, err = publicKeys(text); err != nil {
			return nil, nil, nil, usagef("--key: %s: %s", keyFile, err)
		}
	}
	f, err := os.Open(arg)
	if err == nil {
		if keys == nil {
			return nil, nil, nil, errors.Join(usagef("a file is checked with the public key that it was signed with; name it with --key (muster trace key prints it)"), f.Close())
		}
		return f, keys, func() error { return nil }, nil
	}
	if strings.ContainsAny(arg, "./\\") && !strings.Contains(arg, "://") && !jobNumber.MatchString(arg) {
		if info, statErr := os.Stat(arg); statErr != nil || info.IsDir() {
			return nil, nil, nil, usagef("%s", err)
		}
	}
	api, err := a.dial()
	if err != nil {
		return nil, nil, nil, err
	}
	t, err := a.oneTrace(ctx, api, arg)
	if err != nil {
		return nil, nil, nil, err
	}
	if keys == nil {
		var text bytes.Buffer
		if err := api.copy(ctx, "/v1/traces/keys", &text); err != nil {
			return nil, nil, nil, err
		}
		if keys, err = publicKeys(text.Bytes()); err != nil {
			return nil, nil, nil, fmt.Errorf("the keys of the control plane: %w", err)
		}
	}
	resp, err := api.download(ctx, tracePath(t, "bundle"), "")
	if err != nil {
		return nil, nil, nil, err
	}
	return resp.Body, keys, func() error { return a.damaged(ctx, api, t) }, nil
}

// damaged is an error if a trace is not as it was stored any more, which may have been found
// by reading it just now.
func (a *app) damaged(ctx context.Context, api *client, t *v1.Trace) error {
	resp, err := api.traces.GetTrace(ctx, &v1.GetTraceRequest{Trace: &v1.TraceRef{Trace: t.Id}})
	if err != nil || resp.Trace.GetDamagedSegment() == 0 {
		return nil
	}
	return fmt.Errorf("%w: trace %s is %s now, because %s", trace.ErrBroken, t.Id, resp.Trace.GetState(), resp.Trace.GetReason())
}

// publicKeys reads one key after the other.
func publicKeys(text []byte) (keys []ed25519.PublicKey, err error) {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		k, err := attest.ParsePublic(pem.EncodeToMemory(block))
		if err != nil {
			return nil, err
		}
		keys, text = append(keys, k), rest
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no public key in it; it begins with -----BEGIN PUBLIC KEY-----")
	}
	return keys, nil
}

// verifyBundle checks a bundle with the first of the keys that signed it.
func verifyBundle(ctx context.Context, r io.Reader, keys []ed25519.PublicKey) (v attest.Verdict, err error) {
	envelope, segments, err := attest.ReadBundle(r)
	if err != nil {
		return v, err
	}
	for _, k := range keys {
		// A key that did not sign says so before a segment is read.
		if v, err = attest.Verify(ctx, envelope, k, segments); !errors.Is(err, attest.ErrSignature) {
			break
		}
	}
	return v, err
}

func (a *app) printVerdict(v attest.Verdict, problem error) error {
	out := map[string]any{"ok": problem == nil}
	if problem != nil {
		out["problem"] = problem.Error()
	} else {
		out["trace"], out["state"], out["job"], out["page"], out["seal"], out["key_id"], out["findings"] = v.Trace, v.State, v.Job, v.Event, v.Seal, v.KeyID, v.Findings
	}
	return a.printJSON(out)
}
