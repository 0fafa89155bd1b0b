// SPDX-License-Identifier: Apache-2.0
//
// The recorder's programs for the network, and the policy of egress.
//
// All are attached at the root of the cgroups and ask whose the process or socket is, so
// that a process that leaves its cgroup leaves nothing behind. Two kinds of programs
// work together:
//
//   connect4/6, sendmsg4/6   run in the process. They decide by the address.
//   sock_create              runs in the process too, and marks its sockets.
//   egress, ingress          run on packets, where no process is to be had: they go by the
//                            mark of the socket. They look into DNS and into the first
//                            packet of TLS, and decide about what has no connect at all,
//                            such as ICMP and raw sockets.
//
// Names: a look-up of a name that is not allowed is refused where it leaves. The answer
// to one that is allowed is read on its way in, and its addresses are in `learnt` before
// the process has the answer. No agent need be awake for either.
#include "scope.h"

char _license[] SEC("license") = "Dual MIT/GPL";

// ---- what only this file needs of the kernel ----

static u64 (*skb_ancestor_cgroup)(void *skb, int level) = (void *)83;
static void *(*full_socket)(void *sk) = (void *)95;
static void *(*storage)(void *map, void *sk, void *value, u64 flags) = (void *)107;
enum { STORAGE_CREATE = 1 };

enum { AF_INET = 2, SOCK_RAW = 3, TCP = 6, UDP = 17, MPTCP = 262 };
// within makes the verifier see that n is from 1 to max, a power of two; it must be.
#define within(n, max) asm volatile("%0 += -1\n\t%0 &= %1\n\t%0 += 1" : "+r"(n) : "i"((max) - 1))
#define swap16(n) __builtin_bswap16(n)
#define swap32(n) __builtin_bswap32(n)

// The contexts, as the kernel's interface fixes them (include/uapi/linux/bpf.h).
struct bpf_sock {
	u32 bound_dev_if, family, type, protocol, mark, priority;
	u32 src_ip4, src_ip6[4], src_port;
	u16 dst_port, zero;
	u32 dst_ip4, dst_ip6[4], state;
};
struct bpf_sock_addr {
	u32 user_family, user_ip4, user_ip6[4], user_port;
	u32 family, type, protocol, msg_src_ip4, msg_src_ip6[4];
	struct bpf_sock *sk;
};
struct __sk_buff {
	u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto;
	u32 priority, ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end;
	u32 napi_id, family, remote_ip4, local_ip4, remote_ip6[4], local_ip6[4];
	u32 remote_port, local_port, data_meta;
	u64 flow_keys, tstamp;
	u32 wire_len, gso_segs;
	struct bpf_sock *sk;
	u32 gso_size;
};

// ---- events ----

enum {
	EV_CONNECT = 32,
	EV_QUERY = 33,
	EV_ANSWER = 34,
	EV_HELLO = 35,
	EV_BIND = 36,
};

enum { V_NONE = 0, V_ALLOWED = 1, V_DENIED = 2, V_WOULD_DENY = 3 };

struct address {
	u8 ip[16]; // IPv4 is ::ffff:a.b.c.d
};

// peer follows the header of every event of this file. The header's value is the
// socket's cookie; its b says whether the name, not the address, was allowed.
struct peer {
	struct address address;
	u16 port;
	u8 protocol;
	u8 verdict;
	u32 bytes; // how many follow
};

struct connected {
	struct header h;
	struct peer p;
};

#define NAME 256
#define SHORT 512 // how much is read of a query or a name
#define WIRE 2048 // and of an answer

// text is the beginning of an event in whose memory a packet is read. It lives in the
// ring: nothing else may touch it meanwhile, whatever interrupts. What a loop counts with
// is in it too, where the verifier does not follow it through every turn.
struct text {
	struct header h;
	struct peer p;
	u32 off;   // in the wire
	u32 left;  // of a label, or how many records
	u32 n;     // bytes of the name
	u8 dotted; // the name is on the wire as text and not in labels
	u8 done, bad;
	u8 in_name;
};

// slate is where a name is turned round for the longest match. It is not in the ring,
// because kernels before 6.2 take no key from there. Whoever has taken one keeps it until
// it is given back, whatever interrupts.
struct slate {
	u32 busy;
	u32 pad;
	u8 before[8]; // a key begins 8 bytes before the name does
	u8 name[NAME];
	u8 end[NAME + 16];
};

#define SLATES 8
struct {
	m_uint(type, MAP_PERCPU_ARRAY);
	m_uint(max_entries, SLATES);
	m_type(key, u32);
	m_type(value, struct slate);
} slates SEC(".maps");

