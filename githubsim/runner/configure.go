package runner

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// configure is "config.sh".
func (r *program) configure(ctx context.Context, args []string) int {
	fs := r.flags("configure")
	host, _ := os.Hostname()
	address := fs.String("url", r.inputs["url"], "")
	token := fs.String("token", r.inputs["token"], "")
	name := fs.String("name", cmp.Or(r.inputs["name"], host), "")
	labels := fs.String("labels", r.inputs["labels"], "")
	group := fs.String("runnergroup", r.inputs["runnergroup"], "")
	work := fs.String("work", cmp.Or(r.inputs["work"], "_work"), "")
	ephemeral := fs.Bool("ephemeral", r.inputs["ephemeral"] != "", "")
	replace := fs.Bool("replace", r.inputs["replace"] != "", "")
	unattended := fs.Bool("unattended", r.inputs["unattended"] != "", "")
	noDefaults := fs.Bool("no-default-labels", false, "")
	noUpdate := fs.Bool("disableupdate", false, "")
	help, version := fs.Bool("help", false, ""), fs.Bool("version", false, "")
	if err := fs.Parse(args); err != nil || fs.NArg() > 0 {
		fmt.Fprintf(r.errs, "Unrecognized command-line input arguments: '%s'. For usage refer to: ./config.sh --help or ./run.sh --help\n", strings.Join(fs.Args(), " "))
		return exitError
	}
	switch {
	case *version:
		fmt.Fprintln(r.out, Version)
		return exitOK
	case *help:
		fmt.Fprint(r.out, usage)
		return exitOK
	}
	if _, err := os.Stat(filepath.Join(r.root, message.FileSettings)); err == nil {
		fmt.Fprintln(r.errs, "Cannot configure the runner because it is already configured. To reconfigure the runner, run 'config.cmd remove' or './config.sh remove' first.")
		return exitError
	}
	for _, q := range []struct {
		value *string
		ask   string
	}{{address, "What is the URL of your repository? "}, {token, "What is your runner register token? "}} {
		if *q.value == "" && !*unattended {
			fmt.Fprint(r.out, q.ask)
			line, _ := r.in.ReadString('\n') // an end of input leaves it empty, which is refused below
			*q.value = strings.TrimSpace(line)
		}
		if *q.value == "" {
			fmt.Fprintln(r.errs, "Invalid configuration provided for url or token. Terminating unattended configuration.")
			return exitError
		}
	}
	var all []string
	if !*noDefaults {
		all = append(all, "self-hosted", osName(), archName())
	}
	for l := range strings.SplitSeq(*labels, ",") {
		if l = strings.TrimSpace(l); l != "" {
			all = append(all, l)
		}
	}
	c := &configuration{settings: message.Settings{AgentName: *name, PoolID: 1, PoolName: cmp.Or(*group, "Default"), DisableUpdate: *noUpdate, Ephemeral: *ephemeral,
		GitHubURL: *address, WorkFolder: *work, UseV2Flow: true}}
	request := message.RegisterRequest{URL: *address, Group: *group, Name: *name, Version: Version, UpdatesDisabled: *noUpdate, Ephemeral: *ephemeral, Replace: *replace, Labels: all}
	if err := r.register(ctx, c, *token, request); err != nil {
		fmt.Fprintln(r.errs, err)
		return exitError
	}
	fmt.Fprintf(r.out, "\n√ Connected to GitHub\n\n# Runner Registration\n\n√ Runner successfully added\n√ Runner connection is good\n\n# Runner settings\n\n√ Settings Saved.\n\n")
	return exitOK
}

