package api

import (
	"context"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

type installations struct{ *API }

func (s installations) ListInstallations(ctx context.Context, _ *v1.ListInstallationsRequest) (*v1.ListInstallationsResponse, error) {
	all, err := s.Store.Installations(ctx, workspaceOf(ctx))
	return &v1.ListInstallationsResponse{Installations: each(all, installationOf)}, err
}
