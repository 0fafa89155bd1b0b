// SPDX-License-Identifier: Apache-2.0
//
// Files: opened, written to, deleted and renamed. All of it is told when the call has
// succeeded, from the tracepoint at its end.
#pragma once
#include "scratch.h"

#define S_IFMT 0170000
#define S_IFREG 0100000
#define S_IFCHR 0020000
#define S_IFBLK 0060000
#define O_ACCMODE 3
#define O_CREAT 0100
#define O_TRUNC 01000
#define FMODE_PATH (1 << 14)
#define FMODE_CREATED (1 << 20)
#define PROC_SUPER_MAGIC 0x9fa0
#define SYSFS_MAGIC 0x62656572
#define MAJOR(dev) ((dev) >> 20)
#define MINOR(dev) ((dev) & 0xfffff)

// file_key is a file in the hands of one process.
struct file_key {
	u64 inode;
	u32 dev;
	u32 pid;
	u64 exec; // of seen: which program of which process; a pid is used again
};

// seen: files that a process has opened to read since it began its program.
struct {
	m_uint(type, MAP_LRU_HASH);
	m_uint(max_entries, 65536);
	m_type(key, struct file_key);
	m_type(value, u8);
} seen SEC(".maps");

struct written {
	u64 bytes;  // since they were last told
	u64 told;   // when that was, ns since boot
	u64 start;  // of the process
	u32 scope;
	u32 pad;
};

// writes: what processes write to, and how much has not been told.
struct {
	m_uint(type, MAP_HASH);
	m_uint(max_entries, 65536);
	m_uint(map_flags, NO_PREALLOC);
	m_type(key, struct file_key);
	m_type(value, struct written);
} writes SEC(".maps");

// writers: how many entries a process has in `writes`, so that the many that have none
// exit at once.
struct {
	m_uint(type, MAP_HASH);
	m_uint(max_entries, 65536);
	m_uint(map_flags, NO_PREALLOC);
	m_type(key, u32);
	m_type(value, u32);
} writers SEC(".maps");

inline_always void key_of(struct file_key *k, struct inode *inode)
{
	struct super_block *sb = load(inode, i_sb);
	k->inode = load(inode, i_ino);
	k->dev = load(sb, s_dev);
	k->pid = pid_tgid() >> 32;
	k->exec = 0;
}

// quiet reports whether a path is one that everybody reads: the system's own programs,
// libraries and data. It looks at the two names next to the root.
inline_always bool quiet(struct scratch *s, u64 names)
{
	u32 top = names, second = names >> 32, a = 0, b = 0, leaf = 0;
	bound(top, DATA - 1);
	bound(second, DATA - 1);
	read_kernel(&a, 4, &s->data[top]);
	read_kernel(&b, 4, &s->data[second]);
	read_kernel(&leaf, 4, &s->data[0]);
	u32 b3 = b & 0xffffff;
	if (a == 0x727375)                        // usr
		return b3 == 0x62696c ||          // lib, lib64, libexec
		       b == 0x72616873 ||         // share
		       b == 0x6c636e69;           // include
	if (a == 0x637465)                        // etc
		return leaf == 0x732e646c ||      // ld.so.cache
		       leaf == 0x61636f6c;        // locale.alias, localtime
	return (a & 0xffffff) == 0x62696c ||      // lib, lib64
	       a == 0x737973;                     // sys
}

// task_of finds the process that a number of the kernel's stands for. It returns 0 if
// there is none; then comm is empty.
inline_always u32 task_of(struct pid *pid, char *comm)
{
	if (!pid)
		return 0;
	struct hlist_node *first = load(pid, tasks[0].first);
	if (!first)
		return 0;
	struct task_struct *t = (void *)((char *)first - offset(struct task_struct, pid_links[0]));
	read_kernel_str(comm, 16, &t->comm);
	return load(t, tgid);
}

// pid_of is whom a file below /proc is about.
inline_always struct pid *pid_of(struct inode *inode)
{
	struct proc_inode *p = (void *)((char *)inode - offset(struct proc_inode, vfs_inode));
	return load(p, pid);
}

// The ways into a process's memory. decode.go knows the same numbers.
enum { MEM_PROC = 1, MEM_ENVIRON = 2, MEM_READV = 3, MEM_WRITEV = 4, MEM_PTRACE = 5, MEM_MAPS = 6, MEM_GETFD = 7, MEM_KERNEL = 8 };

