// Package server is the control plane put together: the only package that sees
// every other. It builds the adapters from the configuration, hands them to the
// use cases through their ports, runs the roles, and ends them in order.
//
// It decides nothing about jobs, pools or runners, and it holds no protocol; what
// is here is wiring, start and stop. internal/cli and internal/demo call it.
package server
