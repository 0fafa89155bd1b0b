package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/provider"
)

func (a *app) providerCommand() *cobra.Command {
	return group("provider", "Platforms: what there is, how it stands, and whether it works", a.providerList(), a.providerCheck(), a.providerKinds(), a.providerShow())
}

func (a *app) providerList() *cobra.Command {
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the providers of a control plane with their state, machines, abilities and last refusal"}
	return a.remote(c, func(cmd *cobra.Command, _ []string, api *client) error {
		resp, err := api.providers.ListProviders(cmd.Context(), &v1.ListProvidersRequest{})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			t := a.table("NAME", "KIND", "STATE", "MACHINES", "ANSWERS IN", "CAN", "POOLS", "OFFERINGS", "LAST TEST")
			for _, p := range resp.Providers {
				t.row(p.Name, p.Kind, cell{p.State, map[string]style{"ok": green, "refusing": yellow, "unreachable": red}[p.State]}, machineCounts(p.Instances),
					p.AnsweredIn.AsDuration().Round(time.Millisecond), dash(strings.Join(p.Abilities, ",")), dash(strings.Join(p.Pools, ",")), dash(sizes(p.Offerings)), a.lastCheck(p.LastCheck))
			}
			if err := t.print(w, "No providers."); err != nil {
				return err
			}
			return a.providerNotes(w, resp.Providers)
		})
	})
}

// providerNotes prints what does not fit into a row: the platform's own words, and the
// breakers that are not closed.
func (a *app) providerNotes(w io.Writer, all []*v1.Provider) error {
	t := a.table()
	for _, p := range all {
		if p.Detail != "" && p.State == "unreachable" {
			t.row(p.Name, cell{p.State, red}, "", words(p.Detail))
		}
		if len(p.Zones) > 0 {
			t.row(p.Name, cell{"zones", dim}, "", strings.Join(p.Zones, ", then "))
		}
		for _, b := range p.Breakers {
			where := "pool " + b.Pool
			if b.Pool == "" {
				where = "zone " + b.Zone + ", " + b.Offering
			}
			t.row(p.Name, cell{strings.ReplaceAll(b.State, "_", " "), yellow}, where, a.breaker(b))
		}
		if c := p.LastCheck; c != nil && c.Done && !c.Passed {
			for _, s := range c.Steps {
				if !s.Ok {
					t.row(p.Name, cell{"test failed", red}, s.Name, words(s.Detail))
				}
			}
		}
	}
	if len(t.rows) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	return t.print(w, "")
}

// breaker says since when and until when a platform is left alone, and why.
func (a *app) breaker(b *v1.ProviderBreaker) string {
	text := words(b.Words)
	switch {
	case b.State == "open":
		text = fmt.Sprintf("failed %s, asked again %s: %s", times(int(b.Failures)), a.when(b.Until), text)
	case b.Room > 0:
		text = strings.TrimSuffix(fmt.Sprintf("asked for %d at a time: %s", b.Room, text), ": ")
	}
	return text
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times in a row", n)
}

func dash(text string) string {
	if text == "" {
		return "–"
	}
	return text
}

// machineCounts is "2 running, 1 ended".
func machineCounts(n map[string]int32) string {
	var parts []string
	for _, state := range []string{"starting", "running", "ended"} {
		if n[state] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[state], state))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// sizes are offerings in a few words each: "gpu (8 CPU, 65536Mi, 2 GPU, spot, $0.052/min)".
func sizes(all []*v1.RunnerOffering) string {
	var out []string
	for _, o := range all {
		var parts []string
		if o.Cpu != "" {
			parts = append(parts, o.Cpu+" CPU")
		}
		if o.Memory != "" {
			parts = append(parts, o.Memory)
		}
		if o.Gpus > 0 {
			parts = append(parts, fmt.Sprintf("%d GPU", o.Gpus))
		}
		if o.Spot {
			parts = append(parts, "spot")
		}
		if o.PriceMicroUsdPerMinute > 0 {
			parts = append(parts, fmt.Sprintf("$%g/min", float64(o.PriceMicroUsdPerMinute)/1e6))
		}
		out = append(out, strings.TrimSuffix(fmt.Sprintf("%s (%s)", o.Name, strings.Join(parts, ", ")), " ()"))
	}
	return strings.Join(out, "; ")
}