static __attribute__((noinline)) struct slate *take_slate(void)
{
	for (u32 i = 0; i < SLATES; i++) {
		u32 n = i;
		struct slate *s = map_lookup(&slates, &n);
		if (s && !__sync_val_compare_and_swap(&s->busy, 0, 1))
			return s;
	}
	return 0;
}

inline_always void give_slate(struct slate *s)
{
	s->busy = 0;
}

struct query {
	struct text t;
	u8 wire[SHORT];
};

struct message {
	struct text t;
	u8 wire[WIRE];
};

// ---- the policy ----

struct policy {
	u32 id;
	u8 enforce;
	u8 spare[3];
};

// policies: scope → policy. A scope without one is only recorded.
struct {
	m_uint(type, MAP_HASH);
	m_uint(max_entries, 4096);
	m_type(key, u32);
	m_type(value, struct policy);
} policies SEC(".maps");

struct network {
	u32 bits;
	u32 policy;
	u16 port; // 0: every port
	u16 zero;
	struct address address;
};
struct rule {
	u8 allow;
	u8 bits; // how long this network is: the longer of two decides
};

// networks: by the longest match. Metadata services are in it to be refused.
struct {
	m_uint(type, MAP_LPM_TRIE);
	m_uint(max_entries, 262144);
	m_uint(map_flags, NO_PREALLOC);
	m_type(key, struct network);
	m_type(value, struct rule);
} networks SEC(".maps");

struct name {
	u32 bits;
	u32 policy;
	u8 text[NAME - 4]; // backwards, in lower case; with a NUL at the end for one name alone, and a dot for all below it
};
#define PORTS 8
struct named {
	u8 learn; // its addresses are allowed; otherwise it may only be looked up
	u8 count; // of ports; 0: every port
	u16 ports[PORTS];
};

struct {
	m_uint(type, MAP_LPM_TRIE);
	m_uint(max_entries, 262144);
	m_uint(map_flags, NO_PREALLOC);
	m_type(key, struct name);
	m_type(value, struct named);
} names SEC(".maps");

struct place {
	u32 policy;
	u16 port;
	u16 zero;
	struct address address;
};

// learnt: what names resolved to, until when (CLOCK_BOOTTIME, ns).
struct {
	m_uint(type, MAP_LRU_HASH);
	m_uint(max_entries, 65536);
	m_type(key, struct place);
	m_type(value, u64);
} learnt SEC(".maps");

// resolvers: whose answers count, with policy 0 for the machine's own.
struct {
	m_uint(type, MAP_HASH);
	m_uint(max_entries, 4096);
	m_type(key, struct place);
	m_type(value, u8);
} resolvers SEC(".maps");

// mark is what is known of a socket of a job's.
struct mark {
	struct header who; // the process that last connected or sent by it
	u32 scope;
	u8 dns;   // it talks to port 53
	u8 phase;   // of a TCP stream: what was sent first
	u8 told_verdict;
	u8 engine;
	u64 told_at;
	struct place told;
};
enum { PHASE_NEW = 0, PHASE_PASSED = 1, PHASE_CUT = 2 };

struct {
	m_uint(type, MAP_SK_STORAGE);
	m_uint(map_flags, NO_PREALLOC);
	m_type(key, int);
	m_type(value, struct mark);
} marks SEC(".maps");

inline_always void mapped(struct address *a, u32 ip4)
{
	__builtin_memset(a, 0, 10);
	a->ip[10] = a->ip[11] = 0xff;
	__builtin_memcpy(&a->ip[12], &ip4, 4);
}

inline_always bool is_mapped(const struct address *a)
{
	const u32 *w = (const u32 *)a->ip;
	return !w[0] && !w[1] && w[2] == swap32(0xffffu);
}

// Loopback, and the unspecified address, which stands for it.
inline_always bool is_loopback(const struct address *a)
{
	const u32 *w = (const u32 *)a->ip;
	if (is_mapped(a))
		return a->ip[12] == 127 || !w[3];
	return !w[0] && !w[1] && !w[2] && (!w[3] || w[3] == swap32(1u));
}

inline_always bool is_resolver(u32 policy, const struct address *a)
{
	struct place k = {.address = *a};
	if (map_lookup(&resolvers, &k))
		return true;
	if (!policy)
		return false;
	k.policy = policy;
	return map_lookup(&resolvers, &k);
}

inline_always struct rule *by_network(u32 policy, const struct address *a, u16 port)
{
	struct network k = {.bits = 64 + 128, .policy = policy, .port = port, .address = *a};
	return map_lookup(&networks, &k);
}

#define SECOND 1000000000ull
#define KEEP (300 * SECOND)   // how long an address lives at least after it was learnt or used
#define LONGEST (86400 * SECOND)

