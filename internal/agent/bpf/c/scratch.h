// SPDX-License-Identifier: Apache-2.0
//
// Where events of changing length are put together, and how paths get into them.
//
// A path is written leaf first, each name with its NUL, as the walk up the tree finds
// them; user space turns it round. Parts of an event (a path, a string of the caller's)
// follow each other; the header's a and b hold where the first four of them end.
//
// Only for programs that run in a process: tp_btf and the tracepoints of system calls.
#pragma once
#include "scope.h"

#define DATA 16384

// The flags of a header that all types have in common.
enum {
	F_TRUNCATED = 1,
	F_INSIDE = 2, // a process is told of by its container's number
	F_WAY = 8,    // from this bit on: by which of several calls, as the type numbers them
};

struct scratch {
	u32 busy;
	u32 end; // where the last part ends
	u32 parts;
	u32 pad;
	struct header h;
	u8 data[DATA + 4096]; // a part begins below DATA and has at most 4096 bytes
};

// Four for each CPU: kernels that let a program be interrupted by another process's may
// need more than one at a time.
struct {
	m_uint(type, MAP_PERCPU_ARRAY);
	m_uint(max_entries, 4);
	m_type(key, u32);
	m_type(value, struct scratch);
} scratches SEC(".maps");

// take returns a scratch with its header filled in, or 0, and then counts the loss.
sub struct scratch *take(u32 scope, u16 type)
{
#pragma unroll
	for (u32 i = 0; i < 4; i++) {
		u32 n = i;
		struct scratch *s = map_lookup(&scratches, &n);
		if (s && !__sync_val_compare_and_swap(&s->busy, 0, 1)) {
			begin(&s->h, scope, type);
			s->end = 0;
			s->parts = 0;
			return s;
		}
	}
	count_lost(scope, type);
	return 0;
}

inline_always void give(struct scratch *s)
{
	s->busy = 0;
}

// send hands the event and its parts to the reader and gives the scratch back.
sub int send(struct scratch *s)
{
	if (!s)
		return 0;
	u64 len = s->end;
	bound(len, 0x7fff);
	if (len <= DATA + 4096)
		out(&s->h, sizeof(struct header) + len);
	give(s);
	return 0;
}

// ended notes that a part ends at off.
inline_always void ended(struct scratch *s, u32 off)
{
	bound(off, DATA - 1);
	s->end = off;
	switch (s->parts++) {
	case 0:
		s->h.a = off;
		break;
	case 1:
		s->h.a |= off << 16;
		break;
	case 2:
		s->h.b = off;
		break;
	case 3:
		s->h.b |= off << 16;
		break;
	}
}

// tell sends an event that has no parts.
inline_always void tell(u32 scope, u16 type, u64 value, u32 a, u32 b)
{
	struct header h;
	begin(&h, scope, type);
	h.value = value;
	h.a = a;
	h.b = b;
	out(&h, sizeof(h));
}

struct walk {
	struct scratch *s;
	struct dentry *d;
	struct mount *m;
	u32 off;
	u32 top, second; // where the names next to the root begin
	u32 done;
};

static long step(u32 i, struct walk *w)
{
	struct scratch *s = w->s;
	struct dentry *root = load(w->m, mnt.mnt_root), *up = load(w->d, d_parent);
	if (w->d == root) {
		struct mount *over = load(w->m, mnt_parent);
		if (over == w->m) {
			w->done = 1;
			return 1;
		}
		w->d = load(w->m, mnt_mountpoint);
		w->m = over;
		return 0;
	}
	u32 off = w->off;
	bound(off, DATA - 1);
	long n = read_kernel_str(&s->data[off], 256, load(w->d, d_name.name));
	if (n > 0) {
		w->second = w->top;
		w->top = off;
		w->off = off + n;
	}
	if (up == w->d || w->off >= DATA - 256) {
		w->done = up == w->d; // a file that is in no tree, such as a memfd
		return 1;
	}
	w->d = up;
	return 0;
}

#define DEPTH 64 // names and mount points in a path

// part_path adds the path of an entry of a directory as its mount namespace knows it.
sub u64 part_path(struct scratch *s, struct vfsmount *mnt, struct dentry *d)
{
	if (!s)
		return 0;
	struct walk w = {.s = s, .d = d, .off = s->end};
	w.m = (void *)((char *)mnt - offset(struct mount, mnt));
	w.top = w.second = w.off;
	loop(DEPTH, step, &w, 0);
	if (!w.done)
		s->h.flags |= F_TRUNCATED;
	ended(s, w.off);
	return (u64)w.second << 32 | w.top;
}

// part_user adds a string of the caller's.
inline_always void part_user(struct scratch *s, const void *from)
{
	u32 off = s->end;
	bound(off, DATA - 1);
	long n = read_user_str(&s->data[off], 4096, from);
	if (n < 0)
		n = 0;
	if (n == 4096)
		s->h.flags |= F_TRUNCATED;
	ended(s, off + n);
}

sub struct file *file_of(s32 fd)
{
	struct task_struct *t = current();
	struct files_struct *files = load(t, files);
	struct fdtable *table = load(files, fdt);
	struct file *f = 0;
	if (fd < 0 || (u32)fd >= load(table, max_fds))
		return 0;
	read_kernel(&f, sizeof(f), load(table, fd) + fd);
	return f;
}

inline_always void part_file(struct scratch *s, struct file *f)
{
	part_path(s, load(f, f_path.mnt), load(f, f_path.dentry));
}

#define AT_FDCWD -100

// part_at adds two parts: the directory that a path of the caller's begins at, which is
// the process's root if the path is absolute, and the path.
sub int part_at(struct scratch *s, s32 dir, const void *path)
{
	if (!s)
		return 0;
	struct task_struct *t = current();
	struct fs_struct *fs = load(t, fs);
	char first = 0;
	read_user(&first, 1, path);
	if (first == '/') {
		part_path(s, load(fs, root.mnt), load(fs, root.dentry));
	} else if (dir == AT_FDCWD) {
		part_path(s, load(fs, pwd.mnt), load(fs, pwd.dentry));
	} else {
		part_file(s, file_of(dir));
	}
	part_user(s, path);
	return 0;
}