func (a *app) lastCheck(c *v1.ProviderCheck) cell {
	switch {
	case c == nil:
		return cell{"never", dim}
	case !c.Done:
		return cell{"under way", cyan}
	case c.Passed:
		return cell{"passed " + a.when(c.At), green}
	}
	return cell{"failed " + a.when(c.At), red}
}

// checkPoll is how often the progress of a test is asked for.
const checkPoll = 200 * time.Millisecond

func (a *app) providerCheck() *cobra.Command {
	c := &cobra.Command{
		Use: "check NAME", Short: "Test a provider end to end: a real machine, its agent, and its end", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeProviders,
		Long: `Test a provider end to end. A real machine is made in the way of every runner; its
agent connects, looks at its clock, size, disk, runner program and the way to GitHub,
and leaves; the machine is destroyed, and the platform is asked whether anything is
left. GitHub never hears of it.

The exit status is 1 if a step failed. The test goes on when this command is
interrupted, and also when the control plane is; the machine goes in any case.`,
	}
	offering := c.Flags().String("offering", "", "what to ask for (default: that of the provider's first pool)")
	wait := c.Flags().Duration("timeout", 15*time.Minute, "how long to wait for the end of the test")
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		begun, err := api.providers.CheckProvider(cmd.Context(), &v1.CheckProviderRequest{Provider: args[0], Offering: *offering})
		if err != nil {
			return err
		}
		check, err := a.follow(cmd.Context(), api, begun.Check, *wait)
		if err != nil {
			return err
		}
		if err := a.show(check, func(w io.Writer) error { return a.printCheck(w, check) }); err != nil {
			return err
		}
		if !check.Passed {
			return errReported
		}
		return nil
	})
}

// follow waits for the end of a test.
func (a *app) follow(ctx context.Context, api *client, check *v1.ProviderCheck, wait time.Duration) (*v1.ProviderCheck, error) {
	late := time.NewTimer(wait)
	defer late.Stop()
	tick := time.NewTicker(checkPoll)
	defer tick.Stop()
	for !check.Done {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-late.C:
			return nil, fmt.Errorf("the test of provider %s is not over after %s, %s; muster runner show %s tells more", check.Provider, wait, plural(len(check.Steps), "step"), check.Runner)
		case <-tick.C:
		}
		resp, err := api.providers.GetProviderCheck(ctx, &v1.GetProviderCheckRequest{Runner: check.Runner})
		if err != nil {
			return nil, err
		}
		check = resp.Check
	}
	return check, nil
}

func (a *app) printCheck(w io.Writer, c *v1.ProviderCheck) error {
	t := a.table("STEP", "RESULT", "TOOK", "DETAIL")
	var failed []string
	for _, s := range c.Steps {
		result := cell{"ok", green}
		if !s.Ok {
			result, failed = cell{"failed", red}, append(failed, s.Name)
		}
		t.row(s.Name, result, s.Took.AsDuration().Round(time.Millisecond), words(s.Detail))
	}
	if err := t.print(w, "Nothing happened."); err != nil {
		return err
	}
	verdict := fmt.Sprintf("provider %s works", c.Provider)
	if !c.Passed {
		verdict = fmt.Sprintf("provider %s does not work: %s failed; muster runner show %s tells more", c.Provider, strings.Join(failed, ", "), c.Runner)
	}
	_, err := fmt.Fprintf(w, "\n%s\n", verdict)
	return err
}

func (a *app) completeProviders(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, args, func(ctx context.Context, api *client) (names []string, err error) {
		resp, err := api.providers.ListProviders(ctx, &v1.ListProvidersRequest{})
		for _, p := range resp.GetProviders() {
			names = append(names, p.Name+"\t"+p.Kind+" "+p.State)
		}
		return names, err
	})
}

