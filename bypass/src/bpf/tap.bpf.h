/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The taps: an sk_msg verdict program sees each send of a captured far end, in the sender's own context and under its
 * socket's lock, so that what one end sends is handled in order. It walks the messages in it and either redirects them
 * to the other far end or passes them on to the user path:
 *
 *   the client's tap   links a server when a request comes, notes what the server owes, redirects to it
 *   the server's tap   strikes off what was owed, redirects to the client, releases the server when nothing is owed
 *
 * What one run changes it prepares beside what counts (`reply` and `request` have two places) and then makes count by
 * one compare-and-swap of the server's word, which fails if user space has taken the pair back. So whatever user space
 * finds in the word goes with exactly the bytes that were redirected.
 *
 * One run handles at most one element of the message's scatter-gather list: bpf_tcp_ingress delivers one wholly or not
 * at all, but may deliver a part of several, and then the program would see the others again.
 */
#ifndef TIGGER_TAP_BPF_H
#define TIGGER_TAP_BPF_H

/* What a tap works on. */
struct tap {
	struct sk_msg_md *msg;
	struct end *end;
	__u32 was_cut;
};

/*
 * Leaves the rest of the send to the user path. After a part of the same send was redirected, msg->sk_redir is still
 * set (sk_psock_msg_verdict, net/core/skmsg.c) and SK_PASS would redirect again: then the rest is redirected to the
 * socket's own egress, which is the same as passing it.
 */
static __always_inline int pass(struct tap *tap)
{
	bpf_msg_apply_bytes(tap->msg, 0);
	if (!tap->was_cut)
		return SK_PASS;
	return bpf_msg_redirect_hash(tap->msg, &socks, &tap->end->cookie, 0);
}

/* Redirects the first `n` bytes; the target was set by bpf_msg_redirect_hash. */
static __always_inline int redirect(struct tap *tap, __u32 n)
{
	__u32 size = tap->msg->size;

	tap->end->cut = n < size;
	bpf_msg_apply_bytes(tap->msg, n < size ? n : 0);
	return SK_PASS;
}

/* Lets `msg` go to the socket with this cookie; false if it is gone. */
static __always_inline int aim(struct tap *tap, __u64 *cookie)
{
	return bpf_msg_redirect_hash(tap->msg, &socks, cookie, BPF_F_INGRESS) == SK_PASS;
}

/* The user path has the client from here on. */
static __always_inline int leave(struct tap *tap, struct client *c, __u32 reason)
{
	WRITE_ONCE(c->reason, reason);
	WRITE_ONCE(c->owner, OWNER_USER);
	count_reason(reason);
	return pass(tap);
}

/* The user path has the pair from here on. */
static __always_inline int take_back(struct tap *tap, struct client *c, struct server *s, __u32 client, __u32 reason)
{
	if (give_up(s, client) == CONTENDED)
		return SK_DROP;
	return leave(tap, c, reason);
}

/* What the loops of bpf_loop work on. */
struct loop {
	struct sk_msg_md *msg;
	struct end *end;
};

static long each_request(__u32 unused, void *context)
{
	struct loop *loop = context;
	struct request_walk *w = &loop->end->request;
	__u32 at = w->walk.at & RUN_BYTES;
	__u8 bytes[HEADER_LEN + 2] = {};
	__u8 *data = loop->msg->data, *end = loop->msg->data_end;
	__u32 there;

	if (w->walk.rest)
		return walk_rest(&w->walk);
	if (w->walk.at >= w->walk.len)
		return 1;
	data += at;
	if (data + 7 <= end) {
		__builtin_memcpy(bytes, data, 7);
		there = 7;
	} else if (data + 6 <= end) {
		__builtin_memcpy(bytes, data, 6);
		there = 6;
	} else if (data + 5 <= end) {
		__builtin_memcpy(bytes, data, 5);
		there = 5;
	} else if (data + 1 <= end) {
		bytes[0] = data[0];
		there = 1;
	} else {
		return 1;
	}
	return request_step(w, bytes, there);
}

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

/* Bytes of the first element, as far as one run goes. */
static __always_inline __u32 run_len(struct sk_msg_md *msg)
{
	__u64 n = (__u64)msg->data_end - (__u64)msg->data;

	return n < RUN_BYTES ? n : RUN_BYTES;
}

