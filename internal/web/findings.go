package web

import "net/http"

func (s *site) findings(w http.ResponseWriter, r *http.Request) error {
	list, err := s.Reads.Findings(r.Context(), 200)
	if err != nil {
		return err
	}
	return s.show(w, r, "findings", page{Title: "Findings", Section: "findings", Body: list})
}

// about shows what this control plane is; everything is in the page's frame.
func (s *site) about(w http.ResponseWriter, r *http.Request) error {
	return s.show(w, r, "about", page{Title: "About", Section: "about"})
}