inline_always bool is_learnt(u32 policy, const struct address *a, u16 port)
{
	struct place k = {.policy = policy, .port = port, .address = *a};
	u64 now = ktime_boot(), *until = map_lookup(&learnt, &k);
	if (!until || *until < now)
		return false;
	if (*until < now + KEEP)
		*until = now + KEEP; // who still uses it may have the answer for longer than it said
	return true;
}

enum { NO = 0, YES = 1, BY_NAME = 2, REFUSED = 3 };

// decide says whether a policy allows an address: NO and REFUSED do not, and REFUSED
// means that no name can help. Port 0 stands for what has no ports.
static __attribute__((noinline)) int decide(u32 policy, const struct address *a, u16 port)
{
	if (!a)
		return NO;
	if (is_loopback(a))
		return YES;
	if (port == 53 && is_resolver(policy, a))
		return YES;
	struct rule *one = port ? by_network(policy, a, port) : 0, *all = by_network(policy, a, 0);
	if (one && all && one->bits < all->bits)
		one = 0;
	else if (one && all && one->bits > all->bits)
		all = 0;
	if ((one && one->allow) || (all && all->allow))
		return YES;
	if (one || all)
		return REFUSED;
	if (is_learnt(policy, a, 0) || (port && is_learnt(policy, a, port)))
		return BY_NAME;
	return NO;
}

inline_always u8 verdict_of(struct policy *p, bool allowed)
{
	if (!p)
		return V_NONE;
	return allowed ? V_ALLOWED : p->enforce ? V_DENIED : V_WOULD_DENY;
}