/* Walks the requests in the first element, on from where the stream stands. */
static __always_inline struct request_walk *walk_requests(struct tap *tap, struct pool *pool, __u32 rest, __u32 open)
{
	__u32 limit = READ_ONCE(pool->reply_limit), longest = READ_ONCE(pool->packet_len_max);
	struct loop loop = { .msg = tap->msg, .end = tap->end };
	struct request_walk *w = &tap->end->request;

	w->walk = (struct walk){ .len = run_len(tap->msg), .rest = rest };
	w->flags = READ_ONCE(pool->flags);
	w->len_max = longest < limit ? longest : limit;
	w->count = 0;
	w->enders = 0;
	w->open = open;
	bpf_loop(RUN_MESSAGES, each_request, &loop, 0);
	return w;
}

/* Notes the requests of this run in the log, beyond those that count. */
static __always_inline void log_requests(struct server *s, struct request_walk *w, __u32 sent)
{
	for (__u32 i = 0; i < RUN_REQUESTS; i++) {
		if (i >= w->count)
			break;
		s->log[(sent + i) & (LOG_LEN - 1)] = w->kinds[i];
	}
}

/*
 * Whether everything that went through the user path is done with: it has read all that the client sent it, and the
 * client has read all that it sent. Also forgets what the client had to read, where it has read everything.
 */
static __always_inline __u32 unsettled(struct tap *tap, struct client *c)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(tap->msg->sk);
	struct sk_psock *psock;
	__u64 first = 0;

	if (!tcp)
		return REASON_OPAQUE;
	if (!is_nonblocking(tcp))
		return REASON_BLOCKING;
	if (tcp->write_seq - READ_ONCE(c->sequence) != READ_ONCE(c->read))
		return REASON_USER_BUSY;
	if (tcp->bytes_received != READ_ONCE(c->written) || tcp->copied_seq != tcp->rcv_nxt)
		return REASON_UNREAD;
	psock = psock_of(tcp);
	if (!bpf_probe_read_kernel(&first, sizeof(first), &psock->ingress_msg.next) &&
	    first == (__u64)&psock->ingress_msg)
		WRITE_ONCE(c->unread, 0);
	return REASON_NONE;
}

/* A request of a client that is not linked: links it to an idle server, if that can be. */
static __always_inline int tap_unlinked(struct tap *tap, struct client *c, __u32 client)
{
	struct pool *pool = pool_at(READ_ONCE(c->pool));
	struct server *s, *last;
	struct request_walk *w;
	__u32 reason, index, flags, slot;
	__u64 word, linked, now;

	if (!pool)
		return pass(tap);
	/* Nothing was sent to the user path before this; so what it did for this client is over, too. */
	last = c->last_server ? server_at(c->last_server - 1) : NULL;
	if (last && in_flight(last))
		return leave(tap, c, REASON_IN_FLIGHT);
	WRITE_ONCE(c->last_server, 0);
	flags = READ_ONCE(pool->flags);
	if ((flags & (POOL_ENABLED | POOL_PAUSED)) != POOL_ENABLED)
		return leave(tap, c, REASON_DISABLED);
	reason = unsettled(tap, c);
	if (reason)
		return leave(tap, c, reason);
	if (READ_ONCE(pool->waiting))
		return leave(tap, c, REASON_WAITING);
	w = walk_requests(tap, pool, 0, 0);
	if (!w->walk.len)
		return leave(tap, c, REASON_OPAQUE);
	if (!w->count)
		return leave(tap, c, w->walk.reason ?: REASON_REQUEST);
	index = claim(pool, READ_ONCE(c->params));
	if (!index)
		return leave(tap, c, REASON_NO_SERVER);
	s = server_at(index - 1);
	if (!s)
		return leave(tap, c, REASON_NO_SERVER);
	slot = READ_ONCE(s->slot);
	if (!aim(tap, &s->cookie)) {
		unclaim(pool, slot);
		return leave(tap, c, REASON_GONE);
	}
	now = bpf_ktime_get_ns();
	s->client_cookie = tap->end->cookie;
	s->request[0].rest = w->walk.rest;
	s->request[0].base = 0;
	s->request[0].sent = w->count;
	s->request[0].bytes = w->walk.at;
	__builtin_memset(&s->reply[0], 0, sizeof(s->reply[0]));
	s->reply[0].status = 'I';
	log_requests(s, w, 0);
	s->request_ns = now;
	s->xact_ns = now;
	word = READ_ONCE(s->word);
	linked = client | w->enders * WORD_OWED_ONE | (w->open ? WORD_OPEN : 0) | (word & WORD_GENERATION);
	WRITE_ONCE(c->server, index);
	if (word_client(word) || __sync_val_compare_and_swap(&s->word, word, linked) != word) {
		/* User space changed its mind about this server in this moment. */
		unclaim(pool, slot);
		tap->was_cut = 1;
		return leave(tap, c, REASON_RACE);
	}
	s->links++;
	s->requests += w->enders;
	s->received += w->walk.at;
	WRITE_ONCE(c->request_ns, now);
	return redirect(tap, w->walk.at);
}

