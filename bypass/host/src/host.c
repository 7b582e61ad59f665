/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The taps on the host: `tap.bpf.h` as it is, with helpers and maps in plain C around one client, one server and one
 * pool. What the kernel does around the program (net/ipv4/tcp_bpf.c, net/core/skmsg.c) is in host_run.
 */
#include <linux/types.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* libbpf's words. */
#define SEC(name)
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define __uint(name, value) int (*name)[value]
#define __type(name, type) typeof(type) *name
#define __ksym
#undef __weak
#define __weak
#define bpf_ksym_exists(function) 1
#define bpf_core_type_id_kernel(type) 0
#define barrier_var(variable)
#define BPF_CORE_READ(pointer, field) ((pointer)->field)

#include "intf.h"
#include "kernel.bpf.h"
#include "frame.bpf.h"

static void *bpf_map_lookup_elem(void *map, const void *key);
static long bpf_probe_read_kernel(void *to, __u32 len, const void *from);
static long bpf_probe_read_kernel_str(void *to, __u32 len, const void *from);
static long bpf_ringbuf_output(void *map, void *data, __u64 len, __u64 flags);
static void *bpf_sk_storage_get(void *map, void *sk, void *value, __u64 flags);
static struct tcp_sock *bpf_skc_to_tcp_sock(void *sk);
static __u64 bpf_ktime_get_ns(void);
static long bpf_msg_apply_bytes(struct sk_msg_md *msg, __u32 bytes);
static long bpf_msg_redirect_hash(struct sk_msg_md *msg, void *map, void *key, __u64 flags);
static long bpf_loop(__u32 times, long (*step)(__u32, void *), void *context, __u64 flags);

#include "maps.bpf.h"
#include "link.bpf.h"
#include "tap.bpf.h"

enum { CLIENT, SERVER, ROLES };

/* Of a remote one: of our socket to it. */
static const __u64 COOKIES[ROLES] = { 11, 22 };

/* One captured far end. */
struct far_end {
	struct bpf_sock sk;
	struct end end;
	struct file file;
	struct socket socket;
	struct tcp_sock tcp;
	struct sk_psock psock;
};

/* All that the programs can reach. */
struct host {
	struct client client;
	struct server server;
	struct pool pool;
	struct totals totals;
	struct prepared prepared;
	struct far_end ends[ROLES];
	/* Our sockets to remote ones. */
	struct tcp_sock sinks[ROLES];
	struct proto proto;
	unsigned long memory_pressure;
	struct sk_msg kernel_msg;
	__u64 now;
	__u32 wakes;
	/* msg->sk_redir, msg->flags and msg->apply_bytes. */
	__u64 target;
	__u64 target_flags;
	__u32 apply;
	const __u8 *packet_end;
};

/* Whose turn it is: the helpers have no other way to know. */
static __thread struct host *host;

/* The client's prepared statements: as in eligible.rs. The server has all but the last. */
static const struct {
	const char *name;
	struct statement statement;
} NAMES[] = { { "s", { 5, "z" } }, { "t2", { 70, "~6" } }, { "no", { 7, "~7" } } };

static void *find_named(const struct name *name)
{
	__u32 i;

	for (i = 0; i < sizeof(NAMES) / sizeof(*NAMES); i++) {
		char filled[NAME_LEN] = {};

		strcpy(filled, NAMES[i].name);
		if (!name->client && !memcmp(filled, name->name, NAME_LEN))
			return (void *)&NAMES[i].statement;
	}
	return NULL;
}

static void *bpf_map_lookup_elem(void *map, const void *key)
{
	if (map == (void *)&names)
		return find_named(key);
	if (map == (void *)&prepared)
		return *(const __u32 *)key ? NULL : &host->prepared;
	if (map == (void *)&totals)
		return &host->totals;
	if (map == (void *)&clients)
		return *(const __u32 *)key ? NULL : &host->client;
	if (map == (void *)&servers)
		return *(const __u32 *)key ? NULL : &host->server;
	if (map == (void *)&pools)
		return *(const __u32 *)key ? NULL : &host->pool;
	return NULL;
}

static long bpf_probe_read_kernel(void *to, __u32 len, const void *from)
{
	memcpy(to, from, len);
	return 0;
}

/* The kernel reads on behind the packet; here only what is there may be read. */
static long bpf_probe_read_kernel_str(void *to, __u32 len, const void *from)
{
	const char *end = (const char *)host->packet_end;
	__u32 i;

	for (i = 0; i + 1 < len; i++) {
		((char *)to)[i] = (const char *)from + i < end ? ((const char *)from)[i] : 'x';
		if (!((char *)to)[i])
			return i + 1;
	}
	((char *)to)[i] = 0;
	return len;
}

static long bpf_ringbuf_output(void *map, void *data, __u64 len, __u64 flags)
{
	host->wakes++;
	return 0;
}