inline_always bool same(const struct place *a, const struct place *b)
{
	const u64 *x = (const u64 *)a, *y = (const u64 *)b;
	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

// ---- in the process ----

// is_proxy reports whether a program is the one by which an engine passes a port of the machine
// on to a container. It reaches nothing else.
inline_always bool is_proxy(const char *comm)
{
	static const char name[] = "docker-proxy";
#pragma unroll
	for (u32 i = 0; i < sizeof(name); i++)
		if (comm[i] != name[i])
			return false;
	return true;
}

// reach is asked whether the current process may reach an address by a socket.
inline_always int reach(struct bpf_sock_addr *c, const struct address *a, bool connecting)
{
	u32 is = whose(), scope = is & ~MARKS;
	if (!is)
		return 1;
	struct policy *p = map_lookup(&policies, &scope);
	u16 port = swap16((u16)c->user_port);
	int decision = p ? decide(p->id, a, port) : YES;
	u8 protocol = c->protocol;

	struct connected e = {};
	begin(&e.h, scope, EV_CONNECT);
	if (is & ENGINE && is_proxy(e.h.comm))
		decision = YES;
	u8 verdict = verdict_of(p, decision == YES || decision == BY_NAME);
	e.h.value = socket_cookie(c);
	e.h.b = decision == BY_NAME;
	e.p.address = *a;
	e.p.port = port;
	e.p.protocol = protocol;
	e.p.verdict = verdict;

	struct mark *m = storage(&marks, c->sk, 0, STORAGE_CREATE);
	bool tell = true;
	if (m) {
		m->engine = is & ENGINE ? 1 : 0;
		struct place at = {.policy = protocol, .port = port, .address = *a};
		m->scope = scope;
		// A packet on its way to where the last one went, by the same socket and process,
		// is told of once a second.
		tell = connecting || m->told_verdict != verdict || m->who.pid != e.h.pid || !same(&m->told, &at) || e.h.time - m->told_at >= SECOND;
		m->who = e.h;
		if (connecting) {
			m->dns = port == 53;
			m->phase = PHASE_NEW;
		} else {
			m->dns |= port == 53;
		}
		if (tell) {
			m->told = at;
			m->told_verdict = verdict;
			m->told_at = e.h.time;
		}
	}
	if (is & ENGINE && is_loopback(a))
		tell = false; // the resolver of its containers answers them
	if (tell)
		out(&e.h, sizeof(e));
	return verdict != V_DENIED;
}

inline_always int reach4(struct bpf_sock_addr *c, bool connecting)
{
	struct address a;
	mapped(&a, c->user_ip4);
	return reach(c, &a, connecting);
}

inline_always int reach6(struct bpf_sock_addr *c, bool connecting)
{
	struct address a;
	u32 *w = (u32 *)a.ip;
	w[0] = c->user_ip6[0];
	w[1] = c->user_ip6[1];
	w[2] = c->user_ip6[2];
	w[3] = c->user_ip6[3];
	return reach(c, &a, connecting);
}

SEC("cgroup/connect4") int net_connect4(struct bpf_sock_addr *c)
{
	return reach4(c, true) & 1;
}

SEC("cgroup/connect6") int net_connect6(struct bpf_sock_addr *c)
{
	return reach6(c, true) & 1;
}

SEC("cgroup/sendmsg4") int net_sendmsg4(struct bpf_sock_addr *c)
{
	return reach4(c, false) & 1;
}

SEC("cgroup/sendmsg6") int net_sendmsg6(struct bpf_sock_addr *c)
{
	return reach6(c, false) & 1;
}

// bound_udp tells of a socket of UDP that is to be reached at a port of the job's choice.
// TCP is told when it listens.
inline_always int bound_udp(struct bpf_sock_addr *c, const struct address *a)
{
	u16 port = swap16((u16)c->user_port);
	if (c->protocol != UDP || !port)
		return 1;
	u32 is = whose();
	if (!is || (is & ENGINE && is_loopback(a)))
		return 1;
	struct connected e = {};
	begin(&e.h, is & ~MARKS, EV_BIND);
	e.p.address = *a;
	e.p.port = port;
	e.p.protocol = UDP;
	out(&e.h, sizeof(e));
	return 1;
}

SEC("cgroup/bind4") int net_bind4(struct bpf_sock_addr *c)
{
	struct address a;
	mapped(&a, c->user_ip4);
	return bound_udp(c, &a) & 1;
}

SEC("cgroup/bind6") int net_bind6(struct bpf_sock_addr *c)
{
	struct address a;
	u32 *w = (u32 *)a.ip;
	w[0] = c->user_ip6[0];
	w[1] = c->user_ip6[1];
	w[2] = c->user_ip6[2];
	w[3] = c->user_ip6[3];
	return bound_udp(c, &a) & 1;
}

// Sockets of TCP and UDP are marked when they first connect or send; others never ask.
SEC("cgroup/sock_create") int net_socket(struct bpf_sock *sk)
{
	u32 protocol = sk->protocol;
	if (sk->type != SOCK_RAW && (protocol == TCP || protocol == UDP || protocol == MPTCP))
		return 1;
	u32 scope = in_scope();
	if (!scope)
		return 1;
	struct mark *m = storage(&marks, sk, 0, STORAGE_CREATE);
	if (m) {
		begin(&m->who, scope, 0);
		m->scope = scope;
	}
	return 1;
}

// ---- on packets ----

// mark_of returns the mark of a packet's socket, or 0 if it is nobody's. A socket that no
// process of the job made by itself, such as one that accept returned, belongs to the
// cgroup in which it came about.
static __attribute__((noinline)) struct mark *mark_of(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	if (!sk)
		return 0;
	sk = full_socket(sk);
	if (!sk)
		return 0;
	struct mark *m = storage(&marks, sk, 0, 0);
	if (m)
		return m;
	struct settings *s = set();
	u32 levels = s ? s->levels : 0;
	if (!levels)
		return 0;
#pragma unroll
	for (int i = 1; i < LEVELS; i++) {
		if (!(levels & (1u << i)))
			continue;
		u64 id = skb_ancestor_cgroup(skb, i);
		if (!id)
			break;
		u32 *scope = map_lookup(&cgroups, &id);
		if (!scope)
			continue;
		m = storage(&marks, sk, 0, STORAGE_CREATE);
		if (m) {
			m->scope = *scope;
			m->who.cgroup = id;
		}
		return m;
	}
	return 0;
}

struct packet {
	struct address from, to;
	u32 payload, end; // offsets
	u16 source, port;
	u8 protocol;
	u8 torn; // a fragment, or headers that cannot be read
};

// dissect reads the headers of a packet.
enum { FOREIGN = 0, HEADERS = 1, PAYLOAD = 2 };
static __attribute__((noinline)) int dissect(struct __sk_buff *skb, struct packet *p)
{
	u8 h[40];
	u32 off;
	if (!p)
		return FOREIGN;
	if (skb->protocol == swap16(0x0800)) {
		u32 ip;
		u16 n;
		if (skb_load_bytes(skb, 0, h, 20))
			return FOREIGN;
		off = (h[0] & 15) * 4;
		p->protocol = h[9];
		p->torn = (h[6] & 0x3f) || h[7]; // more fragments, or not the first
		n = (u16)h[2] << 8 | h[3];
		p->end = n ? n : skb->len; // 0 is a packet longer than 64 KiB
		__builtin_memcpy(&ip, &h[12], 4);
		mapped(&p->from, ip);
		__builtin_memcpy(&ip, &h[16], 4);
		mapped(&p->to, ip);
	} else if (skb->protocol == swap16(0x86dd)) {
		if (skb_load_bytes(skb, 0, h, 40))
			return FOREIGN;
		off = 40;
		p->protocol = h[6];
		p->end = skb->len;
		__builtin_memcpy(&p->from, &h[8], 16);
		__builtin_memcpy(&p->to, &h[24], 16);
#pragma unroll
		for (int i = 0; i < 4; i++) {
			if (p->protocol != 0 && p->protocol != 43 && p->protocol != 60)
				break;
			if (skb_load_bytes(skb, off, h, 2)) {
				p->torn = 1;
				return PAYLOAD;
			}
			p->protocol = h[0];
			off += h[1] * 8 + 8;
		}
		if (p->protocol == 44)
			p->torn = 1;
	} else {
		return FOREIGN;
	}
	if (p->end > skb->len)
		p->end = skb->len;
	p->payload = off;
	if (p->torn)
		return PAYLOAD;
	if (p->protocol == TCP) {
		if (skb_load_bytes(skb, off, h, 20)) {
			p->torn = 1;
			return PAYLOAD;
		}
		p->payload = off + (h[12] >> 4) * 4;
	} else if (p->protocol == UDP) {
		if (skb_load_bytes(skb, off, h, 8)) {
			p->torn = 1;
			return PAYLOAD;
		}
		p->payload = off + 8;
	} else {
		return PAYLOAD;
	}
	p->source = (u16)h[0] << 8 | h[1];
	p->port = (u16)h[2] << 8 | h[3];
	return p->payload < p->end ? PAYLOAD : HEADERS;
}

// introduce fills in the header of an event about a packet.
inline_always void introduce(struct header *h, struct mark *m, struct __sk_buff *skb, u16 type)
{
	*h = m->who;
	h->time = ktime_boot();
	h->scope = m->scope;
	h->type = type;
	h->flags = 0;
	h->value = socket_cookie(skb);
	h->a = h->b = 0;
}

inline_always void lose(struct mark *m, u16 type)
{
	struct header h = {.scope = m->scope, .type = type};
	told(&h, false);
}

// ---- names ----

// spell is a name on its way from the wire into the end of a buffer, backwards.
struct spell {
	struct text *t;
	struct slate *slate;
	u8 *wire;
	u32 size;
};

static long letter(u32 i, struct spell *s)
{
	struct text *t = s->t;
	u32 off = t->off, left = t->left, n = t->n;
	u8 c;
	if (s->size == WIRE) {
		bound(off, WIRE - 1);
		c = s->wire[off];
	} else {
		bound(off, SHORT - 1);
		c = s->wire[off];
	}
	t->off = off + 1;
	if (!t->dotted && !left) {
		t->left = c;
		if (!c || c > 63) {
			t->done = !c;
			t->bad = c > 63;
			return 1;
		}
		if (!n)
			return 0;
		c = '.';
	} else {
		if (c >= 'A' && c <= 'Z')
			c += 'a' - 'A';
		if (c <= ' ' || c >= 127 || (c == '.' && !t->dotted)) {
			t->bad = 1;
			return 1;
		}
		t->left = left - 1;
		t->done = t->dotted && left == 1;
	}
	u32 at = NAME - 1 - n;
	bound(at, NAME - 1);
	s->slate->name[at] = c;
	t->n = n + 1;
	if (n > NAME - 8) {
		t->bad = 1;
		return 1;
	}
	return t->done & 1;
}

// look_up reads a name, in labels from off or as n bytes of text, and finds the rule for
// it. It returns 0 if there is none, or it is no name. Where the name ends is in t->off.
inline_always struct named *look_up(struct text *t, u8 *wire, u32 size, u32 off, u32 n, u32 policy)
{
	struct slate *slate = take_slate();
	if (!slate)
		return 0;
	struct spell s = {.t = t, .slate = slate, .wire = wire, .size = size};
	t->off = off;
	t->left = n;
	t->dotted = n > 0;
	t->n = t->done = t->bad = 0;
	slate->end[0] = 0;
	loop(NAME, letter, &s, 0);
	struct named *found = 0;
	if (t->done && !t->bad) {
		u32 at = NAME - t->n;
		bound(at, NAME - 1);
		struct name *k = (void *)&slate->before[at];
		k->bits = 32 + 8 * (t->n + 1);
		k->policy = policy;
		found = map_lookup(&names, k);
	}
	give_slate(slate);
	return found;
}

struct record {
	struct text *t;
	u8 *wire;
	u32 len;
	u32 policy;
	struct named *named;
};

inline_always void learn(struct record *r, const struct address *a, u32 ttl)
{
	struct rule *refused = by_network(r->policy, a, 0);
	if (is_loopback(a) || (refused && !refused->allow))
		return;
	u64 keep = ttl * SECOND;
	if (keep < KEEP)
		keep = KEEP;
	if (keep > LONGEST)
		keep = LONGEST;
	struct place k = {.policy = r->policy, .address = *a};
	u64 until = ktime_boot() + keep;
	u32 n = r->named->count;
	if (!n) {
		map_update(&learnt, &k, &until, ANY);
		return;
	}
#pragma unroll
	for (u32 i = 0; i < PORTS; i++) {
		if (i >= n)
			break;
		k.port = r->named->ports[i];
		map_update(&learnt, &k, &until, ANY);
	}
}

inline_always u32 byte_at(struct record *r, u32 off)
{
	bound(off, WIRE - 1);
	return r->wire[off];
}

// answer takes one step through the records of an answer: past a label, or through a record.
static long answer(u32 i, struct record *r)
{
	struct text *t = r->t;
	u32 off = t->off;
	if (!t->left || off >= r->len)
		return 1;
	if (t->in_name) {
		u32 c = byte_at(r, off);
		t->off = off + (c >= 0xc0 ? 2 : c + 1);
		t->in_name = c && c < 0xc0;
		return 0;
	}
	if (off + 10 > r->len)
		return 1;
	u32 type = byte_at(r, off) << 8 | byte_at(r, off + 1), class = byte_at(r, off + 2) << 8 | byte_at(r, off + 3);
	u32 ttl = byte_at(r, off + 4) << 24 | byte_at(r, off + 5) << 16 | byte_at(r, off + 6) << 8 | byte_at(r, off + 7);
	u32 n = byte_at(r, off + 8) << 8 | byte_at(r, off + 9);
	off += 10;
	t->off = off + n;
	t->in_name = 1;
	t->left--;
	if (class != 1 || off + n > r->len || off > WIRE - 16)
		return 0;
	struct address a;
	bound(off, WIRE - 1);
	if (off > WIRE - 16)
		return 0;
	if (type == 1 && n == 4) {
		u32 ip;
		__builtin_memcpy(&ip, &r->wire[off], 4);
		mapped(&a, ip);
		learn(r, &a, ttl);
	} else if (type == 28 && n == 16) {
		__builtin_memcpy(&a, &r->wire[off], 16);
		learn(r, &a, ttl);
	}
	return 0;
}

#define STEPS 768

// heard reads an answer of DNS on its way to the job. It never refuses.
static __attribute__((noinline)) int heard(struct __sk_buff *skb, struct mark *m, struct packet *p)
{
	if (!m || !p)
		return 0;
	u32 off = p->payload + (p->protocol == TCP ? 2 : 0);
	if (off + 12 > p->end)
		return 0;
	u32 len = p->end - off;
	if (len > WIRE)
		len = WIRE;
	u32 scope = m->scope;
	struct policy *policy = map_lookup(&policies, &scope);
	u32 id = policy ? policy->id : 0;
	struct message *e = ring_reserve(&events, sizeof(*e), 0);
	if (!e) {
		lose(m, EV_ANSWER);
		return 0;
	}
	struct text *t = &e->t;
	introduce(&t->h, m, skb, EV_ANSWER);
	t->p.address = p->from;
	t->p.port = p->source;
	t->p.protocol = p->protocol;
	t->p.verdict = V_NONE;
	t->p.bytes = len;
	u64 size = len;
	within(size, WIRE);
	if (skb_load_bytes(skb, off, e->wire, size)) {
		ring_discard(e, 0);
		return 0;
	}
	if (!(e->wire[2] & 0x80) || e->wire[4] || e->wire[5] != 1)
		goto tell;
	if (!policy || !is_resolver(id, &p->from))
		goto tell;
	struct named *named = look_up(t, e->wire, WIRE, 12, 0, id);
	if (!named || !named->learn)
		goto tell;
	t->off += 4;
	t->left = (u32)e->wire[6] << 8 | e->wire[7];
	t->in_name = 1;
	struct record r = {.t = t, .wire = e->wire, .len = len, .policy = id, .named = named};
	loop(STEPS, answer, &r, 0);
tell:
	told(&t->h, true);
	ring_submit(e, wake());
	return 0;
}

// ask decides about one message to port 53 at off, which is len bytes long. It returns
// whether it may pass.
static __attribute__((noinline)) int ask(struct __sk_buff *skb, struct mark *m, struct packet *p, u64 where)
{
	if (!m || !p)
		return 1;
	u32 off = where >> 32, len = where;
	u32 scope = m->scope;
	struct policy *policy = map_lookup(&policies, &scope);
	u32 id = policy ? policy->id : 0;
	u8 verdict = verdict_of(policy, false);
	struct query *e = ring_reserve(&events, sizeof(*e), 0);
	if (!e) {
		lose(m, EV_QUERY);
		return verdict != V_DENIED; // what cannot be read is not let through
	}
	struct text *t = &e->t;
	introduce(&t->h, m, skb, EV_QUERY);
	t->p.address = p->to;
	t->p.port = p->port;
	t->p.protocol = p->protocol;
	if (len > SHORT)
		len = SHORT;
	t->p.bytes = len;
	if (len) {
		u64 size = len;
		within(size, SHORT);
		if (skb_load_bytes(skb, off, e->wire, size))
			len = t->p.bytes = 0;
	}
	if (len < 17 || e->wire[2] & 0x80 || e->wire[4] || e->wire[5] != 1)
		goto tell;
	if (policy && look_up(t, e->wire, SHORT, 12, 0, id) && t->off + 4 <= len)
		verdict = V_ALLOWED;
tell:
	t->p.verdict = verdict;
	told(&t->h, true);
	ring_submit(e, wake());
	return verdict != V_DENIED;
}

// asks decides about a packet to port 53. Over TCP it may hold some whole messages, and
// nothing but whole ones.
inline_always int asks(struct __sk_buff *skb, struct mark *m, struct packet *p)
{
	if (p->protocol == UDP) {
		u32 len = p->end - p->payload;
		if (skb->gso_segs > 1)
			len = 0; // many messages in one: no resolver's client does so
		return ask(skb, m, p, (u64)p->payload << 32 | len);
	}
	u32 off = p->payload;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		u8 n[2] = {};
		u32 len = 0;
		if (!skb_load_bytes(skb, off, n, 2))
			len = (u32)n[0] << 8 | n[1];
		off += 2;
		if (off + len > p->end)
			len = 0;
		if (!ask(skb, m, p, (u64)off << 32 | len))
			return 0;
		off += len;
		if (off >= p->end)
			return 1;
	}
	return ask(skb, m, p, (u64)off << 32);
}