/* More from a client that is linked. */
static __always_inline int tap_linked(struct tap *tap, struct client *c, __u32 client, struct server *s)
{
	struct pool *pool = pool_at(READ_ONCE(s->pool));
	struct request_state old, new;
	struct request_walk *w;
	__u64 word, next;
	__u32 which, other;

	if (!pool)
		return take_back(tap, c, s, client, REASON_DISABLED);
	if (READ_ONCE(c->handed_over)) {
		__u32 reason = unsettled(tap, c);

		if (reason)
			return take_back(tap, c, s, client, reason);
		WRITE_ONCE(c->handed_over, 0);
	}
	word = READ_ONCE(s->word);
	which = (word & WORD_REQUEST) ? 1 : 0;
	other = which ^ 1;
	old = s->request[which & 1];
	w = walk_requests(tap, pool, old.rest, (word & WORD_OPEN) ? 1 : 0);
	if (!w->walk.at)
		return take_back(tap, c, s, client, w->walk.reason ?: REASON_OPAQUE);
	if (!aim(tap, &s->cookie))
		return take_back(tap, c, s, client, REASON_GONE);
	for (int tries = 0; tries < WORD_TRIES; tries++) {
		word = READ_ONCE(s->word);
		if (word_client(word) != client || word & WORD_USER) {
			/* Taken back in this moment. The target is set already. */
			tap->was_cut = 1;
			return leave(tap, c, REASON_RACE);
		}
		new = old;
		if (!(word & (WORD_OWED | WORD_OPEN))) {
			new.base = old.sent;
			new.bytes = 0;
		}
		new.rest = w->walk.rest;
		new.sent += w->count;
		new.bytes += w->walk.at;
		if (new.sent - new.base > LOG_LEN || new.bytes > w->len_max) {
			tap->was_cut = 1;
			return take_back(tap, c, s, client,
					 new.bytes > w->len_max ? REASON_REQUEST_LONG : REASON_PIPELINE);
		}
		s->request[other & 1] = new;
		log_requests(s, w, old.sent);
		if (!(word & WORD_OWED)) {
			s->request_ns = bpf_ktime_get_ns();
			if (s->reply[(word & WORD_REPLY) ? 1 : 0].status == 'I')
				s->xact_ns = s->request_ns;
		}
		next = (word + w->enders * WORD_OWED_ONE) & ~WORD_OPEN;
		next |= w->open ? WORD_OPEN : 0;
		next ^= WORD_REQUEST;
		if (__sync_val_compare_and_swap(&s->word, word, next) == word) {
			s->requests += w->enders;
			s->received += w->walk.at;
			return redirect(tap, w->walk.at);
		}
	}
	return SK_DROP;
}

static __always_inline int tap_client(struct tap *tap, __u32 index)
{
	struct client *c = client_at(index);
	struct server *s;
	__u64 word;

	if (!c || READ_ONCE(c->cookie) != tap->end->cookie || READ_ONCE(c->owner) != OWNER_KERNEL)
		return pass(tap);
	if (c->server) {
		s = server_at(c->server - 1);
		if (!s)
			return pass(tap);
		word = READ_ONCE(s->word);
		if (word_client(word) == index + 1 && READ_ONCE(s->client_cookie) == tap->end->cookie) {
			if (word & WORD_USER)
				return leave(tap, c, REASON_RACE);
			return tap_linked(tap, c, index + 1, s);
		}
	}
	return tap_unlinked(tap, c, index + 1);
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
	WRITE_ONCE(s->psock, is_nonblocking(tcp) ? (__u64)psock_of(tcp) : PSOCK_UNFIT);
	return s->psock != PSOCK_UNFIT;
}

/* Nothing is owed and the transaction is over: the server goes back to the idle set. */
static __always_inline int is_release(struct reply_walk *w, __u64 word, __u32 flags)
{
	return w->readies && !w->owed && w->state.status == 'I' && !(word & WORD_OPEN) && !(flags & POOL_SESSION);
}