static void *bpf_sk_storage_get(void *map, void *sk, void *value, __u64 flags)
{
	return sk == &host->ends[SERVER].sk ? &host->ends[SERVER].end : &host->ends[CLIENT].end;
}

static struct tcp_sock *bpf_skc_to_tcp_sock(void *sk)
{
	return sk == &host->ends[SERVER].sk ? &host->ends[SERVER].tcp : &host->ends[CLIENT].tcp;
}

static __u64 bpf_ktime_get_ns(void)
{
	return ++host->now;
}

static long bpf_msg_apply_bytes(struct sk_msg_md *msg, __u32 bytes)
{
	host->apply = bytes;
	return 0;
}

static int is_remote(const struct host *h, __u32 role)
{
	return role == CLIENT ? h->client.remote : h->server.remote;
}

void *bpf_rdonly_cast(const void *address, __u32 type)
{
	return (void *)address;
}

void *bpf_cast_to_kern_ctx(void *context)
{
	return &host->kernel_msg;
}

static long bpf_msg_redirect_hash(struct sk_msg_md *msg, void *map, void *key, __u64 flags)
{
	__u64 cookie = *(__u64 *)key;

	__u32 role = cookie == COOKIES[SERVER] ? SERVER : CLIENT;

	if (cookie != COOKIES[role] || (map == (void *)&sinks && !is_remote(host, role)))
		return SK_DROP;
	host->kernel_msg.sk_redir = map == (void *)&sinks ? (struct sock *)&host->sinks[role] : NULL;
	host->target = cookie;
	host->target_flags = flags;
	return SK_PASS;
}

static long bpf_loop(__u32 times, long (*step)(__u32, void *), void *context, __u64 flags)
{
	__u32 i;

	for (i = 0; i < times; i++)
		if (step(i, context))
			return i + 1;
	return times;
}

/* What Rust is told of a run. */
struct host_verdict {
	__u32 len;		/* bytes it is about */
	__u32 place;		/* enum place */
};

enum place {
	TO_USER,
	TO_PEER,
	DROPPED,
	ASTRAY,			/* redirected to where it must never go */
};

/* What Rust is told of the link. */
struct host_state {
	__u32 linked;
	__u32 user;		/* taken back */
	__u32 owed;
	__u32 open;
	struct request_state request;
	struct reply_state reply;
	__u32 owner;
	__u32 reason;
	__u32 idle;		/* the server is in the idle set */
	__u32 wakes;
	__u64 received;
	__u64 requests;
	__u64 sent;
	__u64 queries;
	__u64 xacts;
	__u8 log[LOG_LEN];
};

/* A client that is left to the kernel path, and an idle server that may be claimed; either may be remote. */
struct host *host_new(__u32 flags, __u32 reply_limit, __u32 packet_len_max, __u32 remote_client, __u32 remote_server)
{
	struct host *h = aligned_alloc(64, (sizeof(*h) + 63) / 64 * 64);
	__u32 i;

	if (!h)
		abort();
	memset(h, 0, sizeof(*h));
	for (i = 0; i < ROLES; i++) {
		struct far_end *end = &h->ends[i];

		end->end.cookie = COOKIES[i];
		end->end.slot = i == CLIENT ? ROLE_CLIENT : ROLE_SERVER;
		end->file.f_flags = O_NONBLOCK;
		end->socket.file = &end->file;
		end->tcp.inet_conn.icsk_inet.sk.sk_socket = &end->socket;
		end->tcp.inet_conn.icsk_inet.sk.sk_user_data = &end->psock;
		end->psock.ingress_msg.next = &end->psock.ingress_msg;
		end->psock.refcnt.refs.counter = 1;
		end->psock.sk = &end->tcp.inet_conn.icsk_inet.sk;
		end->psock.sk->__sk_common.skc_cookie.counter = COOKIES[i];
	}
	h->proto.memory_pressure = &h->memory_pressure;
	for (i = 0; i < ROLES; i++) {
		struct sock *sk = (struct sock *)&h->sinks[i];

		sk->__sk_common.skc_state = TCP_ESTABLISHED;
		sk->__sk_common.skc_prot = &h->proto;
		sk->__sk_common.skc_cookie.counter = COOKIES[i];
		sk->sk_sndbuf = 1 << 30;
	}
	h->client.remote = remote_client;
	h->server.remote = remote_server;
	h->server.gate = COOKIES[SERVER];
	h->client.cookie = COOKIES[CLIENT];
	h->client.owner = OWNER_KERNEL;
	h->client.params = 1;
	h->server.cookie = COOKIES[SERVER];
	h->server.params = 1;
	h->server.reply[0].status = 'I';
	h->server.word = 7 * (WORD_GENERATION & -WORD_GENERATION);
	h->pool.flags = flags | POOL_ENABLED;
	h->pool.reply_limit = reply_limit;
	h->pool.packet_len_max = packet_len_max;
	h->prepared.has[0] = 1ull << 5;
	h->prepared.has[1] = 1ull << 6;
	h->pool.idle[0] = 1;
	h->pool.lendable[0] = 1;
	for (i = 1; i < POOL_CHUNKS; i++)
		h->pool.chunk[i] = CHUNK_NONE;
	return h;
}