// ---- TLS ----

struct hello {
	struct __sk_buff *skb;
	u32 off, end;
	u32 name, n; // where the name is
	u8 torn;
};

static long extension(u32 i, struct hello *h)
{
	u8 b[9];
	u32 off = h->off;
	if (off + 4 > h->end)
		return 1;
	if (skb_load_bytes(h->skb, off, b, 4)) {
		h->torn = 1;
		return 1;
	}
	u32 type = (u32)b[0] << 8 | b[1], len = (u32)b[2] << 8 | b[3];
	if (type) {
		h->off = off + 4 + len;
		return 0;
	}
	if (skb_load_bytes(h->skb, off, b, 9)) {
		h->torn = 1;
		return 1;
	}
	h->name = off + 9;
	h->n = (u32)b[7] << 8 | b[8];
	return 1;
}

// greeting finds the name in a ClientHello that begins at off. Everything is looked up
// where it is: how long the message is does not matter, only that it is whole.
inline_always void greeting(struct hello *h, u32 end)
{
	u8 b[9];
	u32 off = h->off;
	h->torn = 1;
	if (skb_load_bytes(h->skb, off, b, 9))
		return;
	u32 record = (u32)b[3] << 8 | b[4], body = (u32)b[6] << 16 | (u32)b[7] << 8 | b[8];
	if (body + 4 > record)
		return; // it goes on in another record
	u32 last = off + 9 + body;
	off += 9 + 2 + 32;
	if (skb_load_bytes(h->skb, off, b, 1))
		return;
	off += 1 + b[0];
	if (skb_load_bytes(h->skb, off, b, 2))
		return;
	off += 2 + ((u32)b[0] << 8 | b[1]);
	if (skb_load_bytes(h->skb, off, b, 1))
		return;
	off += 1 + b[0];
	h->torn = last > end;
	if (off >= last)
		return; // no extensions
	if (skb_load_bytes(h->skb, off, b, 2)) {
		h->torn = 1;
		return;
	}
	h->off = off + 2;
	h->end = last;
	loop(64, extension, h, 0);
	if (h->n)
		h->torn = 0;
}

