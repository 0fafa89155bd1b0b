package server

import (
	"context"
	"encoding/base64"
	"net/http"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/garm"
	"github.com/muster-ci/muster/internal/secretbox"
	"github.com/muster-ci/muster/internal/store"
)

// garmRoutes serves the machines of GARM's providers, if there is one.
func (s *Server) garmRoutes(mux *http.ServeMux) error {
	used := false
	for _, p := range s.cfg.Providers {
		used = used || p.Kind == "garm"
	}
	if !used {
		return nil
	}
	h, err := garm.New(garm.Config{Lives: s.client, Vault: vault{s.store, s.box}, URL: s.cfg.PublicURL, Logger: s.logger})
	if err != nil {
		return err
	}
	h.Register(mux)
	return nil
}

// vault keeps the credentials of machines that install, sealed, among the store's
// facts. A name holds the hour, so that what a machine left behind that never came up
// goes with its hour.
type vault struct {
	store *store.Store
	box   *secretbox.Box
}

const (
	vaultPrefix  = "garm/"
	vaultPurpose = "garm machine "
	hourOf       = "2006010215"
	// vaultHours is how long a machine may take from its credentials to its runner.
	vaultHours = 2
)

func vaultName(at time.Time, id muster.RunnerID) string {
	return vaultPrefix + at.UTC().Format(hourOf) + "/" + string(id)
}

// Keep implements garm.Vault.
func (v vault) Keep(ctx context.Context, id muster.RunnerID, secret []byte) error {
	sealed, err := v.box.Seal(vaultPurpose+string(id), secret)
	if err != nil {
		return err
	}
	now := time.Now()
	if err := v.store.DropWatermarks(ctx, vaultPrefix, vaultName(now.Add(-vaultHours*time.Hour), "")); err != nil {
		return err
	}
	return v.store.SetWatermark(ctx, vaultName(now, id), base64.StdEncoding.EncodeToString(sealed))
}

// Kept implements garm.Vault.
func (v vault) Kept(ctx context.Context, id muster.RunnerID) ([]byte, error) {
	for back := range vaultHours {
		text, err := v.store.Watermark(ctx, vaultName(time.Now().Add(-time.Duration(back)*time.Hour), id))
		if err != nil {
			return nil, err
		}
		if text != "" {
			sealed, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return nil, err
			}
			return v.box.Open(vaultPurpose+string(id), sealed)
		}
	}
	return nil, muster.Errorf(muster.CodeNotFound, "nothing was given to %s", id)
}

// Drop implements garm.Vault.
func (v vault) Drop(ctx context.Context, id muster.RunnerID) error {
	for back := range vaultHours {
		name := vaultName(time.Now().Add(-time.Duration(back)*time.Hour), id)
		if err := v.store.DropWatermarks(ctx, name, name+"0"); err != nil {
			return err
		}
	}
	return nil
}
