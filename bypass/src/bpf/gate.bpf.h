/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The taps of the gates: our own sends to captured ends. What user space pushes is redirected as the kernel path would
 * have, which costs half of what it costs over TCP. User space says how many bytes it is about to send, and only when
 * the other end has read all that came over TCP, because what is redirected is read first.
 *
 * If memory is short, a part is redirected; user space is told how much, as with any send.
 */
#ifndef TIGGER_GATE_BPF_H
#define TIGGER_GATE_BPF_H

/* To a server: requests. */
static __always_inline int tap_server_gate(struct tap *tap, __u32 index)
{
	struct server *s = server_at(index);
	__u32 push;

	if (!s || READ_ONCE(s->gate) != tap->end->cookie)
		return pass(tap);
	push = READ_ONCE(s->push);
	if (push && push == tap->msg->size && aim(tap, &s->cookie))
		WRITE_ONCE(s->push, 0);
	return SK_PASS;
}

/* To a client: replies, as far as it may have unread ones. */
static __always_inline int tap_client_gate(struct tap *tap, __u32 index)
{
	struct client *c = client_at(index);
	struct tcp_sock *tcp;
	struct pool *pool;
	__u32 push, unread;

	if (!c || READ_ONCE(c->gate) != tap->end->cookie)
		return pass(tap);
	push = READ_ONCE(c->push);
	/* User space has looked whether it fits: only where memory is short, or the client is gone, it is passed on. */
	if (!push || push != tap->msg->size)
		return pass(tap);
	pool = pool_at(READ_ONCE(c->pool));
	unread = READ_ONCE(c->unread);
	tcp = bpf_skc_to_tcp_sock(tap->msg->sk);
	if (!tcp || !pool || unread + push > READ_ONCE(pool->reply_limit) || !aim(tap, &c->cookie))
		return pass(tap);
	WRITE_ONCE(c->gate_psock, (__u64)psock_of(tcp));
	WRITE_ONCE(c->unread, unread + push);
	/* Before it is delivered: the client may answer at once, and must not seem to have something unread. That it is
	 * delivered, unsettled() sees. */
	WRITE_ONCE(c->written, READ_ONCE(c->written) - push);
	WRITE_ONCE(c->push, 0);
	return SK_PASS;
}

#endif
