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

/* Bytes of the first element, as far as one run goes. */
static __always_inline __u32 run_len(struct sk_msg_md *msg)
{
	__u64 n = (__u64)msg->data_end - (__u64)msg->data;

	return n < RUN_BYTES ? n : RUN_BYTES;
}

#endif
