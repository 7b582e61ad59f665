/* SPDX-License-Identifier: GPL-2.0 */
/* The client's tap: links a server when a request comes, notes what the server owes, and redirects to it. */
#ifndef TIGGER_REQUESTS_BPF_H
#define TIGGER_REQUESTS_BPF_H

/* Looks up the name that begins at data[6], and makes it the next one of `statements`. */
static __always_inline enum naming find_name(struct request_walk *w, __u8 *data, __u8 *end, __u32 len)
{
	struct name name = { .client = w->client };
	struct statement *statement;
	__u32 i = w->named;
	__u64 behind;
	long n;

	n = bpf_probe_read_kernel_str(name.name, NAME_LEN, data + 6);
	behind = 6 + n;
	/* A longer name was cut. A name that the send ends in, or that ends behind its message, is the user path's. */
	if (n < 2 || n >= NAME_LEN || (__u64)data + behind > (__u64)end || behind > (__u64)len + 1 || i >= RUN_NAMES)
		return NAME_UNKNOWN;
	statement = bpf_map_lookup_elem(&names, &name);
	if (!statement || statement->id >= STATEMENTS)
		return NAME_UNKNOWN;
	i &= RUN_NAMES - 1;
	w->statements[i] = *statement;
	w->name_at[i] = w->walk.at + 6;
	return NAMED;
}

/* Whether what begins with `text`, which lies `at` bytes into the request at `data`, may be a command. */
static __always_inline enum naming find_command(__u8 *data, __u8 *end, __u32 at)
{
	__u8 text[COMMAND_HEAD] = {};
	__u64 there = (__u64)end - (__u64)data - at;

	if (there > COMMAND_HEAD)
		there = COMMAND_HEAD;
	if (bpf_probe_read_kernel(text, there, data + at))
		return NAME_COMMAND;
	return may_be_command(text, there) ? NAME_COMMAND : UNNAMED;
}

static long each_request(__u32 unused, void *context)
{
	struct loop *loop = context;
	struct request_walk *w = &loop->end->request;
	__u32 at = w->walk.at & RUN_BYTES;
	__u8 bytes[HEADER_LEN + 2] = {};
	__u8 *data = loop->msg->data, *end = loop->msg->data_end;
	enum naming naming = UNNAMED;
	__u32 there, text;

	if (w->walk.rest)
		return walk_rest(&w->walk);
	if (w->walk.at >= w->walk.len)
		return 1;
	data += at;
	if (data + 7 <= end) {
		__builtin_memcpy(bytes, data, 7);
		there = 7;
		if (uses_name(w->flags, bytes, there)) {
			/* The rest gets another run. */
			if (w->named >= RUN_NAMES)
				return 1;
			naming = find_name(w, data, end, message_len(bytes + 1));
		}
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
	text = command_at(w->flags, bytes, there);
	if (text)
		naming = find_command(data, end, text);
	return request_step(w, bytes, there, naming);
}

/* What each_byte works on. */
struct renaming {
	struct sk_msg_md *msg;
	struct request_walk *w;
	__u32 which;
};

static long each_byte(__u32 i, void *context)
{
	struct renaming *renaming = context;
	__u32 which = renaming->which & (RUN_NAMES - 1), at = (renaming->w->name_at[which] + i) & RUN_BYTES;
	__u8 *data = renaming->msg->data, *end = renaming->msg->data_end;
	char c;

	if (i >= NAME_LEN)
		return 1;
	c = renaming->w->statements[which].name[i];
	data += at;
	if (!c || data + 1 > end)
		return 1;
	*data = c;
	return 0;
}

/* Writes the servers' names of the prepared statements over the clients', which are as long. Once it is certain that the
 * requests are redirected: the user path must see the clients'. */
static __always_inline void rename_statements(struct tap *tap, struct request_walk *w)
{
	struct renaming renaming = { .msg = tap->msg, .w = w };

	for (__u32 i = 0; i < RUN_NAMES; i++) {
		if (i >= w->named)
			break;
		renaming.which = i;
		bpf_loop(NAME_LEN, each_byte, &renaming, 0);
	}
}

/* Keeps what the server was sent, after it was named as there. */
static __always_inline void keep_sent(struct tap *tap, struct client *c, struct request_walk *w)
{
	__u32 n = w->walk.at;

	if (!w->named || w->open || w->enders != 1 || w->walk.rest || n > SENT_LEN)
		return;
	if (bpf_probe_read_kernel(c->sent, n, (void *)(long)tap->msg->data))
		return;
	/* The bytes first: an atomic operation, for the order. */
	__sync_fetch_and_add(&c->sent_len, n);
}

/* Walks the requests of the client in slot `client` in the first element, on from where the stream stands. */
static __always_inline struct request_walk *walk_requests(struct tap *tap, struct pool *pool, __u32 client, __u32 rest,
							  __u32 open)
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
	w->client = client;
	w->named = 0;
	w->binds = 0;
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

/* Forgets what the client had to read, where it has read everything that was redirected to it. */
static __always_inline void forget_unread(struct tcp_sock *tcp, struct client *c)
{
	if (is_drained(psock_of(tcp)))
		write_if_new(c->unread, 0);
}

/*
 * Whether everything that went through the user path is done with: it has read all that the client sent it, and the
 * client has read all that it sent.
 */
static __always_inline __u32 unsettled(struct tap *tap, struct client *c)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(tap->msg->sk);
	__u64 gate;

	if (!tcp)
		return REASON_OPAQUE;
	if (!is_nonblocking(tcp))
		return REASON_BLOCKING;
	write_if_new(c->psock, (__u64)psock_of(tcp));
	if (tcp->write_seq - READ_ONCE(c->sequence) != READ_ONCE(c->read))
		return REASON_USER_BUSY;
	if (tcp->bytes_received != READ_ONCE(c->written) || tcp->copied_seq != tcp->rcv_nxt)
		return REASON_UNREAD;
	/* In this order: `written` is corrected when the address is known. */
	gate = READ_ONCE(c->gate_psock);
	if (gate && is_sending((struct sk_psock *)gate, READ_ONCE(c->gate), FLIGHT_NS))
		return REASON_IN_FLIGHT;
	forget_unread(tcp, c);
	return REASON_NONE;
}

