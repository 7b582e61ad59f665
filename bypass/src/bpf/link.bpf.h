/* SPDX-License-Identifier: GPL-2.0 */
/* Links: claiming a server from the idle set, giving it back, and whether a reply is still on its way. */
#ifndef TIGGER_LINK_BPF_H
#define TIGGER_LINK_BPF_H

/* Idle servers looked at in each chunk before the kernel path gives up. */
#define CLAIM_TRIES 16
/* Attempts at changing a word that others change. */
#define WORD_TRIES 32
/* How long it is looked whether a reply is still in flight: a few times as long as a sender is on its way back while it has a
 * processor. Measured with pgbench -S -M prepared, 32 clients: with 1 us 4 % of the requests go through user space, with 10
 * and 20 us 1 and 0.7 %. */
#define FLIGHT_NS 20000ull
/* The same for user space, which has something better to do than to wait. */
#define ASK_NS 1000ull
/* Looks within that time: each takes some 20 ns, of which most is the clock. */
#define FLIGHT_TRIES 1024

static __always_inline __u32 word_client(__u64 word)
{
	return word & WORD_CLIENT;
}

static __always_inline __u32 word_owed(__u64 word)
{
	return (word & WORD_OWED) / WORD_OWED_ONE;
}

/* A product of these 64 bits with a power of two has another 6 bits on top for each (de Bruijn). */
#define BIT_KEY 0x03f79d71b4cb0a89ull

/* Which bit has these 6 bits on top of its product with BIT_KEY. */
const __u8 bit_places[64] = {
	0,  1,  48, 2,  57, 49, 28, 3,  61, 58, 50, 42, 38, 29, 17, 4,
	62, 55, 59, 36, 53, 51, 43, 22, 45, 39, 33, 30, 24, 18, 12, 5,
	63, 47, 56, 27, 60, 41, 37, 16, 54, 35, 52, 21, 44, 32, 23, 11,
	46, 26, 40, 15, 34, 20, 31, 10, 25, 14, 19, 9,  13, 8,  7,  6,
};

/* Position of the one bit that is set. */
static __always_inline __u32 bit_place(__u64 bit)
{
	return bit_places[(bit * BIT_KEY) >> 58];
}

/* Position of the highest bit that is set, from 1; 0 for none. */
static __always_inline __u32 bit_len(__u64 word)
{
	if (!word)
		return 0;
	word |= word >> 1;
	word |= word >> 2;
	word |= word >> 4;
	word |= word >> 8;
	word |= word >> 16;
	word |= word >> 32;
	return bit_place(word ^ (word >> 1)) + 1;
}

/* Whether the server with this index lacks one of the prepared statements in the walk of `end`. A function of its own: the
 * verifier looks at it once. */
__attribute__((noinline)) int lacks_statement(__u32 server, struct end *end)
{
	struct prepared *prepared;

	if (!end || !end->request.named)
		return 0;
	prepared = prepared_at(server);
	if (!prepared)
		return 1;
	for (__u32 i = 0; i < RUN_NAMES; i++) {
		__u32 id;

		if (i >= end->request.named)
			break;
		id = end->request.statements[i].id & (STATEMENTS - 1);
		if (!(READ_ONCE(prepared->has[id / 64]) >> (id % 64) & 1))
			return 1;
	}
	return 0;
}

/* Notes which prepared statements of the server are used: those that are not will be the first to go. */
static __always_inline void use_statements(__u32 server, struct request_walk *w)
{
	struct prepared *prepared = w->named ? prepared_at(server) : NULL;

	if (!prepared)
		return;
	for (__u32 i = 0; i < RUN_NAMES; i++) {
		__u32 id;
		__u64 bit;

		if (i >= w->named)
			break;
		id = w->statements[i].id & (STATEMENTS - 1);
		bit = 1ull << (id % 64);
		if (READ_ONCE(prepared->used[id / 64]) & bit)
			continue;
		__sync_fetch_and_or(&prepared->used[id / 64], bit);
		__sync_fetch_and_or(&prepared->used_words, 1ull << (id / 64 % 64));
	}
}

/* Takes the first idle server with these parameters, and with the prepared statements in the walk of `end`, out of the idle
 * set; returns its index + 1, or 0. */
static __always_inline __u32 claim(struct pool *pool, __u64 params, struct end *end)
{
	for (__u32 chunk = 0; chunk < POOL_CHUNKS; chunk++) {
		__u32 base = READ_ONCE(pool->chunk[chunk]);
		__u64 ready;

		if (base == CHUNK_NONE)
			break;
		ready = READ_ONCE(pool->idle[chunk]) & READ_ONCE(pool->lendable[chunk]);
		for (__u32 tries = 0; tries < CLAIM_TRIES && ready; tries++) {
			__u64 bit = ready & -ready;
			__u32 index = base * CHUNK_SERVERS + bit_place(bit);
			struct server *s = server_at(index);

			ready &= ~bit;
			if (!s || READ_ONCE(s->params) != params || READ_ONCE(s->psock) == PSOCK_UNFIT)
				continue;
			if (lacks_statement(index, end))
				continue;
			if (__sync_fetch_and_and(&pool->idle[chunk], ~bit) & bit)
				return index + 1;
		}
	}
	return 0;
}