// greet looks at the first bytes that a job sends over TCP. It returns whether they pass.
static __attribute__((noinline)) int greet(struct __sk_buff *skb, struct mark *m, struct packet *p)
{
	u8 b[6] = {};
	if (!m || !p)
		return 1;
	u32 len = p->end - p->payload;
	if (skb_load_bytes(skb, p->payload, b, 1))
		return 1;
	if (b[0] != 0x16 || (len >= 6 && !skb_load_bytes(skb, p->payload, b, 6) && (b[1] != 3 || b[5] != 1))) {
		m->phase = PHASE_PASSED;
		return 1;
	}
	u32 scope = m->scope;
	struct policy *policy = map_lookup(&policies, &scope);
	struct hello h = {.skb = skb, .off = p->payload};
	greeting(&h, p->end);
	// Asked again and not remembered: a connection may have come about without a connect
	// of its own, as those beneath MPTCP do.
	bool by_name = policy && decide(policy->id, &p->to, p->port) == BY_NAME;

	struct query *e = ring_reserve(&events, sizeof(*e), 0);
	if (!e) {
		lose(m, EV_HELLO);
		if (!policy || !policy->enforce || !by_name)
			return 1;
		return 0; // it will be sent again
	}
	struct text *t = &e->t;
	introduce(&t->h, m, skb, EV_HELLO);
	t->p.address = p->to;
	t->p.port = p->port;
	t->p.protocol = TCP;
	u32 n = h.n;
	if (n > 255) {
		h.torn = 1;
		n = 0;
	}
	if (n) {
		u64 size = n;
		within(size, 256);
		if (skb_load_bytes(skb, h.name, e->wire, size)) {
			h.torn = 1;
			n = 0;
		}
	}
	bool known = false;
	if (policy && n) {
		struct named *named = look_up(t, e->wire, SHORT, 0, n, policy->id);
		if (named && named->learn) {
			known = !named->count;
#pragma unroll
			for (u32 i = 0; i < PORTS; i++)
				if (i < named->count && named->ports[i] == p->port)
					known = true;
		}
	}
	t->h.a = h.torn | (u32)p->source << 16;
	t->h.b = by_name;
	__builtin_memcpy(&e->wire[256], &p->from, 16);
	t->p.bytes = n;
	// A greeting without a name may go where any name may; one that is torn may not.
	bool pass = known || !by_name || (!n && !h.torn);
	u8 verdict = verdict_of(policy, pass);
	t->p.verdict = verdict;
	m->phase = verdict == V_DENIED ? PHASE_CUT : PHASE_PASSED;
	told(&t->h, true);
	ring_submit(e, wake());
	return verdict != V_DENIED;
}

