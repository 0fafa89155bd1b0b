// SPDX-License-Identifier: Apache-2.0
//
// What the programs need of the kernel and no more: the fields that are read, the
// helpers that are called, and the words by which maps and programs are declared.
// Every struct of the kernel here is CO-RE: only names and types count, and the
// loader puts in the offsets of the kernel that it finds. A field that a kernel does
// not have must be asked for with `has` first. Structs may be extended freely.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed int s32;
typedef signed long long s64;
typedef _Bool bool;
#define true 1
#define false 0

#define inline_always static inline __attribute__((always_inline))
// sub is a function of its own in the program, which keeps the objects small.
#define sub static __attribute__((noinline, unused))
#define SEC(name) __attribute__((section(name), used))

// ---- maps: the loader reads these from the types (BTF) ----

#define m_uint(name, value) int(*name)[value]
#define m_type(name, t) t *name

enum {
	MAP_HASH = 1,
	MAP_ARRAY = 2,
	MAP_PERCPU_ARRAY = 6,
	MAP_LRU_HASH = 9,
	MAP_LPM_TRIE = 11,
	MAP_RINGBUF = 27,
	MAP_SK_STORAGE = 24,
};
enum { ANY = 0, NOEXIST = 1, EXIST = 2, NO_PREALLOC = 1 };
#define EEXIST 17
enum { RB_NO_WAKEUP = 1, RB_FORCE_WAKEUP = 2, RB_AVAIL_DATA = 0 };

// ---- helpers, by the kernel's numbers (include/uapi/linux/bpf.h) ----

struct task_struct;
struct pt_regs;

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*map_delete)(void *map, const void *key) = (void *)3;
static u64 (*ktime)(void) = (void *)5;
static u32 (*cpu_id)(void) = (void *)8;
static u64 (*pid_tgid)(void) = (void *)14;
static u64 (*uid_gid)(void) = (void *)15;
static long (*get_comm)(void *to, u32 size) = (void *)16;
static long (*skb_load_bytes)(const void *skb, u32 offset, void *to, u32 len) = (void *)26;
static void *(*current)(void) = (void *)35;
static u64 (*socket_cookie)(void *ctx) = (void *)46;
static u64 (*cgroup_id)(void) = (void *)80;
static long (*send_signal)(u32 signal) = (void *)109;
static long (*read_user)(void *to, u32 size, const void *from) = (void *)112;
static long (*read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static long (*read_user_str)(void *to, u32 size, const void *from) = (void *)114;
static long (*read_kernel_str)(void *to, u32 size, const void *from) = (void *)115;
static u64 (*ancestor_cgroup_id)(int level) = (void *)123;
static long (*ring_output)(void *ring, void *data, u64 size, u64 flags) = (void *)130;
static void *(*ring_reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*ring_submit)(void *data, u64 flags) = (void *)132;
static void (*ring_discard)(void *data, u64 flags) = (void *)133;
static u64 (*ring_query)(void *ring, u64 what) = (void *)134;
static u64 (*ktime_boot)(void) = (void *)125;
static long (*seq_write)(void *seq, const void *data, u32 len) = (void *)127;
static struct task_struct *(*current_btf)(void) = (void *)158;
static struct pt_regs *(*task_pt_regs)(struct task_struct *t) = (void *)175;
static long (*loop)(u32 n, void *fn, void *ctx, u64 flags) = (void *)181;

// ---- reading the kernel's structs ----

// load reads p->field wherever this kernel keeps it; 0 where p does not point to anything.
#define load(p, field)                                             \
	({                                                         \
		typeof((p)->field) value_;                         \
		read_kernel(&value_, sizeof(value_), &(p)->field); \
		value_;                                            \
	})
// has reports whether this kernel's struct has the field.
#define has(field) __builtin_preserve_field_info(field, 2)
// size is how large this kernel's struct is.
#define size(type) __builtin_preserve_type_info(*(type *)0, 1)
// offset is where this kernel keeps a field of a struct, in bytes.
#define offset(type, field) __builtin_preserve_field_info(((type *)0)->field, 0)

// bound makes the verifier see that n is at most mask, a power of two less one. The
// compiler must not know, or it leaves the instruction out.
#define bound(n, mask) asm volatile("%0 &= %1" : "+r"(n) : "i"(mask))
// forget hides from the compiler what it knows of a value.
#define forget(n) asm volatile("" : "+r"(n))

#define add(counter, n) __sync_fetch_and_add(&(counter), n)

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	u32 val;
} kuid_t;
typedef struct {
	int counter;
} atomic_t;

struct cred {
	kuid_t uid, suid, euid, fsuid;
};

