// SPDX-License-Identifier: Apache-2.0
//
// What a job does to other processes, to the kernel, and to the recorder.
#pragma once
#include "process.h"
#include "socket.h"

// guarded: what must not be touched: GUARD_… << 32 | pid or id → 1.
struct {
	m_uint(type, MAP_HASH);
	m_uint(max_entries, 1024);
	m_type(key, u64);
	m_type(value, u8);
} guarded SEC(".maps");
enum { GUARD_PID = 1, GUARD_PROG = 2, GUARD_MAP = 3, GUARD_LINK = 4 };

inline_always bool is_guarded(u32 kind, u32 id)
{
	u64 key = (u64)kind << 32 | id;
	return map_lookup(&guarded, &key);
}

// The ways to tamper. decode.go knows the same numbers.
enum { TAMPER_SIGNAL = 1, TAMPER_DETACH = 2, TAMPER_OPEN = 3 };

// ---- another process's memory; value: way << 32 | process ----

// into tells of one whose number the caller gave. A caller in a container gives the
// container's own; the machine's is known of whatever a scope has started.
sub int into(u32 way, s64 result, u32 target)
{
	u32 tgid = pid_tgid() >> 32;
	if ((result < 0 && result != -14) || target == tgid) // EFAULT: it was let in
		return 0;
	u32 scope = in_scope();
	struct scratch *s = scope ? take(scope, EV_MEM) : 0;
	if (!s)
		return 0;
	struct inside_key k = innermost(current());
	if (k.ns) {
		k.number = target;
		u32 *known = map_lookup(&inside, &k);
		if (known)
			target = *known;
		else
			s->h.flags |= F_INSIDE;
	}
	s->h.value = (u64)way << 32 | target;
	send(s);
	return 0;
}

#define PID_FS_MAGIC 0x50494446