/* Aims at a server: its own end, or ours to it. Room for the requests at hand, at least, or none. */
static __always_inline struct sink aim_at_server(struct tap *tap, struct server *s, struct request_walk *w)
{
	struct sink sink = { .reason = REASON_GONE };

	if (!READ_ONCE(s->remote)) {
		if (aim(tap, &s->cookie))
			sink.room = w->walk.at;
		return sink;
	}
	if (!aim_out(tap, &s->gate))
		return sink;
	sink = look_at_sink(tap, w->len_max, REASON_REQUEST_LONG);
	if (sink.room < w->walk.at)
		sink.room = 0;
	return sink;
}

/* A request of a client that is not linked: links it to an idle server, if that can be. */
static __always_inline int tap_unlinked(struct tap *tap, struct client *c, __u32 client)
{
	struct pool *pool = pool_at(READ_ONCE(c->pool));
	struct server *s, *last;
	struct request_walk *w;
	__u32 reason, index, flags, slot;
	__u64 word, linked, now;
	struct sink sink;

	if (!pool)
		return pass(tap);
	/* Nothing was sent to the user path before this; so what it did for this client is over, too. */
	last = c->last_server ? server_at(c->last_server - 1) : NULL;
	if (last && in_flight(last, FLIGHT_NS))
		return leave(tap, c, REASON_IN_FLIGHT);
	write_if_new(c->last_server, 0);
	flags = READ_ONCE(pool->flags);
	if ((flags & (POOL_ENABLED | POOL_PAUSED)) != POOL_ENABLED)
		return leave(tap, c, REASON_DISABLED);
	reason = unsettled(tap, c);
	if (reason)
		return leave(tap, c, reason);
	write_if_new(c->settled, 1);
	if (must_queue(pool))
		return leave(tap, c, REASON_WAITING);
	w = walk_requests(tap, pool, client - 1, 0, 0);
	if (!w->walk.len)
		return leave(tap, c, REASON_OPAQUE);
	if (!w->count)
		return leave(tap, c, w->walk.reason ?: REASON_REQUEST);
	index = claim(pool, READ_ONCE(c->params), tap->end);
	if (!index)
		return leave(tap, c, w->named ? REASON_STATEMENT : REASON_NO_SERVER);
	s = server_at(index - 1);
	if (!s)
		return leave(tap, c, REASON_NO_SERVER);
	slot = READ_ONCE(s->slot);
	/* User space may have had it, and changed that, before it was claimed. */
	if (lacks_statement(index - 1, tap->end)) {
		unclaim(pool, slot);
		return leave(tap, c, REASON_STATEMENT);
	}
	sink = aim_at_server(tap, s, w);
	if (!sink.room) {
		unclaim(pool, slot);
		return leave(tap, c, sink.reason);
	}
	now = bpf_ktime_get_ns();
	s->client_cookie = tap->end->cookie;
	s->request[0].rest = w->walk.rest;
	s->request[0].base = 0;
	s->request[0].sent = w->count;
	s->request[0].bytes = w->walk.at;
	log_requests(s, w, 0);
	write_if_new(s->named, w->named);
	write_if_new(c->sent_len, 0);
	s->request_ns = now;
	s->xact_ns = now;
	word = READ_ONCE(s->word);
	linked = client | w->enders * WORD_OWED_ONE | (w->open ? WORD_OPEN : 0) | (word & (WORD_GENERATION | WORD_RETURN));
	WRITE_ONCE(c->server, index);
	if (word_client(word) || __sync_val_compare_and_swap(&s->word, word, linked) != word) {
		/* User space changed its mind about this server in this moment. */
		unclaim(pool, slot);
		return leave(tap, c, REASON_RACE);
	}
	note_sink(&c->sink, &sink, s->gate, w->walk.at);
	s->links++;
	s->requests += w->enders;
	s->received += w->walk.at;
	s->binds += w->binds;
	use_statements(index - 1, w);
	rename_statements(tap, w);
	keep_sent(tap, c, w);
	WRITE_ONCE(c->request_ns, now);
	return redirect(tap, w->walk.at);
}

