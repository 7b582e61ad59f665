// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The walker on a stream alone, in the kernel: programs of the type that the taps have cannot be run by BPF_PROG_TEST_RUN,
 * those of tc can. A packet is an Ethernet header, the state, which is written back, and the stream.
 */
#include <linux/types.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>

#include "intf.h"
#include "frame.bpf.h"

#define ETHERNET_LEN 14

#define STREAM_AT (ETHERNET_LEN + sizeof(struct walk_state))

static __always_inline long walk_load(void *stream, __u32 at, __u8 *to, __u32 n, __u32 size);

#include "walk.h"

static __always_inline long walk_load(void *stream, __u32 at, __u8 *to, __u32 n, __u32 size)
{
	/* The compiler knows that, the verifier does not. */
	asm volatile("" : "+r"(n));
	if (!n || n > size)
		return -1;
	return bpf_skb_load_bytes(stream, STREAM_AT + at, to, n);
}

/* Too large for a stack. */
static struct walk_state state;

SEC("tc")
int walk_packet(struct __sk_buff *skb)
{
	struct walk_run run = { .stream = skb, .state = &state };

	if (skb->len < STREAM_AT || bpf_skb_load_bytes(skb, ETHERNET_LEN, &state, sizeof(state)))
		return 0;
	walk_begin(&state, skb->len - STREAM_AT);
	bpf_loop(RUN_MESSAGES, walk_each, &run, 0);
	return !bpf_skb_store_bytes(skb, ETHERNET_LEN, &state, sizeof(state), 0);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
