// SPDX-License-Identifier: Apache-2.0
//
// Processes: what runs, what becomes of it, and whose it is.
#pragma once
#include "scratch.h"

// Follows the children of the processes that are somebody's.
SEC("tp_btf/sched_process_fork") int on_fork(u64 *ctx)
{
	struct task_struct *child = (void *)ctx[1];
	u32 tgid = child->tgid;
	if (child->pid != tgid)
		return 0; // a thread
	u32 scope = in_scope();
	if (!scope)
		return 0;
	if (map_update(&tree, &tgid, &scope, ANY))
		count_lost(scope, EV_FORK);
	return 0;
}

// Three parts: the program, the working directory, the arguments with a NUL behind each.
SEC("tp_btf/sched_process_exec") int on_exec(u64 *ctx)
{
	u32 scope = in_scope();
	if (!scope)
		return 0;
	struct scratch *s = take(scope, EV_EXEC);
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

#define SIGNAL_GROUP_EXIT 4

inline_always void add_usage(struct exit *e, struct task_struct *t)
{
	e->cpu += load(t, se.sum_exec_runtime);
	if (has(t->ioac.read_bytes)) {
		e->read += load(t, ioac.read_bytes);
		e->written += load(t, ioac.write_bytes);
	}
}

SEC("tp_btf/sched_process_exit") int on_exit(u64 *ctx)
{
	struct task_struct *t = current(), *leader = load(t, group_leader);
	struct signal_struct *signal = load(t, signal);
	u32 tgid = pid_tgid() >> 32;
	if (load(signal, live.counter) > 0)
		return 0; // other threads go on
	u32 scope = in_scope();
	if (!scope || map_delete(&tree, &tgid))
		return 0; // two threads may both be the last; one of them tells
	flush_writes(scope);

	struct exit e = {};
	begin(&e.h, scope, EV_EXIT);
	e.h.value = e.h.time - load(leader, start_boottime);
	e.h.a = load(signal, flags) & SIGNAL_GROUP_EXIT ? load(signal, group_exit_code) : load(leader, exit_code);
	e.cpu = load(signal, sum_sched_runtime);
	if (has(signal->ioac.read_bytes)) {
		e.read = load(signal, ioac.read_bytes);
		e.written = load(signal, ioac.write_bytes);
	}
	add_usage(&e, t);
	if (leader != t)
		add_usage(&e, leader);
	e.memory = load(signal, maxrss);
	out(&e.h, sizeof(e));
	return 0;
}

// A process of somebody's that is put into another cgroup, by whomever.
SEC("tp_btf/cgroup_attach_task") int on_cgroup_attach(u64 *ctx)
{
	struct cgroup *to = (void *)ctx[0];
	struct task_struct *t = (void *)ctx[2];
	u32 tgid = t->tgid;
	if (to->root->hierarchy_id != 0)
		return 0; // not the hierarchy of version 2
	u32 *scope = map_lookup(&tree, &tgid);
	if (!scope)
		return 0;
	struct header h;
	begin(&h, *scope, EV_CGROUP);
	h.value = h.pid; // who did it
	h.pid = tgid;
	h.tid = t->pid;
	h.start = start_of(t);
	struct task_struct *parent = load(t, real_parent);
	h.ppid = load(parent, tgid);
	h.parent_start = start_of(parent);
	h.cgroup = to->kn->id;
	read_kernel_str(h.comm, sizeof(h.comm), &t->comm);
	out(&h, sizeof(h));
	return 0;
}

// What user space asks for when it begins to follow: every process that there is.
struct listed {
	u64 start, parent_start, cgroup;
	u32 pid, ppid, uid, level;
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
	l.pid = t->tgid;
	l.start = start_of(t);
	l.ppid = load(parent, tgid);
	l.parent_start = start_of(parent);
	l.uid = load(cred, euid.val);
	read_kernel_str(l.comm, sizeof(l.comm), &t->comm);
	seq_write(ctx->meta->seq, &l, sizeof(l));
	return 0;
}
