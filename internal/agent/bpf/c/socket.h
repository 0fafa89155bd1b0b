// SPDX-License-Identifier: Apache-2.0
//
// Sockets, as far as net.c does not see them: those of the file system, those by which
// packets pass around, and those that wait for others to connect.
#pragma once
#include "scratch.h"

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define AF_PACKET 17
#define AF_VSOCK 40
#define AF_XDP 44
#define SOCK_RAW 3
#define SOCK_PACKET 10

// a: the family; b: the protocol; value: the type.
SEC("tracepoint/syscalls/sys_exit_socket") int x_socket(struct leave *c)
{
	if (c->ret < 0)
		return 0;
	u32 family = arg(0), type = arg(1) & 0xf;
	bool inet = family == AF_INET || family == AF_INET6;
	if (family != AF_PACKET && family != AF_VSOCK && family != AF_XDP && !(inet && (type == SOCK_RAW || type == SOCK_PACKET)))
		return 0;
	u32 scope = in_job();
	if (scope)
		tell(scope, EV_SOCKET, type, family, arg(2));
	return 0;
}

// sock_of is the socket of a descriptor, or 0.
inline_always struct sock *sock_of(s32 fd)
{
	struct file *f = file_of(fd);
	struct inode *inode = load(f, f_inode);
	if (!f || (load(inode, i_mode) & 0170000) != 0140000)
		return 0;
	struct socket *s = load(f, private_data);
	return load(s, sk);
}

// Two parts: the directory of the socket and a name, one of which is empty. The file is
// the kernel's, where whoever listens bound it: links and mounts of the caller's do not
// hide it, and neither can another thread change it meanwhile. An abstract name begins with a NUL.
SEC("tracepoint/syscalls/sys_exit_connect") int x_connect(struct leave *c)
{
	if (c->ret && c->ret != -115) // EINPROGRESS
		return 0;
	struct unix_sock *own = (void *)sock_of(arg(0));
	if (!own || load(own, sk.__sk_common.skc_family) != AF_UNIX)
		return 0;
	u32 scope = in_job();
	struct unix_sock *peer = scope ? (void *)load(own, peer) : 0;
	if (!peer)
		return 0;
	struct scratch *s = take(scope, EV_UNIX);
	if (!s)
		return 0;
	struct dentry *d = load(peer, path.dentry);
	if (d) {
		part_path(s, load(peer, path.mnt), d);
	} else {
		// It has no file, or was closed already.
		struct unix_address *a = load(peer, addr);
		u32 n = load(a, len) - 2, off = 0;
		ended(s, 0);
		bound(n, 127);
		if (a && n <= 108 && !read_kernel(s->data, n, (char *)a + offset(struct unix_address, name) + 2))
			off = n;
		ended(s, off);
	}
	send(s);
	return 0;
}

// A socket of TCP that begins to listen, however it was asked to.
struct listening {
	struct header h; // value: the port, 0 if the kernel has yet to choose one; a: the protocol
	u8 address[16];
};

#define TCP_LISTEN 10

SEC("tp_btf/inet_sock_set_state") int on_listen(u64 *ctx)
{
	if ((u32)ctx[2] != TCP_LISTEN)
		return 0;
	u32 is = whose();
	if (!is)
		return 0;
	struct sock *sk = (void *)ctx[0];
	struct listening e = {};
	begin(&e.h, is & ~MARKS, EV_LISTEN);
	e.h.value = load(sk, __sk_common.skc_num);
	e.h.a = (u8)load(sk, sk_protocol);
	if (load(sk, __sk_common.skc_family) == AF_INET) {
		u32 ip = load(sk, __sk_common.skc_rcv_saddr);
		e.address[10] = e.address[11] = 0xff;
		__builtin_memcpy(&e.address[12], &ip, 4);
	} else if (has(sk->__sk_common.skc_v6_rcv_saddr)) {
		read_kernel(e.address, 16, (char *)sk + offset(struct sock, __sk_common.skc_v6_rcv_saddr));
	}
	if (is & ENGINE && e.address[10] == 0xff && e.address[12] == 127)
		return 0; // the resolver of its containers
	out(&e.h, sizeof(e));
	return 0;
}
