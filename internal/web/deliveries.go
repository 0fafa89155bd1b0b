package web

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/muster-ci/muster"
)

type deliveriesView struct {
	Event, Outcome string
	Rows           []deliveryRow
	Older, Newest  string
}

// Filtered reports whether the list is narrowed.
func (v deliveriesView) Filtered() bool { return v.Event != "" || v.Outcome != "" }

// deliveryRow is one delivery with what became of it.
type deliveryRow struct {
	muster.Delivery
}

// Name is the event with its action: "workflow_job · queued".
func (d deliveryRow) Name() string {
	if d.Action == "" {
		return d.Event
	}
	return d.Event + " · " + d.Action
}

// Pending reports whether the delivery has not been acted upon yet.
func (d deliveryRow) Pending() bool { return d.DispatchedAt.IsZero() }

// Took is the time from receipt to dispatch.
func (d deliveryRow) Took() time.Duration { return max(0, d.DispatchedAt.Sub(d.ReceivedAt)) }

func (s *site) deliveries(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	v := deliveriesView{Event: text(q, "event"), Outcome: text(q, "q")}
	before, err := number(q, "before")
	if err != nil {
		return err
	}
	list, err := s.Reads.Deliveries(r.Context(), DeliveryQuery{Event: v.Event, Outcome: v.Outcome, Before: before, Limit: pageSize + 1})
	if err != nil {
		return err
	}
	values := url.Values{}
	if v.Event != "" {
		values.Set("event", v.Event)
	}
	if v.Outcome != "" {
		values.Set("q", v.Outcome)
	}
	if before > 0 {
		v.Newest = address("/deliveries", values)
	}
	if len(list) > pageSize {
		list = list[:pageSize]
		values.Set("before", strconv.FormatInt(list[pageSize-1].Seq, 10))
		v.Older = address("/deliveries", values)
	}
	for _, d := range list {
		v.Rows = append(v.Rows, deliveryRow{d})
	}
	return s.show(w, r, "deliveries", page{Title: "Deliveries", Section: "deliveries", Body: v})
}

// maxPretty bounds what a page shows of a body; the raw body is a link away.
const maxPretty = 128 << 10

type deliveryView struct {
	deliveryRow
	Headers []header
	Pretty  string
	Cut     bool
	Size    int
	Job     *muster.Job
	Seen    []sightingRow
}

type header struct{ Name, Value string }

// sightingRow is what a sense saw, with its delay after what it reports.
type sightingRow struct {
	Sighting
	Delay time.Duration
	This  bool // it was this delivery
}

func (s *site) delivery(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	d, err := s.Reads.Delivery(ctx, r.PathValue("guid"))
	if err != nil {
		return err
	}
	v := deliveryView{deliveryRow: deliveryRow{d}, Size: len(d.Body)}
	for k, val := range d.Headers {
		v.Headers = append(v.Headers, header{k, val})
	}
	slices.SortFunc(v.Headers, func(a, b header) int { return cmp.Compare(a.Name, b.Name) })
	v.Pretty, v.Cut = pretty(d.Body)
	if key := deliveryJob(d); key.ID != 0 {
		// nil if no pool wanted it: then it was counted, not kept.
		if v.Job, err = optional(s.Reads.Job(ctx, key)); err != nil {
			return err
		}
	}
	if v.Job != nil {
		seen, err := s.Reads.Sightings(ctx, v.Job.Key)
		if err != nil {
			return err
		}
		for _, x := range seen {
			row := sightingRow{Sighting: x, This: x.Delivery == d.GUID}
			if at := happenedAt(*v.Job, x.State); !at.IsZero() {
				row.Delay = max(0, x.At.Sub(at))
			}
			v.Seen = append(v.Seen, row)
		}
	}
	return s.show(w, r, "delivery", page{Title: "Delivery " + short(d.GUID), Section: "deliveries", Body: v})
}

// deliveryJob is the job that a workflow_job delivery is about, zero for others.
func deliveryJob(d muster.Delivery) muster.JobKey {
	if d.Event != "workflow_job" {
		return muster.JobKey{}
	}
	var body struct {
		Job struct {
			ID      int64 `json:"id"`
			Attempt int   `json:"run_attempt"`
		} `json:"workflow_job"`
	}
	if json.Unmarshal(d.Body, &body) != nil { // stored as it came, whatever it is
		return muster.JobKey{}
	}
	return muster.JobKey{ID: body.Job.ID, Attempt: max(1, body.Job.Attempt)}
}

// pretty indents a body that is JSON and leaves another as it is.
func pretty(body []byte) (text string, cut bool) {
	var b bytes.Buffer
	if json.Indent(&b, body, "", "  ") != nil {
		b.Reset()
		b.Write(body)
	}
	out := b.Bytes()
	if len(out) > maxPretty {
		out, cut = out[:maxPretty], true
	}
	return printable(out), cut
}

func (s *site) deliveryBody(w http.ResponseWriter, r *http.Request) error {
	d, err := s.Reads.Delivery(r.Context(), r.PathValue("guid"))
	if err != nil {
		return err
	}
	plain(w, "delivery.json")
	_, _ = w.Write(d.Body)
	return nil
}

func (s *site) redispatch(w http.ResponseWriter, r *http.Request) error {
	d, err := s.Reads.Delivery(r.Context(), r.PathValue("guid"))
	if err != nil {
		return err
	}
	if err := s.Commands.RedispatchDelivery(r.Context(), d.GUID); err != nil {
		return err
	}
	return done(w, r, "/deliveries/"+url.PathEscape(d.GUID), "redispatch")
}
