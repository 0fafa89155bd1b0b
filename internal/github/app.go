package github

import (
	"context"
	"fmt"
	"net/http"
	"time"

	gh "github.com/google/go-github/v88/github"

	"github.com/muster-ci/muster"
)

// HookDelivery is muster.HookDelivery.
type HookDelivery = muster.HookDelivery

// maxDeliveryPages bounds one list of deliveries, at 100 a page.
const maxDeliveryPages = 200

// AppInfo is what GitHub knows about the App.
type AppInfo struct {
	ID       int64
	ClientID string
	Slug     string
	Name     string
	// Permissions are those that the App asks for, by GitHub's names: read, write
	// or admin. MissingPermissions compares them with what is needed.
	Permissions map[string]string
	Events      []string
}

// asApp is the identity for calls that only an App can make.
func (c *Client) asApp(what string) (*identity, error) {
	if c.app == nil {
		return nil, muster.Errorf(muster.CodeInvalid, "%s: %s uses a token, and only a GitHub App can do this", what, c.name())
	}
	return c.app, nil
}

// App asks GitHub who the client is. CodeUnauthenticated means that the key and
// the id do not belong together.
func (c *Client) App(ctx context.Context) (AppInfo, error) {
	var out struct {
		ID          int64             `json:"id"`
		ClientID    string            `json:"client_id"`
		Slug        string            `json:"slug"`
		Name        string            `json:"name"`
		Permissions map[string]string `json:"permissions"`
		Events      []string          `json:"events"`
	}
	r := request{what: "look up the App", method: http.MethodGet, route: "app", path: "app", into: &out, lane: Normal}
	who, err := c.asApp(r.what)
	if err != nil {
		return AppInfo{}, err
	}
	if _, err := c.send(ctx, who, r); err != nil {
		return AppInfo{}, err
	}
	return AppInfo{ID: out.ID, ClientID: out.ClientID, Slug: out.Slug, Name: out.Name, Permissions: out.Permissions, Events: out.Events}, nil
}

// Installations lists the App's installations. Their Workspace is left empty:
// that is not for GitHub to say.
func (c *Client) Installations(ctx context.Context) ([]muster.Installation, error) {
	type installation struct {
		ID      int64 `json:"id"`
		Account struct {
			Login string `json:"login"`
			Slug  string `json:"slug"`
			Type  string `json:"type"`
		} `json:"account"`
		TargetType  string        `json:"target_type"`
		SuspendedAt *gh.Timestamp `json:"suspended_at"`
		UpdatedAt   *gh.Timestamp `json:"updated_at"`
	}
	var page []installation
	r := request{what: "list the App's installations", method: http.MethodGet, route: "app/installations", path: "app/installations?per_page=100", into: &page, lane: Normal}
	who, err := c.asApp(r.what)
	if err != nil {
		return nil, err
	}
	out := []muster.Installation{}
	err = c.pages(ctx, who, r, maxListPages, func() bool {
		for _, in := range page {
			one := muster.Installation{ID: in.ID, App: c.cfg.Name, Account: in.Account.Login, AccountType: in.Account.Type, State: "active"}
			if one.Account == "" {
				one.Account = in.Account.Slug
			}
			if one.AccountType == "" {
				one.AccountType = in.TargetType
			}
			if in.SuspendedAt != nil {
				one.State = "suspended"
			}
			if in.UpdatedAt != nil {
				one.UpdatedAt = in.UpdatedAt.UTC()
			}
			out = append(out, one)
		}
		page = nil
		return true
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// HookDeliveries lists GitHub's attempts to deliver the App's webhooks, newest
// first, back to since, or to a whole page of attempts that are known: GitHub gives 100
// for a call, and a busy App has thousands in the minutes by which two lists overlap.
// known may be nil.
func (c *Client) HookDeliveries(ctx context.Context, since time.Time, known func(attempt int64) bool) ([]HookDelivery, error) {
	type delivery struct {
		ID          int64        `json:"id"`
		GUID        string       `json:"guid"`
		DeliveredAt gh.Timestamp `json:"delivered_at"`
		Redelivery  bool         `json:"redelivery"`
		Status      string       `json:"status"`
		StatusCode  int          `json:"status_code"`
		Event       string       `json:"event"`
		Action      *string      `json:"action"`
	}
	var page []delivery
	r := request{what: "list webhook deliveries", method: http.MethodGet, route: "app/hook/deliveries", path: "app/hook/deliveries?per_page=100", into: &page, lane: Background}
	who, err := c.asApp(r.what)
	if err != nil {
		return nil, err
	}
	out := []HookDelivery{}
	seen := map[int64]bool{}
	err = c.pages(ctx, who, r, maxDeliveryPages, func() bool {
		older, news := false, len(page) == 0
		for _, d := range page {
			news = news || known == nil || !known(d.ID)
			if d.DeliveredAt.Before(since) {
				older = true
				continue
			}
			if seen[d.ID] {
				continue
			}
			seen[d.ID] = true
			one := HookDelivery{ID: d.ID, GUID: d.GUID, Event: d.Event, Status: d.Status, StatusCode: d.StatusCode, DeliveredAt: d.DeliveredAt.UTC(), Redelivery: d.Redelivery}
			if d.Action != nil {
				one.Action = *d.Action
			}
			out = append(out, one)
		}
		page = nil
		return !older && news
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Redeliver asks GitHub to make one more attempt at a delivery. It returns when
// GitHub has agreed, not when the attempt was made.
func (c *Client) Redeliver(ctx context.Context, id int64) error {
	r := request{
		what: "ask for a webhook again", method: http.MethodPost, lane: Background,
		route: "app/hook/deliveries/{delivery_id}/attempts", path: fmt.Sprintf("app/hook/deliveries/%d/attempts", id),
	}
	who, err := c.asApp(r.what)
	if err != nil {
		return err
	}
	_, err = c.send(ctx, who, r)
	return err
}
