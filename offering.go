package muster

import (
	"fmt"
	"time"
)

// Offering is a size, an image and a price that pools refer to by name.
type Offering struct {
	Name string `json:"name" yaml:"name"`
	// CPUs is the number of virtual CPUs; fractions are allowed where the
	// provider allows them.
	CPUs float64 `json:"cpus" yaml:"cpus"`
	// MemoryMiB is the memory limit in MiB; 0 means the provider's default.
	MemoryMiB int64 `json:"memory_mib" yaml:"memory_mib"`
	GPUs      int   `json:"gpus,omitempty" yaml:"gpus,omitempty"`
	// Image is what the machine starts from; what it names is the provider's
	// affair (an image reference, a template, a runner directory).
	Image string `json:"image,omitempty" yaml:"image,omitempty"`
	Spot  bool   `json:"spot,omitempty" yaml:"spot,omitempty"`
	// Autoscale asks a Kubernetes provider for an autoscaler object (C28).
	Autoscale bool `json:"is_autoscale,omitempty" yaml:"is_autoscale,omitempty"`
	// PriceMicroUSD is the price of one minute in millionths of a US dollar.
	PriceMicroUSD int64 `json:"price_micro_usd_per_minute" yaml:"price_micro_usd_per_minute"`
}

// Validate returns a CodeInvalid error with a remedy, or nil.
func (o Offering) Validate() error {
	switch {
	case !poolName.MatchString(o.Name):
		return Errorf(CodeInvalid, "offering name %q: use letters, digits, '-' and '_'", o.Name)
	case o.CPUs < 0 || o.MemoryMiB < 0 || o.GPUs < 0 || o.PriceMicroUSD < 0:
		return Errorf(CodeInvalid, "offering %s: sizes and price must not be negative", o.Name)
	}
	return nil
}

// Size is the offering in a few words: "2 vCPU, 8192 MiB".
func (o Offering) Size() string { return fmt.Sprintf("%g vCPU, %d MiB", o.CPUs, o.MemoryMiB) }

// Limits and times that are settings; these are their defaults (design §7).
const (
	DefaultNoJobTimeout     = 2 * time.Minute
	DefaultRotationInterval = 24 * time.Hour
	// DefaultMaxAge bounds the cost of a runner whose busy state cannot be
	// learned: GitHub ends a self-hosted job after 5 days.
	DefaultMaxAge        = 5*24*time.Hour + time.Hour
	DefaultCooldown      = 300 * time.Second
	DefaultProvisioning  = 10
	DefaultStolenReplace = 3
)
