/* SPDX-License-Identifier: GPL-2.0 */
/* The server's tap: strikes off what was owed, redirects to the client, and releases the server when nothing is owed. */
#ifndef TIGGER_REPLIES_BPF_H
#define TIGGER_REPLIES_BPF_H

static long each_reply(__u32 unused, void *context)
{
	struct loop *loop = context;
	struct reply_walk *w = &loop->end->reply;
	__u32 at = w->walk.at & RUN_BYTES;
	__u8 bytes[READY_LEN] = {};
	__u8 *data = loop->msg->data, *end = loop->msg->data_end;
	__u32 there;

	if (w->walk.rest)
		return walk_rest(&w->walk);
	if (w->walk.at >= w->walk.len)
		return 1;
	data += at;
	if (data + READY_LEN <= end) {
		__builtin_memcpy(bytes, data, READY_LEN);
		there = READY_LEN;
	} else if (data + 1 <= end) {
		bytes[0] = data[0];
		there = 1;
	} else {
		return 1;
	}
	/* What is beyond the walk is not redirected with it. */
	if (there > w->walk.len - w->walk.at)
		there = 1;
	return reply_step(w, bytes, there);
}

/* True once the server's end is known to be one whose sends can be followed by in_flight. A process that blocks in its
 * receives would look as if it were always sending; PostgreSQL's sockets do not block. */
static __always_inline int know_psock(struct tap *tap, struct server *s)
{
	struct tcp_sock *tcp;

	if (s->psock)
		return s->psock != PSOCK_UNFIT;
	tcp = bpf_skc_to_tcp_sock(tap->msg->sk);
	if (!tcp)
		return 0;
	s->psock_cookie = tap->end->cookie;
	WRITE_ONCE(s->psock, is_nonblocking(tcp) ? (__u64)psock_of(tcp) : PSOCK_UNFIT);
	return s->psock != PSOCK_UNFIT;
}

/* Nothing is owed and the transaction is over: the server goes back to the idle set. */
static __always_inline int is_release(struct reply_walk *w, __u64 word, __u32 flags)
{
	return w->readies && !w->owed && w->state.status == 'I' && !(word & WORD_OPEN) && !(flags & POOL_SESSION);
}

/* `now`: when the first of them came that is a ReadyForQuery. */
static __always_inline void count_replies(struct server *s, struct pool *pool, struct reply_walk *w, __u32 sent, __u64 now)
{
	__u32 bucket;

	s->sent += sent;
	if (!w->readies)
		return;
	bucket = bit_len((now - s->request_ns) >> 10);
	if (bucket >= LATENCY_BUCKETS)
		bucket = LATENCY_BUCKETS - 1;
	/* The compiler knows that, the verifier has to see it. */
	barrier_var(bucket);
	__sync_fetch_and_add(&pool->latency[bucket & (LATENCY_BUCKETS - 1)], w->readies);
	s->queries += w->readies;
	s->query_time_ns += now - s->request_ns;
	s->request_ns = now;
	if (w->ends) {
		s->xacts += w->ends;
		s->xact_time_ns += now - s->xact_ns;
		s->xact_ns = now;
	}
}

/* A client that user space linked, because it had to wait, is served by the kernel path again: what was sent for it is
 * answered. If it sent more to user space meanwhile, `unsettled` shows. */
static __always_inline void end_push(struct client *c)
{
	if (!READ_ONCE(c->pushed))
		return;
	WRITE_ONCE(c->pushed, 0);
	WRITE_ONCE(c->settled, 0);
	WRITE_ONCE(c->owner, OWNER_KERNEL);
}

/* Aims at our socket to a remote client. */
static __always_inline struct sink aim_at_remote(struct tap *tap, struct server *s, struct client *c, __u32 limit)
{
	__u32 last = READ_ONCE(c->last_server);
	struct sink sink = {};
	struct server *other;

	if (last && last != READ_ONCE(c->server)) {
		other = server_at(last - 1);
		if (other && in_flight(other, FLIGHT_NS)) {
			sink.reason = REASON_IN_FLIGHT;
			return sink;
		}
		WRITE_ONCE(c->last_server, 0);
	}
	if (!aim_out(tap, &s->client_cookie)) {
		sink.reason = REASON_GONE;
		return sink;
	}
	return look_at_sink(tap, limit, REASON_REPLY_LONG);
}

/* Aims at a captured client. There is no place for its `sink` to be short: a socket's ingress takes an element or not. */
static __always_inline struct sink aim_at_captured(struct tap *tap, struct server *s, struct client *c, __u32 limit)
{
	__u32 unread = READ_ONCE(c->unread);
	struct sink sink = { .reason = REASON_REPLY_LONG };

	if (unread >= limit)
		return sink;
	sink.reason = REASON_GONE;
	if (aim(tap, &s->client_cookie))
		sink.room = limit - unread;
	return sink;
}