static __always_inline void count_replies(struct server *s, struct reply_walk *w, __u32 sent)
{
	__u64 now;

	s->sent += sent;
	if (!w->readies)
		return;
	now = bpf_ktime_get_ns();
	s->queries += w->readies;
	s->query_time_ns += now - s->request_ns;
	s->request_ns = now;
	if (w->ends) {
		s->xacts += w->ends;
		s->xact_time_ns += now - s->xact_ns;
		s->xact_ns = now;
	}
	WRITE_ONCE(s->released_ns, now);
}

/* A reply of a linked server. */
static __always_inline int tap_reply(struct tap *tap, struct server *s, struct client *c, struct pool *pool, __u64 word)
{
	__u32 client = word_client(word), flags = READ_ONCE(pool->flags), unread = READ_ONCE(c->unread);
	__u32 which = (word & WORD_REPLY) ? 1 : 0, other = which ^ 1, room, n;
	struct loop loop = { .msg = tap->msg, .end = tap->end };
	struct reply_walk *w = &tap->end->reply;
	__u64 next;

	room = READ_ONCE(pool->reply_limit);
	room = unread < room ? room - unread : 0;
	if (!room)
		return take_back(tap, c, s, client, REASON_REPLY_LONG);
	n = run_len(tap->msg);
	w->walk = (struct walk){ .len = n < room ? n : room, .rest = s->reply[which & 1].rest };
	w->state = s->reply[which & 1];
	w->owed = word_owed(word);
	w->last_to_user = !(flags & POOL_SESSION) && (word & (WORD_RETURN | WORD_CANCEL) || flags & POOL_PAUSED);
	w->readies = 0;
	w->ends = 0;
	bpf_loop(RUN_MESSAGES, each_reply, &loop, 0);
	n = w->walk.at;
	if (!n)
		return take_back(tap, c, s, client, w->walk.reason ?: REASON_OPAQUE);
	w->state.rest = w->walk.rest;
	if (!aim(tap, &s->client_cookie))
		return take_back(tap, c, s, client, REASON_GONE);
	next = (word & ~WORD_OWED) | w->owed * WORD_OWED_ONE;
	next ^= WORD_REPLY;
	s->reply[other & 1] = w->state;
	if (!is_release(w, word, flags)) {
		if (__sync_val_compare_and_swap(&s->word, word, next) != word)
			return -1;
		WRITE_ONCE(c->unread, unread + n);
		count_replies(s, w, n);
		return redirect(tap, n);
	}
	WRITE_ONCE(c->unread, unread + n);
	/* Before the client is unlinked: its next request may come at once. */
	WRITE_ONCE(c->last_server, READ_ONCE(c->server));
	if (__sync_val_compare_and_swap(&s->word, word, word & (WORD_GENERATION | WORD_RETURN | WORD_CANCEL)) != word) {
		WRITE_ONCE(c->unread, unread);
		return -1;
	}
	count_replies(s, w, n);
	/* A client that user space linked, because it had to wait, is served by the kernel path again. */
	if (READ_ONCE(c->pushed)) {
		WRITE_ONCE(c->pushed, 0);
		WRITE_ONCE(c->owner, OWNER_KERNEL);
	}
	unclaim(pool, s->slot);
	/* In this order: a client that begins to wait says so and then looks at the idle set. */
	if (READ_ONCE(pool->waiting))
		wake_user_space();
	return redirect(tap, n);
}

static __always_inline int tap_server(struct tap *tap, __u32 index)
{
	struct server *s = server_at(index);

	if (!s || READ_ONCE(s->cookie) != tap->end->cookie || !know_psock(tap, s))
		return pass(tap);
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
		if (verdict >= 0)
			return verdict;
		/* The word changed: a target may be set. */
		tap->was_cut = 1;
	}
	return pass(tap);
}

SEC("sk_msg")
int tap(struct sk_msg_md *msg)
{
	struct tap tap = { .msg = msg };
	struct bpf_sock *sk = msg->sk;
	struct end *end;
	__u32 slot, *known;

	if (!sk)
		return SK_PASS;
	end = bpf_sk_storage_get(&ends, sk, 0, 0);
	if (!end)
		return SK_PASS;
	tap.end = end;
	tap.was_cut = end->cut;
	end->cut = 0;
	slot = end->slot;
	if (!slot) {
		__u64 cookie = end->cookie;

		known = bpf_map_lookup_elem(&slots, &cookie);
		if (!known)
			return pass(&tap);
		slot = *known;
		end->slot = slot;
	}
	if (slot & ROLE_SERVER)
		return tap_server(&tap, slot & ROLE_INDEX);
	return tap_client(&tap, slot & ROLE_INDEX);
}

#endif