// An open file of another process's, which it is that a pidfd stands for.
SEC("tracepoint/syscalls/sys_exit_pidfd_getfd") int x_pidfd_getfd(struct leave *c)
{
	u32 scope = c->ret < 0 ? 0 : in_scope();
	struct file *f = scope ? file_of(arg(0)) : 0;
	if (!f)
		return 0;
	struct inode *inode = load(f, f_inode);
	struct super_block *sb = load(inode, i_sb);
	char comm[16];
	u32 target = task_of(load(sb, s_magic) == PID_FS_MAGIC ? load(inode, i_private) : load(f, private_data), comm);
	if (target != (u32)(pid_tgid() >> 32))
		tell(scope, EV_MEM, (u64)MEM_GETFD << 32 | target, 0, 0);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_process_vm_readv") int x_vm_readv(struct leave *c) { return into(MEM_READV, c->ret, arg(0)); }
SEC("tracepoint/syscalls/sys_exit_process_vm_writev") int x_vm_writev(struct leave *c) { return into(MEM_WRITEV, c->ret, arg(0)); }

#define PTRACE_ATTACH 16
#define PTRACE_SEIZE 0x4206
SEC("tracepoint/syscalls/sys_exit_ptrace") int x_ptrace(struct leave *c)
{
	u64 request = arg(0);
	return request == PTRACE_ATTACH || request == PTRACE_SEIZE ? into(MEM_PTRACE, c->ret, arg(1)) : 0;
}

// ---- programs and modules for the kernel ----

enum {
	BPF_PROG_LOAD = 5,
	BPF_PROG_ATTACH = 8,
	BPF_PROG_DETACH = 9,
	BPF_PROG_GET_FD_BY_ID = 13,
	BPF_MAP_GET_FD_BY_ID = 14,
	BPF_LINK_CREATE = 28,
	BPF_LINK_UPDATE = 29,
	BPF_LINK_GET_FD_BY_ID = 30,
	BPF_LINK_DETACH = 34,
};

// value: the command; a: 0, or how it tampers; b: set if the kernel refused. Behind it
// the name of a program that is loaded, 16 bytes.
SEC("tracepoint/syscalls/sys_exit_bpf") int x_bpf(struct leave *c)
{
	u32 is = whose(), scope = is & ~MARKS;
	if (!is)
		return 0;
	u64 command = arg(0), attr = arg(1);
	u32 id = 0, tampers = 0, kind = 0;
	read_user(&id, sizeof(id), (void *)attr);
	switch (command) {
	case BPF_PROG_LOAD:
	case BPF_PROG_ATTACH:
	case BPF_LINK_CREATE:
		break;
	case BPF_PROG_DETACH:
	case BPF_LINK_UPDATE:
	case BPF_LINK_DETACH:
		tampers = TAMPER_DETACH;
		break;
	case BPF_PROG_GET_FD_BY_ID:
		kind = GUARD_PROG;
		break;
	case BPF_MAP_GET_FD_BY_ID:
		kind = GUARD_MAP;
		break;
	case BPF_LINK_GET_FD_BY_ID:
		kind = GUARD_LINK;
		break;
	default:
		return 0;
	}
	if (kind) {
		if (!is_guarded(kind, id))
			return 0;
		tampers = TAMPER_OPEN;
	}
	if (is & ENGINE && tampers != TAMPER_OPEN)
		return 0; // what holds a container from devices
	struct scratch *s = take(scope, EV_BPF);
	if (!s)
		return 0;
	if (command == BPF_PROG_LOAD) {
		u32 n = 16;
		if (read_user_str(s->data, 16, (void *)(attr + 48)) <= 0)
			s->data[0] = 0;
		ended(s, 16);
	}
	s->h.value = command;
	s->h.a = tampers;
	s->h.b = c->ret < 0;
	send(s);
	return 0;
}

// One part: the module's file, if it came from one. value is set if the kernel refused.
inline_always int module(s64 result, struct file *f)
{
	u32 scope = in_job();
	struct scratch *s = scope ? take(scope, EV_MODULE) : 0;
	if (!s)
		return 0;
	if (f)
		part_file(s, f);
	s->h.value = result < 0;
	send(s);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_init_module") int x_init_module(struct leave *c) { return module(c->ret, 0); }
SEC("tracepoint/syscalls/sys_exit_finit_module") int x_finit_module(struct leave *c) { return module(c->ret, file_of(arg(0))); }

// ---- users ----

struct users {
	u32 uid, euid;
};

// changing: who a thread was when it asked to be somebody else.
struct {
	m_uint(type, MAP_LRU_HASH);
	m_uint(max_entries, 4096);
	m_type(key, u32);
	m_type(value, struct users);
} changing SEC(".maps");

inline_always struct users who(void)
{
	struct task_struct *t = current();
	struct cred *cred = load(t, cred);
	struct users u = {.uid = load(cred, uid.val), .euid = load(cred, euid.val)};
	return u;
}

inline_always int asks(void)
{
	if (!in_job())
		return 0;
	u32 tid = pid_tgid();
	struct users u = who();
	map_update(&changing, &tid, &u, ANY);
	return 0;
}

sub int became(s64 result)
{
	u32 tid = pid_tgid();
	struct users *was = map_lookup(&changing, &tid);
	if (!was)
		return 0;
	struct users before = *was, now = who();
	map_delete(&changing, &tid);
	u32 scope = in_job();
	if (!scope || (before.uid == now.uid && before.euid == now.euid))
		return 0;
	struct header h;
	begin(&h, scope, EV_SETUID);
	h.uid = before.euid;
	h.value = now.euid;
	out(&h, sizeof(h));
	return 0;
}

#define CHANGES(call)                                                                              \
	SEC("tracepoint/syscalls/sys_enter_" #call) int e_##call(struct enter *c) { return asks(); } \
	SEC("tracepoint/syscalls/sys_exit_" #call) int x_##call(struct leave *c) { return became(c->ret); }
CHANGES(setuid)
CHANGES(setreuid)
CHANGES(setresuid)
CHANGES(setfsuid)

// ---- mounts: four parts: directory and path of the mount point, source, kind ----

SEC("tracepoint/syscalls/sys_exit_mount") int x_mount(struct leave *c)
{
	u32 scope = c->ret ? 0 : in_job();
	struct scratch *s = scope ? take(scope, EV_MOUNT) : 0;
	if (!s)
		return 0;
	part_at(s, AT_FDCWD, (void *)arg(1));
	part_user(s, (void *)arg(0));
	part_user(s, (void *)arg(2));
	s->h.value = arg(3);
	send(s);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_move_mount") int x_move_mount(struct leave *c)
{
	u32 scope = c->ret ? 0 : in_job();
	struct scratch *s = scope ? take(scope, EV_MOUNT) : 0;
	if (!s)
		return 0;
	part_at(s, arg(2), (void *)arg(3));
	send(s);
	return 0;
}

#define OPEN_TREE_CLONE 1

// A part of the file system that is mounted where only a descriptor leads: two parts, and
// F_WAY.
SEC("tracepoint/syscalls/sys_exit_open_tree") int x_open_tree(struct leave *c)
{
	u32 scope = c->ret < 0 || !(arg(2) & OPEN_TREE_CLONE) ? 0 : in_job();
	struct scratch *s = scope ? take(scope, EV_MOUNT) : 0;
	if (!s)
		return 0;
	part_at(s, arg(0), (void *)arg(1));
	s->h.flags |= 1 << F_WAY;
	send(s);
	return 0;
}

// ---- ways around ----

SEC("tracepoint/syscalls/sys_exit_io_uring_setup") int x_io_uring(struct leave *c)
{
	u32 scope = c->ret < 0 ? 0 : in_scope();
	if (scope)
		tell(scope, EV_IO_URING, 0, 0, 0);
	return 0;
}

// ---- the recorder itself ----

#define SIGCHLD 17
#define SIGCONT 18
#define SIGURG 23
#define SIGWINCH 28

// A signal that was sent: a: its number; value: to whom. The kernel's own are not told,
// and not those that do no harm.
SEC("tp_btf/signal_generate") int on_signal(u64 *ctx)
{
	struct task_struct *t = (void *)ctx[2];
	u32 target = t->tgid;
	if (ctx[0] == SIGCHLD || ctx[0] == SIGCONT || ctx[0] == SIGURG || ctx[0] == SIGWINCH)
		return 0;
	if (!is_guarded(GUARD_PID, target))
		return 0;
	struct kernel_siginfo *info = (void *)ctx[1];
	if (ctx[1] == 1 || (ctx[1] > 1 && load(info, si_code) > 0)) // 1: the kernel itself
		return 0;
	u32 scope = in_scope();
	if (scope)
		tell(scope, EV_TAMPER, target, ctx[0], TAMPER_SIGNAL);
	return 0;
}

// One that was refused.
inline_always int refused(s64 result, s32 target, u32 signal)
{
	if (result != -1 || !signal || !is_guarded(GUARD_PID, target))
		return 0;
	u32 scope = in_scope();
	if (scope)
		tell(scope, EV_TAMPER, (u32)target, signal, TAMPER_SIGNAL);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_kill") int x_kill(struct leave *c) { return refused(c->ret, arg(0), arg(1)); }
SEC("tracepoint/syscalls/sys_exit_tkill") int x_tkill(struct leave *c) { return refused(c->ret, arg(0), arg(1)); }
SEC("tracepoint/syscalls/sys_exit_tgkill") int x_tgkill(struct leave *c) { return refused(c->ret, arg(0), arg(2)); }