// memory_file says which of them the name of a file below /proc is, or 0.
inline_always u32 memory_file(struct scratch *s)
{
	u64 name = 0;
	read_kernel_str(&name, 8, &s->data[0]);
	if (name == 0x6d656d) // mem
		return MEM_PROC;
	if (name == 0x6e6f7269766e65) // environ
		return MEM_ENVIRON;
	if (name == 0x7370616d) // maps
		return MEM_MAPS;
	if (name == 0x65726f636b) // kcore
		return MEM_KERNEL;
	return 0;
}

// opened_proc tells of the files that show another process's memory, and of no others
// that are read below /proc.
inline_always void opened_proc(struct scratch *s, struct file *f, struct inode *inode, bool write)
{
	part_file(s, f);
	u32 what = memory_file(s);
	char comm[16] = {};
	u32 target = task_of(pid_of(inode), comm);
	bool other = target && target != s->h.pid;
	if (what && other && what != MEM_MAPS && what != MEM_KERNEL) {
		s->h.type = EV_MEM;
		s->h.value = (u64)what << 32 | target;
		u32 off = s->end;
		bound(off, DATA - 1);
		read_kernel(&s->data[off], 16, comm);
		ended(s, off + 16);
		send(s);
	} else if (write || what == MEM_KERNEL || (what == MEM_MAPS && other)) {
		send(s);
	} else {
		give(s);
	}
}

inline_always bool dull_device(u32 dev)
{
	u32 major = MAJOR(dev), minor = MINOR(dev);
	return major == 1 ? minor == 3 || minor == 5 || minor >= 7 : // null, zero, full, random, urandom
	       major == 5 || major == 4 || (major >= 136 && major <= 143); // terminals
}

// part_key adds a key of `writes`, by which user space knows the path of what is left
// over in the end.
inline_always void part_key(struct scratch *s, struct file_key *k)
{
	u32 off = s->end;
	bound(off, DATA - 1);
	read_kernel(&s->data[off], sizeof(*k), k);
	ended(s, off + sizeof(*k));
}

// flush tells what is left of an entry of `writes` and removes it.
inline_always void flush(struct file_key *k, struct written *w, struct file *f)
{
	u64 bytes = w->bytes;
	u32 scope = w->scope;
	map_delete(&writes, k);
	u32 *n = map_lookup(&writers, &k->pid);
	if (n)
		add(*n, -1);
	if (!bytes)
		return;
	struct scratch *s = take(scope, EV_WRITE);
	if (!s)
		return;
	part_file(s, f);
	part_key(s, k);
	s->h.value = bytes;
	send(s);
}

