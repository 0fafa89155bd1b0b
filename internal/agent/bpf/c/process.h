// SPDX-License-Identifier: Apache-2.0
//
// Processes: what runs, what becomes of it, and whose it is.
#pragma once
#include "file.h"

// inside: processes by the numbers that their own pid namespace gave them.
struct inside_key {
	u64 ns;
	u64 number;
};
struct {
	m_uint(type, MAP_LRU_HASH);
	m_uint(max_entries, 16384);
	m_type(key, struct inside_key);
	m_type(value, u32);
} inside SEC(".maps");

// innermost is how a process's own namespace calls it; ns is 0 if that is the machine's.
inline_always struct inside_key innermost(struct task_struct *t)
{
	struct pid *pid = load(t, thread_pid);
	u32 level = load(pid, level);
	struct inside_key k = {};
	if (level && level < 32) {
		struct upid *own = (void *)((char *)&pid->numbers[0] + level * size(struct upid));
		k.ns = (u64)load(own, ns);
		k.number = load(own, nr);
	}
	return k;
}

#define BY_ENGINE (1 << F_WAY) // of a cgroup: an engine's work

// placed tells of a process that was made in another cgroup than its parent's
// (CLONE_INTO_CGROUP), as if it had been moved there. User space knows the path.
sub int placed(struct task_struct *child, u32 scope, u32 flags)
{
	struct css_set *sets = load(child, cgroups);
	struct cgroup *in = load(sets, dfl_cgrp);
	struct kernfs_node *node = load(in, kn);
	u64 id = load(node, id);
	if (id == cgroup_id())
		return 0;
	struct header h;
	begin(&h, scope, EV_CGROUP);
	h.flags = flags;
	h.value = h.pid; // who did it
	h.ppid = h.pid;
	h.parent_start = h.start;
	h.pid = load(child, tgid);
	h.tid = load(child, pid);
	h.start = load(child, start_boottime) / 1000;
	h.cgroup = id;
	out(&h, sizeof(h));
	return 0;
}

inline_always u32 depth_of(struct task_struct *t)
{
	struct pid *pid = load(t, thread_pid);
	return load(pid, level);
}

// Follows the children of the processes that are somebody's. A child of an
// engine's is in a container when it has a pid namespace of its own, or another cgroup.
SEC("tp_btf/sched_process_fork") int on_fork(u64 *ctx)
{
	struct task_struct *parent = (void *)ctx[0], *child = (void *)ctx[1];
	u32 tgid = child->tgid;
	if (child->pid != tgid)
		return 0; // a thread
	u32 is = whose(), scope = is & ~MARKS;
	if (!is)
		return 0;
	bool elsewhere = (u64)child->cgroups != (u64)parent->cgroups, engines = is & ENGINE;
	if (engines && (elsewhere || depth_of(child) > depth_of(parent)))
		is |= ENTERED;
	if (map_update(&tree, &tgid, &is, ANY))
		count_lost(scope, EV_FORK);
	struct inside_key k = innermost(child);
	if (k.ns)
		map_update(&inside, &k, &tgid, ANY);
	if (elsewhere)
		placed(child, scope, engines ? BY_ENGINE : 0);
	return 0;
}

// engines: programs that are an engine's, by the kernel's short name and the network
// namespace that they are in, 0 for any → whose they are, with ENGINE.
struct engine_key {
	char comm[16];
	u32 net;
	u32 pad;
};
struct {
	m_uint(type, MAP_HASH);
	m_uint(max_entries, 16384);
	m_uint(map_flags, NO_PREALLOC);
	m_type(key, struct engine_key);
	m_type(value, u32);
} engines SEC(".maps");

inline_always u32 net_of(struct task_struct *t)
{
	struct nsproxy *spaces = load(t, nsproxy);
	struct net *net = load(spaces, net_ns);
	return load(net, ns.inum);
}

// away reports whether a process has mounts of its own and not those of its parent. What sets
// a container going runs itself again before it has.
inline_always bool away(struct task_struct *t)
{
	struct task_struct *parent = load(t, real_parent);
	struct nsproxy *own = load(t, nsproxy), *above = load(parent, nsproxy);
	return load(own, mnt_ns) != load(above, mnt_ns);
}

