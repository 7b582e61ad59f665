/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* The gate's tap: our own sends to a server. Requests that user space pushes are redirected as a client's would be. */
#ifndef TIGGER_GATE_BPF_H
#define TIGGER_GATE_BPF_H

static __always_inline int tap_gate(struct tap *tap, __u32 index)
{
	struct server *s = server_at(index);
	__u32 push;

	if (!s || READ_ONCE(s->gate) != tap->end->cookie)
		return pass(tap);
	push = READ_ONCE(s->push);
	if (!push)
		return pass(tap);
	WRITE_ONCE(s->push, 0);
	/* If memory is short, a part is redirected: user space is told how much, as with any send. */
	if (push == tap->msg->size)
		aim(tap, &s->cookie);
	return SK_PASS;
}

#endif