/* Puts a server back that was claimed. */
static __always_inline void unclaim(struct pool *pool, __u32 slot)
{
	__u32 chunk = slot / CHUNK_SERVERS;

	if (chunk < POOL_CHUNKS)
		__sync_fetch_and_or(&pool->idle[chunk], 1ull << (slot % CHUNK_SERVERS));
}

/*
 * Whether a client has to get in line. One that has just begun to wait may be overtaken: user space has to get a
 * processor before it can give it a server, and until then idle servers would stand still; and with more clients than
 * servers the line would never end, so that nobody got past it. User space itself serves strictly in order.
 */
static __always_inline int must_queue(struct pool *pool)
{
	__u64 since = READ_ONCE(pool->waiting_since);

	return since && bpf_ktime_get_ns() - since > OVERTAKE_NS;
}

/* Has user space look for servers that its waiting clients can have. It looks at all pools, so what is in the ring does
 * not matter; where it is full, it was told already. */
static __always_inline void wake_user_space(void)
{
	__u64 nothing = 0;

	bpf_ringbuf_output(&wakes, &nothing, sizeof(nothing), 0);
}

/* Whether the psock is still that of the socket with this cookie: of one that is gone, the memory may be something
 * else's by now. */
static __always_inline int is_psock_of(struct sk_psock *psock, __u64 cookie)
{
	struct sock *sk = look(psock, struct sk_psock, sk);

	return look(sk, struct sock, __sk_common.skc_cookie.counter) == cookie;
}

/* Whether all that was redirected to the socket has been read. */
static __always_inline int is_drained(struct sk_psock *psock)
{
	return (__u64)look(psock, struct sk_psock, ingress_msg.next) == (__u64)&psock->ingress_msg;
}

/* How many have the psock; none if it is gone. */
static __always_inline int psock_refs(struct sk_psock *psock)
{
	return look(psock, struct sk_psock, refcnt.refs.counter);
}

/* What each_look works on. */
struct flight {
	struct sk_psock *psock;
	__u64 deadline;
	int is_sending;
};

static long each_look(__u32 unused, void *context)
{
	struct flight *flight = context;

	if (psock_refs(flight->psock) <= 1) {
		flight->is_sending = 0;
		return 1;
	}
	return bpf_ktime_get_ns() > flight->deadline;
}

/*
 * Whether a socket may be, for so long, inside a send whose verdict is given but whose bytes are not delivered. `psock` and
 * `cookie` are its.
 *
 * tcp_bpf_sendmsg (net/ipv4/tcp_bpf.c) gives up the socket's lock between the verdict and the delivery, and the thread
 * may lose its processor there. It holds a reference on the psock all the while: with none but the first, nothing is in
 * flight. More than that may also be a receive or a redirect to this socket, which passes soon.
 */
static __always_inline int is_sending(struct sk_psock *psock, __u64 cookie, __u64 wait_ns)
{
	struct flight flight = { .psock = psock, .is_sending = 1 };

	if (!is_psock_of(psock, cookie) || psock_refs(psock) <= 1)
		return 0;
	flight.deadline = bpf_ktime_get_ns() + wait_ns;
	bpf_loop(FLIGHT_TRIES, each_look, &flight, 0);
	return flight.is_sending;
}

/*
 * Whether the end with this cookie has read all that was redirected to it. What comes over TCP before that is not noticed by
 * those who wait for edges and take a short read for the end of what is there (epoll(7) says it is; tokio does): a read gives
 * what was redirected, or what came over TCP, but not both. `address`: of its psock, if that is known.
 */
static __always_inline int has_drained(__u64 address, __u64 cookie)
{
	struct sk_psock *psock = (struct sk_psock *)address;

	return address <= PSOCK_UNFIT || !is_psock_of(psock, cookie) || is_drained(psock);
}

SEC("syscall")
int ask_drained(struct drained_args *args)
{
	__u32 index = args->slot & ROLE_INDEX;
	struct client *c;
	struct server *s;

	args->answer = 1;
	if (args->slot & ROLE_SERVER) {
		s = server_at(index);
		if (s)
			args->answer = has_drained(READ_ONCE(s->psock), READ_ONCE(s->psock_cookie));
		return 0;
	}
	c = client_at(index);
	if (c)
		args->answer = has_drained(READ_ONCE(c->psock), READ_ONCE(c->cookie));
	return 0;
}

/* Whether a reply of this server may be on its way, for so long. */
static __always_inline int in_flight(struct server *s, __u64 wait_ns)
{
	__u64 psock = READ_ONCE(s->psock);

	return psock > PSOCK_UNFIT && is_sending((struct sk_psock *)psock, READ_ONCE(s->psock_cookie), wait_ns);
}

enum give_up {
	GAVE_UP,	/* the pair is the user path's */
	NOT_LINKED,	/* the client is no longer linked to this server */
	CONTENDED,	/* cannot be: two writers cannot fail each other so often */
};

/* Marks the pair as the user path's. From then on both taps pass on what they see. */
static __always_inline enum give_up give_up(struct server *s, __u32 client)
{
	for (int tries = 0; tries < WORD_TRIES; tries++) {
		__u64 word = READ_ONCE(s->word);

		if (word_client(word) != client)
			return NOT_LINKED;
		if (word & WORD_USER)
			return GAVE_UP;
		if (__sync_val_compare_and_swap(&s->word, word, word | WORD_USER) == word)
			return GAVE_UP;
	}
	return CONTENDED;
}

#endif
