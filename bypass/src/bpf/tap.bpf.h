/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The taps: an sk_msg verdict program sees each send of a captured far end, in the sender's own context and under its
 * socket's lock, so that what one end sends is handled in order. It walks the messages in it and either redirects them
 * to the other far end or passes them on to the user path:
 *
 *   the client's tap   links a server when a request comes, notes what the server owes, redirects to it
 *   the server's tap   strikes off what was owed, redirects to the client (to the egress of our socket to it, where
 *                      its own end is not captured), releases the server when nothing is owed
 *   the gates' taps    redirect what user space pushes through our own ends
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

#include "verdict.bpf.h"
#include "sinks.bpf.h"
#include "requests.bpf.h"
#include "replies.bpf.h"
#include "gate.bpf.h"

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
	tap.aimed = end->cut;
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
	if (slot & ROLE_GATE)
		return slot & ROLE_SERVER ? tap_server_gate(&tap, slot & ROLE_INDEX) :
					    tap_client_gate(&tap, slot & ROLE_INDEX);
	if (slot & ROLE_SERVER)
		return tap_server(&tap, slot & ROLE_INDEX);
	return tap_client(&tap, slot & ROLE_INDEX);
}

#endif