func (r *program) register(ctx context.Context, c *configuration, token string, request message.RegisterRequest) error {
	api, service, err := r.exchange(ctx, request.URL, token, "register")
	if err != nil {
		return err
	}
	if c.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	request.PublicKey = message.PublicKey{
		Modulus:  base64.StdEncoding.EncodeToString(c.key.N.Bytes()),
		Exponent: base64.StdEncoding.EncodeToString(big.NewInt(int64(c.key.E)).Bytes()),
	}
	var answer message.RegisterAnswer
	_, err = r.call(ctx, http.MethodPost, api+"/actions/runners/register", "RemoteAuth "+token, request, &answer)
	if statusOf(err) == http.StatusConflict {
		return said("A runner exists with the same name " + request.Name + ".")
	}
	if err != nil {
		return fmt.Errorf("register runner: %w", err)
	}
	c.settings.AgentID, c.settings.ServerURL, c.settings.ServerURLV2 = answer.ID, service.URL, answer.Authorization.ServerURL
	c.clientID, c.authorizationURL = answer.Authorization.ClientID, answer.Authorization.AuthorizationURL
	// "Runner connection is good" is a token that the server gives for the new key.
	if _, err := r.accessToken(ctx, c); err != nil {
		return err
	}
	return r.save(c)
}

// exchange trades a registration or removal token for the actions service.
func (r *program) exchange(ctx context.Context, address, token, event string) (api string, service message.Registration, err error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return "", service, fmt.Errorf("the URL %q is not one of a repository, organization or enterprise", address)
	}
	api = apiBase(u)
	_, err = r.call(ctx, http.MethodPost, api+"/actions/runner-registration", "RemoteAuth "+token, message.RegistrationRequest{URL: address, Event: event}, &service)
	if err != nil {
		return "", service, said(fmt.Sprintf("Http response code: %d from 'POST %s/actions/runner-registration': %v", statusOf(err), api, err))
	}
	return api, service, nil
}

// remove is "config.sh remove".
func (r *program) remove(ctx context.Context, args []string) int {
	fs := r.flags("remove")
	token := fs.String("token", r.inputs["token"], "")
	local := fs.Bool("local", false, "")
	fs.Bool("unattended", false, "")
	if err := fs.Parse(args); err != nil || fs.NArg() > 0 {
		fmt.Fprintln(r.errs, "Unrecognized command-line input arguments. For usage refer to: ./config.sh --help or ./run.sh --help")
		return exitError
	}
	c, err := r.load()
	switch {
	case errors.Is(err, os.ErrNotExist):
		fmt.Fprintln(r.out, "Runner is not configured, nothing to remove.")
		return exitOK
	case err != nil:
		fmt.Fprintln(r.errs, err)
		return exitError
	case !*local && c.settings.GitHubURL == "":
		// A JIT configuration does not say where it came from (actions/runner#2920).
		fmt.Fprintln(r.errs, "This runner was configured with a JIT configuration and cannot be removed from here; delete it with the REST API.")
		return exitError
	}
	if !*local {
		if err := r.unregister(ctx, c, *token); err != nil {
			fmt.Fprintln(r.errs, err)
			return exitError
		}
		fmt.Fprintf(r.out, "\n# Runner removal\n\n√ Runner removed successfully\n")
	}
	r.forget()
	fmt.Fprintf(r.out, "√ Removed .credentials\n√ Removed .runner\n\n")
	return exitOK
}

func (r *program) unregister(ctx context.Context, c *configuration, token string) error {
	_, service, err := r.exchange(ctx, c.settings.GitHubURL, token, "remove")
	if err != nil {
		return err
	}
	address := fmt.Sprintf("%s/_apis/distributedtask/pools/0/agents/%d?api-version=6.0-preview", strings.TrimSuffix(service.URL, "/"), c.settings.AgentID)
	if _, err = r.call(ctx, http.MethodDelete, address, "Bearer "+service.Token, nil, nil); err != nil && statusOf(err) != http.StatusNotFound {
		return fmt.Errorf("remove runner: %w", err)
	}
	return nil
}

// said is an error in the words of the real program, which people search for.
type said string

func (s said) Error() string { return string(s) }