// ---- the two ways of a packet ----

// stray decides about a packet that no connect or sendmsg was asked for: ICMP and what
// raw sockets send.
inline_always int stray(struct __sk_buff *skb, struct mark *m, struct packet *p)
{
	u32 scope = m->scope;
	struct policy *policy = map_lookup(&policies, &scope);
	int decision = policy ? decide(policy->id, &p->to, p->port) : YES;
	u8 verdict = verdict_of(policy, decision == YES || decision == BY_NAME);
	struct place at = {.policy = p->protocol, .port = p->port, .address = p->to};
	u64 now = ktime_boot();
	if (m->told_verdict != verdict || !same(&m->told, &at) || now - m->told_at >= SECOND) {
		struct connected e = {};
		introduce(&e.h, m, skb, EV_CONNECT);
		e.p.address = p->to;
		e.p.port = p->port;
		e.p.protocol = p->protocol;
		e.p.verdict = verdict;
		out(&e.h, sizeof(e));
		m->told = at;
		m->told_verdict = verdict;
		m->told_at = now;
	}
	return verdict != V_DENIED;
}

SEC("cgroup_skb/egress") int net_egress(struct __sk_buff *skb)
{
	struct mark *m = mark_of(skb);
	if (!m)
		return 1;
	struct packet p = {};
	int what = dissect(skb, &p);
	if (what == FOREIGN)
		return 1;
	struct bpf_sock *sk = skb->sk;
	sk = sk ? full_socket(sk) : 0;
	u32 type = sk ? sk->type : 0;
	if (type == SOCK_RAW || p.torn || (p.protocol != TCP && p.protocol != UDP)) {
		if (!stray(skb, m, &p))
			return 0;
		if (p.torn || p.protocol != UDP)
			return 1;
	}
	if (what != PAYLOAD)
		return 1;
	if (p.source == 53 && is_resolver(0, &p.from)) {
		if (m->engine)
			return 1; // the resolver that it is to its containers
		// A job that answers in the resolver's place.
		u32 scope = m->scope;
		struct policy *policy = map_lookup(&policies, &scope);
		return !(policy && policy->enforce);
	}
	if (p.port == 53 || m->dns)
		return asks(skb, m, &p) & 1;
	if (p.protocol != TCP || m->phase == PHASE_PASSED)
		return 1;
	if (m->phase == PHASE_CUT)
		return 0;
	return greet(skb, m, &p) & 1;
}

SEC("cgroup_skb/ingress") int net_ingress(struct __sk_buff *skb)
{
	struct mark *m = mark_of(skb);
	if (!m)
		return 1;
	struct packet p = {};
	if (dissect(skb, &p) != PAYLOAD || p.torn)
		return 1;
	if (p.source == 53 || m->dns)
		heard(skb, m, &p);
	return 1;
}
