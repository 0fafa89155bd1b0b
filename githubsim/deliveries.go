package githubsim

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (s *Server) deliveryRoutes() []*route {
	mine := func(do func(*call, *hook) (reply, error)) func(*call) (reply, error) {
		return func(c *call) (reply, error) { return do(c, &c.who.app.hook) }
	}
	return []*route{
		{pattern: "GET /app/hook/deliveries", who: appOnly, do: mine(s.listDeliveries)},
		{pattern: "GET /app/hook/deliveries/{delivery}", who: appOnly, do: mine(s.withDelivery(s.getDelivery))},
		{pattern: "POST /app/hook/deliveries/{delivery}/attempts", who: appOnly, do: mine(s.withDelivery(s.redeliver))},
	}
}

// kept are a hook's deliveries that can still be listed, newest first.
func (s *Server) kept(h *hook) []*delivery {
	var out []*delivery
	oldest := s.now().Add(-s.cfg.HookRetention)
	for _, d := range h.log {
		if s.cfg.HookRetention == 0 || d.deliveredAt.After(oldest) {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(x, y *delivery) int { return cmp.Compare(y.id, x.id) })
	return out
}

// cursorPrefix marks a cursor; what follows is the last delivery of the page before.
const cursorPrefix = "v1_"

func (s *Server) getDelivery(_ *call, d *delivery) (reply, error) { return ok(s.deliveryDetail(d)) }

func (s *Server) listDeliveries(c *call, h *hook) (reply, error) {
	q := c.r.URL.Query()
	all := s.kept(h)
	if status := q.Get("status"); status != "" {
		low, high := 200, 399
		if status == "failure" {
			low, high = 400, 599
		} else if status != "success" {
			return reply{}, invalid("status", "invalid")
		}
		all = slices.DeleteFunc(all, func(d *delivery) bool { return d.code < low || d.code > high })
	}
	if cursor := q.Get("cursor"); cursor != "" {
		id, err := strconv.ParseInt(strings.TrimPrefix(cursor, cursorPrefix), 10, 64)
		if err != nil || !strings.HasPrefix(cursor, cursorPrefix) {
			return reply{}, errorf(http.StatusUnprocessableEntity, "Invalid cursor.")
		}
		all = slices.DeleteFunc(all, func(d *delivery) bool { return d.id >= id })
	}
	p := &page{}
	if size := c.perPage(); len(all) > size {
		all = all[:size]
		p.next = cursorPrefix + strconv.FormatInt(all[size-1].id, 10)
	}
	return reply{status: http.StatusOK, body: views(all, s.deliveryView), links: p}, nil
}

func (s *Server) withDelivery(do func(*call, *delivery) (reply, error)) func(*call, *hook) (reply, error) {
	return func(c *call, h *hook) (reply, error) {
		id, err := c.number("delivery")
		if err != nil {
			return reply{}, err
		}
		for _, d := range s.kept(h) {
			if d.id == id {
				return do(c, d)
			}
		}
		return reply{}, notFound()
	}
}

// redeliver sends a delivery again: a new id, the same GUID.
func (s *Server) redeliver(c *call, old *delivery) (reply, error) {
	d := s.newDelivery(old.hook, old.event, old.guid)
	d.redelivery = true
	d.drop = s.chance.hit("drop delivery", s.faults.now().DropDeliveries)
	s.books.Deliveries.Redelivered++
	s.send(d)
	return reply{status: http.StatusAccepted, body: object{}}, nil
}

func (s *Server) deliveryView(d *delivery) object {
	v := object{
		"id": d.id, "guid": d.guid, "delivered_at": stamp(d.deliveredAt), "redelivery": d.redelivery,
		"duration": d.duration.Round(10 * time.Millisecond).Seconds(), "status": d.status, "status_code": d.code,
		"event": d.event.name, "action": orNull(d.event.action), "installation_id": nil, "repository_id": nil, "throttled_at": maybe(d.throttledAt),
	}
	if d.event.installation != 0 {
		v["installation_id"] = d.event.installation
	}
	if d.event.repository != 0 {
		v["repository_id"] = d.event.repository
	}
	return v
}

func (s *Server) deliveryDetail(d *delivery) object {
	v := s.deliveryView(d)
	v["url"] = d.url
	v["request"] = object{"headers": d.request, "payload": json.RawMessage(d.event.body())}
	v["response"] = object{"headers": d.response, "payload": d.answer}
	return v
}