// enlisted is asked of a program that begins and is nobody's: it returns whose
// engines by its name are, or 0, and puts it there.
sub u32 enlisted(void)
{
	struct settings *s = set();
	if (!s || !s->engines)
		return 0;
	struct engine_key k = {};
	get_comm(k.comm, sizeof(k.comm));
	u32 *known = map_lookup(&engines, &k);
	if (!known) {
		k.net = net_of(current());
		known = map_lookup(&engines, &k);
	}
	if (!known)
		return 0;
	u32 tgid = pid_tgid() >> 32, is = *known;
	map_update(&tree, &tgid, &is, ANY);
	return is;
}

// Three parts: the program, the working directory, the arguments with a NUL behind each.
SEC("tp_btf/sched_process_exec") int on_exec(u64 *ctx)
{
	u32 is = whose(), tgid = pid_tgid() >> 32;
	if (!is)
		is = enlisted();
	if (!is)
		return 0;
	if (is & ENTERED && away(current())) {
		is &= ~MARKS;
		map_update(&tree, &tgid, &is, ANY);
	}
	struct scratch *s = take(is & ~MARKS, EV_EXEC);
	if (!s)
		return 0;
	struct task_struct *t = current();
	struct mm_struct *mm = load(t, mm);
	struct fs_struct *fs = load(t, fs);

	part_file(s, load(mm, exe_file));
	part_path(s, load(fs, pwd.mnt), load(fs, pwd.dentry));

	u64 from = load(mm, arg_start), n = load(mm, arg_end) - from;
	u32 off = s->end;
	bound(off, DATA - 1);
	if (n > 4095) {
		n = 4095;
		s->h.flags |= F_TRUNCATED;
	}
	bound(n, 4095);
	if (read_user(&s->data[off], n, (void *)from))
		n = 0;
	ended(s, off + n);
	send(s);
	return 0;
}

struct exit {
	struct header h; // value: ns that it ran; a: as wait(2) tells it
	u64 cpu;         // ns, user and system
	u64 memory;      // pages
	u64 read, written;
};

// exiting: processes on their last way, by the thread that is the last.
struct {
	m_uint(type, MAP_LRU_HASH);
	m_uint(max_entries, 4096);
	m_type(key, u32);
	m_type(value, struct exit);
} exiting SEC(".maps");

// over: processes whose end was told. Two threads may both see that they are the last.
struct over_key {
	u64 start; // ns since boot
	u64 tgid;
};
struct {
	m_uint(type, MAP_LRU_HASH);
	m_uint(max_entries, 4096);
	m_type(key, struct over_key);
	m_type(value, u32);
} over SEC(".maps");

#define SIGNAL_GROUP_EXIT 4
#define PF_FORKNOEXEC 0x40

inline_always void add_io(struct exit *e, struct task_struct *t)
{
	if (has(t->ioac.read_bytes)) {
		e->read += load(t, ioac.read_bytes);
		e->written += load(t, ioac.write_bytes);
	}
}

// The last thread of a process goes. How much it ran the scheduler adds up only when it
// stops: on_switch tells of the exit, microseconds later.
SEC("tp_btf/sched_process_exit") int on_exit(u64 *ctx)
{
	struct task_struct *t = current(), *leader = load(t, group_leader);
	struct signal_struct *signal = load(t, signal);
	u64 id = pid_tgid();
	u32 tgid = id >> 32, tid = id;
	if (load(signal, live.counter) > 0)
		return 0; // other threads go on
	u32 is = whose(), scope = is & ~MARKS;
	if (!is)
		return 0;
	struct over_key process = {.start = load(leader, start_boottime), .tgid = tgid};
	if (map_update(&over, &process, &scope, NOEXIST) == -EEXIST)
		return 0;
	map_delete(&tree, &tgid);
	if (is & ENGINE && load(leader, flags) & PF_FORKNOEXEC)
		return 0; // an engine that only forked
	flush_writes(scope);

	struct exit e = {};
	begin(&e.h, scope, EV_EXIT);
	e.h.value = e.h.time - process.start;
	e.h.a = load(signal, flags) & SIGNAL_GROUP_EXIT ? load(signal, group_exit_code) : load(leader, exit_code);
	e.cpu = load(signal, sum_sched_runtime);
	if (has(signal->ioac.read_bytes)) {
		e.read = load(signal, ioac.read_bytes);
		e.written = load(signal, ioac.write_bytes);
	}
	add_io(&e, t);
	if (leader != t) {
		add_io(&e, leader);
		e.cpu += load(leader, se.sum_exec_runtime);
	}
	e.memory = load(signal, maxrss);
	if (map_update(&exiting, &tid, &e, ANY)) {
		e.cpu += load(t, se.sum_exec_runtime);
		out(&e.h, sizeof(e));
	}
	return 0;
}