/* A reply of a linked server. */
static __always_inline int tap_reply(struct tap *tap, struct server *s, struct client *c, struct pool *pool, __u64 word)
{
	__u32 client = word_client(word), flags = READ_ONCE(pool->flags), unread = READ_ONCE(c->unread);
	__u32 which = (word & WORD_REPLY) ? 1 : 0, other = which ^ 1, limit = READ_ONCE(pool->reply_limit), n;
	struct loop loop = { .msg = tap->msg, .end = tap->end };
	struct reply_walk *w = &tap->end->reply;
	struct sink sink;
	__u64 next, now = 0;

	sink = READ_ONCE(c->remote) ? aim_at_remote(tap, s, c, limit) : aim_at_captured(tap, s, c, limit);
	if (!sink.room)
		return take_back(tap, c, s, client, sink.reason);
	n = run_len(tap->msg);
	w->walk = (struct walk){ .len = n < sink.room ? n : sink.room, .rest = s->reply[which & 1].rest };
	w->state = s->reply[which & 1];
	w->owed = word_owed(word);
	w->len_max = READ_ONCE(pool->packet_len_max);
	w->last_to_user = !(flags & POOL_SESSION) && (word & (WORD_RETURN | WORD_CANCEL) || flags & POOL_PAUSED);
	w->prepared = flags & POOL_PREPARED;
	w->shared = flags & POOL_COMMANDS;
	w->named = READ_ONCE(s->named);
	w->readies = 0;
	w->ends = 0;
	bpf_loop(RUN_MESSAGES, each_reply, &loop, 0);
	n = w->walk.at;
	if (!n)
		return take_back(tap, c, s, client, w->walk.reason ?: REASON_OPAQUE);
	/* An answer to half a request: PostgreSQL does not do that. The server must not be released in that state. */
	if (is_release(w, word, flags) && s->request[(word & WORD_REQUEST) ? 1 : 0].rest)
		return take_back(tap, c, s, client, REASON_REPLY);
	if (w->readies) {
		now = bpf_ktime_get_ns();
		/* Who sees in the word that nothing is owed must not find an older time. */
		WRITE_ONCE(s->released_ns, now);
		WRITE_ONCE(c->released_ns, now);
	}
	w->state.rest = w->walk.rest;
	next = (word & ~WORD_OWED) | w->owed * WORD_OWED_ONE;
	next ^= WORD_REPLY;
	s->reply[other & 1] = w->state;
	if (!is_release(w, word, flags)) {
		if (__sync_val_compare_and_swap(&s->word, word, next) != word)
			return -1;
		WRITE_ONCE(c->unread, unread + n);
		note_sink(&s->sink, &sink, s->client_cookie, n);
		count_replies(s, pool, w, n, now);
		/* In a transaction: what user space sent has been read, so the next requests may be redirected. */
		if (w->readies && !w->owed)
			end_push(c);
		return redirect(tap, n);
	}
	WRITE_ONCE(c->unread, unread + n);
	/* Before the client is unlinked: its next request may come at once. */
	WRITE_ONCE(c->last_server, READ_ONCE(c->server));
	if (__sync_val_compare_and_swap(&s->word, word, word & (WORD_GENERATION | WORD_RETURN | WORD_CANCEL)) != word) {
		WRITE_ONCE(c->unread, unread);
		return -1;
	}
	note_sink(&s->sink, &sink, s->client_cookie, n);
	count_replies(s, pool, w, n, now);
	end_push(c);
	/* It is as new: the last ReadyForQuery was the end. */
	s->reply[0] = w->state;
	unclaim(pool, s->slot);
	/* In this order: a client that begins to wait says so and then looks at the idle set. */
	if (READ_ONCE(pool->waiting_since))
		wake_user_space();
	return redirect(tap, n);
}

static __always_inline int tap_server(struct tap *tap, __u32 index)
{
	struct server *s = server_at(index);

	if (!s || READ_ONCE(s->cookie) != tap->end->cookie || !know_psock(tap, s))
		return pass(tap);
	if (fell_short(&s->sink)) {
		/* Its rest is for a client that may have gone on: nobody can have what this server says. */
		count_reason(REASON_SHORT);
		return SK_DROP;
	}
	for (int tries = 0; tries < 4; tries++) {
		__u64 word = READ_ONCE(s->word);
		struct client *c;
		struct pool *pool;
		int verdict;

		/* Idle, on the user path, or somebody else's by now. */
		if (!word_client(word) || word & WORD_USER || READ_ONCE(s->cookie) != tap->end->cookie)
			break;
		c = client_at(word_client(word) - 1);
		pool = pool_at(READ_ONCE(s->pool));
		if (!c || !pool)
			break;
		verdict = tap_reply(tap, s, c, pool, word);
		/* Negative: the word changed. */
		if (verdict >= 0)
			return verdict;
	}
	return pass(tap);
}

#endif
