/* SPDX-License-Identifier: GPL-2.0 */
/* What both taps do with a send in the end: redirect it, or leave it to the user path. */
#ifndef TIGGER_VERDICT_BPF_H
#define TIGGER_VERDICT_BPF_H

/* What a tap works on. */
struct tap {
	struct sk_msg_md *msg;
	struct end *end;
	__u32 aimed;		/* a target for a redirect is set */
};

/*
 * Leaves the rest of the send to the user path. While msg->sk_redir is set (also after a part of the same send was
 * redirected: sk_psock_msg_verdict, net/core/skmsg.c), SK_PASS would redirect: then the rest is redirected to the
 * socket's own egress, which is the same as passing it.
 */
static __always_inline int pass(struct tap *tap)
{
	bpf_msg_apply_bytes(tap->msg, 0);
	if (!tap->aimed)
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

/* Lets `msg` go to the captured end with this cookie; false if it is gone. */
static __always_inline int aim(struct tap *tap, __u64 *cookie)
{
	if (bpf_msg_redirect_hash(tap->msg, &socks, cookie, BPF_F_INGRESS) != SK_PASS)
		return 0;
	tap->aimed = 1;
	return 1;
}

/* Lets `msg` go out through our socket with this cookie; false if it is gone. */
static __always_inline int aim_out(struct tap *tap, __u64 *cookie)
{
	if (bpf_msg_redirect_hash(tap->msg, &sinks, cookie, 0) != SK_PASS)
		return 0;
	tap->aimed = 1;
	return 1;
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
