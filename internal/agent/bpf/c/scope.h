// SPDX-License-Identifier: Apache-2.0
//
// What every program shares: the header that all events begin with, the maps that
// say whose they are, and the way out to the reader.
//
// One recorder serves many jobs. Each has a scope, a number from 1 that user space
// gives out and never gives again. A process belongs to a scope if it is in `tree`,
// or if a cgroup that it is in, or one above it, is in `cgroups`. A process found by its
// cgroup alone is put into `tree`, so that it stays the job's when it moves away.
//
// A container engine that works for one job alone is in that job's scope, with the mark
// ENGINE: its daemons and what they start until a container runs its program. What they do to files
// and to the kernel is the engine's own work and is not told; a container's processes have no mark.
#pragma once
#include "kernel.h"

// The types of events. decode.go and net.go know the same numbers.
enum {
	EV_EXEC = 1,
	EV_EXIT = 2,
	EV_OPEN = 3,
	EV_WRITE = 4,
	EV_DELETE = 5,
	EV_RENAME = 6,
	EV_MEM = 7,
	EV_BPF = 8,
	EV_MODULE = 9,
	EV_SETUID = 10,
	EV_MOUNT = 11,
	EV_CGROUP = 12,
	EV_IO_URING = 13,
	EV_SOCKET = 14,
	EV_UNIX = 15,
	EV_TAMPER = 16,
	EV_FORK = 17,  // counts processes that found `tree` full; it has no event
	EV_MKDIR = 18, // tells user space of a cgroup; no trace has it
	EV_LINK = 19,
	EV_LISTEN = 20,

	// net.c has 32 to 47.
	EV_NET_FIRST = 32,
	EV_NET_LAST = 47,

	EV_TYPES = 64,
};

// header begins every event. 88 bytes, no holes.
struct header {
	u64 time;         // CLOCK_BOOTTIME, ns
	u64 start;        // of the process, µs since boot
	u64 parent_start; // of its parent
	u64 cgroup;       // id of its cgroup in the v2 hierarchy
	u32 scope;
	u16 type;
	u16 flags; // by type
	u32 pid, tid, ppid, uid;
	char comm[16];
	u64 value;   // by type
	u32 a, b;    // by type
};

// ---- shared maps: net.c gets these same ones by MapReplacements ----

struct {
	m_uint(type, MAP_RINGBUF);
	m_uint(max_entries, 8 << 20);
} events SEC(".maps");

#define ENGINE (1u << 31)
#define ENTERED (1u << 30) // beside ENGINE: in a container, where its next program is the container's
#define MARKS (ENGINE | ENTERED)

// tree: thread group → scope, and perhaps MARKS.
struct {
	m_uint(type, MAP_HASH);
	m_uint(max_entries, 262144);
	m_uint(map_flags, NO_PREALLOC);
	m_type(key, u32);
	m_type(value, u32);
} tree SEC(".maps");

// cgroups: id of a cgroup in the v2 hierarchy → scope.
struct {
	m_uint(type, MAP_HASH);
	m_uint(max_entries, 4096);
	m_type(key, u64);
	m_type(value, u32);
} cgroups SEC(".maps");

// counters: per CPU, [type] what was written and [EV_TYPES + type] what found the
// ring full.
struct {
	m_uint(type, MAP_PERCPU_ARRAY);
	m_uint(max_entries, 2 * EV_TYPES);
	m_type(key, u32);
	m_type(value, u64);
} counters SEC(".maps");

// lost: scope << 32 | type → how many found the ring full. Exact: a scope that has no
// entry for a type gets one when it loses its first.
struct {
	m_uint(type, MAP_HASH);
	m_uint(max_entries, 16384);
	m_type(key, u64);
	m_type(value, u64);
} lost SEC(".maps");

struct settings {
	u32 levels; // bit n: a cgroup n levels below the root is in `cgroups`
	u32 batch;  // bytes in the ring at which the reader is woken; it looks by itself too
	u32 reads;  // which files opened to be read are told of: READS_…
	u32 engines; // there are programs in `engines`
	u32 spare[4];
};
enum { READS_NONE = 0, READS_FIRST = 1, READS_ALL = 2 };
struct {
	m_uint(type, MAP_ARRAY);
	m_uint(max_entries, 1);
	m_type(key, u32);
	m_type(value, struct settings);
} settings SEC(".maps");

