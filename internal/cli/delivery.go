package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

func (a *app) deliveryCommand() *cobra.Command {
	return group("delivery", "Deliveries: webhooks as they arrived", a.deliveryList(), a.deliveryShow(), a.deliveryRedispatch())
}

func (a *app) deliveryList() *cobra.Command {
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List deliveries, newest first"}
	req := &v1.ListDeliveriesRequest{}
	c.Flags().StringVar(&req.Event, "event", "", "only those of one event, such as workflow_job")
	c.Flags().StringVar(&req.Outcome, "outcome", "", "only those whose outcome has this text")
	c.Flags().Int32Var(&req.PageSize, "limit", 50, "how many at most")
	c.Flags().StringVar(&req.PageToken, "page", "", "go on after a page: its next_page_token")
	return a.remote(c, func(cmd *cobra.Command, _ []string, api *client) error {
		resp, err := api.deliveries.ListDeliveries(cmd.Context(), req)
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			t := a.table("GUID", "RECEIVED", "APP", "EVENT", "ACTION", "BY", "OUTCOME")
			for _, d := range resp.Deliveries {
				t.row(d.Guid, a.when(d.ReceivedAt), d.App, d.Event, d.Action, d.Sense, outcome(d))
			}
			if err := t.print(w, "No deliveries. Check the App's webhook address and its \"Recent deliveries\" on GitHub."); err != nil {
				return err
			}
			if resp.NextPageToken != "" {
				_, err = fmt.Fprintf(w, "More: --page %s\n", resp.NextPageToken)
			}
			return err
		})
	})
}

func outcome(d *v1.Delivery) cell {
	switch {
	case d.DispatchedAt != nil || d.Outcome != "":
		return cell{text: d.Outcome}
	case d.Attempts > 0:
		return cell{fmt.Sprintf("failed %d times: %s", d.Attempts, d.Error), red}
	}
	return cell{"not yet", yellow}
}

func (a *app) deliveryShow() *cobra.Command {
	c := &cobra.Command{Use: "show GUID", Short: "Show one delivery with its headers and body", Args: cobra.ExactArgs(1)}
	body := c.Flags().Bool("body", false, "print the body only, byte for byte")
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		resp, err := api.deliveries.GetDelivery(cmd.Context(), &v1.GetDeliveryRequest{Guid: args[0]})
		if err != nil {
			return err
		}
		d := resp.Delivery
		if *body {
			_, err := a.Stdout.Write(d.Body)
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			err := a.facts(w, "guid", cell{d.Guid, bold}, "app", d.App, "event", d.Event, "action", d.Action, "by", d.Sense, "received", a.when(d.ReceivedAt),
				"dispatched", a.when(d.DispatchedAt), "outcome", outcome(d), "log trace_id", d.TraceId)
			if err != nil {
				return err
			}
			fmt.Fprintln(w)
			for _, h := range slices.Sorted(maps.Keys(d.Headers)) {
				fmt.Fprintf(w, "%s %s\n", a.paint(dim, h+":"), d.Headers[h])
			}
			_, err = fmt.Fprintf(w, "\n%s\n", d.Body)
			return err
		})
	})
}

func (a *app) deliveryRedispatch() *cobra.Command {
	c := &cobra.Command{Use: "redispatch GUID", Short: "Process a kept delivery once more; repeats are harmless", Args: cobra.ExactArgs(1)}
	return a.remote(c, func(cmd *cobra.Command, args []string, api *client) error {
		resp, err := api.deliveries.RedispatchDelivery(cmd.Context(), &v1.RedispatchDeliveryRequest{Guid: args[0]})
		if err != nil {
			return err
		}
		return a.show(resp, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "delivery %s is processed again; muster delivery show %s has the outcome\n", args[0], args[0])
			return err
		})
	})
}
