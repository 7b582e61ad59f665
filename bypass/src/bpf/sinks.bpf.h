/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Our own sockets as sinks, for clients and servers whose end is not captured: a redirect to the egress of one sends the
 * bytes in the sender's context, as if our process had (tcp_bpf_push_locked, net/ipv4/tcp_bpf.c).
 *
 * Unlike a redirect to ingress, that may end in the middle: where the socket takes no more, the sender, which does not
 * wait, is told so and sends the rest again, although the tap has counted it. So the tap redirects no more than the
 * socket has room for; and for what remains (no memory, a client that hangs up in this moment), whatever the sender says
 * next is held against what the sink took.
 */
#ifndef TIGGER_SINKS_BPF_H
#define TIGGER_SINKS_BPF_H

/* Bytes of a socket's send buffer that are left for what the kernel adds to each packet. */
#define SINK_SPARE 8192

/* Where a redirect to egress goes. */
struct sink {
	__u64 address;
	__u32 sequence;		/* its write_seq */
	__u32 room;		/* bytes that it takes for certain; 0 = it is not to be used now */
	__u32 reason;		/* why it has no room */
};

/* Looks at the socket that bpf_msg_redirect_hash has set as the target. At most `limit` bytes are to be under way; where
 * there are, the reason is `full`. */
static __always_inline struct sink look_at_sink(struct tap *tap, __u32 limit, __u32 full)
{
	struct sink sink = { .reason = REASON_SINK };
	struct sk_msg *msg;
	struct sock *sk;
	struct tcp_sock *tcp;
	__u64 pressure = 0;
	__u32 una, queued;
	int left, state;

	if (!bpf_ksym_exists(bpf_cast_to_kern_ctx))
		return sink;
	msg = bpf_cast_to_kern_ctx(tap->msg);
	sk = msg->sk_redir;
	if (!sk)
		return sink;
	state = sk->__sk_common.skc_state;
	if ((state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT) || sk->sk_err || sk->sk_shutdown & SEND_SHUTDOWN)
		return sink;
	/* Beyond that the kernel may refuse memory. */
	if (bpf_probe_read_kernel(&pressure, sizeof(pressure), sk->__sk_common.skc_prot->memory_pressure) || pressure)
		return sink;
	tcp = (struct tcp_sock *)sk;
	sink.address = (__u64)sk;
	sink.sequence = BPF_CORE_READ(tcp, write_seq);
	una = BPF_CORE_READ(tcp, snd_una);
	queued = sink.sequence - una;
	left = sk->sk_sndbuf - sk->sk_wmem_queued - SINK_SPARE;
	sink.reason = full;
	if (queued >= limit || left <= 0)
		return sink;
	sink.room = limit - queued;
	if (sink.room > (__u32)left)
		sink.room = left;
	return sink;
}

/* Notes what the sink has when it has taken all of what it is to take now. */
static __always_inline void note_sink(struct sink_record *record, struct sink *sink, __u64 cookie, __u32 n)
{
	/* Most often there is none, and was none. */
	if (!sink->address && !READ_ONCE(record->address))
		return;
	record->cookie = cookie;
	record->sequence = sink->sequence + n;
	record->len = n;
	WRITE_ONCE(record->address, sink->address);
}

/*
 * Whether a sink did not take all that it was to. What the sender sends next then begins with the rest, which was
 * counted as delivered, whoever is linked to it now.
 */
static __always_inline int fell_short(struct sink_record *record)
{
	struct tcp_sock *sink = (struct tcp_sock *)READ_ONCE(record->address);
	__u64 cookie;
	__u32 missing;

	if (!sink)
		return 0;
	cookie = BPF_CORE_READ((struct sock *)sink, __sk_common.skc_cookie.counter);
	missing = record->sequence - BPF_CORE_READ(sink, write_seq);
	/* One that is gone was looked at before it went: see ask_delivery. More is missing where it has gone on since. */
	return cookie == record->cookie && missing && missing <= record->len;
}

SEC("syscall")
int ask_delivery(struct delivery_args *args)
{
	struct server *s = server_at(args->server);

	if (s && in_flight(s, ASK_NS))
		args->answer = DELIVERY_IN_FLIGHT;
	else if (s && fell_short(&s->sink))
		args->answer = DELIVERY_SHORT;
	else
		args->answer = DELIVERY_DONE;
	return 0;
}

#endif