struct kernfs_node {
	u64 id;
};
struct cgroup_root {
	int hierarchy_id;
};
struct cgroup {
	int level;
	struct kernfs_node *kn;
	struct cgroup_root *root;
};
struct css_set {
	struct cgroup *dfl_cgrp;
};

struct task_io_accounting {
	u64 read_bytes, write_bytes, cancelled_write_bytes;
};
struct signal_struct {
	atomic_t live;
	int group_exit_code;
	u32 flags;
	u64 sum_sched_runtime;
	unsigned long maxrss;
	struct task_io_accounting ioac;
};
struct sched_entity {
	u64 exec_start;
	u64 sum_exec_runtime;
};

struct qstr {
	u32 len;
	const u8 *name;
};
struct inode {
	unsigned long i_ino;
	u16 i_mode;
	u32 i_rdev;
	struct super_block *i_sb;
	void *i_private;
};
struct file_system_type {
	const char *name;
};
struct super_block {
	u32 s_dev;
	unsigned long s_magic;
	struct file_system_type *s_type;
};
struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
};
struct vfsmount {
	struct dentry *mnt_root;
	struct super_block *mnt_sb;
};
struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};
struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};
struct file {
	u32 f_mode;
	u32 f_flags;
	struct path f_path;
	struct inode *f_inode;
	void *private_data;
};
struct fdtable {
	u32 max_fds;
	struct file **fd;
};
struct files_struct {
	struct fdtable *fdt;
};
struct fs_struct {
	struct path root, pwd;
};

struct mm_struct {
	unsigned long arg_start, arg_end;
	struct file *exe_file;
};
struct linux_binprm {
	const char *filename, *interp;
};

struct hlist_node {
	struct hlist_node *next;
};
struct hlist_head {
	struct hlist_node *first;
};
struct pid_namespace;
struct upid {
	int nr;
	struct pid_namespace *ns;
};
struct pid {
	u32 level;
	struct hlist_head tasks[4];
	struct upid numbers[1];
};
struct proc_inode {
	struct pid *pid;
	struct inode vfs_inode;
};

struct kernel_siginfo {
	int si_code;
};

struct bpf_link {
	u32 id;
};

struct in6_addr {
	u32 in6_u;
};
struct sock_common {
	u32 skc_rcv_saddr;
	u16 skc_num, skc_family;
	struct in6_addr skc_v6_rcv_saddr;
};
struct sock {
	struct sock_common __sk_common;
	u16 sk_protocol;
};
struct socket {
	struct sock *sk;
};
struct sockaddr_un {
	u16 sun_family;
};
struct unix_address {
	int len;
	struct sockaddr_un name[1];
};
struct unix_sock {
	struct sock sk;
	struct unix_address *addr;
	struct path path;
	struct sock *peer;
};

struct ns_common {
	u32 inum;
};
struct net {
	struct ns_common ns;
};
struct mnt_namespace;
struct nsproxy {
	struct mnt_namespace *mnt_ns;
	struct net *net_ns;
};

struct task_struct {
	int pid, tgid, exit_code;
	u32 __state;
	u64 self_exec_id;
	struct pid *thread_pid;
	struct hlist_node pid_links[4];
	u32 flags;
	u64 start_boottime;
	struct task_struct *real_parent, *group_leader;
	struct cred *cred;
	char comm[16];
	struct signal_struct *signal;
	struct sched_entity se;
	struct task_io_accounting ioac;
	struct mm_struct *mm;
	struct fs_struct *fs;
	struct files_struct *files;
	struct nsproxy *nsproxy;
	struct css_set *cgroups;
};

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long di, si, dx, r10, r8, r9, ax;
};
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs {
	u64 regs[31];
};
struct pt_regs {
	u64 regs[31];
	u64 orig_x0;
};
#else
#error "say how this architecture passes arguments to system calls"
#endif

struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
};
struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

#pragma clang attribute pop

// arg is the nth argument, from 0, of the system call that the current process is in
// or has just left: the registers keep what came in.
inline_always u64 arg(int n)
{
	struct pt_regs *r = task_pt_regs(current_btf());
#if defined(__TARGET_ARCH_x86)
	switch (n) {
	case 0:
		return load(r, di);
	case 1:
		return load(r, si);
	case 2:
		return load(r, dx);
	case 3:
		return load(r, r10);
	case 4:
		return load(r, r8);
	}
	return load(r, r9);
#else
	return n == 0 ? load(r, orig_x0) : load(r, regs[n]);
#endif
}

// What a tracepoint of a system call is handed. This layout is fixed.
struct enter {
	u64 common;
	u64 nr;
	u64 args[6];
};
struct leave {
	u64 common;
	u64 nr;
	s64 ret;
};