void host_free(struct host *h)
{
	free(h);
}

/*
 * One run of the program for a send of which `size` bytes are left, the first `len` of them in the first element of its
 * scatter-gather list. `first`: nothing of this send was seen before.
 */
struct host_verdict host_run(struct host *h, __u32 role, __u8 *bytes, __u32 len, __u32 size, __u32 first)
{
	struct sk_msg_md msg = { .data = bytes, .data_end = bytes + len, .size = size, .sk = &h->ends[role].sk };
	struct host_verdict verdict = { .len = size, .place = TO_USER };
	__u32 to = role == CLIENT ? SERVER : CLIENT;
	int result;

	host = h;
	/* sk_msg_alloc; the target stays over all runs for one send. */
	if (first)
		h->target = 0;
	h->apply = 0;
	h->packet_end = bytes + len;
	result = tap(&msg);
	host = NULL;
	if (h->apply && h->apply < size)
		verdict.len = h->apply;
	if (result != SK_PASS)
		verdict.place = DROPPED;
	else if (h->target == COOKIES[to] && h->target_flags == (is_remote(h, to) ? 0 : BPF_F_INGRESS))
		verdict.place = TO_PEER;
	else if (h->target && (h->target != COOKIES[role] || h->target_flags))
		verdict.place = ASTRAY;
	if (verdict.place == TO_PEER && is_remote(h, to)) {
		h->sinks[to].write_seq += verdict.len;
		h->sinks[to].inet_conn.icsk_inet.sk.sk_wmem_queued += verdict.len;
	} else if (verdict.place == TO_PEER && role == SERVER) {
		h->ends[CLIENT].psock.ingress_msg.next = NULL;
	}
	return verdict;
}

/* The client reads all that was redirected to it. */
void host_client_reads(struct host *h)
{
	h->ends[CLIENT].psock.ingress_msg.next = &h->ends[CLIENT].psock.ingress_msg;
	h->sinks[CLIENT].snd_una = h->sinks[CLIENT].write_seq;
	h->sinks[CLIENT].inet_conn.icsk_inet.sk.sk_wmem_queued = 0;
}

/* What happens to our socket to a remote one. */
enum event {
	TOOK_LESS,		/* it did not take the last `n` bytes that were redirected to it */
	GOES_ON,		/* the user path sends `n` bytes */
	IS_FULL,		/* its buffer has room for `n` bytes only */
	HANGS_UP,		/* the connection is reset */
	IS_REPLACED,		/* it was closed, and another socket has its memory */
	MEMORY_SHORT,		/* of the whole system */
};

void host_sink(struct host *h, __u32 role, __u32 event, __u32 n)
{
	struct tcp_sock *sink = &h->sinks[role];
	struct sock *sk = &sink->inet_conn.icsk_inet.sk;

	switch ((enum event)event) {
	case TOOK_LESS:
		sink->write_seq -= n;
		break;
	case GOES_ON:
		sink->write_seq += n;
		sink->snd_una = sink->write_seq;
		break;
	case IS_FULL:
		sk->sk_wmem_queued = sk->sk_sndbuf - SINK_SPARE - n;
		break;
	case HANGS_UP:
		sk->sk_err = 104;
		break;
	case IS_REPLACED:
		sk->__sk_common.skc_cookie.counter++;
		sink->write_seq = 0;
		break;
	case MEMORY_SHORT:
		h->memory_pressure = 1;
		break;
	}
}

/* User space takes the pair back. */
void host_take_back(struct host *h)
{
	h->server.word |= WORD_USER;
}

struct host_state host_state(const struct host *h)
{
	const struct server *s = &h->server;
	struct host_state state = {
		.linked = word_client(s->word) != 0,
		.user = (s->word & WORD_USER) != 0,
		.owed = word_owed(s->word),
		.open = (s->word & WORD_OPEN) != 0,
		.request = s->request[(s->word & WORD_REQUEST) ? 1 : 0],
		.reply = s->reply[(s->word & WORD_REPLY) ? 1 : 0],
		.owner = h->client.owner,
		.reason = h->client.reason,
		.idle = h->pool.idle[0] != 0,
		.wakes = h->wakes,
		.received = s->received,
		.requests = s->requests,
		.sent = s->sent,
		.queries = s->queries,
		.xacts = s->xacts,
	};

	memcpy(state.log, s->log, sizeof(state.log));
	return state;
}
