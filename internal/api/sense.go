package api

import (
	"cmp"
	"context"
	"time"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
	"github.com/muster-ci/muster/internal/usage"
)

type senses struct{ *API }

// reportSpan is how far back the senses' report looks unless it is told.
const reportSpan = 7 * 24 * time.Hour

func (s senses) GetSenseReport(ctx context.Context, req *v1.GetSenseReportRequest) (*v1.GetSenseReportResponse, error) {
	now := s.Now()
	since, until := when(req.Since), when(req.Until)
	if since.IsZero() {
		since = now.Add(-reportSpan)
	}
	if !until.IsZero() && !since.Before(until) {
		return nil, muster.Errorf(muster.CodeInvalid, "until must be later than since")
	}
	grace := cmp.Or(req.Grace.AsDuration(), usage.DefaultSenseGrace)
	if grace < 0 {
		return nil, muster.Errorf(muster.CodeInvalid, "the grace must not be negative")
	}
	jobs, err := s.Store.Sensed(ctx, workspaceOf(ctx), since, until)
	if err != nil {
		return nil, err
	}
	return &v1.GetSenseReportResponse{Weeks: each(usage.Senses(jobs, grace, now), senseWeekOf), Grace: span(grace)}, nil
}