/* More from a client that is linked. */
static __always_inline int tap_linked(struct tap *tap, struct client *c, __u32 client, struct server *s)
{
	struct pool *pool = pool_at(READ_ONCE(s->pool));
	struct request_state old, new;
	struct request_walk *w;
	struct tcp_sock *tcp;
	struct sink sink;
	__u64 word, next;
	__u32 which, other, index;

	if (!pool)
		return take_back(tap, c, s, client, REASON_DISABLED);
	/* Before the limit is near: in session pooling a link lasts. */
	if (READ_ONCE(c->unread) > READ_ONCE(pool->reply_limit) / 4) {
		tcp = bpf_skc_to_tcp_sock(tap->msg->sk);
		if (tcp)
			forget_unread(tcp, c);
	}
	if (!READ_ONCE(c->settled)) {
		__u32 reason = unsettled(tap, c);

		if (reason)
			return take_back(tap, c, s, client, reason);
		WRITE_ONCE(c->settled, 1);
	}
	word = READ_ONCE(s->word);
	which = (word & WORD_REQUEST) ? 1 : 0;
	other = which ^ 1;
	old = s->request[which & 1];
	w = walk_requests(tap, pool, client - 1, old.rest, (word & WORD_OPEN) ? 1 : 0);
	if (!w->walk.at)
		return take_back(tap, c, s, client, w->walk.reason ?: REASON_OPAQUE);
	index = READ_ONCE(c->server) - 1;
	if (lacks_statement(index, tap->end))
		return take_back(tap, c, s, client, REASON_STATEMENT);
	sink = aim_at_server(tap, s, w);
	if (!sink.room)
		return take_back(tap, c, s, client, sink.reason);
	write_if_new(c->sent_len, 0);
	for (int tries = 0; tries < WORD_TRIES; tries++) {
		word = READ_ONCE(s->word);
		/* Taken back in this moment. */
		if (word_client(word) != client || word & WORD_USER)
			return leave(tap, c, REASON_RACE);
		new = old;
		if (!(word & (WORD_OWED | WORD_OPEN))) {
			new.base = old.sent;
			new.bytes = 0;
		}
		new.rest = w->walk.rest;
		new.sent += w->count;
		new.bytes += w->walk.at;
		if (new.sent - new.base > LOG_LEN || new.bytes > w->len_max)
			return take_back(tap, c, s, client,
					 new.bytes > w->len_max ? REASON_REQUEST_LONG : REASON_PIPELINE);
		s->request[other & 1] = new;
		if (w->named)
			write_if_new(s->named, 1);
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
			note_sink(&c->sink, &sink, s->gate, w->walk.at);
			s->requests += w->enders;
			s->received += w->walk.at;
			s->binds += w->binds;
			use_statements(index, w);
			rename_statements(tap, w);
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

	if (!c || READ_ONCE(c->cookie) != tap->end->cookie)
		return pass(tap);
	if (fell_short(&c->sink)) {
		/* Half a request is with its server, which is closed when this client is gone. */
		count_reason(REASON_SHORT);
		return SK_DROP;
	}
	if (READ_ONCE(c->owner) != OWNER_KERNEL)
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

#endif