#define LEVELS 12 // how deep a cgroup in `cgroups` may be

inline_always struct settings *set(void)
{
	u32 zero = 0;
	return map_lookup(&settings, &zero);
}

#define PF_EXITING 4

// scope_of_cgroup returns the scope of the current process by its cgroup, or 0.
inline_always u32 scope_of_cgroup(void)
{
	struct settings *s = set();
	if (!s)
		return 0;
	u32 levels = s->levels;
	if (!levels)
		return 0;
#pragma unroll
	for (int i = 1; i < LEVELS; i++) {
		if (!(levels & (1u << i)))
			continue;
		u64 id = ancestor_cgroup_id(i);
		if (!id)
			break; // the process is not as deep
		u32 *scope = map_lookup(&cgroups, &id);
		if (scope)
			return *scope;
	}
	return 0;
}

// whose returns the scope of the current process, perhaps with MARKS, or 0 if it is nobody's.
// It needs a current process: not for programs that run on packets. A thread that is exiting does
// not bring its process back into the tree: it may be out of it for good, and its number
// is somebody else's next.
sub u32 whose(void)
{
	u32 tgid = pid_tgid() >> 32;
	u32 *known = map_lookup(&tree, &tgid);
	if (known)
		return *known;
	u32 scope = scope_of_cgroup();
	struct task_struct *t = current();
	if (scope && !(load(t, flags) & PF_EXITING))
		map_update(&tree, &tgid, &scope, NOEXIST);
	return scope;
}

// in_scope returns the scope of the current process, or 0 if it is nobody's.
inline_always u32 in_scope(void)
{
	return whose() & ~MARKS;
}

// in_job is in_scope of all but engines: what those do is not what the job does.
inline_always u32 in_job(void)
{
	u32 scope = whose();
	return scope & ENGINE ? 0 : scope;
}

// start_of is when a task's process began, in µs since boot.
sub u64 start_of(struct task_struct *t)
{
	struct task_struct *leader = load(t, group_leader);
	return load(leader, start_boottime) / 1000;
}

// begin fills in a header for the current process and leaves flags, value, a and b 0.
sub int begin(struct header *h, u32 scope, u16 type)
{
	if (!h)
		return 0;
	struct task_struct *t = current();
	struct task_struct *parent = load(t, real_parent);
	struct cred *cred = load(t, cred);
	u64 id = pid_tgid();

	h->time = ktime_boot();
	h->start = start_of(t);
	h->parent_start = start_of(parent);
	h->cgroup = cgroup_id();
	h->scope = scope;
	h->type = type;
	h->flags = 0;
	h->pid = id >> 32;
	h->tid = id;
	h->ppid = load(parent, tgid);
	h->uid = load(cred, euid.val);
	get_comm(h->comm, sizeof(h->comm));
	h->value = 0;
	h->a = h->b = 0;
	return 0;
}

// count_lost keeps the books of what found the ring full. Rare, so it may cost.
sub int count_lost(u32 scope, u32 type)
{
	u64 key = (u64)scope << 32 | type, zero = 0;
	u64 *n = map_lookup(&lost, &key);
	if (!n) {
		map_update(&lost, &key, &zero, NOEXIST);
		n = map_lookup(&lost, &key);
	}
	if (n)
		add(*n, 1);
	return 0;
}

// told counts an event that was written, or was not.
inline_always void told(struct header *h, bool written)
{
	u32 i = (h->type & (EV_TYPES - 1)) + (written ? 0 : EV_TYPES);
	u64 *n = map_lookup(&counters, &i);
	if (n)
		add(*n, 1);
	if (!written)
		count_lost(h->scope, h->type);
}

// wake decides whether the reader is woken for an event. It looks by itself ten times
// a second; to be woken for each would cost the job more than all else here.
inline_always u64 wake(void)
{
	struct settings *s = set();
	u32 batch = s ? s->batch : 0;
	return ring_query(&events, RB_AVAIL_DATA) >= batch ? RB_FORCE_WAKEUP : RB_NO_WAKEUP;
}

// out hands an event to the reader: a header and what follows it, len bytes in all. It
// returns 0, or less if the ring is full, which is counted.
inline_always long out(struct header *h, u64 len)
{
	long failed = ring_output(&events, h, len, wake());
	told(h, !failed);
	return failed;
}