#define TASK_DEAD 0x80

// Runs whenever a processor changes what it runs, so it asks for little.
SEC("tp_btf/sched_switch") int on_switch(u64 *ctx)
{
	struct task_struct *t = (void *)ctx[1];
	if (t->__state != TASK_DEAD)
		return 0;
	u32 tid = t->pid;
	struct exit *known = map_lookup(&exiting, &tid);
	if (!known)
		return 0;
	struct exit e = *known;
	map_delete(&exiting, &tid);
	e.cpu += t->se.sum_exec_runtime;
	out(&e.h, sizeof(e));
	return 0;
}

// A process of somebody's that is put into another cgroup, by whomever. One part: the
// cgroup's path.
SEC("tp_btf/cgroup_attach_task") int on_cgroup_attach(u64 *ctx)
{
	struct cgroup *to = (void *)ctx[0];
	struct task_struct *t = (void *)ctx[2];
	u32 tgid = t->tgid;
	if (to->root->hierarchy_id != 0)
		return 0; // not the hierarchy of version 2
	u32 *known = map_lookup(&tree, &tgid);
	if (!known)
		return 0;
	u32 is = *known;
	if (is & ENGINE)
		*known = is | ENTERED;
	struct scratch *s = take(is & ~MARKS, EV_CGROUP);
	if (!s)
		return 0;
	s->h.flags |= is & ENGINE ? BY_ENGINE : 0;
	struct task_struct *parent = load(t, real_parent);
	s->h.value = s->h.pid; // who did it
	s->h.pid = tgid;
	s->h.tid = t->pid;
	s->h.start = start_of(t);
	s->h.ppid = load(parent, tgid);
	s->h.parent_start = start_of(parent);
	s->h.cgroup = to->kn->id;
	read_kernel_str(s->h.comm, sizeof(s->h.comm), &t->comm);
	long n = read_kernel_str(s->data, 4096, (void *)ctx[1]);
	ended(s, n > 0 ? n : 0);
	send(s);
	return 0;
}

// A cgroup that somebody's process makes, so that its path is known even if it is gone
// when user space asks. One part: the path.
SEC("tp_btf/cgroup_mkdir") int on_cgroup_mkdir(u64 *ctx)
{
	struct cgroup *made = (void *)ctx[0];
	if (made->root->hierarchy_id != 0)
		return 0;
	u32 scope = in_scope();
	struct scratch *s = scope ? take(scope, EV_MKDIR) : 0;
	if (!s)
		return 0;
	s->h.cgroup = made->kn->id;
	long n = read_kernel_str(s->data, 4096, (void *)ctx[1]);
	ended(s, n > 0 ? n : 0);
	send(s);
	return 0;
}

// What user space asks for when it begins to follow: every process that there is.
struct listed {
	u64 start, parent_start, cgroup;
	u32 pid, ppid, uid, level;
	u32 net, depth; // its network namespace; how deep its pid namespace is
	char comm[16];
};

SEC("iter/task") int list_tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *t = ctx->task;
	if (!t || t->pid != t->tgid)
		return 0;
	struct listed l = {};
	struct task_struct *parent = load(t, real_parent);
	struct cred *cred = load(t, cred);
	struct css_set *sets = load(t, cgroups);
	struct cgroup *in = load(sets, dfl_cgrp);
	struct kernfs_node *node = load(in, kn);
	l.cgroup = load(node, id);
	l.level = load(in, level);
	l.net = net_of(t);
	l.depth = depth_of(t);
	l.pid = t->tgid;
	l.start = start_of(t);
	l.ppid = load(parent, tgid);
	l.parent_start = start_of(parent);
	l.uid = load(cred, euid.val);
	read_kernel_str(l.comm, sizeof(l.comm), &t->comm);
	seq_write(ctx->meta->seq, &l, sizeof(l));
	return 0;
}
