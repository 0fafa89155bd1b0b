package api

import (
	"context"
	"strconv"

	"github.com/muster-ci/muster"
	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

type deliveries struct{ *API }

func (s deliveries) ListDeliveries(ctx context.Context, req *v1.ListDeliveriesRequest) (*v1.ListDeliveriesResponse, error) {
	limit, err := pageSize(req.PageSize, 50, 500)
	if err != nil {
		return nil, err
	}
	before, err := cursor(req.PageToken)
	if err != nil {
		return nil, err
	}
	all, err := s.Store.Deliveries(ctx, DeliveryFilter{Event: req.Event, Outcome: req.Outcome, Before: before, Limit: limit + 1})
	if err != nil {
		return nil, err
	}
	resp := &v1.ListDeliveriesResponse{}
	if len(all) > limit {
		all = all[:limit]
		resp.NextPageToken = strconv.FormatInt(all[limit-1].Seq, 10)
	}
	resp.Deliveries = each(all, deliveryOf)
	return resp, nil
}

func (s deliveries) GetDelivery(ctx context.Context, req *v1.GetDeliveryRequest) (*v1.GetDeliveryResponse, error) {
	d, err := s.find(ctx, req.Guid)
	return &v1.GetDeliveryResponse{Delivery: deliveryOf(d)}, err
}

func (s deliveries) RedispatchDelivery(ctx context.Context, req *v1.RedispatchDeliveryRequest) (*v1.RedispatchDeliveryResponse, error) {
	d, err := s.find(ctx, req.Guid)
	if err != nil {
		return nil, err
	}
	return &v1.RedispatchDeliveryResponse{}, s.Commands.RedispatchDelivery(ctx, d.GUID)
}

func (s deliveries) find(ctx context.Context, guid string) (muster.Delivery, error) {
	if guid == "" {
		return muster.Delivery{}, muster.Errorf(muster.CodeInvalid, "no delivery is named: give its GUID")
	}
	d, err := s.Store.Delivery(ctx, guid)
	if muster.CodeOf(err) == muster.CodeNotFound {
		return d, muster.Errorf(muster.CodeNotFound, "there is no delivery %q: it never arrived, or it is older than the retention", guid)
	}
	return d, err
}