// kinds are what this program knows of platforms.
func (a *app) kinds() []provider.Description {
	if a.programs.Kinds == nil {
		return nil
	}
	return a.programs.Kinds()
}

func (a *app) providerKinds() *cobra.Command {
	c := &cobra.Command{Use: "kinds", Short: "List the kinds of providers that this program knows"}
	asJSON := c.Flags().Bool("json", false, "print them as JSON, with settings and examples")
	return a.local(c, func(*cobra.Command, []string) error {
		if *asJSON {
			return a.printJSON(map[string]any{"kinds": a.kinds()})
		}
		t := a.table("KIND", "GPU", "SPOT", "CONNECTS WITHIN", "WHAT")
		for _, k := range a.kinds() {
			within := "any time"
			if k.ConnectTimeout > 0 {
				within = k.ConnectTimeout.String()
			}
			t.row(k.Kind, yes(k.NoGPUs == ""), yes(k.NoSpot == ""), within, k.Summary)
		}
		return t.print(a.Stdout, "None.")
	})
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (a *app) providerShow() *cobra.Command {
	c := &cobra.Command{
		Use: "show KIND", Short: "Show what is to be known of a kind of provider: set-up, settings, trust, limits, faults", Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, k := range a.kinds() {
				names = append(names, k.Kind+"\t"+k.Summary)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
	example := c.Flags().Bool("example", false, "print only the example, which can be appended to a configuration")
	return a.local(c, func(_ *cobra.Command, args []string) error {
		all := a.kinds()
		i := slices.IndexFunc(all, func(k provider.Description) bool { return k.Kind == args[0] })
		if i < 0 {
			var names []string
			for _, k := range all {
				names = append(names, k.Kind)
			}
			return usagef("there is no kind %q; known are %s", args[0], strings.Join(names, ", "))
		}
		text := ProviderPage(all[i])
		if *example {
			text = all[i].Example
		}
		_, err := io.WriteString(a.Stdout, text)
		return err
	})
}

// ProviderPage is the page of the documentation about a kind of provider, in Markdown.
func ProviderPage(k provider.Description) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Provider %s\n\nGenerated by `make generate`; `muster provider show %[1]s` prints it.\n\n%s\n\n", k.Kind, k.Summary)
	fmt.Fprintf(&b, "**Isolation.** %s\n\n", k.Isolation)
	b.WriteString("**It needs**\n\n")
	for _, n := range k.Needs {
		fmt.Fprintf(&b, "- %s\n", n)
	}
	within := "may connect at any time"
	if k.ConnectTimeout > 0 {
		within = fmt.Sprintf("has to connect within %s", k.ConnectTimeout)
	}
	if k.Queues {
		within += ", counted from when the machine is seen to run"
	}
	fmt.Fprintf(&b, "\n**Agent.** It %s; `connect_timeout` of the pool says otherwise.\n\n", within)
	fmt.Fprintf(&b, "**GPUs.** %s. **Spot.** %s.\n\n", given(k.NoGPUs, "`gpus` of the offering is passed on"), given(k.NoSpot, "`spot` of the offering is passed on"))
	fmt.Fprintf(&b, "## Example\n\n```yaml\n%s```\n\n`muster provider check NAME` tests a configured one with a real machine.\n\n", k.Example)
	b.WriteString("## Settings\n\n| key of `config` | type | default | |\n|---|---|---|---|\n")
	for _, s := range k.Settings {
		standard := ""
		if s.Default != "" {
			standard = "`" + s.Default + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", s.Key, s.Type, cellText(standard), cellText(s.Help))
	}
	fmt.Fprintf(&b, "\n%s\n", strings.TrimSpace(k.Guide))
	return b.String()
}

func given(not, yes string) string {
	if not == "" {
		return yes
	}
	return "None: " + not
}

// cellText keeps a text within its cell of a table.
func cellText(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", `\|`)
}