sub int opened(s64 fd, u32 asked)
{
	if (fd < 0)
		return 0;
	u32 scope = in_job();
	if (!scope)
		return 0;
	struct file *f = file_of(fd);
	if (!f)
		return 0;
	struct inode *inode = load(f, f_inode);
	u32 flags = load(f, f_flags), mode = load(f, f_mode), kind = load(inode, i_mode) & S_IFMT;
	bool write = flags & O_ACCMODE;
	if (mode & FMODE_PATH)
		return 0;
	if (kind == S_IFCHR || kind == S_IFBLK) {
		if (dull_device(load(inode, i_rdev)))
			return 0;
	} else if (kind != S_IFREG) {
		return 0;
	}
	struct super_block *sb = load(inode, i_sb);
	u64 magic = load(sb, s_magic);
	struct file_key k;
	key_of(&k, inode);
	struct settings *set_ = set();
	u32 reads = set_ ? set_->reads : READS_NONE;

	if (!write && magic != PROC_SUPER_MAGIC) {
		if (reads == READS_NONE || magic == SYSFS_MAGIC)
			return 0;
		if (reads == READS_FIRST) {
			struct task_struct *t = current(), *leader = load(t, group_leader);
			u8 yes = 1;
			k.exec = load(leader, start_boottime) + load(t, self_exec_id);
			if (map_update(&seen, &k, &yes, NOEXIST))
				return 0;
			k.exec = 0;
		}
	} else if (write) {
		// The inode may have been another file's when this process wrote to it.
		struct written *w = map_lookup(&writes, &k);
		if (w)
			flush(&k, w, f);
	}

	struct scratch *s = take(scope, EV_OPEN);
	if (!s)
		return 0;
	// The kernel forgets these two once a file is open; that it was made it remembers.
	s->h.value = flags | (asked & O_TRUNC) | (mode & FMODE_CREATED ? O_CREAT : 0);
	if (magic == PROC_SUPER_MAGIC) {
		opened_proc(s, f, inode, write);
		return 0;
	}
	u64 names = part_path(s, load(f, f_path.mnt), load(f, f_path.dentry));
	if (!write && reads == READS_FIRST && quiet(s, names))
		give(s);
	else
		send(s);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_openat") int x_openat(struct leave *c) { return opened(c->ret, arg(2)); }
SEC("tracepoint/syscalls/sys_exit_open") int x_open(struct leave *c) { return opened(c->ret, arg(1)); }
SEC("tracepoint/syscalls/sys_exit_creat") int x_creat(struct leave *c) { return opened(c->ret, O_CREAT | O_TRUNC); }
SEC("tracepoint/syscalls/sys_exit_open_by_handle_at") int x_open_by_handle_at(struct leave *c) { return opened(c->ret, arg(2)); }
SEC("tracepoint/syscalls/sys_exit_openat2") int x_openat2(struct leave *c)
{
	u64 flags = 0;
	read_user(&flags, sizeof(flags), (void *)arg(2));
	return opened(c->ret, flags);
}

// The ways to change what is in a file without a write. decode.go knows the same numbers.
enum { CUT_PATH = 1, CUT_FILE = 2, CUT_HOLE = 3 };

// Two parts, and F_WAY: the file by its name, which need not be open.
SEC("tracepoint/syscalls/sys_exit_truncate") int x_truncate(struct leave *c)
{
	u32 scope = c->ret ? 0 : in_job();
	struct scratch *s = scope ? take(scope, EV_OPEN) : 0;
	if (!s)
		return 0;
	part_at(s, AT_FDCWD, (void *)arg(0));
	s->h.flags |= CUT_PATH << F_WAY;
	send(s);
	return 0;
}

sub int cut(s64 failed, s32 fd, u32 way)
{
	u32 scope = failed ? 0 : in_job();
	struct file *f = scope ? file_of(fd) : 0;
	if (!f)
		return 0;
	struct inode *inode = load(f, f_inode);
	if ((load(inode, i_mode) & S_IFMT) != S_IFREG)
		return 0;
	struct scratch *s = take(scope, EV_OPEN);
	if (!s)
		return 0;
	part_file(s, f);
	s->h.flags |= way << F_WAY;
	send(s);
	return 0;
}

#define FALLOC_KEEP_SIZE 1 // room that is only set aside

SEC("tracepoint/syscalls/sys_exit_ftruncate") int x_ftruncate(struct leave *c) { return cut(c->ret, arg(0), CUT_FILE); }
SEC("tracepoint/syscalls/sys_exit_fallocate") int x_fallocate(struct leave *c)
{
	return arg(1) & ~FALLOC_KEEP_SIZE ? cut(c->ret, arg(0), CUT_HOLE) : 0;
}

#define TELL_AFTER 1000000000ULL // ns that written bytes may wait while a file is written to

sub int wrote(s64 n, s32 fd)
{
	if (n <= 0)
		return 0;
	u32 scope = in_job();
	if (!scope)
		return 0;
	struct file *f = file_of(fd);
	if (!f)
		return 0;
	struct inode *inode = load(f, f_inode);
	if ((load(inode, i_mode) & S_IFMT) != S_IFREG)
		return 0;
	struct file_key k;
	key_of(&k, inode);
	u64 now = ktime_boot();
	struct written *w = map_lookup(&writes, &k);
	u64 bytes = n;
	if (w) {
		if (now - w->told < TELL_AFTER) {
			add(w->bytes, bytes);
			return 0;
		}
		bytes += __sync_lock_test_and_set(&w->bytes, 0);
		w->told = now;
	} else {
		struct task_struct *t = current();
		struct written first = {.told = now, .start = start_of(t), .scope = scope};
		u32 one = 1, *count;
		if (!map_update(&writes, &k, &first, NOEXIST)) {
			count = map_lookup(&writers, &k.pid);
			if (count)
				add(*count, 1);
			else
				map_update(&writers, &k.pid, &one, ANY);
		}
	}
	struct scratch *s = take(scope, EV_WRITE);
	if (!s)
		return 0;
	part_file(s, f);
	part_key(s, &k);
	s->h.value = bytes;
	send(s);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_write") int x_write(struct leave *c) { return wrote(c->ret, arg(0)); }
SEC("tracepoint/syscalls/sys_exit_pwrite64") int x_pwrite64(struct leave *c) { return wrote(c->ret, arg(0)); }
SEC("tracepoint/syscalls/sys_exit_writev") int x_writev(struct leave *c) { return wrote(c->ret, arg(0)); }
SEC("tracepoint/syscalls/sys_exit_pwritev") int x_pwritev(struct leave *c) { return wrote(c->ret, arg(0)); }
SEC("tracepoint/syscalls/sys_exit_pwritev2") int x_pwritev2(struct leave *c) { return wrote(c->ret, arg(0)); }
SEC("tracepoint/syscalls/sys_exit_sendfile64") int x_sendfile(struct leave *c) { return wrote(c->ret, arg(0)); }
SEC("tracepoint/syscalls/sys_exit_copy_file_range") int x_copy_file_range(struct leave *c) { return wrote(c->ret, arg(2)); }
SEC("tracepoint/syscalls/sys_exit_splice") int x_splice(struct leave *c) { return wrote(c->ret, arg(2)); }

sub int closing(s32 fd)
{
	struct file *f = file_of(fd);
	if (!f)
		return 0;
	struct inode *inode = load(f, f_inode);
	if ((load(inode, i_mode) & S_IFMT) != S_IFREG)
		return 0;
	struct file_key k;
	key_of(&k, inode);
	struct written *w = map_lookup(&writes, &k);
	if (w)
		flush(&k, w, f);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_close") int e_close(struct enter *c)
{
	u32 tgid = pid_tgid() >> 32;
	u32 *n = map_lookup(&writers, &tgid);
	if (n && *n)
		closing(c->args[0]);
	return 0;
}

static long close_one(u32 fd, void *nothing)
{
	closing(fd);
	return 0;
}

// flush_writes tells what a process that ends has not: its files are still open.
inline_always void flush_writes(u32 scope)
{
	u32 tgid = pid_tgid() >> 32;
	u32 *n = map_lookup(&writers, &tgid);
	if (!n)
		return;
	if (*n)
		loop(256, close_one, 0, 0);
	map_delete(&writers, &tgid);
}

inline_always int deleted(s64 failed, s32 dir, u64 path)
{
	u32 scope = failed ? 0 : in_job();
	struct scratch *s = scope ? take(scope, EV_DELETE) : 0;
	if (!s)
		return 0;
	part_at(s, dir, (void *)path);
	send(s);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_unlinkat") int x_unlinkat(struct leave *c) { return deleted(c->ret, arg(0), arg(1)); }
SEC("tracepoint/syscalls/sys_exit_unlink") int x_unlink(struct leave *c) { return deleted(c->ret, AT_FDCWD, arg(0)); }
SEC("tracepoint/syscalls/sys_exit_rmdir") int x_rmdir(struct leave *c) { return deleted(c->ret, AT_FDCWD, arg(0)); }

// two_paths tells of a call that had two, as four parts.
sub int two_paths(u32 type, u64 dirs, u64 old, u64 new)
{
	u32 scope = in_job();
	struct scratch *s = scope ? take(scope, type) : 0;
	if (!s)
		return 0;
	part_at(s, (s32)(dirs >> 32), (void *)old);
	part_at(s, (s32)dirs, (void *)new);
	send(s);
	return 0;
}

#define RENAME_EXCHANGE 2

inline_always int renamed(s64 failed, s32 from, u64 old, s32 to, u64 new, u32 flags)
{
	if (failed)
		return 0;
	two_paths(EV_RENAME, (u64)from << 32 | (u32)to, old, new);
	if (flags & RENAME_EXCHANGE) // both have moved
		two_paths(EV_RENAME, (u64)to << 32 | (u32)from, new, old);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_rename") int x_rename(struct leave *c) { return renamed(c->ret, AT_FDCWD, arg(0), AT_FDCWD, arg(1), 0); }
SEC("tracepoint/syscalls/sys_exit_renameat") int x_renameat(struct leave *c) { return renamed(c->ret, arg(0), arg(1), arg(2), arg(3), 0); }
SEC("tracepoint/syscalls/sys_exit_renameat2") int x_renameat2(struct leave *c) { return renamed(c->ret, arg(0), arg(1), arg(2), arg(3), arg(4)); }

// A second name of a file: four parts, like those of a rename.
inline_always int linked(s64 failed, s32 from, u64 old, s32 to, u64 new)
{
	return failed ? 0 : two_paths(EV_LINK, (u64)from << 32 | (u32)to, old, new);
}

SEC("tracepoint/syscalls/sys_exit_link") int x_link(struct leave *c) { return linked(c->ret, AT_FDCWD, arg(0), AT_FDCWD, arg(1)); }
SEC("tracepoint/syscalls/sys_exit_linkat") int x_linkat(struct leave *c) { return linked(c->ret, arg(0), arg(1), arg(2), arg(3)); }
