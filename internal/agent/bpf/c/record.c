// SPDX-License-Identifier: Apache-2.0
//
// The recorder's programs for processes, files and attempts on the recorder itself.
// net.c is another object with the same maps.
#include "guard.h"

char _license[] SEC("license") = "Dual MIT/GPL";
